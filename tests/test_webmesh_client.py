"""WebMeshClient: when it dials, in which time, what middleware sees, and how it ends."""

from __future__ import annotations

import math
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import gevent
import pytest

from tests.running import PATIENCE, Census, connected, native_threads, running, wait_for
from webmesh.call import Call, CallNext, current_call
from webmesh.exceptions import (
    ConfigurationError, ConnectFailed, ConnectionClosed, DeadlineExceeded, EncodeError, HandlerFailed,
    HandshakeRejected, InvalidArgument, LinkRefused, Overloaded, ReplyLost, RequestTimeout, RouteNotFound, WebMeshError,
)  # fmt: skip
from webmesh.message_serializers import StandardJsonSerializer
from webmesh.options import Limits, Timeouts
from webmesh.testing import RecordingObserver
from webmesh.webmesh_client import WebMeshClient
from webmesh.webmesh_server import WebMeshServer


def echo(payload: Any, path: str, client: Any) -> Any:
    return payload


def echo_server(**options: Any) -> WebMeshServer:
    server = WebMeshServer(**options)
    server.on("/", blocking=False)(echo)
    return server


@contextmanager
def silent_server() -> Iterator[str]:
    """The URL of something that accepts TCP and never says a word."""
    with socket.socket() as listening:  # the kernel completes the connections that nobody accepts
        listening.bind(("127.0.0.1", 0))
        listening.listen()
        yield f"ws://127.0.0.1:{listening.getsockname()[1]}"


# -------------------------------------------------------------------- being made


@pytest.mark.parametrize(
    "url", ["", "http://127.0.0.1", "127.0.0.1:4269", "ws://", "ws://a b", "ws://x:port", "ws://u:p@x", None, 7]
)
def test_a_wrong_url_is_told_where_it_is_given(url: Any) -> None:
    """Not at the first call, and not the credentials in it."""
    with pytest.raises(ConfigurationError) as caught:
        WebMeshClient(url)
    assert "u:p" not in str(caught.value)


def test_making_a_client_opens_nothing() -> None:
    """No thread and no descriptor, also when it is closed without having been used."""
    census = Census()
    client = WebMeshClient("ws://127.0.0.1:1")
    assert {} == census.grown()
    client.close()
    assert {} == census.grown()


@pytest.mark.row(15)
@pytest.mark.parametrize("headers", [{"X": "a\r\nb"}, {"X\n": "a"}, {"": "a"}, {"X": "\0"}])
def test_a_header_that_would_break_the_request_is_refused(headers: dict[str, str]) -> None:
    """Before anything is sent: nobody listens there."""
    client = WebMeshClient("ws://127.0.0.1:1", headers=headers)
    with pytest.raises(ConfigurationError):
        client.connect()
    client.close()


def test_headers_reach_the_server() -> None:
    """As a token would; a later change of the caller's map does not."""
    seen: list[str] = []
    server = echo_server()
    server.on_connect(lambda connection: seen.append(connection.request.headers["authorization"]))
    headers = {"Authorization": "Bearer x"}
    with running(server):
        client = WebMeshClient(server.url, headers=headers)
        headers.clear()
        client.call("/", timeout=PATIENCE)
        client.close()
    assert ["Bearer x"] == seen


def test_registration_ends_with_the_first_use() -> None:
    """What comes later would be served by nobody."""
    with connected(echo_server()) as client:
        with pytest.raises(ConfigurationError):
            client.on("/late")(echo)
        with pytest.raises(ConfigurationError):
            client.middleware(lambda call, call_next: None)
        with pytest.raises(ConfigurationError):
            client.router.add("/late", echo)


def test_a_route_that_makes_no_sense_is_told_at_each_use() -> None:
    """Not only to the first who tried."""
    client = WebMeshClient("ws://127.0.0.1:1")
    client.router.add("/", echo, colour="red")
    for _ in range(2):
        with pytest.raises(ConfigurationError, match="colour"):
            client.call("/")
    client.close()
    client.close()


