"""A node with sessions whose links are socket pairs: as many as a test wants, one after another or at once."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import gevent
import gevent.socket

from webmesh.client_session import ClientSession, Greeting
from webmesh.dispatch import Dispatcher
from webmesh.execution import Executor, stop_home
from webmesh.message_serializers import AbstractMessageSerializer, MessagePackSerializer
from webmesh.options import Limits, Timeouts
from webmesh.processes import is_patched
from webmesh.routing import Router
from webmesh.server_session import ServerSession
from webmesh.sessions import Sessions
from webmesh.system_routes import SystemRoutes
from webmesh.testing import FakeClock, RecordingObserver
from webmesh.websocket.hub import HubThread
from webmesh.websocket.upgraded import Upgraded
from webmesh.websocket.websocket_connection import WebSocketConnection

PATIENCE = 10.0
T = TypeVar("T")


class Node:
    """Serves `server`'s routes with sessions; its clock stands still.

    Attributes:
        home: The hub that all of it lives in.
    """

    def __init__(self, server: Router, limits: Limits, timeouts: Timeouts) -> None:
        self.home = HubThread("node")
        self.home.start()
        self.clock = FakeClock()
        self.observer = RecordingObserver()
        self.limits = limits
        self.timeouts = timeouts
        self.sessions = Sessions(
            self.home, limits=limits, timeouts=timeouts, observer=self.observer, clock=self.clock
        )
        routes = SystemRoutes(server, "node", "1", limits=limits, timeouts=timeouts)
        routes.sessions = self.sessions
        routes.register()
        self._executor = Executor(limits.threads, limits.thread_queue)
        self._dispatchers = [self.dispatcher(server)]
        self._readers: list[Any] = []
        self._connections: list[WebSocketConnection] = []

    def dispatcher(self, router: Router) -> Dispatcher:
        dispatcher = Dispatcher(
            router, [], self.home, self._executor,
            limits=self.limits, timeouts=self.timeouts, observer=self.observer, blocking=not is_patched(),
        )  # fmt: skip
        dispatcher.freeze()
        return dispatcher

    def link(
        self, client: Router | None = None, serializer: type[AbstractMessageSerializer] = MessagePackSerializer
    ) -> tuple[WebSocketConnection, WebSocketConnection]:
        """A new link: the client's end and the node's."""
        dispatcher = self.dispatcher(client or Router())
        self._dispatchers.append(dispatcher)
        return self.home.run(self._link, dispatcher, serializer)

    def _link(self, client: Dispatcher, serializer: Any) -> tuple[WebSocketConnection, WebSocketConnection]:
        left, right = gevent.socket.socketpair()
        return (
            self._connect(left, client, serializer, dialled=True),
            self._connect(right, self._dispatchers[0], serializer, dialled=False),
        )

    def _connect(self, sock: Any, dispatcher: Dispatcher, serializer: Any, *, dialled: bool) -> WebSocketConnection:
        connection = WebSocketConnection(
            Upgraded(sock, None, None, [], b"", "pair", None), self.home,
            limits=self.limits, timeouts=self.timeouts, observer=self.observer, dialled=dialled,
        )  # fmt: skip
        connection.converse(serializer(self.limits), dispatcher)
        self._connections.append(connection)
        self._readers.append(gevent.spawn(connection.run))
        return connection

    def run(self, function: Callable[..., T], *args: Any) -> T:
        """Call *function* in the hub."""
        return self.home.run(function, *args, timeout=PATIENCE)

    def client(self, **options: Any) -> ClientSession:
        """A client's session, which has greeted nobody yet."""
        return ClientSession({"id": "c", "name": "client"}, **options)

    def greeted(
        self, session: ClientSession, client: Router | None = None
    ) -> tuple[WebSocketConnection, WebSocketConnection, Greeting]:
        """A link on which *session* has said hello."""
        dialled, accepted = self.link(client)
        return dialled, accepted, self.run(session.greet, dialled, PATIENCE)

    def cut(self, connection: WebSocketConnection) -> None:
        """End a link without a word; both ends have noticed when it returns."""
        connection.abort(1006, "cut")
        other = self._connections[self._connections.index(connection) ^ 1]
        other.wait_closed(PATIENCE)

    def of(self, connection: WebSocketConnection) -> ServerSession:
        """The session at the node's end of a link."""
        assert connection.session is not None
        return connection.session

    def later(self, seconds: float) -> None:
        """Move the clock and let the node look at its deadlines."""
        self.run(self.sessions.tick, self.clock.advance(seconds))

    def close(self) -> None:
        self.run(self._close)
        self.home.stop()

    def _close(self) -> None:
        self.sessions.close()
        for connection in self._connections:
            connection.abort(1001, "the test is over")
        gevent.joinall(self._readers, 5)
        for dispatcher in self._dispatchers:
            dispatcher.stop(5)
        self._executor.close(5)
        stop_home(self.home, self._executor)


@contextmanager
def node(
    server: Router | None = None, *, limits: Limits | None = None, timeouts: Timeouts | None = None
) -> Iterator[Node]:
    """A node that serves these routes."""
    made = Node(server or Router(), limits or Limits(), timeouts or Timeouts())
    try:
        yield made
    finally:
        made.close()
