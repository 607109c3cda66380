"""What a server is made of from `listen` on, put together from what was registered."""

from __future__ import annotations

from collections.abc import Collection
from contextvars import Context, copy_context

from webmesh.call import Middleware
from webmesh.dispatch import Dispatcher
from webmesh.endpoints import Endpoints
from webmesh.execution import Executor
from webmesh.message_serializers import AbstractMessageSerializer
from webmesh.observer import Observer
from webmesh.options import Limits, Timeouts
from webmesh.plain_routes import PlainRegistration, PlainRoutes
from webmesh.processes import is_patched
from webmesh.routing import Router
from webmesh.websocket.hub import HubThread
from webmesh.websocket.listener import Listener
from webmesh.websocket.pulse import Pulse
from webmesh.websocket.websocket_connection import WebSocketConnection


class ServerParts:
    """Built once, in the thread that calls `listen`; its hub has not started yet.

    Attributes:
        blocking: Whether handlers that say nothing run in native threads.
        context: The context of whoever called `listen`; handlers get copies of it.
        listener: Set once it listens.

    Raises:
        ConfigurationError: What was registered makes no sense.
    """

    def __init__(
        self,
        router: Router,
        middleware: list[Middleware],
        plain: list[PlainRegistration],
        connections: Collection[WebSocketConnection],
        serializer_type: type[AbstractMessageSerializer],
        *,
        mount: str,
        compression: bool,
        allowed_hosts: Collection[str] | None,
        allowed_origins: Collection[str] | None,
        limits: Limits,
        timeouts: Timeouts,
        observer: Observer,
    ) -> None:
        self.blocking = not is_patched()
        self.context: Context = copy_context()
        self.home = HubThread("webmesh-server")
        self.executor = Executor(limits.threads, limits.thread_queue)
        # Plain handlers last as long as their connections: among the others they would take all threads.
        self.websocket_executor = Executor(limits.websocket_threads, 0)
        self.plain = PlainRoutes(plain, self.websocket_executor, blocking=self.blocking)
        self.endpoints = Endpoints(
            mount, self.plain, serializer_type, limits,
            compression=compression, allowed_hosts=allowed_hosts, allowed_origins=allowed_origins,
        )  # fmt: skip
        self.dispatcher = Dispatcher(
            router, middleware, self.home, self.executor,
            limits=limits, timeouts=timeouts, observer=observer, blocking=self.blocking,
        )  # fmt: skip
        self.dispatcher.freeze()
        self.pulse = Pulse(connections, timeouts)
        self.listener: Listener | None = None
