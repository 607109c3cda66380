"""WebMeshServer: what can be registered until when, starting, callbacks, middleware and closing."""

from __future__ import annotations

import errno
import gc
import socket
import statistics
import sys
import threading
import weakref
from collections.abc import Callable
from typing import Any

import gevent
import pytest
from websockets.exceptions import ConnectionClosed as PeerClosed
from websockets.sync.client import connect

from tests.running import NATIVE_SLEEP, NATIVE_THREAD, PATCHED, PATIENCE, Census, connected, running, wait_for
from tests.topic_peer import TopicPeer, topic_peer
from webmesh.call import Call, CallNext, current_call
from webmesh.exceptions import (
    BadPattern, ConfigurationError, ConnectionClosed, DuplicateRoute, HandlerFailed, InvalidArgument,
    LocalProtocolError, PermissionDenied, TransportError,
)  # fmt: skip
from webmesh.message_serializers import StandardJsonSerializer
from webmesh.options import Limits, Timeouts
from webmesh.routing import Router
from webmesh.testing import RecordingObserver
from webmesh.webmesh_client import WebMeshClient
from webmesh.webmesh_server import WebMeshServer


def echo(payload: Any, path: str, client: Any) -> Any:
    return payload


def echo_server(**options: Any) -> WebMeshServer:
    server = WebMeshServer(**options)
    server.on("/")(echo)
    return server


# ------------------------------------------------------------------ registration


@pytest.mark.parametrize(
    "register",
    [
        lambda server: server.on("/late")(echo),
        lambda server: server.websocket("/late")(lambda connection: None),
        lambda server: server.mount("/late", statistics),
        lambda server: server.include("/late", router_of("/x")),
        lambda server: server.router.add("/late", echo),
        lambda server: server.middleware(lambda call, call_next: None),
        lambda server: server.on_connect(lambda connection: None),
        lambda server: server.on_disconnect(lambda connection, why: None),
        lambda server: server.configure(limits=Limits()),
        lambda server: server.listen(port=0),
    ],
    ids=["on", "websocket", "mount", "include", "router", "middleware", "on_connect", "on_disconnect", "configure",
         "listen"],
)  # fmt: skip
@pytest.mark.parametrize("closed", [False, True])
def test_registration_ends_when_serving_begins(register: Callable[[WebMeshServer], Any], closed: bool) -> None:
    """Everything belongs before `listen`, and a server serves once; whoever is late is told."""
    server = echo_server()
    with running(server):
        if closed:
            server.close()
        with pytest.raises(ConfigurationError):
            register(server)


def router_of(*paths: str) -> Router:
    router = Router()
    for path in paths:
        router.add(path, echo)
    return router


def test_what_was_refused_at_registration_can_be_put_right() -> None:
    """A program that fails to register one thing has lost nothing else."""
    server = echo_server()
    with pytest.raises(DuplicateRoute):
        server.on("/")(echo)
    with pytest.raises(BadPattern):
        server.on("/<")(echo)
    with pytest.raises(ConfigurationError, match="colour"):
        server.on("/a", colour="red")
    with pytest.raises(ConfigurationError, match="async"):
        server.on("/a")(async_handler)

    with connected(server) as client:
        assert "hi" == client.call("/", "hi", timeout=PATIENCE)


async def async_handler(payload: Any, path: str, client: Any) -> None:
    """Never called."""


def test_a_plain_route_that_makes_no_sense_is_refused_before_anything_starts() -> None:
    """`listen` raises; the server can be put right and started."""
    server = echo_server()
    server.websocket("/<name>")(lambda connection: None)

    census = Census()
    with pytest.raises(ConfigurationError, match="name="):
        server.listen(port=0)

    assert {} == census.grown()


@pytest.mark.row(9, 10)
@pytest.mark.parametrize("option", ["allowed_hosts", "allowed_origins"])
@pytest.mark.parametrize("names", ["example.com", b"example.com", ["example.com", 7], [None]])
def test_names_are_given_as_a_list(option: str, names: Any) -> None:
    """A bare text would be read as a list of letters, and allow nobody or the wrong ones."""
    with pytest.raises(ConfigurationError, match=f"{option} must be a list"):
        WebMeshServer(**{option: names})


def test_subprotocols_are_given_as_a_list() -> None:
    """The same mistake with a plain route."""
    with pytest.raises(ConfigurationError, match="subprotocols must be a list"):
        WebMeshServer().websocket("/chat", subprotocols="chat")


