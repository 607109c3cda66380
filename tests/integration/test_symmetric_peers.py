"""Story: both ends of a connection have the same rights; each calls, streams, notifies, and serves."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from tests.running import PATIENCE, running, wait_for
from webmesh.call import current_call
from webmesh.exceptions import (
    Cancelled, ConnectionClosed, FailedPrecondition, HandlerFailed, NotFound, ReplyLost, RequestTimeout,
    RouteNotFound,
)  # fmt: skip
from webmesh.options import Limits
from webmesh.webmesh_client import WebMeshClient
from webmesh.webmesh_server import WebMeshServer
from webmesh.websocket.websocket_connection import WebSocketConnection


def serve_everything(on: Any) -> None:
    """The same routes on either side."""
    on("/echo")(lambda payload, path, client: payload)
    on("/count")(lambda payload, path, client: count(payload))
    on("/sum")(lambda payload, path, client: sum(current_call().items))
    on("/missing")(missing)
    on("/broken")(lambda payload, path, client: {}["secret"])
    on("/down")(down)


def count(number: int) -> Iterator[int]:
    yield from range(number)
    return "counted"


def missing(payload: Any, path: str, client: Any) -> None:
    raise NotFound("there is none")


def down(payload: int, path: str, client: WebSocketConnection) -> list[int]:
    """Ask the peer that asked, until nothing is left."""
    return [payload, *client.call("/down", payload - 1, timeout=PATIENCE)] if payload else [0]


@contextmanager
def peers(**options: Any) -> Iterator[tuple[WebMeshServer, WebMeshClient, dict[str, WebSocketConnection]]]:
    """A server and a client that serve the same, and the connection of each."""
    server = WebMeshServer(**options)
    serve_everything(server.on)
    with running(server):
        client = WebMeshClient(server.url, **options)
        serve_everything(client.on)
        ours = client.connect()
        assert wait_for(lambda: server.connections)
        yield server, client, {"client": ours, "server": server.connections[0]}
        client.close()


EACH_SIDE = pytest.mark.parametrize("side", ["client", "server"])


@EACH_SIDE
def test_either_side_asks_the_other(side: str, caplog: pytest.LogCaptureFixture) -> None:
    """Calls, futures, errors, and streams in both directions."""
    with peers() as (_, _, ends):
        peer = ends[side]
        assert {"x": [1]} == peer.call("/echo", {"x": [1]}, timeout=PATIENCE)
        assert 7 == peer.spawn("/echo", 7, timeout=PATIENCE).result()
        assert list(range(200)) == list(peer.stream("/count", 200, credit=3, timeout=PATIENCE))
        assert "counted" == peer.stream("/count", 5, timeout=PATIENCE).result
        assert sum(range(300)) == peer.stream("/sum", items=range(300), timeout=PATIENCE).result
        for path, error in (("/missing", NotFound), ("/broken", HandlerFailed), ("/nowhere", RouteNotFound)):
            with pytest.raises(error):
                peer.call(path, timeout=PATIENCE)


@EACH_SIDE
def test_a_conversation_goes_to_and_fro(side: str) -> None:
    """Each answer needs a question of its own to the one who asked; a chain within one connection."""
    with peers() as (_, _, ends):
        assert [*range(20, -1, -1)] == ends[side].call("/down", 20, timeout=PATIENCE)


def test_both_sides_ask_at_once() -> None:
    """Ids of the two directions do not clash, whatever is open."""
    with peers() as (_, _, ends):
        futures = [end.spawn("/echo", [name, n], timeout=PATIENCE) for n in range(100) for name, end in ends.items()]
        streams = [end.stream("/count", 50, credit=2, timeout=PATIENCE) for end in ends.values() for _ in range(5)]
        assert [[name, n] for n in range(100) for name in ends] == [future.result() for future in futures]
        assert [list(range(50))] * 10 == [list(stream) for stream in streams]


def test_a_stream_within_a_stream() -> None:
    """While items come, each is looked up at the one who sends them."""
    server = WebMeshServer()

    @server.on("/enriched")
    def enriched(payload: int, path: str, client: WebSocketConnection) -> Iterator[Any]:
        for number in client.stream("/numbers", payload, timeout=PATIENCE):
            yield [number, client.call("/name", number, timeout=PATIENCE)]

    with running(server):
        client = WebMeshClient(server.url)
        client.on("/numbers")(lambda payload, path, connection: iter(range(payload)))
        client.on("/name")(lambda payload, path, connection: f"n{payload}")
        assert [[n, f"n{n}"] for n in range(20)] == list(client.stream("/enriched", 20, timeout=PATIENCE))
        client.close()


def test_a_server_tells_all_its_clients() -> None:
    """A notification to each connection; what a client's handler returns goes back as one."""
    server, heard, returned = WebMeshServer(), threading.Semaphore(0), threading.Semaphore(0)
    server.on("/news")(lambda payload, path, client: returned.release())
    with running(server):
        clients = [WebMeshClient(server.url) for _ in range(3)]
        for client in clients:
            client.on("/news")(lambda payload, path, connection: heard.release() or "thanks")
            client.connect()
        assert wait_for(lambda: len(server.connections) == 3)
        for connection in server.connections:
            connection.notify("/news", "hi")
        for bell in [heard] * 3 + [returned] * 3:
            assert bell.acquire(timeout=PATIENCE)
        for client in clients:
            client.close()