def test_a_repr_shows_where_and_whether() -> None:
    """Never a header."""
    server = echo_server()
    with running(server):
        client = WebMeshClient(server.url, headers={"Authorization": "secret"})
        states = [repr(client)]
        client.connect()
        states.append(repr(client))
        client.close()
        states.append(repr(client))
        expected = [f"<WebMeshClient {server.url} {state}>" for state in ("not connected", "connected", "closed")]
    assert expected == states


# ----------------------------------------------------------------------- dialling


def test_the_first_use_dials() -> None:
    """Whichever it is; and only the first."""
    server, observer = echo_server(), RecordingObserver()
    uses: list[Callable[[WebMeshClient], Any]] = [
        lambda client: client.call("/", 1, timeout=PATIENCE),
        lambda client: client.spawn("/", 1, timeout=PATIENCE).result(),
        lambda client: client.notify("/", 1),
        lambda client: client.stream("/", 1, timeout=PATIENCE).result,
        lambda client: client.connect(),
    ]
    with running(server):
        for use in uses:
            client = WebMeshClient(server.url, observer=observer)
            assert not client.connected
            use(client)
            assert client.connected
            client.call("/", timeout=PATIENCE)
            client.close()
    assert len(uses) == len(observer.named("connection_opened"))


@pytest.mark.row(89)
def test_all_who_come_at_once_share_one_connection() -> None:
    """Threads and greenlets; one dials, the others wait for it."""
    server = echo_server()
    with running(server), native_threads(6) as spawn:
        client = WebMeshClient(server.url)
        jobs = [spawn(client.call, "/", number) for number in range(6)]
        jobs += [gevent.spawn(client.call, "/", number) for number in range(6)]
        assert [*range(6), *range(6)] == [job.get() for job in jobs]
        assert 1 == len(server.connections)
        client.close()


def test_connecting_twice_gives_the_same_connection() -> None:
    """While it is open."""
    with connected(echo_server()) as client:
        assert client.connect() is client.connect()


def test_nobody_there_is_an_error_that_names_the_address() -> None:
    """Each time; when somebody is there at last, the same client connects."""
    server = echo_server()
    with running(echo_server()) as taken:
        port = taken.port
    client = WebMeshClient(f"ws://127.0.0.1:{port}")
    for use in (client.connect, client.call, client.spawn, client.notify, client.stream):
        with pytest.raises(ConnectFailed, match=f"127.0.0.1:{port}"):
            use() if use == client.connect else use("/", fail_fast=True)
    with running(server, port=port):
        assert 1 == client.call("/", 1, timeout=PATIENCE)
        client.close()


def test_entering_a_client_that_cannot_connect_leaves_nothing() -> None:
    """`__exit__` is not called then, so nobody else would end its thread."""
    census = Census()
    with pytest.raises(ConnectFailed), WebMeshClient("ws://127.0.0.1:1"):
        pytest.fail("it connected")
    assert {} == census.grown()


@pytest.mark.row(14)
def test_a_refusal_is_told_with_its_status() -> None:
    """The port is right and the path is not."""
    with running(echo_server()) as server:
        client = WebMeshClient(f"{server.url}/nowhere")
        for use, error in ((client.connect, HandshakeRejected), (lambda: client.call("/"), LinkRefused)):
            with pytest.raises(error) as caught:
                use()
            assert 404 == caught.value.status
        client.close()


def test_a_serializer_that_the_server_does_not_know_is_refused() -> None:
    """400: no message is ever misread."""

    class Upper(StandardJsonSerializer):
        name = "upper"

    with running(echo_server()) as server:
        client = WebMeshClient(server.url, serializer_type=Upper)
        with pytest.raises(HandshakeRejected) as caught:
            client.connect()
        assert 400 == caught.value.status
        client.close()
    with connected(echo_server(serializer_type=Upper), serializer_type=Upper) as own:
        assert "x" == own.call("/", "x", timeout=PATIENCE)


@pytest.mark.parametrize("compression", [True, False])
def test_compression_is_used_where_both_want_it(compression: bool) -> None:
    """And calls are the same without."""
    text = "compressible " * 1000
    with connected(echo_server(compression=True), compression=compression) as client:
        assert text == client.call("/", text, timeout=PATIENCE)


