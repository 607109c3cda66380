"""What a server is made of from `listen` on, put together from what was registered."""

from __future__ import annotations

from collections.abc import Callable, Collection
from contextvars import copy_context
from dataclasses import dataclass, field

from webmesh.authorisation import Requirement
from webmesh.brokers.base import Broker
from webmesh.brokers.memory import MemoryBroker
from webmesh.call import Middleware
from webmesh.callbacks import Callbacks
from webmesh.dispatch import Dispatcher
from webmesh.endpoints import Endpoints
from webmesh.exceptions import ConnectionClosed
from webmesh.execution import Executor
from webmesh.extension import Extension
from webmesh.idempotency_store import MEMORY, open_store
from webmesh.keyed_calls import KeyedCalls
from webmesh.local_subscriber import LocalRunner, LocalSubscription
from webmesh.login import KICKED, Access, Login, check_login_unneeded, is_subject
from webmesh.message_serializers import AbstractMessageSerializer
from webmesh.observer import Observer
from webmesh.options import Limits, Timeouts
from webmesh.plain_routes import PlainRegistration, PlainRoutes
from webmesh.node_topics import NodeTopics
from webmesh.node_wills import NodeWills
from webmesh.processes import is_patched
from webmesh.rights import Rights
from webmesh.routing import Router
from webmesh.session_moves import SessionMoves
from webmesh.sessions import Sessions
from webmesh.topic_access import TopicAccess
from webmesh.topic_options import TopicTable
from webmesh.websocket.doors import Doors
from webmesh.websocket.hub import HubThread
from webmesh.websocket.outgoing import Policy
from webmesh.websocket.pulse import Pulse
from webmesh.websocket.tls import ServerTLS
from webmesh.websocket.upgraded import OWN_ADDRESS
from webmesh.websocket.websocket_connection import WebSocketConnection


@dataclass(slots=True)
class Registered:
    """What a program registered besides its routes, in the order of registration."""

    middleware: list[Middleware] = field(default_factory=list)
    plain: list[PlainRegistration] = field(default_factory=list)
    opened: list[Callable[[WebSocketConnection], object]] = field(default_factory=list)
    closed: list[Callable[[WebSocketConnection, ConnectionClosed], object]] = field(default_factory=list)
    topics: TopicTable = field(default_factory=TopicTable)
    subscriptions: list[LocalSubscription] = field(default_factory=list)
    extensions: list[Extension] = field(default_factory=list)