@EACH_SIDE
def test_a_caller_that_gives_up_is_noticed_at_the_other_end(side: str) -> None:
    """By cancel and by deadline, on either side."""
    entered, outcome = threading.Event(), []

    def wait(payload: Any, path: str, client: Any) -> None:
        import gevent

        entered.set()
        try:
            while True:
                gevent.sleep(0.002)
        except BaseException as error:
            outcome.append(type(error))
            raise

    server = WebMeshServer()
    server.on("/wait", blocking=False)(wait)
    with running(server):
        client = WebMeshClient(server.url)
        client.on("/wait", blocking=False)(wait)
        ours = client.connect()
        assert wait_for(lambda: server.connections)
        asking = ours if side == "client" else server.connections[0]
        future = asking.spawn("/wait", timeout=PATIENCE)
        assert wait_for(entered.is_set)
        future.cancel()
        assert wait_for(lambda: outcome)
        assert [Cancelled] == outcome
        with pytest.raises(TimeoutError):
            asking.call("/wait", timeout=0.02)
        assert wait_for(lambda: len(outcome) == 2)
        client.close()


def test_the_end_of_a_connection_reaches_both_sides() -> None:
    """Whoever waits is told, on each; and nobody can ask any more."""
    entered, release = threading.Semaphore(0), threading.Event()

    def wait(payload: Any, path: str, client: Any) -> None:
        entered.release()
        release.wait(PATIENCE)

    server = WebMeshServer()
    server.on("/wait")(wait)
    with running(server):
        client = WebMeshClient(server.url)
        client.on("/wait")(wait)
        ours = client.connect()
        assert wait_for(lambda: server.connections)
        theirs = server.connections[0]
        futures = [end.spawn("/wait", timeout=PATIENCE) for end in (ours, theirs)]
        assert entered.acquire(timeout=PATIENCE) and entered.acquire(timeout=PATIENCE)

        theirs.abort()

        for future in futures:
            with pytest.raises(ReplyLost):
                future.result()
        for end in (ours, theirs):
            end.wait_closed(PATIENCE)
            with pytest.raises(ConnectionClosed):
                end.call("/wait")
        release.set()
        client.close()


def test_a_call_without_end_through_two_services_is_stopped() -> None:
    """Each passes it on to the other: the chain has a limit, and the first caller learns that it was reached."""
    servers = {name: WebMeshServer(name=name, limits=Limits(call_chain=6)) for name in ("a", "b")}
    onward: dict[str, WebMeshClient] = {}

    def pass_on(payload: int, path: str, client: Any) -> Any:
        return onward[path].call("/b" if path == "/a" else "/a", payload + 1, timeout=PATIENCE)

    for name, server in servers.items():
        server.on(f"/{name}")(pass_on)
    with running(servers["a"]), running(servers["b"]):
        for name, other in (("a", "b"), ("b", "a")):
            onward[f"/{name}"] = WebMeshClient(servers[other].url, name=name, limits=Limits(call_chain=6))
        with WebMeshClient(servers["a"].url) as client, pytest.raises(FailedPrecondition, match="a,b,a,b,a,b,a"):
            client.call("/a", 0, timeout=PATIENCE)
        for one in onward.values():
            one.close()


@pytest.mark.plain
@pytest.mark.row(83)
def test_calls_that_wait_for_each_others_threads_end_with_their_time() -> None:
    """To and fro deeper than there are threads: nothing hangs for longer than the first caller's deadline."""
    with peers(limits=Limits(threads=2, thread_queue=2)) as (_, client, _):
        with pytest.raises((RequestTimeout, TimeoutError, HandlerFailed)):
            client.call("/down", 20, timeout=0.3)
        assert wait_for(lambda: client.call("/echo", 1, timeout=PATIENCE) == 1)