# --------------------------------------------------------------------------- time


@pytest.mark.parametrize("timeout", [0, 0.0, -1, -0.001, float("-inf")])
@pytest.mark.parametrize("is_connected", [True, False])
def test_a_call_without_time_is_not_sent(timeout: float, is_connected: bool) -> None:
    """Nor is a connection made for it."""
    entered: list[Any] = []
    server = WebMeshServer()
    server.on("/")(lambda payload, path, client: entered.append(payload))
    with running(server):
        client = WebMeshClient(server.url)
        if is_connected:
            client.connect()
        for ask in (client.call, client.spawn):
            with pytest.raises(RequestTimeout):
                ask("/", 1, timeout=timeout)
        assert is_connected is client.connected
        client.close()
    assert [] == entered


@pytest.mark.parametrize("timeout", [0, -1])
def test_connecting_without_time_is_a_failure_to_connect(timeout: float) -> None:
    """Unless it is connected already."""
    with running(echo_server()) as server:
        client = WebMeshClient(server.url)
        with pytest.raises(ConnectFailed):
            client.connect(timeout)
        client.connect()
        assert client.connect(timeout).open
        client.close()


@pytest.mark.parametrize("timeout", [math.inf, math.nan, 1e300])
@pytest.mark.parametrize("ask", ["call", "spawn", "stream", "connect"])
def test_a_time_that_is_no_number_of_seconds_is_our_error(ask: str, timeout: float) -> None:
    """Or is taken as for ever; never an error of the arithmetic, nor a call that hangs or is lost."""
    with connected(echo_server()) as client:
        use = getattr(client, ask)
        try:
            use(timeout=timeout) if ask == "connect" else use("/", 1, timeout=timeout)
        except WebMeshError:
            pass
        assert 2 == client.call("/", 2, timeout=PATIENCE)


@pytest.mark.parametrize("use", [
    lambda client: client.connect(timeout=0.05),
    lambda client: client.call("/", timeout=0.05),
    lambda client: client.spawn("/", timeout=0.05),
], ids=["connect", "call", "spawn"])  # fmt: skip
def test_dialling_is_within_the_time_of_what_needs_it(use: Callable[[WebMeshClient], Any]) -> None:
    """A call of 50 ms does not wait for the ten seconds of a connection; nothing was sent, and the error says so."""
    with silent_server() as url:
        client = WebMeshClient(url, timeouts=Timeouts(connect=PATIENCE * 10))
        with pytest.raises(ConnectFailed):
            use(client)
        client.close()


def test_waiting_for_anothers_dialling_is_within_the_own_time() -> None:
    """Whoever is more patient goes on."""
    with silent_server() as url:
        client = WebMeshClient(url, timeouts=Timeouts(connect=PATIENCE * 10))
        patient = gevent.spawn(catch, client.connect)
        assert wait_for(lambda: client._keeper.busy)
        with pytest.raises(ConnectFailed, match="another attempt had not ended within 0.05 s"):
            client.connect(timeout=0.05)
        assert not patient.ready()
        client.close()
        assert isinstance(patient.get(timeout=PATIENCE), ConnectionClosed)


def catch(function: Callable[..., Any], *args: Any, **options: Any) -> Any:
    """What *function* returns or raises."""
    try:
        return function(*args, **options)
    except (Exception, gevent.Timeout) as error:
        return error


def test_a_handlers_deadline_bounds_the_dialling_of_its_calls() -> None:
    """A chain of calls never outlives its first deadline, also where it must connect first."""
    with silent_server() as url:
        onward = WebMeshClient(url, timeouts=Timeouts(connect=PATIENCE * 10))
        server = WebMeshServer()
        server.on("/")(lambda payload, path, client: onward.call("/", timeout=PATIENCE * 10))
        with connected(server) as client:
            # Both ends give up at about the same moment; whichever is first, nobody waits for the dialling.
            with pytest.raises((RequestTimeout, DeadlineExceeded, HandlerFailed)):
                client.call("/", timeout=0.05)
            onward.close()


