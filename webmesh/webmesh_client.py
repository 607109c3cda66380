"""`WebMeshClient`: one connection to a server, shared by all greenlets and threads of a program.

Composes; decides when to dial. The connection lives in a thread of the client's own (in a patched
process: in greenlets of the one hub).
"""

from __future__ import annotations

import logging
import ssl
import threading
from collections.abc import Callable, Iterable, Mapping
from types import TracebackType
from typing import Any, TypeVar

import gevent

from webmesh.call import NO_HEADERS, Call, CallNext, Middleware, chained
from webmesh.dispatch import Dispatcher
from webmesh.exceptions import ConfigurationError, ConnectionClosed
from webmesh.execution import Executor
from webmesh.lanes import Lanes
from webmesh.message_serializers import AbstractMessageSerializer, MessagePackSerializer, subprotocol
from webmesh.observer import NO_OBSERVER, Observer
from webmesh.options import Limits, Timeouts
from webmesh.processes import is_patched
from webmesh.protocol.deflate import BoundedDeflate
from webmesh.route_options import read_options
from webmesh.routing import Router
from webmesh.websocket.dialer import dial
from webmesh.websocket.future import Future
from webmesh.websocket.hub import HubThread
from webmesh.websocket.item_stream import ItemStream
from webmesh.websocket.pulse import Pulse
from webmesh.websocket.target import parse_url
from webmesh.websocket.websocket_connection import WebSocketConnection

logger = logging.getLogger("webmesh.client")

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
        self._serializer = serializer_type(self.limits)
        self._subprotocol = subprotocol(serializer_type)
        self._observer = observer
        self._tls = tls
        self._headers = dict(headers or {})
        self._name = name
        self._compression = compression
        self._middleware: list[Middleware] = []
        self._chain: CallNext = _call_connection
        self._connection: WebSocketConnection | None = None
        self._connections: set[WebSocketConnection] = set()
        self._home = HubThread("webmesh-client")
        self._dialling = Lanes()
        self._executor = Executor(self.limits.threads, self.limits.thread_queue)
        self._dispatcher = Dispatcher(
            self.router, [], self._home, self._executor,
            limits=self.limits, timeouts=self.timeouts, observer=observer, blocking=not is_patched(),
        )  # fmt: skip
        self._pulse = Pulse(self._connections, self.timeouts)
        self._started = False
        self._start_lock = threading.Lock()
        self._closed = False

    # ------------------------------------------------------------- registration

    def on(self, path: str, **options: Any) -> Callable[[F], F]:
        """Register a handler for requests of the server; as `WebMeshServer.on`, before connecting."""
        read_options(options)
        return self.router.on(path, **options)

    def middleware(self, function: Middleware) -> Middleware:
        """Wrap outgoing calls: `def middleware(call, call_next): return call_next(call)`. The first is outermost."""
        if self._started:
            raise ConfigurationError("middleware comes too late: it belongs before the first use")
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
        """
        connection = self._connection
        if connection is not None and connection.open:
            return connection
        if self._closed:
            raise ConnectionClosed(1000, "the client was closed")
        self._start()
        return self._home.run(self._dial, self.timeouts.connect if timeout is None else timeout)

    def _start(self) -> None:
        with self._start_lock:
            if self._started:
                return
            self._dispatcher.freeze()
            self._chain = chained(self._middleware, _call_connection)
            self._home.start()
            self._home.run(self._pulse.start)
            self._started = True

    def _dial(self, timeout: float) -> WebSocketConnection:
        """In the hub; whoever comes while another dials waits for that one's connection."""
        with self._dialling.turn("dial"):
            if self._connection is not None and self._connection.open:
                return self._connection
            upgraded = dial(
                self.url, timeout=timeout, limits=self.limits, subprotocols=(self._subprotocol,),
                headers=self._headers.items(), tls=self._tls,
                extensions=[BoundedDeflate(self.limits)] if self._compression else (),
            )  # fmt: skip
            connection = WebSocketConnection(
                upgraded, self._home, limits=self.limits, timeouts=self.timeouts, observer=self._observer,
                dialled=True, service=self._name,
            )  # fmt: skip
            connection.converse(self._serializer, self._dispatcher)
            self._connection = connection
            gevent.spawn(self._run, connection)
        return connection

    def _run(self, connection: WebSocketConnection) -> None:
        self._connections.add(connection)
        self._observer.connection_opened(connection)
        try:
            connection.run()
        finally:
            self._connections.discard(connection)
            logger.info("connection ended", extra={"url": self.url, "reason": str(connection.close_reason)})

    @property
    def connected(self) -> bool:
        """Whether there is an open connection now."""
        return self._connection is not None and self._connection.open

    def close(self) -> None:
        """Close the connection with the closing handshake and end the thread. Safe to call twice."""
        if self._closed:
            return
        self._closed = True
        with self._start_lock:
            if not self._started:
                return
        if self._connection is not None:
            self._connection.close(1000)
        self._home.run(self._wind_up)
        self._home.stop()

    def _wind_up(self) -> None:
        self._pulse.stop()
        self._executor.close(self.timeouts.close)

    def __enter__(self) -> WebMeshClient:
        self.connect()
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
        """Send a request and wait for its reply; connects first where needed.

        Arguments and errors are those of `WebSocketConnection.call`, and of `connect`.
        """
        connection = self.connect()
        if not self._middleware:
            return connection.call(path, payload, timeout=timeout, headers=headers)
        seconds = self.timeouts.request if timeout is None else timeout
        return self._chain(Call(path, payload, dict(headers or NO_HEADERS), connection, seconds=seconds))

    def spawn(
        self,
        path: str,
        payload: Any = None,
        *,
        timeout: float | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Future:
        """Send a request and return at once with a future; see `WebSocketConnection.spawn`. Skips middleware."""
        return self.connect().spawn(path, payload, timeout=timeout, headers=headers)

    def notify(self, path: str, payload: Any = None, *, headers: Mapping[str, str] | None = None) -> None:
        """Send a message that is not answered; see `WebSocketConnection.notify`. Skips middleware."""
        self.connect().notify(path, payload, headers=headers)

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
        """Open a stream; see `WebSocketConnection.stream`. Skips middleware."""
        return self.connect().stream(path, payload, items=items, credit=credit, timeout=timeout, headers=headers)

    def __repr__(self) -> str:
        return f"<WebMeshClient {self.url} {'connected' if self.connected else 'not connected'}>"


def _call_connection(call: Call) -> Any:
    """The innermost link of a client's middleware."""
    headers = dict(call.headers) or None
    return call.connection.call(call.path, call.payload, timeout=call.deadline.remaining(), headers=headers)
