"""Connections to Redis that greenlets share, on gevent's sockets in patched and plain processes alike.

redis-py brings the protocol, the login and its errors. Its pools, retries, timeouts and pub/sub are not used: its
retries sleep and its polls select without gevent in a plain process, its defaults end a wait of seven seconds with an
error after a minute, and a pool's lock that is held across a switch of greenlets stops a plain hub for good. Here one
connection serves all: commands leave in the order in which they were given, and answers come back in it.
"""

from __future__ import annotations

import itertools
import logging
from collections import deque
from collections.abc import Callable
from typing import Any

import gevent
from gevent import socket
from gevent.event import AsyncResult, Event

from webmesh.brokers.redis_places import Address, Login
from webmesh.exceptions import BrokerError, BrokerUnavailable, ConfigurationError, Overloaded, PublishDoubtful
from webmesh.websocket.tls import tls_failure, wrap_client

try:
    from redis import Connection, exceptions
    from redis.backoff import NoBackoff
    from redis.retry import Retry
except ImportError as error:
    raise ConfigurationError('the Redis engine needs redis-py: pip install "webmesh-gevent[redis]"') from error

logger = logging.getLogger("webmesh.broker")

MOST_WAITING = 10_000
"""Commands that are on their way at a time; each has a greenlet that waits for it. Beyond it: `Overloaded`."""

OUTBOX_SIZE = 64 * 1024 * 1024
"""Bytes that may wait to be sent, as to a Redis that stands still. Beyond it: `Overloaded`."""

ANSWERS_PER_TURN = 64
"""Answers after which others get the hub: gevent's sockets give it back only when there is nothing to read."""

KEEPALIVE = {"TCP_KEEPIDLE": 30, "TCP_KEEPINTVL": 5, "TCP_KEEPCNT": 3}
"""Seconds and numbers with which the system looks after an idle connection."""

WRONG_PLACE = ("READONLY", "MOVED", "ASK", "TRYAGAIN", "CLUSTERDOWN", "LOADING", "MASTERDOWN", "UNBLOCKED")
"""Beginnings of answers that say that another server is the one now, or will be soon; nothing was done."""


class RedisSocket(Connection):
    """redis-py's connection, over a socket that gives back the hub while it waits.

    Attributes:
        stream: The socket, once there is one.
    """

    stream: Any = None

    def __init__(self, address: Address, login: Login, name: str) -> None:
        self._address = address
        self._tls = login.tls
        super().__init__(
            host=address.host, port=address.port, db=login.db, username=login.username, password=login.password,
            client_name=name, protocol=2, socket_timeout=None, socket_connect_timeout=None, retry=Retry(NoBackoff(), 0),
            health_check_interval=0,
        )  # fmt: skip

    def _connect(self) -> Any:
        address = self._address
        if address.port:
            stream = socket.create_connection(address)
            stream.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            stream.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            for option, value in KEEPALIVE.items():
                if hasattr(socket, option):
                    stream.setsockopt(socket.IPPROTO_TCP, getattr(socket, option), value)
        else:
            stream = socket.socket(socket.AF_UNIX)
            stream.connect(address.host)
        self.stream = stream
        if self._tls is not None:
            self.stream = stream = wrap_client(stream, self._tls, address.host)
            stream.do_handshake()
        return stream

    def close(self) -> None:
        """End it; whoever reads or writes is woken."""
        self.disconnect()
        if self.stream is not None:
            self.stream.close()


def open_socket(address: Address, login: Login, name: str, timeout: float) -> RedisSocket:
    """A connection that is logged in.

    Args:
        name: What the server's CLIENT LIST calls it.
        timeout: Seconds for all of it.

    Raises:
        BrokerUnavailable: There is none; the text says why, without the password.
    """
    connection = RedisSocket(address, login, name)
    timer = gevent.Timeout(timeout)
    try:
        with timer:
            connection.connect()
    except BaseException as error:
        connection.close()
        if error is timer:
            raise BrokerUnavailable(f"Redis at {address} does not answer within {timeout:g} s") from None
        if isinstance(error, OSError):
            raise BrokerUnavailable(f"Redis at {address}: {tls_failure(error)}") from error
        if isinstance(error, exceptions.RedisError):
            origin = error.__context__  # of TLS and of the system, which say it without redis-py's "Error 1"
            why = tls_failure(origin) if isinstance(origin, OSError) else str(error)
            raise BrokerUnavailable(f"Redis at {address}: {why}") from error
        raise
    return connection


def ask_once(address: Address, login: Login, *command: Any, timeout: float) -> Any:
    """What a server answers to one command, over a connection of its own.

    Raises:
        BrokerUnavailable: It gives no answer, or refuses.
    """
    connection = open_socket(address, login, "webmesh", timeout)
    timer = gevent.Timeout(timeout)
    try:
        with timer:
            connection.send_command(*command)
            return connection.read_response(disable_decoding=True)
    except gevent.Timeout as expired:
        if expired is not timer:
            raise
        raise BrokerUnavailable(f"Redis at {address} does not answer within {timeout:g} s") from None
    except exceptions.RedisError as error:
        raise BrokerUnavailable(f"Redis at {address}: {error}") from error
    finally:
        connection.close()