def test_no_timeout_is_the_default_one() -> None:
    """`None` is not for ever."""
    server, release = WebMeshServer(), threading.Event()
    server.on("/")(lambda payload, path, client: release.wait(PATIENCE))
    with connected(server, timeouts=Timeouts(request=0.05)) as client:
        # As above: the answering side is told the time and may be first.
        with pytest.raises(TimeoutError):
            client.call("/")
        release.set()


# ----------------------------------------------------------------- losing the link


def test_a_lost_connection_is_dialled_again_at_the_next_use() -> None:
    """On both ends' ways to lose it; and not before, where the program wants it so."""
    server = echo_server()
    with running(server):
        client = WebMeshClient(server.url, reconnect=False)
        for lose in ("abort here", "abort there", "close here", "close there"):
            before = client.connect()
            assert wait_for(lambda: len(server.connections) == 1)
            end = before if "here" in lose else server.connections[0]
            end.abort() if "abort" in lose else end.close()
            before.wait_closed(PATIENCE)
            assert wait_for(lambda: not server.connections)
            assert not client.connected
            assert lose == client.call("/", lose, timeout=PATIENCE)
            assert before is not client.connect()
        client.close()


def test_a_restarted_server_is_found_again() -> None:
    """Calls that do not want to wait fail while it is away."""
    first = echo_server()
    with running(first):
        port = first.port
        client = WebMeshClient(first.url)
        client.call("/", timeout=PATIENCE)
    assert wait_for(lambda: not client.connected)
    assert isinstance(catch(client.call, "/", timeout=PATIENCE, fail_fast=True), ConnectFailed)
    with running(echo_server(), port=port):
        assert 1 == client.call("/", 1, timeout=PATIENCE)
        client.close()


@pytest.mark.row(71)
@pytest.mark.parametrize("end", ["server", "client", "peer"])
def test_everybody_who_waits_is_woken_once_by_the_end(end: str) -> None:
    """A hundred calls, with the cause: they may have run."""
    server, release, woken = WebMeshServer(limits=Limits(in_flight=200, threads=4)), threading.Event(), []
    entered = threading.Semaphore(0)

    @server.on("/")
    def wait(payload: Any, path: str, client: Any) -> None:
        entered.release()
        release.wait(PATIENCE)

    with running(server):
        client = WebMeshClient(server.url)
        futures = [client.spawn("/", number, timeout=PATIENCE * 2) for number in range(100)]
        for future in futures:
            future.when_done(lambda future: woken.append(future))
        entered.acquire(timeout=PATIENCE)
        if end == "server":
            server.connections[0].abort(1011)
        elif end == "client":
            client.close()
        else:
            client.connect().abort()
        errors = [catch(future.result, PATIENCE) for future in futures]
        assert [ReplyLost] * 100 == [type(error) for error in errors]
        assert all(error.started for error in errors)
        assert wait_for(lambda: len(woken) >= 100)
        assert 100 == len(set(map(id, woken))) == len(woken)
        release.set()
        client.close()


# ----------------------------------------------------------------------- payloads


@pytest.mark.parametrize("payload", [object(), {1, 2}, 2**80, float("nan"), {1: 2}, "\ud800", [[{"x": object()}]]])
def test_a_payload_that_cannot_be_sent_is_the_callers_error(payload: Any) -> None:
    """Nothing is sent, whichever way it was to go, and the connection lives."""
    with connected(echo_server()) as client:
        for ask in (client.call, client.notify, client.stream):
            with pytest.raises(EncodeError):
                ask("/", payload)
        with pytest.raises(EncodeError):
            client.spawn("/", payload).result(PATIENCE)
        assert 1 == client.call("/", 1, timeout=PATIENCE)
        assert 0 == client.connect()._conversation.session.open_requests  # type: ignore[union-attr]


