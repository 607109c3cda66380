"""The link of one client: the connection that all who use the client share.

Decides which thread it lives in, when that starts, and how it ends. When the connection is dialled is `link_keeper`'s
business, what is sent over it `webmesh_client`'s.
"""

from __future__ import annotations

import atexit
import logging
import random
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import gevent

from webmesh.call import follow_current, serving_context
from webmesh.callbacks import Callbacks
from webmesh.client_session import ClientSession
from webmesh.dispatch import Dispatcher
from webmesh.exceptions import ConnectionClosed, LocalProtocolError
from webmesh.execution import Executor, ends_itself, stop_home
from webmesh.known_routes import KnownRoutes
from webmesh.link_keeper import LinkKeeper, Rounds
from webmesh.link_states import EVENTS, LinkEvent, LinkStates
from webmesh.log_limit import limit_logs
from webmesh.message_serializers import AbstractMessageSerializer
from webmesh.observer import Observer
from webmesh.options import Backoff, Limits, Timeouts
from webmesh.processes import is_patched
from webmesh.protocol.backoff import BackoffSeries
from webmesh.routing import Router
from webmesh.watchdog import Watch
from webmesh.websocket.hub import Completion, HubThread
from webmesh.websocket.outgoing import Policy
from webmesh.websocket.pulse import Pulse
from webmesh.websocket.upgraded import Upgraded
from webmesh.websocket.websocket_connection import WebSocketConnection

if TYPE_CHECKING:
    from webmesh.client_topics import ClientTopics

EXIT_TIMEOUT = 1.0
"""Seconds that the end of a process waits for what it forgot to close: a quick peer answers in a millisecond."""

logger = logging.getLogger("webmesh.client")


