"""Plain WebSocket routes: handlers that are given the connection, and all the ways in which they end."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar, copy_context
from socket import SHUT_RDWR
from typing import Any

import gevent
import pytest
from websockets.exceptions import ConnectionClosed as PeerClosed
from websockets.exceptions import InvalidStatus
from websockets.sync.client import ClientConnection, connect

from tests.running import PATCHED, PATIENCE, Census, running, wait_for
from webmesh.exceptions import BadPattern, ConfigurationError, ConnectionClosed, DuplicateRoute, LocalProtocolError
from webmesh.execution import Executor
from webmesh.options import Limits, Timeouts
from webmesh.plain_routes import PlainRegistration, PlainRoutes
from webmesh.webmesh_client import WebMeshClient
from webmesh.webmesh_server import WebMeshServer

VARIABLE: ContextVar[str] = ContextVar("variable", default="unset")

EACH_PLACE = pytest.mark.parametrize("blocking", [None, True, False], ids=["default", "thread", "greenlet"])


@contextmanager
def served(
    handler: Callable[..., Any], path: str = "/ws", *, at: str = "/ws", blocking: bool | None = None, **options: Any
) -> Iterator[ClientConnection]:
    """A foreign client of one handler."""
    server = WebMeshServer(**options)
    server.websocket(path, blocking=blocking)(handler)
    with running(server), connect(f"{server.url}{at}") as peer:
        yield peer


def end_of(peer: ClientConnection) -> tuple[int | None, str | None]:
    """How the server ended the connection; the handler sends nothing before that."""
    with pytest.raises(PeerClosed):
        peer.recv(PATIENCE)
    return peer.close_code, peer.close_reason


# ------------------------------------------------------------------ registration


def routes_of(*registered: PlainRegistration, blocking: bool = False) -> PlainRoutes:
    return PlainRoutes(registered, Executor(1, 0), copy_context(), blocking=blocking, seconds=1.0)


def registered(handler: Any, pattern: str = "/ws") -> PlainRegistration:
    return PlainRegistration(pattern, handler, None, ())


class Callable1:
    """An object that is called with a connection."""

    def __call__(self, connection: Any) -> None:
        pass

    def method(self, connection: Any, room: str = "lobby") -> None:
        pass


@pytest.mark.parametrize(
    ("handler", "pattern"),
    [
        (lambda connection: None, "/ws"),
        (lambda ws: None, "/ws"),
        (lambda connection, room: None, "/<room>"),
        (lambda connection, **arguments: None, "/<room>/<int:seat>"),
        (lambda *arguments, **named: None, "/<room>"),
        (Callable1(), "/ws"),
        (Callable1().method, "/<room>"),
        (Callable1().method, "/ws"),
    ],
)
def test_any_callable_that_takes_the_connection_is_a_handler(handler: Any, pattern: str) -> None:
    """Its first argument may be called anything; path arguments come by name."""
    assert routes_of(registered(handler, pattern)).router.routes()[0].pattern == pattern


async def coroutine(connection: Any) -> None:
    """Never called."""


def generator(connection: Any) -> Iterator[None]:
    yield


@pytest.mark.parametrize(
    ("handler", "pattern", "why"),
    [
        (lambda: None, "/ws", "connection"),
        (lambda connection: None, "/<room>", "room"),
        (lambda connection, seat: None, "/<room>", "room"),
        (lambda connection, extra: None, "/ws", "extra"),
        (lambda connection: None, "/<connection>", "connection"),
        (coroutine, "/ws", "async"),
        (generator, "/ws", "generator"),
        (7, "/ws", "called"),
        (None, "/ws", "called"),
    ],
)
def test_what_cannot_be_called_so_is_refused(handler: Any, pattern: str, why: str) -> None:
    """Before the first connection; a generator would never run, and nobody would know why."""
    with pytest.raises(ConfigurationError, match=why):
        routes_of(registered(handler, pattern))


def test_patterns_are_those_of_routes() -> None:
    """With the same errors."""
    with pytest.raises(BadPattern):
        routes_of(registered(print, "/<"))
    with pytest.raises(DuplicateRoute):
        routes_of(registered(print), registered(list))


# --------------------------------------------------------------------- messages


@EACH_PLACE
def test_text_and_bytes_come_and_go(blocking: bool | None) -> None:
    """As they are, in order, wherever the handler runs."""

    def echo(connection: Any) -> None:
        for message in connection:
            connection.send(message)

    with served(echo, blocking=blocking) as peer:
        for message in ("text", b"bytes", "", b"", "ümläut", "x" * 300_000):
            peer.send(message)
            assert message == peer.recv(PATIENCE)


@EACH_PLACE
def test_a_handler_can_receive_by_hand(blocking: bool | None) -> None:
    """With a time for it, after which the connection lives on."""
    timed_out = threading.Event()

    def patient(connection: Any) -> None:
        try:
            connection.receive(timeout=0.01)
        except TimeoutError:
            timed_out.set()
        connection.send(connection.receive())

    with served(patient, blocking=blocking) as peer:
        assert wait_for(timed_out.is_set)
        peer.send("late")
        assert "late" == peer.recv(PATIENCE)


def test_path_arguments_request_and_identity_are_there() -> None:
    """What Flask-Sockets and gevent-websocket handlers look for."""

    def tell(connection: Any, room: int, rest: str) -> None:
        request = connection.request
        connection.send(f"{room} {rest} {request.path} {request.query} {request.headers['x-token']}")
        connection.send(f"{connection.is_mesh} {connection.address.startswith('127.0.0.1:')}")

    server = WebMeshServer()
    server.websocket("/rooms/<int:room>/<path:rest>")(tell)
    with running(server), connect(
        f"{server.url}/rooms/7/a/b?q=1", additional_headers={"X-Token": "t"}, subprotocols=None
    ) as peer:
        assert ["7 a/b /rooms/7/a/b q=1 t", "False True"] == [peer.recv(PATIENCE), peer.recv(PATIENCE)]


def test_the_mesh_protocol_is_not_spoken() -> None:
    """Messages that look like it are the handler's own, and calls are refused with a hint."""
    errors: list[str] = []

    def handler(connection: Any) -> None:
        for ask in (connection.call, connection.notify, connection.stream, connection.spawn):
            try:
                ask("/")
            except LocalProtocolError as error:
                errors.append(str(error))
        connection.send(connection.receive())

    with served(handler) as peer:
        peer.send('{"path": "/", "id": 1}')
        assert '{"path": "/", "id": 1}' == peer.recv(PATIENCE)

    assert 4 == len(errors)
    assert {"this is a plain WebSocket connection: use send and receive"} == set(errors)


