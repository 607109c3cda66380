"""The hooks through which lower layers tell what happened.

A no-op base: metrics, logs and tests override what they need. Hooks run inside the hub, between two
steps of a connection: they must not block, switch or raise (one that raises is logged and forgotten).
"""

from __future__ import annotations

import logging
from collections.abc import Callable

logger = logging.getLogger("webmesh.server")


class Observer:
    """Receives what happens; the base ignores it all."""

    wants_requests: bool = True
    """Whether `request_finished` is called: to time each request costs it some per cent."""

    def connection_opened(self, connection: object) -> None:
        """A WebSocket handshake was completed, on either side."""

    def connection_closed(self, connection: object, code: int, reason: str) -> None:
        """A connection has ended.

        *code* is the peer's, or ours where this side ended it, answered or not, and 1006 where nobody said one.
        """

    def handshake_refused(self, address: str, status: int, reason: str) -> None:
        """A connection was turned away before it was a WebSocket; *status* is 0 where no HTTP was spoken."""

    def request_finished(self, path: str, code: str, seconds: float) -> None:
        """A request was answered; *code* is `ok` or the wire code of the error."""

    def handler_failed(self, path: str, incident: str, error: BaseException) -> None:
        """User code raised something that is no answer; *incident* is the id that the peer was given."""

    def refused(self, kind: str, reason: str) -> None:
        """Something of a peer's was turned away or dropped: counters with a reason label are made of this."""

    def link_changed(self, url: str, state: str, reason: str) -> None:
        """A client's link: *state* is `connecting`, `connected`, `lost`, `waiting`, `gave_up` or `closed`."""

    def session_changed(self, state: str, reason: str) -> None:
        """A session that a server keeps: *state* is `opened`, `lost`, `resumed`, `refused` or `ended`."""

    def login_finished(self, address: str, outcome: str) -> None:
        """A peer was to say who it is; *outcome* is `ok`, `renewed`, or why it was turned away in fixed words."""

    def peer_stalled(self, connection: object, stalled: bool) -> None:
        """A peer whose machine still acknowledges has stopped to answer, or answers again."""

    def call_retried(self, path: str, reason: str) -> None:
        """A client sends a call again; *reason* is the wire code or the kind of loss that it follows."""

    def call_hedged(self, path: str) -> None:
        """A call was sent to a second instance as well, since the first took long."""

    def instance_ejected(self, service: str, node: str, reason: str, seconds: float) -> None:
        """An instance gets no calls for so long; *reason* is in fixed words."""

    def breaker_changed(self, service: str, route: str, state: str) -> None:
        """The circuit breaker of a route of a service; *state* is `open` or `closed`."""

    def published(self, receivers: int) -> None:
        """A publication was accepted here, and reached so many subscriptions of this node."""

    def will_fired(self, topic: str, reason: str) -> None:
        """A last will was published; *reason* is `lost`, `timeout`, `kicked` or `goodbye`."""

    def hub_held(self, where: str, seconds: float, stack: str) -> None:
        """Code did not give back the hub for so long; *where* is its route, `hub`, or `threads` where other threads did
        not let it run. Called from another thread."""


NO_OBSERVER = Observer()
"""Shared instance of the no-op base."""
NO_OBSERVER.wants_requests = False


class GuardedObserver(Observer):
    """Passes everything on to an observer of the program's; what that raises is logged and forgotten."""

    def __init__(self, inner: Observer) -> None:
        self._inner = inner
        self.wants_requests = getattr(inner, "wants_requests", True)

    def connection_opened(self, connection: object) -> None:
        """See `Observer`."""
        self._pass_on(self._inner.connection_opened, connection)

    def connection_closed(self, connection: object, code: int, reason: str) -> None:
        """See `Observer`."""
        self._pass_on(self._inner.connection_closed, connection, code, reason)

    def handshake_refused(self, address: str, status: int, reason: str) -> None:
        """See `Observer`."""
        self._pass_on(self._inner.handshake_refused, address, status, reason)

    def request_finished(self, path: str, code: str, seconds: float) -> None:
        """See `Observer`."""
        self._pass_on(self._inner.request_finished, path, code, seconds)

    def handler_failed(self, path: str, incident: str, error: BaseException) -> None:
        """See `Observer`."""
        self._pass_on(self._inner.handler_failed, path, incident, error)

    def refused(self, kind: str, reason: str) -> None:
        """See `Observer`."""
        self._pass_on(self._inner.refused, kind, reason)

    def link_changed(self, url: str, state: str, reason: str) -> None:
        """See `Observer`."""
        self._pass_on(self._inner.link_changed, url, state, reason)

    def session_changed(self, state: str, reason: str) -> None:
        """See `Observer`."""
        self._pass_on(self._inner.session_changed, state, reason)

    def login_finished(self, address: str, outcome: str) -> None:
        """See `Observer`."""
        self._pass_on(self._inner.login_finished, address, outcome)

    def peer_stalled(self, connection: object, stalled: bool) -> None:
        """See `Observer`."""
        self._pass_on(self._inner.peer_stalled, connection, stalled)

    def call_retried(self, path: str, reason: str) -> None:
        """See `Observer`."""
        self._pass_on(self._inner.call_retried, path, reason)

    def call_hedged(self, path: str) -> None:
        """See `Observer`."""
        self._pass_on(self._inner.call_hedged, path)

    def instance_ejected(self, service: str, node: str, reason: str, seconds: float) -> None:
        """See `Observer`."""
        self._pass_on(self._inner.instance_ejected, service, node, reason, seconds)

    def breaker_changed(self, service: str, route: str, state: str) -> None:
        """See `Observer`."""
        self._pass_on(self._inner.breaker_changed, service, route, state)

    def published(self, receivers: int) -> None:
        """See `Observer`."""
        self._pass_on(self._inner.published, receivers)

    def will_fired(self, topic: str, reason: str) -> None:
        """See `Observer`."""
        self._pass_on(self._inner.will_fired, topic, reason)

    def hub_held(self, where: str, seconds: float, stack: str) -> None:
        """See `Observer`."""
        self._pass_on(self._inner.hub_held, where, seconds, stack)

    def _pass_on(self, hook: Callable[..., None], *args: object) -> None:
        try:
            hook(*args)
        except (KeyboardInterrupt, SystemExit):
            raise
        except BaseException as error:  # the edge around user code, inside the hub: nothing of ours may end by it
            logger.error("observer failed", exc_info=error, extra={"hook": hook.__name__})