def test_large_payloads_come_and_go() -> None:
    """Up to the limit of a message, and many at once."""
    sizes = [1, 65_535, 65_536, 500_000, 1_000_000]
    with connected(echo_server()) as client:
        futures = [client.spawn("/", bytes([size % 251]) * size, timeout=PATIENCE) for size in sizes * 3]
        assert sizes * 3 == [len(future.result()) for future in futures]


@pytest.mark.row(18)
def test_a_payload_over_the_limit_harms_nobody() -> None:
    """Ours is refused where it is given; one that only the server thinks too large ends the connection with 1009."""
    with connected(echo_server(), limits=Limits(message_size=2048)) as client:
        with pytest.raises(EncodeError, match="2048"):
            client.call("/", random_text(5000), timeout=PATIENCE)
        assert 1 == client.call("/", 1, timeout=PATIENCE)
    with connected(echo_server(limits=Limits(message_size=2048))) as client:
        with pytest.raises(ReplyLost) as caught:
            client.call("/", random_text(5000), timeout=PATIENCE)
        assert 1009 == caught.value.code
        assert 1 == client.call("/", 1, timeout=PATIENCE)


def random_text(length: int) -> str:
    """Text that does not compress below a fifth."""
    number, letters = 1, []
    for _ in range(length):
        number = number * 1103515245 + 12345 & 0x7FFFFFFF
        letters.append(chr(33 + (number >> 16) % 90))
    return "".join(letters)


def test_a_reply_over_the_servers_limit_is_an_error_of_the_handler() -> None:
    """The caller is told at once; the connection lives."""
    server = WebMeshServer(limits=Limits(message_size=2048))
    server.on("/")(lambda payload, path, client: random_text(payload))
    with connected(server) as client:
        with pytest.raises(HandlerFailed):
            client.call("/", 5000, timeout=PATIENCE)
        assert 1 == len(client.call("/", 1, timeout=PATIENCE))


@pytest.mark.row(51)
def test_open_calls_are_bounded() -> None:
    """The next one is refused at once, and there is room again when one has ended."""
    server, release = WebMeshServer(), threading.Event()
    server.on("/")(lambda payload, path, client: release.wait(PATIENCE) and payload)
    with connected(server, limits=Limits(open_requests=3)) as client:
        futures = [client.spawn("/", number, timeout=PATIENCE) for number in range(3)]
        with pytest.raises(Overloaded):
            client.call("/", timeout=PATIENCE)
        release.set()
        assert [0, 1, 2] == [future.result() for future in futures]
        assert 7 == client.call("/", 7, timeout=PATIENCE)


# -------------------------------------------------------------------- middleware


def test_middleware_wraps_outgoing_calls() -> None:
    """It sees path, payload, headers and deadline, and may replace each but the last."""
    server, seen = WebMeshServer(), []
    server.on("/<path:rest>")(lambda payload, path, client, rest: [path, payload, dict(current_call().headers)])
    with running(server):
        client = WebMeshClient(server.url)

        @client.middleware
        def outer(call: Call, call_next: CallNext) -> Any:
            seen.append((call.path, call.payload, call.route, call.connection, call.deadline.remaining() <= PATIENCE))
            return ["outer", call_next(call)]

        @client.middleware
        def inner(call: Call, call_next: CallNext) -> Any:
            call.path, call.payload, call.headers = "/b", [call.payload], {**call.headers, "added": "1"}
            return ["inner", call_next(call)]

        reply = client.call("/a", 1, headers={"given": "2"}, timeout=PATIENCE)
        connection = client.connect()
        client.close()

    assert ["outer", ["inner", ["/b", [1], {"given": "2", "added": "1"}]]] == reply
    assert [("/a", 1, None, connection, True)] == seen


@contextmanager
def with_middleware(*functions: Any, server: WebMeshServer | None = None) -> Iterator[WebMeshClient]:
    server = server or echo_server()
    with running(server):
        client = WebMeshClient(server.url)
        for function in functions:
            client.middleware(function)
        yield client
        client.close()


