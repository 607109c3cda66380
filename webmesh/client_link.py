"""The link of one client: the connection that all who use the client share.

Decides when it is dialled, by whom, and how it ends. What is sent over it is `webmesh_client`'s business.
"""

from __future__ import annotations

import atexit
import logging
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import gevent
from gevent import getcurrent

from webmesh.call import serving_context
from webmesh.deadline import Deadline
from webmesh.dispatch import Dispatcher
from webmesh.exceptions import ConnectFailed, ConnectionClosed
from webmesh.execution import Executor, ends_itself, stop_home
from webmesh.lanes import Lanes
from webmesh.message_serializers import AbstractMessageSerializer
from webmesh.observer import Observer
from webmesh.options import Limits, Timeouts
from webmesh.processes import is_patched
from webmesh.routing import Router
from webmesh.websocket.hub import Completion, HubThread
from webmesh.websocket.pulse import Pulse
from webmesh.websocket.upgraded import Upgraded
from webmesh.websocket.websocket_connection import WebSocketConnection

EXIT_TIMEOUT = 1.0
"""Seconds that the end of a process waits for what it forgot to close: a quick peer answers in a millisecond."""

logger = logging.getLogger("webmesh.client")


class ClientLink:
    """At most one open connection to a server, in a hub of its own, which starts with the first use.

    Args:
        url: Where it leads, for errors and logs.
        dial: Makes a connection within so many seconds, or raises; in the hub.
        router: What the client serves; frozen with the first use.

    Attributes:
        connection: The last one that was dialled, open or not; `None` before the first.
        closed: Whether its end has begun.
    """

    def __init__(
        self,
        url: str,
        dial: Callable[[float], Upgraded],
        serializer: AbstractMessageSerializer,
        router: Router,
        *,
        service: str | None,
        limits: Limits,
        timeouts: Timeouts,
        observer: Observer,
    ) -> None:
        self.connection: WebSocketConnection | None = None
        self.closed = False
        self.home = HubThread("webmesh-client")
        self._url = url
        self._dial = dial
        self._serializer = serializer
        self._service = service
        self._limits = limits
        self._timeouts = timeouts
        self._observer = observer
        self._executor = Executor(limits.threads, limits.thread_queue)
        self._dispatcher = Dispatcher(
            router, [], self.home, self._executor,
            limits=limits, timeouts=timeouts, observer=observer, blocking=not is_patched(),
        )  # fmt: skip
        self._readers: dict[WebSocketConnection, gevent.Greenlet[[WebSocketConnection], None]] = {}
        self._pulse = Pulse(self._readers, timeouts)
        self._dialling = Lanes()
        self._dialler: Any = None
        self._start_unclaimed, self._close_unclaimed = [True], [True]
        self._started: Completion[None] = Completion()
        self._stopped: Completion[None] = Completion()
        self._home_stops = True

    @property
    def begun(self) -> bool:
        """Whether it has been used, so that nothing can be registered any more."""
        return not self._start_unclaimed

    @property
    def dialling(self) -> int:
        """How many are at it at the moment: one dials, the others wait for it."""
        return len(self._dialling)

    # ------------------------------------------------------------------- dialling

    def connect(self, seconds: float) -> WebSocketConnection:
        """The open connection; dialled within *seconds* where there is none.

        Raises:
            ConnectFailed, HandshakeRejected, ConfigurationError: As `dial`.
            ConnectionClosed: The client was closed.
        """
        connection = self.connection
        if connection is not None and connection.open:
            return connection
        self._check_open()
        self._start()
        return self.home.run(self._connect, seconds)

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
            serving_context(self).run(self._dispatcher.freeze)
            self.home.on_fork = self._leave
            self.home.start()
            atexit.register(self._exit)
            self.home.run(self._pulse.start)
        except BaseException as error:  # told to all who wait, whatever it is
            self._started.fail(error)
            raise
        self._started.succeed(None)
        if self.closed:
            self.close()
            self._check_open()

    def _connect(self, seconds: float) -> WebSocketConnection:
        """In the hub; whoever comes while another dials waits for that one's connection."""
        deadline = Deadline(seconds)
        patience = gevent.Timeout.start_new(seconds)
        try:
            with self._dialling.turn("dial"):
                patience.close()
                connection = self.connection
                if connection is None or not connection.open:
                    connection = self.connection = self._made(deadline)
                return connection
        except gevent.Timeout as expired:
            if expired is not patience:
                raise
            raise ConnectFailed(self._url, [f"another attempt had not ended within {seconds:g} s"]) from None
        finally:
            patience.close()

    def _made(self, deadline: Deadline) -> WebSocketConnection:
        self._check_open()
        self._dialler = getcurrent()
        try:
            upgraded = self._dial(deadline.remaining() or 0.0)
        except gevent.GreenletExit:
            self._check_open()  # `close` has thrown it
            raise
        finally:
            self._dialler = None
        connection = WebSocketConnection(
            upgraded, self.home, limits=self._limits, timeouts=self._timeouts, observer=self._observer,
            dialled=True, service=self._service,
        )  # fmt: skip
        connection.converse(self._serializer, self._dispatcher)
        self._readers[connection] = gevent.spawn(self._run, connection)
        return connection

    def _run(self, connection: WebSocketConnection) -> None:
        try:
            self._observer.connection_opened(connection)
            connection.run()
        finally:
            with suppress(ConnectionClosed):  # the hub's end, at that of the process
                connection.abort(1011, "internal error")  # nothing, unless its greenlet was ended from outside
            del self._readers[connection]
            logger.info("connection ended", extra={"url": self._url, "reason": str(connection.close_reason)})

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
            self.home.post(gevent.spawn, self._shut_down)

    def _exit(self) -> None:
        """The process ends and nobody has closed: say goodbye to the server, as far as that is quick."""
        self.closed = True
        if not self.home.inherited:
            self._begin_close()
            with suppress(TimeoutError):
                self._stopped.wait(EXIT_TIMEOUT)
            self.home.stop()  # joins its thread: one that ends together with the interpreter can crash it

    def _shut_down(self) -> None:
        """In the hub, once."""
        try:
            while len(self._dialling):
                self.home.post(self._stop_dialling)
                gevent.sleep(0)
            readers = tuple(self._readers.values())
            for connection in tuple(self._readers):
                connection.close(1000, timeout=0)
            gevent.joinall(readers, self._timeouts.close)
            gevent.killall(readers, block=False)
            self._dispatcher.stop(self._timeouts.close)
            self._pulse.stop()
            self._executor.close(self._timeouts.close)
        finally:
            self._home_stops = stop_home(self.home, self._executor)
            atexit.unregister(self._exit)
            self._stopped.succeed(None)

    def _stop_dialling(self) -> None:
        dialler = self._dialler
        if dialler is not None:
            dialler.throw(gevent.GreenletExit)

    def _leave(self, alive: bool) -> None:
        """In a forked child: the connection is the parent's."""
        for connection in self._readers:
            connection.leave()
        if alive:
            gevent.killall(list(self._readers.values()), block=False)
            self._dispatcher.stop(0)
            self._pulse.stop()


def _claimed(unclaimed: list[bool]) -> bool:
    """Whether the caller is the first to take what *unclaimed* stands for; atomic, and without a lock."""
    try:
        return unclaimed.pop()
    except IndexError:
        return False