def guarded(observer: Observer) -> Observer:
    """*observer*, safe to call from anywhere."""
    if observer is NO_OBSERVER or isinstance(observer, GuardedObserver):
        return observer
    return GuardedObserver(observer)


class ObserverPair(Observer):
    """Passes everything on to two observers: the library's own counters, and what the program gave."""

    def __init__(self, first: Observer, second: Observer) -> None:
        self._first = first
        self._second = second
        self.wants_requests = first.wants_requests or second.wants_requests

    def connection_opened(self, connection: object) -> None:
        """See `Observer`."""
        self._first.connection_opened(connection)
        self._second.connection_opened(connection)

    def connection_closed(self, connection: object, code: int, reason: str) -> None:
        """See `Observer`."""
        self._first.connection_closed(connection, code, reason)
        self._second.connection_closed(connection, code, reason)

    def handshake_refused(self, address: str, status: int, reason: str) -> None:
        """See `Observer`."""
        self._first.handshake_refused(address, status, reason)
        self._second.handshake_refused(address, status, reason)

    def request_finished(self, path: str, code: str, seconds: float) -> None:
        """See `Observer`."""
        self._first.request_finished(path, code, seconds)
        self._second.request_finished(path, code, seconds)

    def handler_failed(self, path: str, incident: str, error: BaseException) -> None:
        """See `Observer`."""
        self._first.handler_failed(path, incident, error)
        self._second.handler_failed(path, incident, error)

    def refused(self, kind: str, reason: str) -> None:
        """See `Observer`."""
        self._first.refused(kind, reason)
        self._second.refused(kind, reason)

    def link_changed(self, url: str, state: str, reason: str) -> None:
        """See `Observer`."""
        self._first.link_changed(url, state, reason)
        self._second.link_changed(url, state, reason)

    def session_changed(self, state: str, reason: str) -> None:
        """See `Observer`."""
        self._first.session_changed(state, reason)
        self._second.session_changed(state, reason)

    def login_finished(self, address: str, outcome: str) -> None:
        """See `Observer`."""
        self._first.login_finished(address, outcome)
        self._second.login_finished(address, outcome)

    def peer_stalled(self, connection: object, stalled: bool) -> None:
        """See `Observer`."""
        self._first.peer_stalled(connection, stalled)
        self._second.peer_stalled(connection, stalled)

    def call_retried(self, path: str, reason: str) -> None:
        """See `Observer`."""
        self._first.call_retried(path, reason)
        self._second.call_retried(path, reason)

    def call_hedged(self, path: str) -> None:
        """See `Observer`."""
        self._first.call_hedged(path)
        self._second.call_hedged(path)

    def instance_ejected(self, service: str, node: str, reason: str, seconds: float) -> None:
        """See `Observer`."""
        self._first.instance_ejected(service, node, reason, seconds)
        self._second.instance_ejected(service, node, reason, seconds)

    def breaker_changed(self, service: str, route: str, state: str) -> None:
        """See `Observer`."""
        self._first.breaker_changed(service, route, state)
        self._second.breaker_changed(service, route, state)

    def published(self, receivers: int) -> None:
        """See `Observer`."""
        self._first.published(receivers)
        self._second.published(receivers)

    def will_fired(self, topic: str, reason: str) -> None:
        """See `Observer`."""
        self._first.will_fired(topic, reason)
        self._second.will_fired(topic, reason)

    def hub_held(self, where: str, seconds: float, stack: str) -> None:
        """See `Observer`."""
        self._first.hub_held(where, seconds, stack)
        self._second.hub_held(where, seconds, stack)


def paired(first: Observer, second: Observer) -> Observer:
    """One observer that stands for both; each must be safe to call."""
    if first is NO_OBSERVER:
        return second
    return first if second is NO_OBSERVER else ObserverPair(first, second)
