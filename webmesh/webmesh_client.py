"""`WebMeshClient`: one connection to a server, shared by all greenlets and threads of a program.

Composes; decides what middleware sees. The connection lives in a thread of the client's own (in a patched
process: in greenlets of the one hub); see `client_link`, and `link_keeper` for how it is kept up. For users:
docs/CLIENT.md.
"""

from __future__ import annotations

import ssl
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from types import TracebackType
from typing import Any, TypeVar

from webmesh.call import CURRENT, NO_HEADERS, Call, CallNext, Middleware, chained, check_callable
from webmesh.client_link import ClientLink
from webmesh.deadline import Deadline, finite
from webmesh.exceptions import ConfigurationError, ConnectionClosed, RequestTimeout
from webmesh.link_states import LinkEvent
from webmesh.message_serializers import AbstractMessageSerializer, MessagePackSerializer, subprotocol
from webmesh.observer import NO_OBSERVER, Observer, guarded
from webmesh.options import Backoff, Limits, Timeouts
from webmesh.protocol.deflate import BoundedDeflate
from webmesh.route_options import read_options
from webmesh.routing import Router
from webmesh.websocket.dial_rounds import DialRounds
from webmesh.websocket.dialer import dial
from webmesh.websocket.future import Future
from webmesh.websocket.item_stream import ItemStream
from webmesh.websocket.outgoing import Policy, checked_policy
from webmesh.websocket.upgraded import Upgraded
from webmesh.websocket.websocket_connection import WebSocketConnection

F = TypeVar("F", bound=Callable[..., Any])


