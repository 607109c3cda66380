"""`WebMeshServer`: one address, its routes, and the connections to it.

Composes; decides only what can be registered until when, and the order of starting and stopping. The
server lives in a thread of its own (in a patched process: in greenlets of the one hub).
"""

from __future__ import annotations

import logging
import ssl
from collections.abc import Callable, Collection
from contextlib import suppress
from types import TracebackType
from typing import Any, TypeVar

import gevent

from webmesh.call import CURRENT, Middleware
from webmesh.exceptions import ConfigurationError, ConnectionClosed, LocalProtocolError, WebMeshError
from webmesh.message_serializers import AbstractMessageSerializer, MessagePackSerializer
from webmesh.mounting import as_handler, exposed
from webmesh.observer import NO_OBSERVER, Observer
from webmesh.options import DEFAULT_PORT, Limits, Timeouts
from webmesh.plain_routes import PlainRegistration
from webmesh.route_options import read_options
from webmesh.routing import Match, Route, Router
from webmesh.server_parts import ServerParts
from webmesh.system_routes import SystemRoutes
from webmesh.version import VERSION
from webmesh.websocket.hub import Completion, HubThread
from webmesh.websocket.http import pages
from webmesh.websocket.listener import Listener
from webmesh.websocket.tls import ServerTLS
from webmesh.websocket.upgraded import TcpAddress, UnixAddress, Upgraded
from webmesh.websocket.websocket_connection import WebSocketConnection

logger = logging.getLogger("webmesh.server")

F = TypeVar("F", bound=Callable[..., Any])