@pytest.mark.parametrize("serializer", ["json", StandardJsonSerializer(), dict, None, 7])
def test_a_serializer_is_given_as_its_class(serializer: Any) -> None:
    """The commonest mistakes are named at once, not at the first connection."""
    with pytest.raises(ConfigurationError, match="serializer_type must be a class"):
        WebMeshServer(serializer_type=serializer)
    with pytest.raises(ConfigurationError, match="serializer_type must be a class"):
        WebMeshClient("ws://127.0.0.1:1", serializer_type=serializer)


@pytest.mark.parametrize("mount", ["", "mesh", "//", "/a//b", "/../a", "/a\nb", "/a\\b", "/\ud800", None, 7])
def test_a_mount_is_a_path_that_can_be_asked_for(mount: Any) -> None:
    """Otherwise no client would ever find the server."""
    with pytest.raises(ConfigurationError, match="mount must be a path"):
        WebMeshServer(mount=mount)


@pytest.mark.parametrize("mount", ["/mesh", "/mesh/", "/a b", "/größe", "/100%", "/a?b"])
def test_a_mount_moves_the_mesh_endpoint(mount: str) -> None:
    """Whatever it is made of, `url` leads there, and `/` is free for other things."""
    server = echo_server(mount=mount)
    server.websocket("/")(lambda connection: connection.send("plain"))

    with connected(server) as client:
        assert 1 == client.call("/", 1, timeout=PATIENCE)
        with connect(f"ws://127.0.0.1:{server.port}/") as plain:
            assert "plain" == plain.recv(PATIENCE)


def test_the_mesh_endpoint_is_no_plain_route() -> None:
    """Two owners of one path are refused, whichever it is."""
    with pytest.raises(ConfigurationError, match="mesh endpoint"):
        WebMeshServer().websocket("/")
    with pytest.raises(ConfigurationError, match="mesh endpoint"):
        WebMeshServer(mount="/mesh").websocket("/mesh")


def test_routes_are_those_of_the_program() -> None:
    """The protocol's own paths are left out, and all are sorted."""
    server = echo_server()
    server.mount("/numbers", Numbers())
    server.include("/shop", router_of("/b", "/a"))

    assert ["/", "/numbers/add", "/shop/a", "/shop/b"] == [route.pattern for route in server.routes()]


class Numbers:
    """An object that knows nothing of WebMesh."""

    def add(self, a: int, b: int = 1) -> int:
        return a + b


def test_an_object_is_mounted_with_its_signatures() -> None:
    """Maps are keyword arguments, lists positional ones, and what does not fit is refused before the call."""
    server = WebMeshServer()
    server.mount("/numbers", Numbers())

    with connected(server) as client:
        assert 3 == client.call("/numbers/add", {"a": 1, "b": 2}, timeout=PATIENCE)
        assert 2 == client.call("/numbers/add", [1], timeout=PATIENCE)
        with pytest.raises(InvalidArgument, match="c"):
            client.call("/numbers/add", {"a": 1, "c": 2}, timeout=PATIENCE)


def test_configure_overrides_what_was_given() -> None:
    """As the command line does with a program's server; what is not named stays."""
    server = echo_server(limits=Limits(connections=7), timeouts=Timeouts(request=7))
    observer = RecordingObserver()
    server.configure(serializer_type=StandardJsonSerializer, limits=Limits(connections=9), observer=observer)

    with running(server), connect(server.url) as client:
        client.send('{"path": "$hello", "id": 1}')
        assert '"in_flight"' in client.recv(PATIENCE)

    assert (9, 7) == (server.limits.connections, server.timeouts.request)
    assert [] != observer.named("connection_opened")


# ---------------------------------------------------------------------- starting


@pytest.mark.parametrize(
    "ask", [lambda server: server.address, lambda server: server.port, lambda server: server.url,
            lambda server: server.await_started()],
    ids=["address", "port", "url", "await_started"],
)  # fmt: skip
def test_an_address_is_there_once_it_has_started(ask: Callable[[WebMeshServer], Any]) -> None:
    """Before `listen` there is none to tell."""
    with pytest.raises(LocalProtocolError, match="listen"):
        ask(echo_server())