def test_middleware_may_answer_without_the_wire() -> None:
    """As a cache does; or refuse."""

    def cache(call: Call, call_next: CallNext) -> Any:
        if call.payload is None:
            raise InvalidArgument("no payload")
        return "cached"

    with with_middleware(cache) as client:
        assert "cached" == client.call("/nowhere", 1)
        with pytest.raises(InvalidArgument, match="no payload"):
            client.call("/nowhere")


def test_middleware_may_turn_errors_into_answers() -> None:
    """It sees what the call raises."""

    def default(call: Call, call_next: CallNext) -> Any:
        try:
            return call_next(call)
        except RouteNotFound:
            return "default"

    with with_middleware(default) as client:
        assert "default" == client.call("/nowhere", timeout=PATIENCE)
        assert 1 == client.call("/", 1, timeout=PATIENCE)


def test_middleware_may_try_again_after_a_loss() -> None:
    """On a new connection, although the call began on the old one; within the call's own time."""
    attempts: list[Any] = []
    server = WebMeshServer()

    @server.on("/")
    def lossy(payload: Any, path: str, client: Any) -> Any:
        if len(attempts) < 3:
            client.abort()
        return payload

    def retry(call: Call, call_next: CallNext) -> Any:
        while True:
            attempts.append(call.connection)
            try:
                return call_next(call)
            except (ReplyLost, ConnectionClosed):
                call.connection.wait_closed(PATIENCE)

    with with_middleware(retry, server=server) as client:
        assert "at last" == client.call("/", "at last", timeout=PATIENCE)

    assert 3 == len(attempts) == len(set(attempts[1:])) + 1


def test_time_that_middleware_spends_is_the_calls() -> None:
    """When nothing is left nothing is sent."""

    def dawdle(call: Call, call_next: CallNext) -> Any:
        assert call.deadline.remaining() is not None
        while not call.deadline.expired:
            gevent.sleep(0.005)
        return call_next(call)

    with with_middleware(dawdle) as client, pytest.raises(RequestTimeout):
        client.call("/", timeout=0.02)


# ------------------------------------------------------------------------- ending


def test_a_closed_client_stays_closed() -> None:
    """Every use says so; closing again is safe."""
    with connected(echo_server()) as client:
        client.close()
        client.close()
        for use in (client.connect, lambda: client.call("/"), lambda: client.spawn("/"), lambda: client.notify("/")):
            with pytest.raises(ConnectionClosed, match="closed"):
                use()
        assert not client.connected


def test_closing_tells_the_server() -> None:
    """By the closing handshake."""
    ends: list[int] = []
    server = echo_server()
    server.on_disconnect(lambda connection, why: ends.append(why.code))
    with connected(server) as client:
        client.close()
        assert wait_for(lambda: ends)
    assert [1000] == ends


def test_closing_leaves_nothing() -> None:
    """No thread, no greenlet, no descriptor, however many clients there were."""
    with running(echo_server()) as server:
        with WebMeshClient(server.url) as client:
            client.call("/", timeout=PATIENCE)
        assert wait_for(lambda: not server.connections)
        census = Census()
        for _ in range(5):
            with WebMeshClient(server.url) as client:
                client.call("/", timeout=PATIENCE)
                client.notify("/", 1)
                client.stream("/", credit=1)
        assert wait_for(lambda: not server.connections)
        assert {} == census.grown()


@pytest.mark.row(93)
def test_closing_while_it_dials_ends_the_dialling() -> None:
    """Whoever dials and whoever waits for that is told that the client was closed."""
    census = Census()
    with silent_server() as url, native_threads(2) as spawn:
        client = WebMeshClient(url, timeouts=Timeouts(connect=PATIENCE * 10))
        waiting = [spawn(catch, client.connect), spawn(catch, client.call, "/"), gevent.spawn(catch, client.connect)]
        assert wait_for(lambda: client._keeper._dialler is not None)

        client.close()

        assert [ConnectionClosed] * 3 == [type(job.get()) for job in waiting]
        assert not client.connected
    assert {} == census.grown()


