"""`WebMeshClient`: one connection to a server, shared by all greenlets and threads of a program.

Composes; decides when to dial. The connection lives in a thread of the client's own (in a patched
process: in greenlets of the one hub).
"""

from __future__ import annotations

import atexit
import logging
import ssl
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from types import TracebackType
from typing import Any, TypeVar

import gevent
from gevent import getcurrent

from webmesh.call import CURRENT, NO_HEADERS, Call, CallNext, Middleware, chained, check_callable, serving_context
from webmesh.deadline import Deadline, finite
from webmesh.dispatch import Dispatcher
from webmesh.exceptions import ConfigurationError, ConnectFailed, ConnectionClosed, RequestTimeout
from webmesh.execution import Executor, ends_itself, stop_home
from webmesh.lanes import Lanes
from webmesh.message_serializers import AbstractMessageSerializer, MessagePackSerializer, subprotocol
from webmesh.observer import NO_OBSERVER, Observer, guarded
from webmesh.options import Limits, Timeouts
from webmesh.processes import is_patched
from webmesh.protocol.deflate import BoundedDeflate
from webmesh.route_options import read_options
from webmesh.routing import Router
from webmesh.websocket.dialer import dial
from webmesh.websocket.future import Future
from webmesh.websocket.hub import Completion, HubThread
from webmesh.websocket.item_stream import ItemStream
from webmesh.websocket.pulse import Pulse
from webmesh.websocket.target import parse_url
from webmesh.websocket.websocket_connection import WebSocketConnection