@pytest.mark.parametrize(("offered", "agreed"), [(None, None), (["chat"], "chat"), (["other"], None)])
def test_a_subprotocol_is_agreed_where_both_know_it(offered: Any, agreed: str | None) -> None:
    """The handler sees which."""
    server = WebMeshServer()
    server.websocket("/ws", subprotocols=["chat"])(lambda connection: connection.send(str(connection.subprotocol)))
    with running(server), connect(f"{server.url}/ws", subprotocols=offered) as peer:
        assert agreed == peer.subprotocol
        assert str(agreed) == peer.recv(PATIENCE)


@EACH_PLACE
def test_each_handler_has_a_context_of_its_own(blocking: bool | None) -> None:
    """What one connection's sets another's does not see."""
    VARIABLE.set("before")

    def handler(connection: Any) -> None:
        connection.send(VARIABLE.get())
        VARIABLE.set("from a handler")

    server = WebMeshServer()
    server.websocket("/ws", blocking=blocking)(handler)
    with running(server):
        for _ in range(2):
            with connect(f"{server.url}/ws") as peer:
                assert "before" == peer.recv(PATIENCE)


# -------------------------------------------------------------------------- ends


@EACH_PLACE
def test_a_handler_that_returns_closes(blocking: bool | None) -> None:
    """Normally, although it has read nothing of what came."""
    with served(lambda connection: None, blocking=blocking) as peer:
        assert (1000, "") == end_of(peer)