@pytest.mark.parametrize(
    ("host", "expected"),
    [("127.0.0.1", "ws://127.0.0.1:"), ("localhost", "ws://127.0.0.1:"), ("0.0.0.0", "ws://127.0.0.1:"),
     ("::1", "ws://[::1]:"), ("::", "ws://[::1]:"), ("", "ws://[::1]:")],
)  # fmt: skip
def test_the_url_is_what_a_client_here_dials(host: str, expected: str) -> None:
    """Also where the server listens on every address, and on IPv6."""
    server = echo_server()
    with running(server, host=host):
        assert server.url.startswith(expected)
        with WebMeshClient(server.url) as client:
            assert host == client.call("/", host, timeout=PATIENCE)


def test_a_taken_port_is_raised_to_who_awaits_the_start() -> None:
    """As often as it is asked; the server leaves nothing behind."""
    census = Census()
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        server = echo_server()
        server.listen(port=other.getsockname()[1])
        for _ in range(2):
            with pytest.raises(TransportError, match="cannot listen on") as caught:
                server.await_started()
            assert errno.EADDRINUSE == caught.value.errno  # type: ignore[attr-defined]
        with pytest.raises(OSError, match="cannot listen on"), server:
            pytest.fail("it started")
        assert not server.listening
        server.close()
    assert {} == census.grown()


def test_a_taken_port_is_raised_by_a_blocking_listen() -> None:
    """There nobody calls `await_started`."""
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        server = echo_server()
        with pytest.raises(TransportError, match="cannot listen on"):
            server.listen(port=other.getsockname()[1], blocking=True)
        with pytest.raises(TransportError, match="cannot listen on"):
            server.serve_forever()
        server.close()


@pytest.mark.parametrize(("host", "port"), [("127.0.0.1", "80"), (None, 0), ("127.0.0.1", None), (b"::1", 0)])
def test_an_address_that_is_none_is_refused_at_once(host: Any, port: Any) -> None:
    """It need not start for that, and can be given another."""
    server = echo_server()
    with pytest.raises(ConfigurationError, match="address"):
        server.listen(host, port)
    with running(server):
        assert server.listening


@pytest.mark.parametrize(("host", "port"), [("127.0.0.1", 70000), ("127.0.0.1", -1), ("no such host.", 0)])
def test_an_address_that_does_not_exist_fails_the_start(host: str, port: int) -> None:
    """Whatever the system says of it becomes one of our errors."""
    server = echo_server()
    server.listen(host, port)
    with pytest.raises((ConfigurationError, TransportError), match="cannot listen"):
        server.await_started()
    server.close()