class Writer:
    """What leaves by a connection: whole commands, those of one turn of the hub in one write.

    Args:
        lost: Told why, when the connection ends by itself; once.
    """

    def __init__(self, connection: RedisSocket, lost: Callable[[str], None]) -> None:
        self._connection = connection
        self._lost = lost
        self._outbox: list[bytes] = []
        self._size = 0
        self._some = Event()
        self.closed = False
        self._greenlets = [gevent.spawn(self._write), gevent.spawn(self._read)]

    def send(self, *command: Any) -> None:
        """Send a command, soon and in its order.

        Raises:
            Overloaded: Too much waits to be sent.
        """
        packed = b"".join(self._connection.pack_command(*command))
        if self._size + len(packed) > OUTBOX_SIZE:
            raise Overloaded(f"{self._size} bytes wait to be sent to Redis; the limit is {OUTBOX_SIZE}")
        self._outbox.append(packed)
        self._size += len(packed)
        self._some.set()

    def _leaving(self) -> None:
        """All of the outbox is about to leave."""

    def received(self, answer: Any) -> None:
        """One answer, or the `ResponseError` in its place."""
        raise NotImplementedError

    def _write(self) -> None:
        while True:
            self._some.wait()
            self._some.clear()
            data = b"".join(self._outbox)
            self._outbox.clear()
            self._size = 0
            self._leaving()
            try:
                self._connection.stream.sendall(data)
            except OSError as error:
                self.end(tls_failure(error))
                return

    def _read(self) -> None:
        for number in itertools.count(1):
            if number % ANSWERS_PER_TURN == 0:
                gevent.sleep(0)
            try:
                answer = self._connection.read_response(disable_decoding=True)
            except exceptions.ResponseError as refusal:
                answer = refusal
            except (exceptions.RedisError, OSError, AttributeError) as error:
                # redis-py's parsers raise AttributeError on a connection that was closed under them.
                self.end(str(error) or type(error).__name__)
                return
            try:
                self.received(answer)
            except Exception:  # the edge around the node's code: one message must not end all
                logger.exception("what Redis sent could not be delivered")

    def end(self, reason: str) -> None:
        """The connection is of no use any more."""
        if not self.closed:
            self.close()
            self._lost(reason)

    def close(self) -> None:
        """End it without telling anybody."""
        if self.closed:
            return
        self.closed = True
        for greenlet in self._greenlets:
            if greenlet is not gevent.getcurrent():
                greenlet.kill(block=False)
        self._connection.close()


class _Question:
    """A command that waits for its answer.

    Attributes:
        sent: It may have left, so nobody can say that nothing came of it.
    """

    __slots__ = ("answer", "sent")

    def __init__(self) -> None:
        self.answer: AsyncResult[Any] = AsyncResult()
        self.sent = False


class Line(Writer):
    """Commands and answers."""

    def __init__(self, connection: RedisSocket, lost: Callable[[str], None], timeout: float) -> None:
        self._timeout = timeout
        self._waiting: deque[_Question] = deque()
        self._unsent: list[_Question] = []
        super().__init__(connection, lost)

    def ask(self, *command: Any) -> Any:
        """The answer to a command.

        Raises:
            PublishDoubtful: The connection was lost after the command may have left.
            BrokerUnavailable: It was lost before, or the server is not the one for this any more: nothing was done.
            Overloaded: Too many wait, or the server's memory is full: nothing was done.
            BrokerError: The server refuses the command.
        """
        if self.closed:
            raise BrokerUnavailable("the connection to Redis is lost")
        if len(self._waiting) >= MOST_WAITING:
            raise Overloaded(f"{MOST_WAITING} commands wait for Redis' answers, the limit")
        self.send(*command)
        question = _Question()
        self._waiting.append(question)
        self._unsent.append(question)
        timer = gevent.Timeout(self._timeout)
        try:
            with timer:
                answer = question.answer.get()
        except gevent.Timeout as expired:
            if expired is not timer:
                raise
            # One that is behind is behind with all that follow: the answers come in order.
            self.end(f"no answer within {self._timeout:g} s")
            raise _lost(question, f"no answer within {self._timeout:g} s") from None
        if isinstance(answer, exceptions.ResponseError):
            self._refuse(answer)
        return answer

    def _refuse(self, error: exceptions.ResponseError) -> None:
        text = str(error)
        name = type(error).__name__
        if text.startswith(WRONG_PLACE) or name in _WRONG_PLACE_CLASSES:
            self.end(f"the server is not the one for this any more: {text}")
            raise BrokerUnavailable(f"Redis: {text}") from error
        if name == "OutOfMemoryError" or text.startswith("OOM"):
            raise Overloaded(f"Redis: {text}") from error
        raise RedisRefused(text) from error

    def _leaving(self) -> None:
        for question in self._unsent:
            question.sent = True
        self._unsent.clear()

    def received(self, answer: Any) -> None:
        """See `Writer`."""
        if self._waiting:
            self._waiting.popleft().answer.set(answer)

    def close(self) -> None:
        """See `Writer`; whoever waits is told."""
        super().close()
        waiting, self._waiting = self._waiting, deque()
        for question in waiting:
            question.answer.set_exception(_lost(question, "the connection was lost"))


_WRONG_PLACE_CLASSES = frozenset({
    "ReadOnlyError", "MovedError", "AskError", "TryAgainError", "ClusterDownError", "MasterDownError",
    "BusyLoadingError", "ClusterError",
})  # fmt: skip
"""redis-py cuts the word off that an answer begins with when it makes these of it."""


class RedisRefused(BrokerError):
    """Redis answered with an error; the text is its own."""


def _lost(question: _Question, why: str) -> BrokerUnavailable:
    if question.sent:
        return PublishDoubtful(f"Redis: {why}; what was asked for may have been done")
    return BrokerUnavailable(f"Redis: {why}; nothing was sent")
