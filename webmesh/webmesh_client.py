"""`WebMeshClient`: one connection to a server, shared by all greenlets and threads of a program.

Composes; decides what middleware sees. The connection lives in a thread of the client's own (in a patched
process: in greenlets of the one hub); see `client_link`.
"""

from __future__ import annotations

import ssl
from collections.abc import Callable, Iterable, Mapping
from types import TracebackType
from typing import Any, TypeVar

from webmesh.call import CURRENT, NO_HEADERS, Call, CallNext, Middleware, chained, check_callable
from webmesh.client_link import ClientLink
from webmesh.deadline import Deadline, finite
from webmesh.exceptions import ConfigurationError, ConnectionClosed, RequestTimeout
from webmesh.message_serializers import AbstractMessageSerializer, MessagePackSerializer, subprotocol
from webmesh.observer import NO_OBSERVER, Observer, guarded
from webmesh.options import Limits, Timeouts
from webmesh.protocol.deflate import BoundedDeflate
from webmesh.route_options import read_options
from webmesh.routing import Router
from webmesh.websocket.dialer import dial
from webmesh.websocket.future import Future
from webmesh.websocket.item_stream import ItemStream
from webmesh.websocket.target import parse_url
from webmesh.websocket.upgraded import Upgraded
from webmesh.websocket.websocket_connection import WebSocketConnection

F = TypeVar("F", bound=Callable[..., Any])


class WebMeshClient:
    """Calls a server, and answers it: peers are symmetric.

    Dials at the first use, or with `connect`; when the connection has been lost, at the next use again.

    Args:
        url: `ws://host:port`, `wss://host:port`, or `ws+unix:///path/of/socket`.
        serializer_type: A class, not an instance; the server must know it.
        tls: For wss; `None` verifies the server by the system's authorities. See `client_context`.
        headers: Further headers of the upgrade request, as Authorization.
        name: This program's service name, told along with its calls.
        compression: Offer permessage-deflate.

    Raises:
        ConfigurationError: The URL or the serializer cannot be used.
    """

    def __init__(
        self,
        url: str,
        *,
        serializer_type: type[AbstractMessageSerializer] = MessagePackSerializer,
        limits: Limits | None = None,
        timeouts: Timeouts | None = None,
        observer: Observer = NO_OBSERVER,
        tls: ssl.SSLContext | None = None,
        headers: Mapping[str, str] | None = None,
        name: str | None = None,
        compression: bool = False,
    ) -> None:
        parse_url(url)  # a wrong URL is the caller's mistake, so it is told here
        self.url = url
        self.limits = limits or Limits()
        self.timeouts = timeouts or Timeouts()
        self.router = Router()
        self._subprotocol = subprotocol(serializer_type)
        self._tls = tls
        self._headers = dict(headers or {})
        self._compression = compression
        self._middleware: list[Middleware] = []
        self._chain: CallNext | None = None
        self._link = ClientLink(
            url, self._dial, serializer_type(self.limits), self.router,
            service=name, limits=self.limits, timeouts=self.timeouts, observer=guarded(observer),
        )  # fmt: skip

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
        """Connect, unless connected; returns the connection.

        Args:
            timeout: Seconds; `None` takes `Timeouts.connect`.

        Raises:
            ConnectFailed: No address could be reached in time.
            HandshakeRejected: The server refused; see its `status`.
            ConnectionClosed: This client was closed.
            ConfigurationError: A header, a route's options or `tls` cannot be used.
        """
        return self._link.connect(self.timeouts.connect if timeout is None else finite(timeout))

    def _dial(self, seconds: float) -> Upgraded:
        return dial(
            self.url, timeout=seconds, limits=self.limits, subprotocols=(self._subprotocol,),
            headers=self._headers.items(), tls=self._tls,
            extensions=[BoundedDeflate(self.limits)] if self._compression else (),
        )  # fmt: skip

    @property
    def connected(self) -> bool:
        """Whether there is an open connection now."""
        return self._link.connection is not None and self._link.connection.open

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
    ) -> Any:
        """Send a request and wait for its reply; connects first where needed, within the same time.

        Arguments and errors are those of `WebSocketConnection.call`, and of `connect`.
        """
        connection = self._link.connection
        if connection is None or not connection.open:
            connection, timeout = self._connect_within(path, timeout)
        if self._middleware:
            seconds = self.timeouts.request if timeout is None else finite(timeout)
            if self._chain is None:
                self._chain = chained(self._middleware, self._call_connection)
            return self._chain(Call(path, payload, dict(headers or NO_HEADERS), connection, seconds=seconds))
        try:
            return connection.call(path, payload, timeout=timeout, headers=headers)
        except ConnectionClosed:
            # It ended since that look, and nothing was sent: as if it had ended before.
            connection, timeout = self._connect_within(path, timeout)
            return connection.call(path, payload, timeout=timeout, headers=headers)

    def _connect_within(self, path: str, timeout: float | None) -> tuple[WebSocketConnection, float]:
        """Connect in the time that a call has; returns what is left of it too.

        Raises:
            RequestTimeout: It has none.
        """
        seconds = self.timeouts.request if timeout is None else finite(timeout)
        handled = CURRENT.get()
        left = Deadline(seconds).tightened(None if handled is None else handled.deadline.remaining())
        if left.expired:
            raise RequestTimeout(path, seconds)
        connection = self.connect(min(self.timeouts.connect, left.remaining() or 0.0))
        return connection, left.remaining() or 0.0

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
    ) -> Future:
        """Send a request and return at once with a future; see `WebSocketConnection.spawn`.

        Connects first where needed, within the same time. Middleware gets the future as the call's result.
        """
        connection = self._link.connection
        if connection is None or not connection.open:
            connection, timeout = self._connect_within(path, timeout)
        if not self._middleware:
            return connection.spawn(path, payload, timeout=timeout, headers=headers)

        def last(call: Call) -> Future:
            left = self._ready(call)
            return call.connection.spawn(call.path, call.payload, timeout=left, headers=dict(call.headers) or None)

        seconds = self.timeouts.request if timeout is None else finite(timeout)
        future: Future = self._through(last, path, payload, headers, connection, seconds)
        return future

    def notify(self, path: str, payload: Any = None, *, headers: Mapping[str, str] | None = None) -> None:
        """Send a message that is not answered; see `WebSocketConnection.notify`. Middleware gets None as its result."""
        if not self._middleware:
            self.connect().notify(path, payload, headers=headers)
            return

        def last(call: Call) -> None:
            self._ready(call)
            call.connection.notify(call.path, call.payload, headers=dict(call.headers) or None)

        self._through(last, path, payload, headers, self.connect(), None)

    def stream(
        self,
        path: str,
        payload: Any = None,
        *,
        items: Iterable[Any] | bool | None = None,
        credit: int | None = None,
        timeout: float | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> ItemStream:
        """Open a stream; see `WebSocketConnection.stream`. Middleware gets the stream as the call's result."""
        if not self._middleware:
            return self.connect().stream(path, payload, items=items, credit=credit, timeout=timeout, headers=headers)

        def last(call: Call) -> ItemStream:
            left = self._ready(call)
            return call.connection.stream(
                call.path, call.payload, items=items, credit=credit, timeout=left, headers=dict(call.headers) or None
            )

        seconds = None if timeout is None else finite(timeout)
        stream: ItemStream = self._through(last, path, payload, headers, self.connect(), seconds)
        return stream

    def __repr__(self) -> str:
        state = "closed" if self._link.closed else "connected" if self.connected else "not connected"
        return f"<WebMeshClient {self.url} {state}>"
