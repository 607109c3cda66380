"""Plain WebSocket routes: a handler that is given the connection itself.

For code that comes from gevent-websocket or Flask-Sockets. The messages are the handler's own; nothing of
the mesh protocol is spoken.
"""

from __future__ import annotations

import inspect
import logging
from collections.abc import Callable, Iterable
from contextvars import Context
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, cast

import gevent

from webmesh.authorisation import Requirement, requirement
from webmesh.call import Call
from webmesh.exceptions import ConfigurationError, ConnectionClosed
from webmesh.routing import Match, Route, Router

if TYPE_CHECKING:
    from webmesh.auth import Identity
    from webmesh.execution import Executor
    from webmesh.protocol.handshake import UpgradeRequest
    from webmesh.websocket.websocket_connection import WebSocketConnection

logger = logging.getLogger("webmesh.server")

PlainHandler = Callable[..., object]
"""Called as `handler(connection, **path_arguments)`."""

_SIGNATURE = inspect.Signature(
    [
        inspect.Parameter("payload", inspect.Parameter.POSITIONAL_ONLY),
        inspect.Parameter("path", inspect.Parameter.POSITIONAL_ONLY),
        inspect.Parameter("client", inspect.Parameter.POSITIONAL_ONLY),
        inspect.Parameter("arguments", inspect.Parameter.VAR_KEYWORD),
    ]
)


@dataclass(frozen=True, slots=True)
class PlainRegistration:
    """One handler as it was registered. `blocking` is `None` where nothing was said."""

    pattern: str
    handler: PlainHandler
    blocking: bool | None
    subprotocols: tuple[str, ...]
    requires: Any = None


@dataclass(frozen=True, slots=True)
class Visitor:
    """What a policy finds as `call.connection` where it decides on an upgrade: there is no connection yet."""

    identity: Identity | None
    request: UpgradeRequest
    address: str
    peer_certificate: dict[str, Any] | None = field(repr=False)


class PlainRoutes:
    """The plain routes of one server, and how their handlers are run.

    Args:
        context: Handlers get copies of it.
        blocking: Whether handlers that say nothing run in native threads.
        seconds: That a handler may take after its connection has ended.
        requires: Of routes that say nothing themselves.
        checks: Native threads for functions that decide who may have a connection; `None` takes the handlers'.

    Raises:
        ConfigurationError: A handler cannot be called with a connection and its pattern's arguments.
        BadPattern, DuplicateRoute: As with `Router.add`.
    """

    def __init__(
        self,
        registered: Iterable[PlainRegistration],
        executor: Executor,
        context: Context,
        *,
        blocking: bool,
        seconds: float,
        requires: Requirement | None = None,
        checks: Executor | None = None,
    ) -> None:
        self.router = Router()
        self._requires = requires
        self._executor = executor
        self._checks = checks or executor
        self._context = context
        self._blocking = blocking
        self._seconds = seconds
        for one in registered:
            self._add(one)
        self.router.freeze()

    def _add(self, one: PlainRegistration) -> None:
        pattern, handler = one.pattern, one.handler

        def run(payload: object, path: str, client: WebSocketConnection, /, **arguments: object) -> object:
            return handler(client, **arguments)

        run.__wrapped__ = handler  # type: ignore[attr-defined]
        run.__signature__ = _SIGNATURE  # type: ignore[attr-defined]
        route = self.router.add(
            pattern, run, blocking=one.blocking, subprotocols=one.subprotocols,
            requires=requirement(one.requires, self._requires),
        )  # fmt: skip
        if any(map(inspect.isgeneratorfunction, (handler, getattr(handler, "__call__", None)))):
            raise ConfigurationError(f"the handler of {route} is a generator, which would not run: send what it yields")
        try:
            inspect.signature(handler).bind(None, **dict.fromkeys(route.names))
        except TypeError as error:
            call = ", ".join(("connection", *(f"{name}=…" for name in route.names)))
            raise ConfigurationError(f"the handler of '{pattern}' cannot be called with ({call}): {error}") from error

    def blocks(self, match: Match) -> bool:
        """Whether this route's handler runs in a thread."""
        blocking = match[0].options["blocking"]
        return self._blocking if blocking is None else bool(blocking)

    def check(
        self, match: Match, request: UpgradeRequest, identity: Identity | None, address: str, certificate: Any
    ) -> None:
        """Return if a peer may have a connection of this route.

        Raises:
            Unauthenticated, PermissionDenied: It may not; or whatever else a policy of the program's raises.
        """
        route, arguments = match
        requires = cast("Requirement | None", route.options["requires"])
        if requires is None:
            return
        visitor: Any = Visitor(identity, request, address, certificate)
        call = Call(request.path, None, request.headers, visitor, route=route, arguments=arguments)
        if requires.by_roles or not self._blocking:
            requires.check(call)
        else:  # the program's function, which may block
            self._checks.run(self._context.copy(), requires.check, call)

    def full(self, match: Match) -> bool:
        """Whether no thread is left for one more connection of this route."""
        return self.blocks(match) and self._executor.full

    def serve(self, connection: WebSocketConnection, match: Match) -> None:
        """Read for the handler and run it; returns when both have ended. In the connection's greenlet."""
        worker = gevent.spawn(self._run, connection, match)
        try:
            if self.blocks(match):
                connection.run_plain()
            else:
                connection.attend_plain()
            worker.join(self._seconds)
            if not worker.ready():
                # It waits for something that is not the connection, or it would have seen the end.
                logger.warning(
                    "handler stopped: it went on after its connection",
                    extra={"route": str(match[0]), "connection": connection.id},
                )
        finally:
            worker.kill(timeout=self._seconds)

    def _run(self, connection: WebSocketConnection, match: Match) -> None:
        route, arguments = match
        context = self._context.copy()
        try:
            if not self.blocks(match):
                connection.own_plain()
                context.run(_call, route.handler, connection, arguments)
            elif self._executor.full:  # another upgrade took the last thread since this one was accepted
                connection.close(1013, "no thread is free for this route", timeout=0)
            else:
                self._executor.run(context, _call, route.handler, connection, arguments)
            connection.close(1000, timeout=0)
        except (gevent.GreenletExit, KeyboardInterrupt):
            connection.close(1001, "the handler was stopped", timeout=0)
            raise
        except BaseException as error:  # the edge around user code: whatever it raises ends only this connection
            self._failed(connection, route, error)

    def _failed(self, connection: WebSocketConnection, route: Route, error: BaseException) -> None:
        if isinstance(error, ConnectionClosed) and not connection.open:
            return  # the peer went while the handler sent or received: how most of them end
        logger.error("handler failed", exc_info=error, extra={"route": str(route), "connection": connection.id})
        connection.close(1011, "internal error", timeout=0)


def _call(handler: Callable[..., object], connection: WebSocketConnection, arguments: dict[str, Any]) -> None:
    handler(None, "", connection, **arguments)
