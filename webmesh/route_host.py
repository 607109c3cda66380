"""`RouteHost`: what a server's program registers besides topics: routes, middleware, callbacks."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

from webmesh.call import Call, Middleware, check_callable
from webmesh.endpoints import checked_names
from webmesh.exceptions import ConfigurationError, ConnectionClosed
from webmesh.mounting import as_handler, exposed
from webmesh.plain_routes import PlainRegistration
from webmesh.route_options import read_options
from webmesh.routing import Route, Router
from webmesh.websocket.websocket_connection import WebSocketConnection

if TYPE_CHECKING:
    from webmesh.extension import Extension
    from webmesh.server_parts import Registered

F = TypeVar("F", bound=Callable[..., Any])


class RouteHost(ABC):
    """A node with routes.

    Attributes:
        router: They are in it.
        registered: What else the program has registered.
        mount_path: The HTTP path of the mesh endpoint.
    """

    router: Router
    registered: Registered
    mount_path: str

    @abstractmethod
    def _check_registering(self, what: str) -> None:
        """Raise `ConfigurationError` when registration is over."""

    def on(self, path: str, **options: Any) -> Callable[[F], F]:
        """Register a handler `(payload, path, client, **path_arguments)` for paths such as `/users/<int:id>`.

        What it returns is the reply; a `RemoteError` that it raises is the answer; a generator is a stream.

        Args:
            options: Those of `RouteOptions`: blocking, timeout, max_in_flight, order, cancel, idempotent, isolate,
                requires.

        Raises:
            BadPattern: The path is malformed.
            DuplicateRoute: Another route matches the same paths.
            ConfigurationError: The handler or an option does not fit, or serving has begun.
        """
        read_options(options)
        return self.router.on(path, **options)

    def websocket(
        self,
        path: str,
        *,
        blocking: bool | None = None,
        subprotocols: Collection[str] = (),
        requires: str | Sequence[str] | Callable[[Call], bool] | None = None,
    ) -> Callable[[F], F]:
        """Register a handler `(connection, **path_arguments)` for a plain WebSocket at an HTTP path.

        It iterates over the connection's messages and sends its own; when it returns the connection closes.

        Args:
            blocking: As in `RouteOptions`; in a thread, one is taken for as long as the connection lasts.
            subprotocols: Those that may be agreed, if the client offers one.
            requires: As in `RouteOptions`; decided at the upgrade, whose request is all that a function gets to see.

        Raises:
            ConfigurationError: The path is the mesh endpoint's, or serving has begun.
        """
        if path == self.mount_path:
            raise ConfigurationError(f"{path!r} is the mesh endpoint: choose another path, or another mount")
        self._check_registering(f"the plain route {path!r}")
        spoken = checked_names("subprotocols", subprotocols) or ()

        def register(handler: F) -> F:
            self.registered.plain.append(PlainRegistration(path, handler, blocking, spoken, requires))
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
        check_callable("middleware", function)
        self.registered.middleware.append(function)
        return function

    def on_connect(
        self, function: Callable[[WebSocketConnection], object]
    ) -> Callable[[WebSocketConnection], object]:
        """Call *function* with each new connection, before its first message is read.

        So it may send and notify, but what it waits for from the peer never comes. Whatever it raises, or when
        it takes longer than `Timeouts.request`, the connection goes on: close it to turn the peer away.
        """
        self._check_registering("on_connect")
        check_callable("on_connect", function)
        self.registered.opened.append(function)
        return function

    def on_disconnect(
        self, function: Callable[[WebSocketConnection, ConnectionClosed], object]
    ) -> Callable[[WebSocketConnection, ConnectionClosed], object]:
        """Call *function* with each connection that has ended, and why."""
        self._check_registering("on_disconnect")
        check_callable("on_disconnect", function)
        self.registered.closed.append(function)
        return function

    def extend(self, extension: Extension) -> None:
        """Let *extension* live in the server's hub while it runs, as a `WebMesh` does.

        Raises:
            ConfigurationError: Serving has begun.
        """
        self._check_registering("an extension")
        self.registered.extensions.append(extension)

    def routes(self) -> list[Route]:
        """The routes of the program, sorted by pattern; without the protocol's own."""
        return [route for route in self.router.routes() if not route.pattern.startswith("$")]