def test_a_fault_of_the_start_is_told_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody waits in vain for a server that failed in a way that nobody thought of."""
    monkeypatch.setattr("webmesh.websocket.listener.bind", lambda *args, **options: {}["gone"])
    server = echo_server()
    server.listen(port=0)
    with pytest.raises(KeyError, match="gone"):
        server.await_started()
    server.close()


def test_a_start_that_hangs_can_be_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """As a name that is not resolved: closing ends it, and whoever waits for the start is told."""
    census = Census()
    monkeypatch.setattr("webmesh.websocket.listener.bind", lambda *args, **options: gevent.sleep(3600))
    server = echo_server()
    server.listen(port=0)
    with pytest.raises(TimeoutError):
        server.await_started(0.01)

    server.close()

    with pytest.raises(LocalProtocolError, match="closed before it had started"):
        server.await_started()
    assert "closed" in repr(server)
    assert {} == census.grown()


def test_closing_a_server_that_never_listened_does_nothing() -> None:
    """It can still be started."""
    server = echo_server()
    server.close()
    with connected(server) as client:
        assert 1 == client.call("/", 1, timeout=PATIENCE)


def test_a_server_is_its_own_context() -> None:
    """Entering waits for the start, leaving closes."""
    server = echo_server()
    server.listen(port=0)
    with server as entered:
        assert server is entered
        assert server.listening
    assert not server.listening


def test_serve_forever_lasts_until_somebody_closes() -> None:
    """And then returns, in the main thread of most programs."""
    server = echo_server()
    server.listen(port=0)
    server.await_started()
    forever = threading.Thread(target=server.serve_forever)
    forever.start()
    with WebMeshClient(server.url) as client:
        client.call("/", 1, timeout=PATIENCE)
    assert forever.is_alive()

    server.close()

    forever.join(PATIENCE)
    assert not forever.is_alive()


def test_a_blocking_listen_lasts_until_somebody_closes() -> None:
    """The other way to write the last line of a program."""
    server = echo_server()
    forever = threading.Thread(target=lambda: server.listen(port=0, blocking=True))
    forever.start()
    assert wait_for(lambda: server.listening)

    server.close()

    forever.join(PATIENCE)
    assert not forever.is_alive()


def test_a_repr_shows_identity_and_state() -> None:
    """With a name and without one."""
    server = WebMeshServer(name="shop")
    assert "<WebMeshServer 'shop' not started>" == repr(server)
    assert "<WebMeshServer not started>" == repr(WebMeshServer())
    with connected(server):
        assert wait_for(lambda: server.connections)
        assert f"<WebMeshServer 'shop' at {server.address} connections=1>" == repr(server)
    assert "<WebMeshServer 'shop' closed>" == repr(server)


# --------------------------------------------------------------------- callbacks


@pytest.mark.row(93)
def test_callbacks_are_told_of_each_connection_and_of_its_end() -> None:
    """The end with a typed reason; in the order in which they were registered."""
    server, told = echo_server(), []
    server.on_connect(lambda connection: told.append(("first", connection.id)))
    server.on_connect(lambda connection: told.append(("second", connection.id)))
    server.on_disconnect(lambda connection, why: told.append((connection.id, type(why), why.code)))

    with running(server):
        with WebMeshClient(server.url) as client:
            client.call("/", timeout=PATIENCE)
            (connection,) = server.connections
        assert wait_for(lambda: len(told) == 3)

    assert [("first", connection.id), ("second", connection.id), (connection.id, ConnectionClosed, 1000)] == told


def raises(*args: Any) -> None:
    raise ZeroDivisionError("in a callback")


def exits(*args: Any) -> None:
    sys.exit(3)


def times_out(*args: Any) -> None:
    raise gevent.Timeout(1)


@pytest.mark.row(93)
@pytest.mark.parametrize("failing", [raises, exits, times_out])
def test_a_callback_that_fails_ends_nothing(failing: Callable[..., None], caplog: pytest.LogCaptureFixture) -> None:
    """It is logged, the next one is called, the connection lives, and the server too."""
    server, told = echo_server(), []
    server.on_connect(failing)
    server.on_connect(lambda connection: told.append("connected"))
    server.on_disconnect(failing)
    server.on_disconnect(lambda connection, why: told.append("disconnected"))

    with running(server):
        for _ in range(2):
            with WebMeshClient(server.url) as client:
                assert 1 == client.call("/", 1, timeout=PATIENCE)
        assert wait_for(lambda: told.count("disconnected") == 2)

    assert 2 == told.count("connected")
    assert 4 == [record.message for record in caplog.records].count("callback failed")


@pytest.mark.row(93)
def test_a_callback_that_hangs_is_left_after_a_time(caplog: pytest.LogCaptureFixture) -> None:
    """Its own connection waits so long, others do not wait at all."""
    server, release, told = echo_server(timeouts=Timeouts(request=0.2)), threading.Event(), []

    def hang(connection: Any) -> None:
        if connection.id == server.connections[0].id:
            release.wait(PATIENCE)

    server.on_connect(hang)
    server.on_disconnect(lambda connection, why: told.append(why.code))
    with running(server):
        with WebMeshClient(server.url) as first, WebMeshClient(server.url) as second:
            assert 2 == second.call("/", 2, timeout=PATIENCE)
            assert 1 == first.call("/", 1, timeout=PATIENCE)
        release.set()
        assert wait_for(lambda: len(told) == 2)

    assert ["callback failed"] == [record.message for record in caplog.records]


def test_a_callback_can_speak_to_the_peer_and_turn_it_away() -> None:
    """On both kinds of connections; before anything that the peer says is heard."""
    server = WebMeshServer(serializer_type=StandardJsonSerializer)
    server.websocket("/plain")(lambda connection: connection.send("from the handler"))

    @server.on_connect
    def greet(connection: Any) -> None:
        if connection.request.query == "go":
            connection.close(1008, "not you", timeout=0)
        elif connection.is_mesh:
            connection.notify("/welcome", connection.id)
        else:
            connection.send("welcome")

    with running(server):
        with connect(f"{server.url}/plain") as plain:
            assert ["welcome", "from the handler"] == [plain.recv(PATIENCE), plain.recv(PATIENCE)]
        with connect(server.url) as mesh:
            assert '"/welcome"' in mesh.recv(PATIENCE)
        for path in ("/?go", "/plain?go"):
            with connect(f"{server.url}{path}") as turned_away:
                with pytest.raises(PeerClosed):
                    turned_away.recv(PATIENCE)
                assert (1008, "not you") == (turned_away.close_code, turned_away.close_reason)


@pytest.mark.row(83, 93)
@pytest.mark.plain
def test_callbacks_have_threads_of_their_own() -> None:
    """What on_connect took on_disconnect gives back, also when handlers have all threads and the queue is full."""
    server, release, told = WebMeshServer(limits=Limits(threads=1, thread_queue=1)), threading.Event(), []
    server.on("/")(lambda payload, path, client: release.wait(PATIENCE))
    server.on_connect(lambda connection: told.append("connected"))
    server.on_disconnect(lambda connection, why: told.append("disconnected"))

    with connected(server) as client:
        futures = [client.spawn("/", timeout=PATIENCE) for _ in range(2)]
        with WebMeshClient(server.url):
            assert wait_for(lambda: told.count("connected") == 2)
        assert wait_for(lambda: "disconnected" in told)
        release.set()
        for future in futures:
            future.result()


def test_an_observer_is_told_of_connections() -> None:
    """Opened and closed, each once."""
    observer = RecordingObserver()
    server = echo_server(observer=observer)
    with connected(server):
        assert wait_for(lambda: server.connections)
        (connection,) = server.connections

    assert [(connection,)] == observer.named("connection_opened")
    assert [(connection, 1000, "")] == observer.named("connection_closed")


def test_connections_are_those_that_are_open() -> None:
    """Plain ones included; none before, none after."""
    server = echo_server()
    server.websocket("/plain")(lambda connection: list(connection))
    assert () == server.connections
    with running(server):
        with WebMeshClient(server.url), connect(f"{server.url}/plain"):
            assert wait_for(lambda: len(server.connections) == 2)
            assert {True, False} == {connection.is_mesh for connection in server.connections}
        assert wait_for(lambda: not server.connections)


# -------------------------------------------------------------------- middleware


def test_middleware_wraps_handlers_from_the_outside_in() -> None:
    """The first is outermost; each sees the call with its route and may change what goes in and what comes out."""
    server, log = WebMeshServer(), []
    server.on("/items/<int:id>")(lambda payload, path, client, id: [payload, id])

    @server.middleware
    def outer(call: Call, call_next: CallNext) -> Any:
        log.append((call.path, call.route.pattern, dict(call.arguments), dict(call.headers), current_call() is call))
        return {"outer": call_next(call)}

    @server.middleware
    def inner(call: Call, call_next: CallNext) -> Any:
        call.payload = f"{call.payload}!"
        return {"inner": call_next(call)}

    with connected(server) as client:
        reply = client.call("/items/7", "hi", headers={"k": "v"}, timeout=PATIENCE)

    assert {"outer": {"inner": ["hi!", 7]}} == reply
    assert [("/items/7", "/items/<int:id>", {"id": 7}, {"k": "v"}, True)] == log


def test_middleware_can_answer_in_place_of_the_handler() -> None:
    """With a value, with an error of its own, and by failing; the handler is not entered."""
    server, entered = WebMeshServer(), []
    server.on("/")(lambda payload, path, client: entered.append(payload))

    @server.middleware
    def guard(call: Call, call_next: CallNext) -> Any:
        if call.payload == "denied":
            raise PermissionDenied("not you")
        return 1 / 0 if call.payload == "broken" else "cached"

    with connected(server) as client:
        assert "cached" == client.call("/", timeout=PATIENCE)
        with pytest.raises(PermissionDenied, match="not you"):
            client.call("/", "denied", timeout=PATIENCE)
        with pytest.raises(HandlerFailed):
            client.call("/", "broken", timeout=PATIENCE)

    assert [] == entered


def test_middleware_sees_what_a_handler_raises() -> None:
    """And may turn it into another answer, as programs do with the errors of their database."""
    server = WebMeshServer()
    server.on("/")(lambda payload, path, client: {}["missing"])

    @server.middleware
    def translate(call: Call, call_next: CallNext) -> Any:
        try:
            return call_next(call)
        except KeyError as error:
            raise InvalidArgument(f"there is no {error}") from error

    with connected(server) as client, pytest.raises(InvalidArgument, match="there is no 'missing'"):
        client.call("/", timeout=PATIENCE)


def test_middleware_runs_where_the_handler_runs() -> None:
    """What it opens in a thread the handler finds in that thread."""
    server, seen = WebMeshServer(), []
    server.on("/")(lambda payload, path, client: seen.append(NATIVE_THREAD()))

    @server.middleware
    def note(call: Call, call_next: CallNext) -> Any:
        seen.append(NATIVE_THREAD())
        return call_next(call)

    with connected(server) as client:
        client.call("/", timeout=PATIENCE)

    assert seen[0] == seen[1]
    assert PATCHED or NATIVE_THREAD() != seen[0]


# ----------------------------------------------------------------------- closing


def test_closing_twice_is_safe() -> None:
    """And after it nothing of the server is left."""
    census = Census()
    server = echo_server()
    with connected(server) as client:
        client.call("/", 1, timeout=PATIENCE)
        server.close()
        server.close(0)
        assert () == server.connections
    assert {} == census.grown()


def test_calls_in_progress_are_finished_and_new_ones_refused() -> None:
    """Within the time for it."""
    server, entered, release = WebMeshServer(), threading.Event(), threading.Event()

    @server.on("/slow")
    def slow(payload: Any, path: str, client: Any) -> str:
        entered.set()
        release.wait(PATIENCE)
        return "finished"

    with connected(server) as client:
        future = client.spawn("/slow", timeout=PATIENCE)
        assert wait_for(entered.is_set)
        closing = threading.Thread(target=server.close)
        closing.start()
        assert wait_for(lambda: not server.listening)
        assert "closing" in repr(server)
        release.set()
        assert "finished" == future.result()
        closing.join(PATIENCE)
        assert not closing.is_alive()


def test_a_thread_that_cannot_be_ended_is_left_behind(capfd: pytest.CaptureFixture[str]) -> None:
    """It holds up the end no longer than said, and when it ends at last, nothing goes wrong and nothing is left."""
    census = Census()
    server, entered = WebMeshServer(timeouts=Timeouts(close=0.05)), threading.Event()
    server.on("/", blocking=True)(lambda payload, path, client: (entered.set(), NATIVE_SLEEP(0.3)))
    with connected(server) as client:
        client.notify("/")
        assert wait_for(entered.is_set)
        server.close(0)
        assert () == server.connections

    assert {} == census.grown()
    assert "" == capfd.readouterr().err


def ended_by_handshake(peer: TopicPeer) -> None:
    peer.socket.close()


def ended_by_a_wrong_message(peer: TopicPeer) -> None:
    peer.socket.send(b"binary where text is spoken")
    with pytest.raises(PeerClosed):
        peer.next()


def test_an_ended_connection_is_freed_without_the_garbage_collector():
    """Under a flood of short connections the collector's oldest generation would keep thousands of them."""
    server = WebMeshServer(serializer_type=StandardJsonSerializer)
    made: list[weakref.ref[Any]] = []

    @server.on("/quick")
    def quick(payload: Any, path: str, client: Any) -> Any:
        return payload

    @server.on("/slow", blocking=True)
    def slow(payload: Any, path: str, client: Any) -> Any:
        made.append(weakref.ref(client))
        NATIVE_SLEEP(0.01)
        return payload

    with running(server):
        gc.collect()
        gc.disable()
        try:
            for greets in (False, True):
                for end in (ended_by_handshake, ended_by_a_wrong_message, TopicPeer.cut):
                    with topic_peer(server, hello=greets) as peer:
                        assert [1, 2] == [peer.ask("/quick", 1), peer.ask("/slow", 2)]
                        end(peer)
            assert wait_for(lambda: 6 == len(made) and not any(one() for one in made))
        finally:
            gc.enable()


def test_a_closed_server_is_freed_with_all_that_belonged_to_it():
    """A program that makes one after another, as tests do, does not grow with them."""

    def used() -> list[weakref.ref[Any]]:
        server = WebMeshServer()
        server.on("/")(lambda payload, path, client: payload)
        with running(server), WebMeshClient(server.url) as client:
            assert 1 == client.call("/", 1)
        serving = server._begun
        return [weakref.ref(one) for one in (server, serving, serving.parts, serving.home, client, client._link.home)]

    left = used()
    assert wait_for(lambda: gc.collect() is not None and not any(one() for one in left))
