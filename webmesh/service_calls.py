"""`ServiceCalls`: calls, notifications, streams and gatherings to services, for a node of a mesh.

Decides what is kept for each service, and which policy holds for it; how a call is sent is `service_attempts`'. For
users: docs/BALANCING.md.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Hashable, Iterable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

from webmesh.call import IDEMPOTENCY_KEY
from webmesh.call_attempts import call_deadline, in_background
from webmesh.call_policy import Balance, CallPolicy
from webmesh.exceptions import ConfigurationError
from webmesh.gathering import Gathering
from webmesh.instances import Instance
from webmesh.observer import NO_OBSERVER, Observer, guarded
from webmesh.options import RetryBudget
from webmesh.service_attempts import ServiceAttempts
from webmesh.service_request import ServiceRequest
from webmesh.service_routes import ServiceState
from webmesh.websocket.asking import keyed

if TYPE_CHECKING:
    from webmesh.deadline import Deadline
    from webmesh.service_directory import Directory
    from webmesh.websocket.future import Future
    from webmesh.websocket.hub import HubThread
    from webmesh.websocket.item_stream import ItemStream
    from webmesh.websocket.outgoing import Policy


class ServiceCalls:
    """Makes the calls of one node to services.

    Args:
        directory: Who there is.
        home: The hub in which `spawn` runs.
        policy: For services that have none of their own in *policies*.
        zone: Where this node is.
        budget: `None` sends nothing twice.
        seconds: For a call that names no time: `Timeouts.request`.
    """

    def __init__(
        self,
        directory: Directory,
        home: HubThread,
        *,
        policy: CallPolicy | None = None,
        policies: Mapping[str, CallPolicy] | None = None,
        zone: str | None = None,
        budget: RetryBudget | None = RetryBudget(),
        seconds: float = 30.0,
        observer: Observer = NO_OBSERVER,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._directory = directory
        self._home = home
        self._policy = policy or CallPolicy()
        self._policies = dict(policies or {})
        self._seconds = seconds
        self._attempts = ServiceAttempts(directory, budget, guarded(observer), zone=zone, clock=clock)
        self._services: dict[str, ServiceState] = {}

    # -------------------------------------------------------------------- asking

    def call(
        self,
        service: str | None,
        path: str,
        payload: Any = None,
        *,
        node: str | None = None,
        timeout: float | None = None,
        headers: Mapping[str, str] | None = None,
        key: str | None = None,
        idempotent: bool | None = None,
        idempotency_key: str | bool | None = None,
        balance: Balance | None = None,
        fail_fast: bool = False,
    ) -> Any:
        """Ask one instance of *service*, or the node with this id, and wait for the reply.

        Sent to another instance when it was surely not begun, or when it may run twice; never otherwise. With an
        idempotency key it goes again to the same process after a lost reply, and to another one only if
        `CallPolicy.shared_keys`: each server remembers its own keys.

        Args:
            timeout: Seconds for all of it; `None` takes `Timeouts.request`, or what the handler that calls has left.
            key: For `balance="key"`: calls with the same one go to the same instance.
            idempotent: Whether it may run twice; `None`: as the route says.
            balance: `None`: as the policy says; with *key*, by that.
            fail_fast: Do not wait where no instance can be reached now.

        Raises:
            ServiceNotFound: No instance of it is known.
            Unavailable: None can be reached, or the breaker of this route is open.
            Overloaded: Too many calls of this route are in progress here; or an instance has said so.
            RequestTimeout, ReplyLost, RemoteError: As `WebSocketConnection.call`.
        """
        deadline = call_deadline(path, self._seconds if timeout is None else timeout)
        return self._attempts.run(self._request(
            service, node, path, payload, deadline, keyed(headers, idempotency_key), key, balance, idempotent, fail_fast
        ))  # fmt: skip

    def spawn(
        self,
        service: str | None,
        path: str,
        payload: Any = None,
        *,
        node: str | None = None,
        timeout: float | None = None,
        headers: Mapping[str, str] | None = None,
        key: str | None = None,
        idempotent: bool | None = None,
        idempotency_key: str | bool | None = None,
        balance: Balance | None = None,
        fail_fast: bool = False,
    ) -> Future:
        """As `call`, in the background: returns at once with a future."""
        seconds = self._seconds if timeout is None else timeout
        deadline = call_deadline(path, seconds)
        request = self._request(
            service, node, path, payload, deadline, keyed(headers, idempotency_key), key, balance, idempotent, fail_fast
        )
        return in_background(self._home, partial(self._attempts.run, request), path, deadline, seconds)

    def notify(
        self,
        service: str | None,
        path: str,
        payload: Any = None,
        *,
        node: str | None = None,
        headers: Mapping[str, str] | None = None,
        key: str | None = None,
        balance: Balance | None = None,
        fail_fast: bool = False,
        conflate_key: Hashable = None,
        slow_peer: Policy | None = None,
    ) -> bool:
        """Send one instance a message that is not answered; see `WebSocketConnection.notify`. Never sent twice."""

        def send(instance: Instance) -> Any:
            return instance.connection.notify(
                path, payload, headers=headers, conflate_key=conflate_key, slow_peer=slow_peer
            )

        deadline = call_deadline(path, self._seconds)
        request = self._request(service, node, path, payload, deadline, headers, key, balance, False, fail_fast)
        return self._attempts.send_once(request, send) is not False

    def stream(
        self,
        service: str | None,
        path: str,
        payload: Any = None,
        *,
        node: str | None = None,
        items: Iterable[Any] | bool | None = None,
        credit: int | None = None,
        timeout: float | None = None,
        headers: Mapping[str, str] | None = None,
        key: str | None = None,
        balance: Balance | None = None,
        fail_fast: bool = False,
    ) -> ItemStream:
        """Open a stream to one instance; see `WebSocketConnection.stream`. What ends it once it is open is told to
        whoever reads: it is not begun anew elsewhere."""

        def send(instance: Instance) -> Any:
            stream = instance.connection.stream(
                path, payload, items=items, credit=credit, timeout=timeout, headers=headers
            )
            mark = object()
            instance.calls.add(mark)
            stream.when_over(partial(instance.calls.discard, mark))
            return stream

        deadline = call_deadline(path, self._seconds if timeout is None else timeout)
        request = self._request(service, node, path, payload, deadline, headers, key, balance, False, fail_fast)
        stream: ItemStream = self._attempts.send_once(request, send)
        return stream

    def gather(
        self,
        path: str,
        payload: Any = None,
        *,
        service: str | None = None,
        timeout: float | None = None,
        stall: float | None = None,
        max_n: int | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Gathering:
        """Ask all instances of *service*, or all nodes, once each, and iterate over the answers as they come.

        Args:
            timeout: Seconds for all of it; `None` takes `Timeouts.request`.
            stall: End when nobody has answered for so many seconds.
            max_n: End with so many replies.
        """
        deadline = call_deadline(path, self._seconds if timeout is None else timeout)
        asked = self._directory.nodes() if service is None else self._directory.instances(service)
        return Gathering(path, payload, asked, deadline, headers, stall=stall, most=max_n)

    def _request(
        self, service: str | None, node: str | None, path: str, payload: Any, deadline: Deadline,
        headers: Mapping[str, str] | None, key: str | None, balance: Balance | None, idempotent: bool | None,
        fail_fast: bool,
    ) -> ServiceRequest:  # fmt: skip
        if (service is None) == (node is None):
            raise ConfigurationError("name a service or a node, and not both")
        name = service or ""
        state = self._services.get(name)
        if state is None:
            state = self._services.setdefault(name, ServiceState(self._policies.get(name, self._policy)))
        if balance is None:
            balance = "key" if key is not None else state.policy.balance
        is_keyed = headers is not None and IDEMPOTENCY_KEY in headers
        return ServiceRequest(
            name, node, path, payload, deadline, headers, key, balance, idempotent, is_keyed, fail_fast, state
        )