@pytest.mark.row(93)
def test_everybody_who_closes_at_once_sees_the_end() -> None:
    """From threads and greenlets."""
    with running(echo_server()) as server, native_threads(4) as spawn:
        client = WebMeshClient(server.url)
        client.call("/", timeout=PATIENCE)
        jobs = [spawn(client.close) for _ in range(4)] + [gevent.spawn(client.close) for _ in range(4)]
        for job in jobs:
            job.get()
        assert wait_for(lambda: not server.connections)


@pytest.mark.row(93)
@pytest.mark.parametrize("blocking", [None, True, False], ids=["default", "thread", "greenlet"])
def test_a_handler_of_the_client_can_close_it(blocking: bool | None) -> None:
    """It returns at once and is cancelled with the connection; nothing waits for itself, and nothing is left."""
    census = Census()
    returned = threading.Event()
    server = WebMeshServer()
    server.on("/")(lambda payload, path, client: client.call("/close", timeout=PATIENCE))
    with running(server):
        client = WebMeshClient(server.url, timeouts=Timeouts(close=PATIENCE))

        @client.on("/close", blocking=blocking)
        def close(payload: Any, path: str, connection: Any) -> None:
            client.close()
            returned.set()

        catch(client.call, "/", timeout=PATIENCE)  # the answer may be quicker than the end
        assert wait_for(returned.is_set)
        client.close()
        assert wait_for(lambda: not server.connections)
    assert {} == census.grown()


def test_a_client_that_is_closed_while_handling_ends_its_handlers() -> None:
    """Also one that takes no cancel: its greenlet or its caller is not left."""
    census = Census()
    entered, release, ended = threading.Event(), threading.Event(), threading.Event()
    server = WebMeshServer()
    server.on("/")(lambda payload, path, client: client.notify("/stubborn"))
    with running(server):
        client = WebMeshClient(server.url, timeouts=Timeouts(close=0.1))

        @client.on("/stubborn", cancel="never")
        def stubborn(payload: Any, path: str, connection: Any) -> None:
            entered.set()
            try:
                release.wait(PATIENCE)
            finally:
                ended.set()

        client.call("/", timeout=PATIENCE)
        assert wait_for(entered.is_set)
        client.close()
        release.set()
        assert wait_for(ended.is_set)
    assert {} == census.grown()


@pytest.mark.row(91)
def test_closing_while_it_starts_is_done_by_who_starts_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """A signal handler that interrupts the start cannot wait for it; the first use fails, and nothing is left."""
    census = Census()
    client = WebMeshClient("ws://127.0.0.1:1")
    start = client._link.home.start
    monkeypatch.setattr(client._link.home, "start", lambda: (client.close(), start()))

    with pytest.raises(ConnectionClosed, match="the client was closed"):
        client.call("/")

    assert {} == census.grown()


def test_middleware_sees_everything_that_is_sent() -> None:
    """Authentication or tracing that only some of it passed through would be silently skipped."""
    seen: list[tuple[str, str]] = []
    server = WebMeshServer()

    @server.on("/headers")
    def headers(payload: Any, path: str, client: Any) -> Any:
        seen.append(("server", current_call().headers.get("token", "")))
        yield payload

    with running(server):
        client = WebMeshClient(server.url)

        @client.middleware
        def token(call: Any, call_next: Any) -> Any:
            call.headers = {**call.headers, "token": "t"}
            result = call_next(call)
            seen.append(("client", type(result).__name__))
            return result

        with client:
            client.call("/headers", timeout=10)
            client.spawn("/headers", timeout=10).result()
            assert [1] == list(client.stream("/headers", 1, timeout=10))
            client.notify("/headers")
            client.call("/headers", timeout=10)

    results = [name for who, name in seen if who == "client"]
    assert ["NoneType", "Future", "ItemStream", "bool", "NoneType"] == results
    assert {"t"} == {name for who, name in seen if who == "server"}


def test_a_repr_shows_no_query() -> None:
    """It may hold a token."""
    assert "<WebMeshClient ws://127.0.0.1:1/a not connected>" == repr(WebMeshClient("ws://127.0.0.1:1/a?token=secret"))