class ServerParts:
    """Built once, in the thread and in the context that handlers are to inherit; its hub has not started yet.

    Attributes:
        connections: Those that are open now, by id.
        login: Says who peers are; `None` where nobody asks.
        private_folder: What the addresses begin with of processes that serve together with this one; empty for none.

    Raises:
        ConfigurationError: What was registered makes no sense.
    """

    def __init__(
        self,
        router: Router,
        registered: Registered,
        serializer_type: type[AbstractMessageSerializer],
        *,
        service: str | None,
        mount: str,
        tls: ServerTLS | None,
        compression: bool,
        slow_peer: Policy,
        allowed_hosts: Collection[str] | None,
        allowed_origins: Collection[str] | None,
        doors: Doors,
        limits: Limits,
        timeouts: Timeouts,
        observer: Observer,
        broker: Broker | None = None,
        idempotency: str = MEMORY,
        access: Access = Access(),
    ) -> None:
        blocking = not is_patched()
        self.registered = registered
        self.service = service
        self.slow_peer = slow_peer
        self.mount = mount
        self.tls = tls
        self.doors = doors
        self.limits, self.timeouts, self.observer = limits, timeouts, observer
        self.context, self.home = copy_context(), HubThread("webmesh-server")
        self.connections: dict[str, WebSocketConnection] = {}
        self.private_folder = ""
        self._make_executors()
        self._make_runners(router, access, blocking=blocking)
        self.endpoints = Endpoints(
            mount, self.plain, serializer_type, limits, secure=tls is not None,
            compression=compression, allowed_hosts=allowed_hosts, allowed_origins=allowed_origins,
            login=self.login,
        )  # fmt: skip
        self.keyed = KeyedCalls(limits, timeouts, observer)
        self.dispatcher = self._make_dispatcher(router, blocking=blocking, requires=access.requires)
        self.sessions = Sessions(self.home, limits=limits, timeouts=timeouts, observer=observer)
        self.topics = self._make_topics(broker or MemoryBroker(), access, blocking=blocking)
        self.wills = self._make_wills()
        self.moves = SessionMoves(self.topics.broker, self.topics.lease, self.sessions)
        self.pulse = self._make_pulse()
        self.keyed.store = open_store(  # last, since it must be closed
            idempotency, keys=limits.idempotency_keys, size=limits.idempotency_size, seconds=timeouts.idempotency
        )

    def _make_pulse(self) -> Pulse:
        self.rights = Rights(self.connections.values(), self.topics, self.wills, self.dispatcher)
        return Pulse(
            self.connections.values(), self.timeouts,
            others=(self.sessions, self.topics, self.wills, self.rights),
            guard=None if self.login is None else self.login.look_at,
        )  # fmt: skip

    def _make_executors(self) -> None:
        limits = self.limits
        self.executor = Executor(limits.threads, limits.thread_queue, limits.threads_per_connection)
        # Plain handlers last as long as their connections: among the others they would take all threads.
        self.websocket_executor = Executor(limits.websocket_threads, 0)
        # Never full: a connection waits for one callback at a time.
        self.callback_executor = Executor(limits.threads, limits.connections)
        # Never full either: a subscription waits for one call at a time.
        self.topic_executor = Executor(limits.threads, limits.connections)

    def _make_runners(self, router: Router, access: Access, *, blocking: bool) -> None:
        self.callbacks = Callbacks(
            self.callback_executor, self.context, blocking=blocking, seconds=self.timeouts.request
        )
        self.plain = PlainRoutes(
            self.registered.plain, self.websocket_executor, self.context,
            blocking=blocking, seconds=self.timeouts.request, requires=access.requires, checks=self.callback_executor,
        )  # fmt: skip
        self.login = self._login(router, access, blocking=blocking)

    def _make_topics(self, broker: Broker, access: Access, *, blocking: bool) -> NodeTopics:
        runner = LocalRunner(
            self.home, self.topic_executor, self.context, self.observer, blocking, broker.clock
        )
        return NodeTopics(
            broker, self.registered.topics, self.registered.subscriptions, runner,
            limits=self.limits, observer=self.observer,
            access=TopicAccess(self.registered.topics, access.requires, logins=bool(access.authenticators)),
        )  # fmt: skip

    def _make_wills(self) -> NodeWills:
        return NodeWills(
            self.topics, self.topics.lease, limits=self.limits, timeouts=self.timeouts, observer=self.observer,
            clock=self.sessions.clock,
        )  # fmt: skip

    def _make_dispatcher(self, router: Router, *, blocking: bool, requires: Requirement | None) -> Dispatcher:
        dispatcher = Dispatcher(
            router, self.registered.middleware, self.home, self.executor,
            limits=self.limits, timeouts=self.timeouts, observer=self.observer, blocking=blocking, keyed=self.keyed,
            requires=requires,
        )  # fmt: skip
        dispatcher.freeze()
        return dispatcher

    def _login(self, router: Router, access: Access, *, blocking: bool) -> Login | None:
        if not access.authenticators:
            check_login_unneeded([*router.routes(), *self.plain.router.routes()], access)
            return None
        return Login(
            access, self.callback_executor, self.context, blocking=blocking, limits=self.limits,
            timeouts=self.timeouts, observer=self.observer, welcome=self.welcome,
        )  # fmt: skip

    def welcome(self, connection: WebSocketConnection) -> None:
        """Tell the program of a connection that it may use."""
        self.callbacks.tell(self.registered.opened, connection)
        ending = connection.ending
        if ending is not None:  # it was turned away
            connection.shut_out(ending.code, ending.reason)

    def is_welcome(self, connection: WebSocketConnection) -> bool:
        """Whether the program may know of it: there is no login, or it has been through it."""
        return self.login is None or connection.identity is not None

    def welcomed(self) -> tuple[WebSocketConnection, ...]:
        """The connections that are open now and that the program may know of; from any thread."""
        return tuple(one for one in tuple(self.connections.values()) if self.is_welcome(one) and not self._own(one))

    def _own(self, connection: WebSocketConnection) -> bool:
        """Whether its peer is this server itself, or a process that serves with it."""
        address = connection.address
        return address == OWN_ADDRESS or bool(self.private_folder) and address.startswith(self.private_folder)

    def kept(self, connection: WebSocketConnection) -> bool:
        """Whether some extension needs it until its own end."""
        return any(extension.keeps(connection) for extension in self.registered.extensions)

    def kick(self, who: str | Callable[[WebSocketConnection], bool], reason: str) -> int:
        """`WebMeshServer.kick`; from any thread."""
        if self.login is not None:
            self.home.run(self.login.doubt)  # before looking: whose login is not through yet is asked for again
        kicked = [one for one in self.welcomed() if (who(one) if callable(who) else is_subject(one, who))]
        for connection in kicked:
            self.home.run(connection.shut_out, KICKED, reason)
        self.sessions.expel(who)
        return len(kicked)