class ClientLink:
    """At most one connection to be used at a time, in a hub of its own, which starts with the first use.

    Args:
        rounds: Dials; in the hub.
        router: What the client serves; frozen with the first use.
        backoff: `None` dials only for those who ask.
        session: Says hello on each connection; `None` says none.
        routes: Learns from each connection which routes are idempotent.

    Attributes:
        executor: Native threads for handlers, and for what may block as they do.
        keeper: Has the connection; its attribute may be read from anywhere.
        states: What the program is told.
        closed: Whether its end has begun.
        slow_peer: As `WebSocketConnection.slow_peer`.
        topics: Told of each connection; set by `serve_topics`, before the first use.
        subscribers: Native threads for callbacks of subscriptions.
    """

    slow_peer: Policy = "wait"
    topics: ClientTopics | None = None

    def __init__(
        self,
        rounds: Rounds,
        serializer: AbstractMessageSerializer,
        router: Router,
        *,
        service: str | None,
        limits: Limits,
        timeouts: Timeouts,
        observer: Observer,
        backoff: Backoff | None = None,
        session: ClientSession | None = None,
        watchdog: bool = True,
        routes: KnownRoutes | None = None,
    ) -> None:
        self.closed = False
        self.home = HubThread("webmesh-client")
        self.states = LinkStates(observer)
        self._rounds = rounds
        self._serializer = serializer
        self._service = service
        self._limits = limits
        self._timeouts = timeouts
        self._observer = observer
        self.executor = Executor(limits.threads, limits.thread_queue)
        self._session = session
        if session is not None and not is_patched():
            session.executor = self.executor
        self._callback_executor = Executor(1, EVENTS)
        self.subscribers = Executor(limits.threads, limits.thread_queue)
        router.add("$goodbye", self._goodbye, reserved=True, blocking=False)
        self._dispatcher = Dispatcher(
            router, [], self.home, self.executor,
            limits=limits, timeouts=timeouts, observer=observer, blocking=not is_patched(),
        )  # fmt: skip
        series = None if backoff is None else BackoffSeries(backoff, random.random)
        self._routes = routes or KnownRoutes()
        self._learns = routes is not None
        self.keeper = LinkKeeper(
            rounds, self._made, session, series, self.states, seconds=timeouts.connect,
            on_open=self._opened, on_give_up=self._gave_up,
        )  # fmt: skip
        self._readers: dict[WebSocketConnection, gevent.Greenlet[[WebSocketConnection], None]] = {}
        self._pulse = Pulse(self._readers, timeouts)
        limit_logs()
        self._watch = Watch(observer, timeouts.hub_hold) if watchdog else None
        self._start_unclaimed, self._close_unclaimed = [True], [True]
        self._started: Completion[None] = Completion()
        self._stopped: Completion[None] = Completion()
        self._home_stops = True

    @property
    def begun(self) -> bool:
        """Whether it has been used, so that nothing can be registered any more."""
        return not self._start_unclaimed

    def serve_topics(self, topics: ClientTopics) -> None:
        """Let *topics* have what comes of them, and hear of connections."""
        self.topics = self._dispatcher.topics = topics
        if self._session is not None:
            self._session.topics = topics

    def present(self) -> WebSocketConnection | None:
        """The open connection; `None` while there is none. From anywhere."""
        connection = self.keeper.connection
        return connection if connection is not None and connection.open else None

    # ------------------------------------------------------------------- dialling

    def connect(self, seconds: float) -> WebSocketConnection:
        """The open connection; dialled now, within *seconds*, where there is none.

        Raises:
            ConnectFailed, HandshakeRejected, ConfigurationError, LinkRefused: As `LinkKeeper.connect`.
            ConnectionClosed: The client was closed.
        """
        connection = self.keeper.connection
        if connection is not None and connection.open:
            return connection
        self._check_open()
        self._start()
        return self.home.run(self.keeper.connect, seconds)

    def wait(self, seconds: float, *, fail_fast: bool = False) -> WebSocketConnection:
        """The open connection, as soon as there is one within *seconds*.

        Raises:
            ConnectFailed, LinkRefused: As `LinkKeeper.wait`.
            ConnectionClosed: The client was closed.
            Cancelled: The call that is handled here was given up.
        """
        self._check_open()
        self._start()
        connection: WebSocketConnection = self.home.run(self._wait, seconds, fail_fast, begun=follow_current)
        return connection

    def _wait(self, seconds: float, fail_fast: bool) -> WebSocketConnection:
        return self.keeper.wait(seconds, fail_fast=fail_fast)

    def _check_open(self) -> None:
        if self.closed:
            raise ConnectionClosed(1000, "the client was closed")

    def _start(self) -> None:
        """Start the hub's thread, once; whoever comes meanwhile waits. No lock is held while anything waits: in a
        plain process a greenlet that met a native lock would stop the one that is to give it back."""
        if not _claimed(self._start_unclaimed):
            self._started.wait()
            return
        try:
            context = serving_context(self)
            context.run(self._dispatcher.freeze)
            if self.topics is not None:
                self.topics.context = context
            self.states.start(
                Callbacks(
                    self._callback_executor, context, blocking=not is_patched(), seconds=self._timeouts.request
                )
            )
            self.home.on_fork = self._leave
            self.home.start()
            atexit.register(self._exit)
            self.home.run(self._pulse.start)
            if self._watch is not None:
                self.home.run(self._watch.start)
        except BaseException as error:  # told to all who wait, whatever it is
            self._started.fail(error)
            raise
        self._started.succeed(None)
        if self.closed:
            self.close()
            self._check_open()

    def _made(self, upgraded: Upgraded) -> WebSocketConnection:
        """In the hub: a connection that is being read."""
        connection = WebSocketConnection(
            upgraded, self.home, limits=self._limits, timeouts=self._timeouts, observer=self._observer,
            dialled=True, service=self._service, slow_peer=self.slow_peer,
        )  # fmt: skip
        connection.converse(self._serializer, self._dispatcher)
        self._readers[connection] = gevent.spawn(self._run, connection)
        return connection

    def _run(self, connection: WebSocketConnection) -> None:
        try:
            self._observer.connection_opened(connection)
            connection.run()
        finally:
            with suppress(ConnectionClosed, LocalProtocolError):  # the hub's end, at that of the process; a fork
                connection.abort(1011, "internal error")  # nothing, unless its greenlet was ended from outside
            del self._readers[connection]
            url = self._rounds.url.partition("?")[0]  # a query may hold a secret
            logger.info("connection ended", extra={"url": url, "reason": str(connection.close_reason)})
            self.keeper.ended(connection)

    def _opened(self, connection: WebSocketConnection) -> None:
        if self._learns:
            self._routes.opened(connection)
        if self.topics is not None:
            self.topics.opened(connection)

    def _gave_up(self, refusal: Callable[[], Exception]) -> None:
        if self.topics is not None:
            self.topics.gave_up(refusal)

    def _goodbye(self, payload: Any, path: str, client: WebSocketConnection) -> None:
        self.keeper.goodbye(client, payload)

    # -------------------------------------------------------------------- ending

    def close(self) -> None:
        """Close the connection and end the thread; waits for that, but not in what the end waits for."""
        self.closed = True
        if _claimed(self._start_unclaimed):  # never used
            self._started.fail(ConnectionClosed(1000, "the client was closed"))
        if self._started.error is not None or not self._started.done or self.home.inherited:
            return  # nothing runs here; or whoever starts it, interrupted by this signal handler perhaps, closes it
        self._begin_close()
        if ends_itself(self, self.home):
            return
        self._stopped.wait()
        if self._home_stops:
            self.home.stop()

    def _begin_close(self) -> None:
        if _claimed(self._close_unclaimed):
            self.home.post(gevent.spawn, self._shut_down, gevent.getcurrent())

    def _exit(self) -> None:
        """The process ends and nobody has closed: say goodbye to the server, as far as that is quick."""
        self.closed = True
        if not self.home.inherited:
            self._begin_close()
            with suppress(TimeoutError):
                self._stopped.wait(EXIT_TIMEOUT)
            self.home.stop()  # joins its thread: one that ends together with the interpreter can crash it

    def _shut_down(self, closer: object) -> None:
        """In the hub, once, for the greenlet *closer*."""
        try:
            self.keeper.stop()
            self._routes.stop()
            if self.topics is not None:
                self.topics.close(closer)
            readers = tuple(self._readers.values())
            for connection in tuple(self._readers):
                if self._session is not None:
                    self._session.leave(connection)
                connection.close(1000, timeout=0)
            gevent.joinall(readers, self._timeouts.close)
            gevent.killall(readers, block=False)
            self._dispatcher.stop(self._timeouts.close)
            self._pulse.stop()
            self.states.change(LinkEvent(state="closed", reason="closed by the program", url=self._rounds.url))
            self.states.finish(self._timeouts.close)
            for executor in (self.executor, self._callback_executor, self.subscribers):
                executor.close(self._timeouts.close)
        finally:
            if self._watch is not None:
                self._watch.stop()
            self._home_stops = stop_home(self.home, self.executor, self._callback_executor, self.subscribers)
            atexit.unregister(self._exit)
            self._stopped.succeed(None)

    def _leave(self, alive: bool) -> None:
        """In a forked child: the connection is the parent's."""
        for connection in self._readers:
            connection.leave()
        if alive:
            gevent.killall(list(self._readers.values()), block=False)
            self._dispatcher.stop(0)
            self._pulse.stop()
            self.keeper.leave()
            self._routes.stop()
            if self._session is not None:
                self._session.forsake()
            if self.topics is not None:
                self.topics.leave()
            self.states.leave()


def _claimed(unclaimed: list[bool]) -> bool:
    """Whether the caller is the first to take what *unclaimed* stands for; atomic, and without a lock."""
    try:
        return unclaimed.pop()
    except IndexError:
        return False