@EACH_PLACE
@pytest.mark.row(28)
def test_messages_that_nobody_reads_do_not_hide_the_peers_close(blocking: bool | None) -> None:
    """A reader that had paused, since the handler kept up with nothing, goes on when the handler has ended."""
    release, bound = threading.Event(), 4

    def deaf(connection: Any) -> None:
        while not release.is_set():
            gevent.sleep(0.001)

    timeouts, limits = Timeouts(close=60), Limits(receive_queue=bound)
    with served(deaf, blocking=blocking, timeouts=timeouts, limits=limits) as peer:
        for number in range(bound * 5):
            peer.send(str(number))
        release.set()
        assert (1000, "") == end_of(peer)  # TCP ends too: websockets waits for that, ten seconds at most
        peer.recv_events_thread.join(PATIENCE / 2)
        assert not peer.recv_events_thread.is_alive()


@EACH_PLACE
@pytest.mark.row(49, 93)
@pytest.mark.parametrize("error", [ZeroDivisionError("secret"), SystemExit(3), gevent.Timeout(1)])
def test_a_handler_that_fails_ends_only_its_connection(
    error: BaseException, blocking: bool | None, caplog: pytest.LogCaptureFixture
) -> None:
    """With 1011 and not a word of why; the log has it once, and the next connection is served."""

    def fails(connection: Any) -> None:
        if connection.receive() == "fail":
            raise error
        connection.send("works")

    server = WebMeshServer()
    server.websocket("/ws", blocking=blocking)(fails)
    with running(server):
        with connect(f"{server.url}/ws") as peer:
            peer.send("fail")
            assert (1011, "internal error") == end_of(peer)
        with connect(f"{server.url}/ws") as peer:
            peer.send("work")
            assert "works" == peer.recv(PATIENCE)

    (record,) = [record for record in caplog.records if record.levelname == "ERROR"]
    assert "handler failed" == record.message
    assert "'/ws'" in record.route  # type: ignore[attr-defined]


@EACH_PLACE
@pytest.mark.row(49)
def test_a_connection_of_the_handlers_own_that_ends_is_its_failure(
    blocking: bool | None, caplog: pytest.LogCaptureFixture
) -> None:
    """ConnectionClosed of another connection is not the end of this one: the peer must not be left waiting."""

    def proxy(connection: Any) -> None:
        raise ConnectionClosed(1006, "of the database")

    with served(proxy, blocking=blocking) as peer:
        assert (1011, "internal error") == end_of(peer)

    assert ["handler failed"] == [record.message for record in caplog.records if record.levelname == "ERROR"]


@EACH_PLACE
@pytest.mark.parametrize("way", ["close", "abort"])
def test_a_peer_that_goes_ends_the_handler(way: str, blocking: bool | None, caplog: pytest.LogCaptureFixture) -> None:
    """Iteration stops, receiving and sending raise; no log line says that anything was wrong."""
    ends: list[str] = []

    def handler(connection: Any) -> None:
        ends.append(f"iterated {list(connection)}")
        for _ in range(2):
            try:
                connection.receive(PATIENCE)
            except ConnectionClosed:
                ends.append("receive")
        try:
            connection.send("too late")
        finally:
            ends.append("send")

    with served(handler, blocking=blocking) as peer:
        peer.send("one")
        peer.close() if way == "close" else peer.socket.shutdown(SHUT_RDWR)
        assert wait_for(lambda: len(ends) == 4)

    assert ["iterated ['one']", "receive", "receive", "send"] == ends
    assert [] == [record for record in caplog.records if record.levelname in ("ERROR", "WARNING")]


@EACH_PLACE
def test_a_handler_can_close_with_its_own_code(blocking: bool | None) -> None:
    """What it does after that stays without effect."""

    def handler(connection: Any) -> None:
        connection.close(4100, "go away", timeout=0)

    with served(handler, blocking=blocking) as peer:
        assert (4100, "go away") == end_of(peer)