EXIT_TIMEOUT = 1.0
"""Seconds that the end of a process waits for what it forgot to close: a quick peer answers in a millisecond."""

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
        self._serializer = serializer_type(self.limits)
        self._observer = guarded(observer)
        self._tls = tls
        self._headers = dict(headers or {})
        self._name = name
        self._compression = compression
        self._middleware: list[Middleware] = []
        self._chain: CallNext = self._call_connection
        self._connection: WebSocketConnection | None = None
        self._connections: dict[WebSocketConnection, gevent.Greenlet[[WebSocketConnection], None]] = {}
        self._home = HubThread("webmesh-client")
        self._dialling = Lanes()
        self._dialler: Any = None
        self._executor = Executor(self.limits.threads, self.limits.thread_queue)
        self._dispatcher = Dispatcher(
            self.router, [], self._home, self._executor,
            limits=self.limits, timeouts=self.timeouts, observer=self._observer, blocking=not is_patched(),
        )  # fmt: skip
        self._pulse = Pulse(self._connections, self.timeouts)
        self._start_unclaimed, self._close_unclaimed = [True], [True]
        self._started: Completion[None] = Completion()
        self._stopped: Completion[None] = Completion()
        self._home_stops = True
        self._closed = False

    # ------------------------------------------------------------- registration

    def on(self, path: str, **options: Any) -> Callable[[F], F]:
        """Register a handler for requests of the server; as `WebMeshServer.on`, before connecting."""
        read_options(options)
        return self.router.on(path, **options)

    def middleware(self, function: Middleware) -> Middleware:
        """Wrap what is sent: `def middleware(call, call_next): return call_next(call)`. The first is outermost.

        Calls, futures, streams and notifications all pass through it.
        """
        if not self._start_unclaimed:
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
        connection = self._connection
        if connection is not None and connection.open:
            return connection
        self._check_open()
        self._start()
        return self._home.run(self._connect, self.timeouts.connect if timeout is None else finite(timeout))

    def _check_open(self) -> None:
        if self._closed:
            raise ConnectionClosed(1000, "the client was closed")

    def _start(self) -> None:
        """Start the hub's thread, once; whoever comes meanwhile waits. No lock is held while anything waits: in a
        plain process a greenlet that met a native lock would stop the one that is to give it back."""
        if not _claimed(self._start_unclaimed):
            self._started.wait()
            return
        try:
            serving_context(self).run(self._dispatcher.freeze)
            self._chain = chained(self._middleware, self._call_connection)
            self._home.on_fork = self._leave
            self._home.start()
            atexit.register(self._exit)
            self._home.run(self._pulse.start)
        except BaseException as error:  # told to all who wait, whatever it is
            self._started.fail(error)
            raise
        self._started.succeed(None)
        if self._closed:
            self.close()
            self._check_open()

    def _connect(self, seconds: float) -> WebSocketConnection:
        """In the hub; whoever comes while another dials waits for that one's connection."""
        deadline = Deadline(seconds)
        patience = gevent.Timeout.start_new(seconds)
        try:
            with self._dialling.turn("dial"):
                patience.close()
                connection = self._connection
                if connection is None or not connection.open:
                    connection = self._connection = self._dial(deadline)
                return connection
        except gevent.Timeout as expired:
            if expired is not patience:
                raise
            raise ConnectFailed(self.url, [f"another attempt had not ended within {seconds:g} s"]) from None
        finally:
            patience.close()

    def _dial(self, deadline: Deadline) -> WebSocketConnection:
        self._check_open()
        self._dialler = getcurrent()
        try:
            upgraded = dial(
                self.url, timeout=deadline.remaining() or 0.0, limits=self.limits, subprotocols=(self._subprotocol,),
                headers=self._headers.items(), tls=self._tls,
                extensions=[BoundedDeflate(self.limits)] if self._compression else (),
            )  # fmt: skip
        except gevent.GreenletExit:
            self._check_open()  # `close` has thrown it
            raise
        finally:
            self._dialler = None
        connection = WebSocketConnection(
            upgraded, self._home, limits=self.limits, timeouts=self.timeouts, observer=self._observer,
            dialled=True, service=self._name,
        )  # fmt: skip
        connection.converse(self._serializer, self._dispatcher)
        self._connections[connection] = gevent.spawn(self._run, connection)
        return connection

    def _run(self, connection: WebSocketConnection) -> None:
        try:
            self._observer.connection_opened(connection)
            connection.run()
        finally:
            with suppress(ConnectionClosed):  # the hub's end, at that of the process
                connection.abort(1011, "internal error")  # nothing, unless its greenlet was ended from outside
            del self._connections[connection]
            logger.info("connection ended", extra={"url": self.url, "reason": str(connection.close_reason)})

    @property
    def connected(self) -> bool:
        """Whether there is an open connection now."""
        return self._connection is not None and self._connection.open

    def close(self) -> None:
        """Close the connection with the closing handshake and end the thread. Safe to call twice.

        Who waits for a reply gets `ReplyLost`. Called by a handler of this client, or by a signal handler of a
        patched process, it returns at once, since the end waits for them.
        """
        self._closed = True
        if _claimed(self._start_unclaimed):  # never used
            self._started.fail(ConnectionClosed(1000, "the client was closed"))
        if self._started.error is not None or not self._started.done or self._home.inherited:
            return  # nothing runs here; or whoever starts it, interrupted by this signal handler perhaps, closes it
        self._begin_close()
        if ends_itself(self, self._home):
            return
        self._stopped.wait()
        if self._home_stops:
            self._home.stop()

    def _begin_close(self) -> None:
        if _claimed(self._close_unclaimed):
            self._home.post(gevent.spawn, self._shut_down)

    def _exit(self) -> None:
        """The process ends and nobody has closed: say goodbye to the server, as far as that is quick."""
        self._closed = True
        if not self._home.inherited:
            self._begin_close()
            with suppress(TimeoutError):
                self._stopped.wait(EXIT_TIMEOUT)
            self._home.stop()  # joins its thread: one that ends together with the interpreter can crash it

    def _shut_down(self) -> None:
        """In the hub, once."""
        try:
            while len(self._dialling):
                self._home.post(self._stop_dialling)
                gevent.sleep(0)
            readers = tuple(self._connections.values())
            for connection in tuple(self._connections):
                connection.close(1000, timeout=0)
            gevent.joinall(readers, self.timeouts.close)
            gevent.killall(readers, block=False)
            self._dispatcher.stop(self.timeouts.close)
            self._pulse.stop()
            self._executor.close(self.timeouts.close)
        finally:
            self._home_stops = stop_home(self._home, self._executor)
            atexit.unregister(self._exit)
            self._stopped.succeed(None)

    def _leave(self, alive: bool) -> None:
        """In a forked child: the connection is the parent's."""
        for connection in self._connections:
            connection.leave()
        if alive:
            gevent.killall(list(self._connections.values()), block=False)
            self._dispatcher.stop(0)
            self._pulse.stop()

    def _stop_dialling(self) -> None:
        dialler = self._dialler
        if dialler is not None:
            dialler.throw(gevent.GreenletExit)

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
        connection = self._connection
        if connection is None or not connection.open:
            connection, timeout = self._connect_within(path, timeout)
        if not self._middleware:
            return connection.call(path, payload, timeout=timeout, headers=headers)
        seconds = self.timeouts.request if timeout is None else finite(timeout)
        return self._chain(Call(path, payload, dict(headers or NO_HEADERS), connection, seconds=seconds))

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
        connection = self._connection
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
        state = "closed" if self._closed else "connected" if self.connected else "not connected"
        return f"<WebMeshClient {self.url} {state}>"


def _claimed(unclaimed: list[bool]) -> bool:
    """Whether the caller is the first to take what *unclaimed* stands for; atomic, and without a lock."""
    try:
        return unclaimed.pop()
    except IndexError:
        return False