class WebMeshServer:
    """Serves routes to peers over WebSockets.

    Register everything first; `listen` ends registration. Use it as a context manager to close it.

    Args:
        serializer_type: For clients that ask for no subprotocol; a class, not an instance. The built-in ones
            are always spoken to clients that ask for them.
        name: The service's name, told to peers.
        mount: The HTTP path of the mesh endpoint.
        tls: `ServerTLS`, or a ready `ssl.SSLContext`; `None` speaks plain TCP.
        compression: Agree to permessage-deflate where a client offers it.
        allowed_hosts: Names by which clients may address this server (against DNS rebinding); `None` allows all.
        allowed_origins: Origins of web pages that may connect, besides the server's own; programs send none.
    """

    def __init__(
        self,
        *,
        serializer_type: type[AbstractMessageSerializer] = MessagePackSerializer,
        limits: Limits | None = None,
        timeouts: Timeouts | None = None,
        observer: Observer = NO_OBSERVER,
        name: str | None = None,
        mount: str = "/",
        tls: ServerTLS | ssl.SSLContext | None = None,
        compression: bool = False,
        allowed_hosts: Collection[str] | None = None,
        allowed_origins: Collection[str] | None = None,
    ) -> None:
        self.limits = limits or Limits()
        self.timeouts = timeouts or Timeouts()
        self.observer = observer
        self.name = name
        self.tls = None if tls is None else ServerTLS.coerce(tls)
        self.router = Router()
        self._serializer_type = _checked_serializer(serializer_type)
        self._mount = mount
        self._compression = compression
        self._allowed_hosts = allowed_hosts
        self._allowed_origins = allowed_origins
        self._middleware: list[Middleware] = []
        self._plain: list[PlainRegistration] = []
        self._opened: list[Callable[[WebSocketConnection], object]] = []
        self._closed: list[Callable[[WebSocketConnection, ConnectionClosed], object]] = []
        self._connections: dict[str, WebSocketConnection] = {}
        self._system = SystemRoutes(
            self.router, name, VERSION, limits=self.limits, timeouts=self.timeouts
        )
        self._system.register()
        self._home: HubThread | None = None
        self._started: Completion[None] = Completion()
        self._stopped: Completion[None] = Completion()
        self._closing = False

    # ------------------------------------------------------------- registration

    def on(self, path: str, **options: Any) -> Callable[[F], F]:
        """Register a handler `(payload, path, client, **path_arguments)` for paths such as `/users/<int:id>`.

        What it returns is the reply; a `RemoteError` that it raises is the answer; a generator is a stream.

        Args:
            options: Those of `RouteOptions`: blocking, timeout, max_in_flight, order, cancel, idempotent, isolate.

        Raises:
            BadPattern: The path is malformed.
            DuplicateRoute: Another route matches the same paths.
            ConfigurationError: The handler or an option does not fit, or serving has begun.
        """
        read_options(options)
        return self.router.on(path, **options)

    def websocket(
        self, path: str, *, blocking: bool | None = None, subprotocols: Collection[str] = ()
    ) -> Callable[[F], F]:
        """Register a handler `(connection, **path_arguments)` for a plain WebSocket at an HTTP path.

        It iterates over the connection's messages and sends its own; when it returns the connection closes.

        Args:
            blocking: As in `RouteOptions`; in a thread, one is taken for as long as the connection lasts.
            subprotocols: Those that may be agreed, if the client offers one.

        Raises:
            ConfigurationError: The path is the mesh endpoint's, or serving has begun.
        """
        if path == self._mount:
            raise ConfigurationError(f"{path!r} is the mesh endpoint: choose another path, or another mount")
        if self._home is not None:
            raise ConfigurationError(f"{path!r} comes too late: routes are registered before serving begins")

        def register(handler: F) -> F:
            self._plain.append(PlainRegistration(path, handler, blocking, tuple(subprotocols)))
            return handler

        return register

    def mount(self, prefix: str, target: object, *, inherited: bool = False, **options: Any) -> None:
        """Expose an unmodified object's public methods, or a module's functions, below *prefix*.

        A map payload becomes keyword arguments, a list positional ones, null none, anything else one; they
        are checked against the signature before the call.

        Args:
            inherited: Also methods of the base classes that the same people wrote; see `mounting.exposed`.

        Raises:
            ConfigurationError: Nothing there is public, or serving has begun.
        """
        read_options(options)
        mounted = Router()
        for name, function in exposed(target, inherited=inherited).items():
            mounted.add(f"/{name}", as_handler(function), **options)
        self.router.include(prefix.rstrip("/") or "/", mounted)

    def include(self, prefix: str, router: Router) -> None:
        """Put all routes of *router* below *prefix*; see `Router.include`."""
        self.router.include(prefix, router)

    def middleware(self, function: Middleware) -> Middleware:
        """Wrap all handlers: `def middleware(call, call_next): return call_next(call)`. The first is outermost.

        It runs where the handler runs, so what it opens in a thread the handler finds there.
        """
        self._check_registering("middleware")
        self._middleware.append(function)
        return function

    def on_connect(
        self, function: Callable[[WebSocketConnection], object]
    ) -> Callable[[WebSocketConnection], object]:
        """Call *function* with each new connection, before its first message is handled."""
        self._check_registering("on_connect")
        self._opened.append(function)
        return function

    def on_disconnect(
        self, function: Callable[[WebSocketConnection, ConnectionClosed], object]
    ) -> Callable[[WebSocketConnection, ConnectionClosed], object]:
        """Call *function* with each connection that has ended, and why."""
        self._check_registering("on_disconnect")
        self._closed.append(function)
        return function

    def configure(
        self,
        *,
        serializer_type: type[AbstractMessageSerializer] | None = None,
        limits: Limits | None = None,
        timeouts: Timeouts | None = None,
        tls: ServerTLS | ssl.SSLContext | None = None,
        observer: Observer | None = None,
    ) -> None:
        """Override what the constructor was given; for programs that serve another program's server.

        Raises:
            ConfigurationError: Serving has begun.
        """
        self._check_registering("configure")
        if serializer_type is not None:
            self._serializer_type = _checked_serializer(serializer_type)
        self.limits = limits or self.limits
        self.timeouts = timeouts or self.timeouts
        self.tls = self.tls if tls is None else ServerTLS.coerce(tls)
        self.observer = observer or self.observer
        self._system.limits, self._system.timeouts = self.limits, self.timeouts

    def _check_registering(self, what: str) -> None:
        if self._home is not None:
            raise ConfigurationError(f"{what} comes too late: it belongs before listen()")

    def routes(self) -> list[Route]:
        """The routes of the program, sorted by pattern; without the protocol's own."""
        return [route for route in self.router.routes() if not route.pattern.startswith("$")]

    # ----------------------------------------------------------------- listening

    def listen(
        self, host: str = "127.0.0.1", port: int = DEFAULT_PORT, *, unix: str | None = None, blocking: bool = False
    ) -> None:
        """Begin to serve, in a thread of the server's own.

        Args:
            host: Address or name; `::` or the empty text take IPv4 and IPv6.
            port: 0 lets the system choose; `port` tells which.
            unix: Path of a Unix socket to listen on instead.
            blocking: Return only when the server has closed.

        Raises:
            ConfigurationError: A route's options make no sense, or this server has been started before.

        What goes wrong with the address is raised by `await_started`, and here when *blocking*.
        """
        self._check_registering("listen")
        parts = ServerParts(
            self.router, self._middleware, self._plain, self._connections.values(), self._serializer_type,
            mount=self._mount, compression=self._compression, allowed_hosts=self._allowed_hosts,
            allowed_origins=self._allowed_origins, limits=self.limits, timeouts=self.timeouts, observer=self.observer,
        )  # fmt: skip
        address = UnixAddress(unix) if unix is not None else TcpAddress(host, port)
        self._home = home = parts.home
        self._parts = parts
        home.start()
        home.post(gevent.spawn, self._start, parts, address)
        if blocking:
            self.await_started()
            self._stopped.wait()

    def _start(self, parts: ServerParts, address: TcpAddress | UnixAddress) -> None:
        listener = Listener(
            address, limits=self.limits, timeouts=self.timeouts, observer=self.observer, tls=self.tls,
            decide=parts.endpoints.decide, serve=self._serve,
            http=pages(ready=lambda: not self._closing, mount=self._mount),
        )  # fmt: skip
        try:
            listener.start()
        except WebMeshError as error:
            self._started.fail(error)
            self._stopped.succeed(None)
            parts.home.stop()
            return
        parts.listener = listener
        parts.pulse.start()
        self._started.succeed(None)
        logger.info("listening", extra={"address": listener.address, "tls": self.tls is not None})

    def await_started(self, timeout: float | None = None) -> None:
        """Wait until the server accepts connections.

        Args:
            timeout: Seconds; `None` takes `Timeouts.start`.

        Raises:
            ListenFailed: The address cannot be listened on, as when the port is taken.
            TimeoutError: It has not started in time.
        """
        if self._home is None:
            raise LocalProtocolError("listen() has not been called")
        try:
            self._started.wait(self.timeouts.start if timeout is None else timeout)
        except WebMeshError:
            self._home.stop()  # its thread has nothing to do any more
            raise

    @property
    def listening(self) -> bool:
        """Whether it has started to listen and has not closed."""
        return self._started.done and self._started.error is None and not self._closing

    def serve_forever(self) -> None:
        """Wait until the server has closed; listens on the default address unless it listens already."""
        if self._home is None:
            self.listen()
        self.await_started()
        try:
            self._stopped.wait()
        finally:
            self.close()

    @property
    def address(self) -> str:
        """Where it really listens: `127.0.0.1:43121`, `unix:/run/shop.sock`. Only once started."""
        return self._listener.address

    @property
    def port(self) -> int | None:
        """The TCP port that it really listens on; `None` for a Unix socket. Only once started."""
        return self._listener.port

    @property
    def url(self) -> str:
        """What a client on this machine dials."""
        address = self.address
        if address.startswith("unix:"):
            return f"ws+unix://{address.removeprefix('unix:')}"
        host, _, port = address.rpartition(":")
        host = {"0.0.0.0": "127.0.0.1", "[::]": "[::1]"}.get(host, host)
        path = "" if self._mount == "/" else self._mount
        return f"{'wss' if self.tls is not None else 'ws'}://{host}:{port}{path}"

    @property
    def _listener(self) -> Listener:
        if self._home is None or self._parts.listener is None:
            raise LocalProtocolError("the server has not started: call listen() and await_started()")
        return self._parts.listener

    @property
    def connections(self) -> tuple[WebSocketConnection, ...]:
        """The connections that are open now, plain ones included."""
        return tuple(self._connections.values())

    def reload_certificates(self) -> None:
        """Read the certificate files again: new connections use them, old ones live on.

        Raises:
            ConfigurationError: A file cannot be used (the old ones stay), or the server has no TLS files.
        """
        if self.tls is None:
            raise ConfigurationError("the server does not use TLS")
        self.tls.reload()

    # ------------------------------------------------------------------- closing

    def close(self, timeout: float | None = None) -> None:
        """Stop accepting, let calls finish, close all connections, end the thread. Safe to call twice.

        Args:
            timeout: Seconds for calls in progress; `None` takes `Timeouts.drain`. Then they are cancelled.

        From within a handler it returns at once and the server closes after that handler.
        """
        if self._home is None:
            return
        with suppress(WebMeshError, TimeoutError):
            self.await_started()
        seconds = self.timeouts.drain if timeout is None else timeout
        if CURRENT.get() is not None:
            self._home.post(gevent.spawn, self._shut_down, seconds)
            return
        if not self._stopped.done:
            self._home.run(self._shut_down, seconds)
        self._home.stop()

    def _shut_down(self, seconds: float) -> None:
        if self._closing:
            self._stopped.wait()
            return
        self._closing = True
        parts = self._parts
        parts.endpoints.closing = True
        self._listener.stop_accepting()
        parts.dispatcher.drain(seconds)
        for connection in self.connections:
            connection.close(4001 if connection.is_mesh else 1001, "the server closes", timeout=0)
        self._listener.close(self.timeouts.close)
        parts.pulse.stop()
        parts.executor.close(self.timeouts.close)
        parts.websocket_executor.close(self.timeouts.close)
        self._stopped.succeed(None)
        if CURRENT.get() is None:
            parts.home.stop()
        logger.info("closed", extra={"connections": len(self._connections)})

    def __enter__(self) -> WebMeshServer:
        if self._home is None:
            self.listen()
        self.await_started()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # --------------------------------------------------------------- connections

    def _serve(self, upgraded: Upgraded) -> None:
        """One connection's life, in the greenlet that holds its place."""
        parts = self._parts
        connection = WebSocketConnection(
            upgraded, parts.home, limits=self.limits, timeouts=self.timeouts, observer=self.observer,
            dialled=False, service=self.name,
        )  # fmt: skip
        decision = upgraded.decision
        if isinstance(decision, AbstractMessageSerializer):
            connection.converse(decision, parts.dispatcher)
        self._connections[connection.id] = connection
        try:
            self.observer.connection_opened(connection)
            self._tell(parts, self._opened, connection)
            if connection.is_mesh:
                connection.run()
            else:
                match: Match = decision  # type: ignore[assignment]
                parts.plain.serve(connection, match, parts.context.copy())
        finally:
            del self._connections[connection.id]
            why = connection.close_reason or ConnectionClosed()
            self._tell(parts, self._closed, connection, why)

    def _tell(self, parts: ServerParts, functions: list[Callable[..., object]], *args: object) -> None:
        """Call the program's functions; what they raise ends nothing."""
        for function in functions:
            context = parts.context.copy()
            try:
                if parts.blocking:
                    parts.executor.run(context, function, *args)
                else:
                    context.run(function, *args)
            except Exception as error:  # the edge around user code
                logger.error("callback failed", exc_info=error, extra={"callback": repr(function)})

    def __repr__(self) -> str:
        state = "closed" if self._stopped.done else "not started"
        if self._home is not None and self._parts.listener is not None and not self._stopped.done:
            state = f"at {self.address} connections={len(self._connections)}"
        return f"<WebMeshServer {self.name or ''}{state}>"


def _checked_serializer(serializer_type: object) -> type[AbstractMessageSerializer]:
    if not isinstance(serializer_type, type) or not issubclass(serializer_type, AbstractMessageSerializer):
        raise ConfigurationError(
            f"serializer_type must be a class derived from AbstractMessageSerializer, not {serializer_type!r}"
        )
    return serializer_type