@pytest.mark.row(86)
@EACH_PLACE
def test_a_handler_that_outlives_its_connection_is_stopped(
    blocking: bool | None, caplog: pytest.LogCaptureFixture
) -> None:
    """It waits for something that is not the connection. Its place is taken back after `Timeouts.request`; a greenlet
    is ended with it, a thread is left to itself."""
    entered, release, finished = threading.Event(), threading.Event(), threading.Event()
    in_greenlet = blocking is False or (blocking is None and PATCHED)

    def forgetful(connection: Any) -> None:
        entered.set()
        try:
            gevent.sleep(PATIENCE * 2) if in_greenlet else release.wait(PATIENCE)
        finally:
            finished.set()

    server = WebMeshServer(timeouts=Timeouts(request=0.05))
    server.websocket("/ws", blocking=blocking)(forgetful)
    with running(server):
        with connect(f"{server.url}/ws"):
            assert wait_for(entered.is_set)
        assert wait_for(lambda: not server.connections)
        release.set()
        assert wait_for(finished.is_set)

    (record,) = [record for record in caplog.records if record.levelname == "WARNING"]
    assert record.message.startswith("handler stopped")


@EACH_PLACE
def test_a_handler_that_cleans_up_after_its_connection_is_let(blocking: bool | None) -> None:
    """`on_disconnect` comes when it has ended."""
    log: list[str] = []
    server = WebMeshServer()

    @server.websocket("/ws", blocking=blocking)
    def handler(connection: Any) -> None:
        list(connection)
        gevent.sleep(0.05)
        log.append("handler")

    server.on_disconnect(lambda connection, why: log.append(f"disconnected {why.code}"))
    with running(server):
        with connect(f"{server.url}/ws"):
            pass
        assert wait_for(lambda: len(log) == 2)

    assert ["handler", "disconnected 1000"] == log


# ----------------------------------------------------------------------- threads


@pytest.mark.row(83)
def test_a_connection_beyond_the_threads_is_told_to_come_back() -> None:
    """503 with Retry-After; when one ends there is room again, and calls were never affected."""
    server = WebMeshServer(limits=Limits(websocket_threads=2))
    server.websocket("/ws", blocking=True)(list)
    server.on("/")(lambda payload, path, client: payload)
    with running(server):
        url = f"{server.url}/ws"
        with connect(url), connect(url) as second:
            assert wait_for(lambda: len(server.connections) == 2)
            with pytest.raises(InvalidStatus) as caught, connect(url):
                pytest.fail("it was accepted")
            assert 503 == caught.value.response.status_code
            assert "5" == caught.value.response.headers["Retry-After"]
            with WebMeshClient(server.url) as client:
                assert 1 == client.call("/", 1, timeout=PATIENCE)
            second.close()
            assert wait_for(lambda: len(server.connections) == 1)
            with connect(url):
                pass


def test_the_last_thread_is_given_once() -> None:
    """Two upgrades may be accepted for it; the second is told to try later (1013) and nothing is logged as a fault."""
    executor = Executor(1, 0)
    routes = PlainRoutes([registered(list)], executor, copy_context(), blocking=True, seconds=1.0)
    match = routes.router.match("/ws")
    assert match is not None
    ends: list[Any] = []

    class Connection:
        open = True
        id = "x"

        def close(self, code: int, reason: str = "", *, timeout: float) -> None:
            ends.append((code, reason))

        def run_plain(self) -> None:
            gevent.sleep(0)

    executor._taken = 1
    routes.serve(Connection(), match)  # type: ignore[arg-type]

    assert (1013, "no thread is free for this route") == ends[0]


@pytest.mark.row(86)
@EACH_PLACE
def test_plain_connections_leave_nothing(blocking: bool | None) -> None:
    """No greenlet, no descriptor, however they end."""
    server = WebMeshServer()
    server.websocket("/ws", blocking=blocking)(lambda connection: list(connection) or sys.intern("x"))
    server.websocket("/quick", blocking=blocking)(lambda connection: None)
    with running(server):
        with connect(f"{server.url}/ws"), connect(f"{server.url}/ws"), connect(f"{server.url}/ws"):
            pass  # as many threads as are ever used at a time: one may not be back when the next connection needs one
        assert wait_for(lambda: not server.connections)
        census = Census()
        for path, aborts in [("/ws", False), ("/ws", True), ("/quick", False)] * 4:
            with connect(f"{server.url}{path}") as peer:
                if aborts:
                    peer.socket.shutdown(SHUT_RDWR)
            assert wait_for(lambda: not server.connections)
        assert {} == census.grown()