class WebMeshClient:
    """Calls a server, and answers it: peers are symmetric.

    Dials at the first use, or with `connect`, and from then on keeps the connection up by itself. Calls made while
    there is none wait for it, within their own time.

    Args:
        url: `ws://host:port`, `wss://host:port`, or `ws+unix:///path/of/socket`; or several, the preferred first,
            that are tried in turn.
        serializer_type: A class, not an instance; the server must know it.
        tls: For wss; `None` verifies the server by the system's authorities. See `client_context`.
        headers: Further headers of the upgrade request, as Authorization.
        name: This program's service name, told along with its calls.
        compression: Offer permessage-deflate.
        backoff: The delays between attempts to connect, and when to give up.
        reconnect: False dials once for each use that finds no connection, and never in the background.
        fail_fast: True lets what is called while there is no connection fail at once.
        watchdog: Tell of handlers that hold the hub for longer than `Timeouts.hub_hold`.
        slow_peer: What `notify` does while the server does not keep up; as `WebMeshServer`.

    Raises:
        ConfigurationError: The URL or the serializer cannot be used.
    """

    def __init__(
        self,
        url: str | Sequence[str],
        *,
        serializer_type: type[AbstractMessageSerializer] = MessagePackSerializer,
        limits: Limits | None = None,
        timeouts: Timeouts | None = None,
        observer: Observer = NO_OBSERVER,
        tls: ssl.SSLContext | None = None,
        headers: Mapping[str, str] | None = None,
        name: str | None = None,
        compression: bool = False,
        backoff: Backoff | None = None,
        reconnect: bool = True,
        fail_fast: bool = False,
        watchdog: bool = True,
        slow_peer: Policy = "wait",
    ) -> None:
        urls = [url] if isinstance(url, str) or not isinstance(url, Sequence) else list(url)
        rounds = DialRounds(urls, self._dial)  # a wrong URL is the caller's mistake, so it is told here
        self.url: str = urls[0]
        self.limits = limits or Limits()
        self.timeouts = timeouts or Timeouts()
        self.router = Router()
        self._subprotocol = subprotocol(serializer_type)
        self._tls = tls
        self._headers = dict(headers or {})
        self._compression = compression
        self._middleware: list[Middleware] = []
        self._chain: CallNext | None = None
        self._fail_fast = fail_fast
        self._link = ClientLink(
            rounds, serializer_type(self.limits), self.router,
            service=name, limits=self.limits, timeouts=self.timeouts, observer=guarded(observer),
            backoff=(backoff or Backoff()) if reconnect else None,
            watchdog=watchdog,
        )  # fmt: skip
        self._keeper = self._link.keeper
        self._link.slow_peer = checked_policy(slow_peer)

    # ------------------------------------------------------------- registration

    def on(self, path: str, **options: Any) -> Callable[[F], F]:
        """Register a handler for requests of the server; as `WebMeshServer.on`, before connecting."""
        read_options(options)
        return self.router.on(path, **options)

    def middleware(self, function: Middleware) -> Middleware:
        """Wrap what is sent: `def middleware(call, call_next): return call_next(call)`. The first is outermost.

        Calls, futures, streams and notifications all pass through it.
        """
        if self._link.begun:
            raise ConfigurationError("middleware comes too late: it belongs before the first use")
        check_callable("middleware", function)
        self._middleware.append(function)
        return function

    # ---------------------------------------------------------------- connection

    def connect(self, timeout: float | None = None) -> WebSocketConnection:
        """Connect now, unless connected; returns the connection.

        One attempt at all addresses, also where the background waits for its next one or has given up.

        Args:
            timeout: Seconds; `None` takes `Timeouts.connect`.

        Raises:
            ConnectFailed: No address could be reached in time.
            HandshakeRejected: The server refused; see its `status`.
            LinkRefused: It refused the login.
            ConnectionClosed: This client was closed.
            ConfigurationError: A header, a route's options or `tls` cannot be used.
        """
        return self._link.connect(self.timeouts.connect if timeout is None else finite(timeout))

    def _dial(self, url: str, *, seconds: float, first: str, last: str) -> Upgraded:
        return dial(
            url, timeout=seconds, limits=self.limits, subprotocols=(self._subprotocol,),
            headers=self._headers.items(), tls=self._tls, first=first, last=last,
            extensions=[BoundedDeflate(self.limits)] if self._compression else (),
        )  # fmt: skip

    @property
    def connected(self) -> bool:
        """Whether there is an open connection now."""
        connection = self._keeper.connection
        return connection is not None and connection.open

    @property
    def state(self) -> str:
        """`idle` (never used), `connecting`, `connected`, `lost`, `waiting`, `gave_up` or `closed`: see `on_state`."""
        return self._link.states.state

    def on_state(self, function: Callable[[LinkEvent], object]) -> Callable[[LinkEvent], object]:
        """Call *function* with a `LinkEvent` for each change of the link: lost and why, waiting and how long, connected
        and where to. One after another, in the order in which it happened, and never in the connection's own greenlet:
        it may block and may use this client.
        """
        check_callable("a function for states", function)
        self._link.states.functions.append(function)
        return function

    def close(self) -> None:
        """Close the connection with the closing handshake and end the thread. Safe to call twice.

        Who waits for a reply gets `ReplyLost`. Called by a handler of this client, or by a signal handler of a
        patched process, it returns at once, since the end waits for them.
        """
        self._link.close()

    def __enter__(self) -> WebMeshClient:
        connected = False
        try:
            self.connect()
            connected = True
        finally:
            if not connected:  # `__exit__` will not be called
                self.close()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # -------------------------------------------------------------------- asking

    def call(
        self,
        path: str,
        payload: Any = None,
        *,
        timeout: float | None = None,
        headers: Mapping[str, str] | None = None,
        fail_fast: bool | None = None,
    ) -> Any:
        """Send a request and wait for its reply; waits for the connection first where needed, within the same time.

        Args:
            fail_fast: True raises at once when there is no connection; `None` takes what the client was given.

        Raises:
            ConnectFailed: There was no connection in all that time, and nothing was sent; says why.
            LinkRefused: There will be none: the server does not want this client.

        Further arguments and errors are those of `WebSocketConnection.call`.
        """
        connection = self._keeper.connection
        if connection is None or not connection.open:
            connection, timeout = self._connect_within(path, timeout, fail_fast)
        if self._middleware:
            seconds = self.timeouts.request if timeout is None else finite(timeout)
            if self._chain is None:
                self._chain = chained(self._middleware, self._call_connection)
            return self._chain(Call(path, payload, dict(headers or NO_HEADERS), connection, seconds=seconds))
        try:
            return connection.call(path, payload, timeout=timeout, headers=headers)
        except ConnectionClosed:
            # It ended since that look, and nothing was sent: as if it had ended before.
            connection, timeout = self._connect_within(path, timeout, fail_fast)
            return connection.call(path, payload, timeout=timeout, headers=headers)

    def _connect_within(
        self, path: str, timeout: float | None, fail_fast: bool | None = None
    ) -> tuple[WebSocketConnection, float]:
        """The connection, waited for in the time that a call has; and what is left of it.

        Raises:
            RequestTimeout: It has none.
        """
        seconds = self.timeouts.request if timeout is None else finite(timeout)
        handled = CURRENT.get()
        left = Deadline(seconds).tightened(None if handled is None else handled.deadline.remaining())
        if left.expired:
            raise RequestTimeout(path, seconds)
        at_once = self._fail_fast if fail_fast is None else fail_fast
        connection = self._link.wait(left.remaining() or 0.0, fail_fast=at_once)
        return connection, left.remaining() or 0.0

    def _present(self, path: str, timeout: float | None, fail_fast: bool | None) -> WebSocketConnection:
        """The connection for what has no deadline by default; waited for as long as for a call."""
        connection = self._keeper.connection
        if connection is None or not connection.open:
            connection, _ = self._connect_within(path, timeout, fail_fast)
        return connection

    def _call_connection(self, call: Call) -> Any:
        """The innermost link of the middleware around `call`. A retry after a loss finds a new connection."""
        left = self._ready(call)
        return call.connection.call(call.path, call.payload, timeout=left, headers=dict(call.headers) or None)

    def _ready(self, call: Call) -> float | None:
        """Give *call* an open connection; returns the seconds that are left of it, `None` for no end."""
        left = call.deadline.remaining()
        if not call.connection.open:
            call.connection, left = self._connect_within(call.path, left)
        return left

    def _through(
        self,
        last: CallNext,
        path: str,
        payload: Any,
        headers: Mapping[str, str] | None,
        connection: WebSocketConnection,
        seconds: float | None,
    ) -> Any:
        """What *last*, inside of all middleware, makes of a call."""
        call = Call(path, payload, dict(headers or NO_HEADERS), connection, seconds=seconds)
        return chained(self._middleware, last)(call)

    def spawn(
        self,
        path: str,
        payload: Any = None,
        *,
        timeout: float | None = None,
        headers: Mapping[str, str] | None = None,
        fail_fast: bool | None = None,
    ) -> Future:
        """Send a request and return at once with a future; see `WebSocketConnection.spawn`.

        Waits for the connection first where needed, as `call`. Middleware gets the future as the call's result.
        """
        connection = self._keeper.connection
        if connection is None or not connection.open:
            connection, timeout = self._connect_within(path, timeout, fail_fast)
        if not self._middleware:
            return connection.spawn(path, payload, timeout=timeout, headers=headers)

        def last(call: Call) -> Future:
            left = self._ready(call)
            return call.connection.spawn(call.path, call.payload, timeout=left, headers=dict(call.headers) or None)

        seconds = self.timeouts.request if timeout is None else finite(timeout)
        future: Future = self._through(last, path, payload, headers, connection, seconds)
        return future

    def notify(
        self,
        path: str,
        payload: Any = None,
        *,
        headers: Mapping[str, str] | None = None,
        conflate_key: Hashable = None,
        slow_peer: Policy | None = None,
        fail_fast: bool | None = None,
    ) -> bool:
        """Send a message that is not answered; see `WebSocketConnection.notify`, also for what is returned.

        Waits for the connection first where needed, at most `Timeouts.request`.
        """
        connection = self._present(path, None, fail_fast)
        if not self._middleware:
            return connection.notify(path, payload, headers=headers, conflate_key=conflate_key, slow_peer=slow_peer)

        def last(call: Call) -> bool:
            self._ready(call)
            return call.connection.notify(
                call.path, call.payload, headers=dict(call.headers) or None, conflate_key=conflate_key,
                slow_peer=slow_peer,
            )  # fmt: skip

        return self._through(last, path, payload, headers, connection, None) is not False

    def stream(
        self,
        path: str,
        payload: Any = None,
        *,
        items: Iterable[Any] | bool | None = None,
        credit: int | None = None,
        timeout: float | None = None,
        headers: Mapping[str, str] | None = None,
        fail_fast: bool | None = None,
    ) -> ItemStream:
        """Open a stream; see `WebSocketConnection.stream`.

        Waits for the connection first where needed, at most *timeout*, or `Timeouts.request` where that is `None`.
        Middleware gets the stream as the call's result.
        """
        connection = self._present(path, timeout, fail_fast)
        if not self._middleware:
            return connection.stream(path, payload, items=items, credit=credit, timeout=timeout, headers=headers)

        def last(call: Call) -> ItemStream:
            left = self._ready(call)
            return call.connection.stream(
                call.path, call.payload, items=items, credit=credit, timeout=left, headers=dict(call.headers) or None
            )

        seconds = None if timeout is None else finite(timeout)
        stream: ItemStream = self._through(last, path, payload, headers, connection, seconds)
        return stream

    def __repr__(self) -> str:
        state = "closed" if self._link.closed else "connected" if self.connected else "not connected"
        return f"<WebMeshClient {self.url} {state}>"
