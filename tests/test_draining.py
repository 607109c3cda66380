"""The end of a server's connections: who is told what, when, and what is lost by it."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from types import SimpleNamespace
from typing import Any

import gevent
import pytest
from websockets.exceptions import ConnectionClosed as PeerClosed
from websockets.sync.client import connect

from tests.integration.test_slow_and_stalled_peers import NOISE, Crawler, crawling
from tests.running import PATIENCE, connected, native_threads, running, wait_for
from webmesh.draining import BATCH, BATCHES, Draining
from webmesh.exceptions import ReplyLost, TransportError, Unavailable
from webmesh.options import Timeouts
from webmesh.protocol.frames import CloseReceived
from webmesh.testing import RecordingObserver
from webmesh.webmesh_client import WebMeshClient
from webmesh.webmesh_server import WebMeshServer

pytestmark = pytest.mark.row(92)
EACH_PLACE = pytest.mark.parametrize("blocking", [True, False], ids=["thread", "greenlet"])


@contextmanager
def peer(server: WebMeshServer, *, hello: bool = True) -> Iterator[Any]:
    """A foreign program that speaks JSON; it has said hello."""
    with connect(server.url, subprotocols=["webmesh.v1.json"]) as link:  # type: ignore[list-item]
        if hello:
            link.send(json.dumps({"path": "$hello", "id": 1, "data": {"node": {"name": "peer"}}}))
            assert "node" in json.loads(link.recv(PATIENCE))["data"]
        yield link


def to_the_end(link: Any) -> tuple[list[Any], int, str]:
    """All that still comes, and how it ends."""
    came = []
    while True:
        try:
            came.append(json.loads(link.recv(PATIENCE)))
        except PeerClosed as closed:
            assert closed.rcvd is not None
            return came, closed.rcvd.code, closed.rcvd.reason


@pytest.mark.row(75)
@pytest.mark.parametrize("count", [0, 1, BATCH, BATCH + 1, BATCH * BATCHES, 10_001])
def test_everybody_is_told_once_in_pieces(count: int) -> None:
    """Few are told at once; many in pieces that are neither large nor too many."""
    parts: Any = SimpleNamespace(connections={number: number for number in range(count)})
    pieces = list(Draining(parts, 0, ())._batches(0))

    assert list(range(count)) == [one for piece in pieces for one in piece]
    assert len(pieces) == max(1, min(BATCHES, -(-count // BATCH)))
    assert max(map(len, pieces)) - BATCH <= count / BATCHES


@pytest.mark.parametrize("alternates", [[], ["ws://127.0.0.1:1", "ws://127.0.0.1:2"]])
def test_who_has_said_hello_is_told_goodbye(alternates: list[str]) -> None:
    """With the places where it may go instead. Who has not only sees the close."""
    server = WebMeshServer()
    with running(server), native_threads(1) as spawn:
        with peer(server) as known, peer(server, hello=False) as unknown:
            assert wait_for(lambda: len(server.connections) == 2)
            end = spawn(close, server, alternates)
            told = {"reason": "draining"} | ({"alternates": alternates} if alternates else {})
            assert ([{"path": "$goodbye", "data": told}], 4001, "drained") == to_the_end(known)
            assert ([], 4001, "drained") == to_the_end(unknown)
            end.get()
    assert server.drained is True


def close(server: WebMeshServer, alternates: list[str]) -> None:
    server.close(0.2, alternates=alternates)


def test_a_peer_that_has_somewhere_to_go_is_given_the_time() -> None:
    """The server waits until it has left by itself, and then no longer."""
    server = WebMeshServer(timeouts=Timeouts(drain=PATIENCE * 6))
    with running(server), native_threads(1) as spawn, peer(server) as link:
        end = spawn(lambda: server.close(alternates=["ws://127.0.0.1:1"]))
        assert "$goodbye" == json.loads(link.recv(PATIENCE))["path"]
        link.send(json.dumps({"path": "$goodbye", "data": {}}))
        link.close()
        end.get()


def test_a_connection_is_served_until_it_is_told() -> None:
    """Then its new calls are sent elsewhere, with the time after which to come back; its goodbye is still heard."""
    server, observer = WebMeshServer(), RecordingObserver()
    server.observer = observer
    server.on("/")(lambda payload, path, client: payload)
    with running(server), peer(server) as first, peer(server) as second:
        told = server.connections[0]
        server._begun.home.run(Draining(server._begun.parts, 1, ())._tell, told)
        for link in (first, second):
            link.send(json.dumps({"path": "/", "id": 2, "data": "x"}))
        assert {"path": "$goodbye", "data": {"reason": "draining"}} == json.loads(first.recv(PATIENCE))
        error = json.loads(first.recv(PATIENCE))["error"]
        assert ("unavailable", 1000) == (error["code"], error["retry_after_ms"])
        assert {"id": 2, "data": "x"} == json.loads(second.recv(PATIENCE))
        first.send(json.dumps({"path": "$goodbye", "data": "bye"}))
        assert wait_for(lambda: told.metadata.get("goodbye") == "bye")


@EACH_PLACE
def test_the_reader_of_a_stream_is_told_that_it_may_go_on_elsewhere(blocking: bool) -> None:
    """When its time is up: an error that may be tried again, before the close."""
    server = WebMeshServer()

    @server.on("/", blocking=blocking)
    def count(payload: Any, path: str, client: Any) -> Iterator[int]:
        number = 0
        while True:
            yield number
            number += 1

    with connected(server) as client, native_threads(1) as spawn:
        stream = client.stream("/", credit=4)
        assert [0, 1] == [next(stream), next(stream)]
        end = spawn(server.close, 0.1)
        with pytest.raises(Unavailable) as caught:
            for _ in stream:
                pass
        assert caught.value.retryable
        end.get()
    assert server.drained is True


@EACH_PLACE
@pytest.mark.parametrize("cancel", ["raise", "never"])
def test_a_call_that_does_not_end_in_time_is_cut_off(cancel: str, blocking: bool) -> None:
    """It is counted, and its caller is not told that all was answered."""
    observer = RecordingObserver()
    server, entered, release = WebMeshServer(observer=observer), threading.Event(), threading.Event()
    server.configure(timeouts=Timeouts(close=0.2))

    @server.on("/", blocking=blocking, cancel=cancel)
    def stuck(payload: Any, path: str, client: Any) -> None:
        entered.set()
        while not release.is_set():
            gevent.sleep(0.005)

    with connected(server) as client:
        future = client.spawn("/", timeout=PATIENCE)
        assert wait_for(entered.is_set)
        assert server.drained is None
        server.close(0.05)
        assert server.drained is False
        with pytest.raises(ReplyLost) as caught:
            future.result()
        release.set()
    assert (True, 4001) == (caught.value.started, caught.value.code)
    assert "the server closes" in str(caught.value)
    assert ("call", "cut off") in observer.named("refused")


@EACH_PLACE
def test_no_call_that_was_cut_off_counts_as_never_begun(blocking: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """On connections that are closed later, when nothing of the call is left here, no less than on the first one."""
    monkeypatch.setattr("webmesh.draining.BATCH", 1)  # the hub turns between two of them
    server, release, runs = WebMeshServer(timeouts=Timeouts(close=0.2)), threading.Event(), []

    @server.on("/", blocking=blocking)
    def stuck(payload: Any, path: str, client: Any) -> None:
        runs.append(payload)
        while not release.is_set():
            gevent.sleep(0.005)

    with running(server), ExitStack() as clients:
        asking = [clients.enter_context(WebMeshClient(server.url, retries=None)) for _ in range(5)]
        futures = [client.spawn("/", timeout=PATIENCE) for client in asking]
        assert wait_for(lambda: len(runs) == len(futures))
        server.close(0.1)
        lost = []
        for future in futures:
            with pytest.raises(ReplyLost) as caught:
                future.result()
            lost.append(caught.value.started)
        release.set()
    assert [True] * len(futures) == lost


@contextmanager
def behind() -> Iterator[tuple[WebMeshServer, Crawler, int]]:
    """A server, and a peer that has not read so many messages, some of which wait here for its socket."""
    with crawling(timeouts=Timeouts(close=0.2)) as (server, connection, crawler):
        sent = 0
        while not connection.stats.queued:
            connection.notify("/", NOISE)
            gevent.sleep(0.001)
            sent += 1
        yield server, crawler, sent


def test_what_was_sent_gets_the_time_for_draining_to_leave() -> None:
    """A peer that reads slowly loses nothing, however short the time for closing is."""
    with behind() as (server, crawler, sent), native_threads(1) as spawn:
        end = spawn(server.close, PATIENCE)
        assert wait_for(lambda: server._begun.parts.dispatcher._told_all)
        gevent.sleep(0.3)
        while not any(isinstance(one, CloseReceived) for one in crawler.received):
            assert crawler.read(1_000_000)
        crawler.sock.close()
        end.get()
    assert sent == len(crawler.received) - 1
    assert server.drained is True


def test_what_did_not_leave_in_time_is_not_passed_over() -> None:
    """The peer has lost it."""
    with behind() as (server, _, _):
        server.close(0.1)
    assert server.drained is False


@EACH_PLACE
@pytest.mark.parametrize("answered", [True, False])
def test_the_servers_own_calls_are_finished_too(answered: bool, blocking: bool) -> None:
    """Its peers run them. What it cuts off itself may have run."""
    server, entered, release = WebMeshServer(timeouts=Timeouts(close=0.2)), threading.Event(), threading.Event()
    server.on("/")(lambda payload, path, client: payload)
    with running(server), closing(WebMeshClient(server.url)) as client, native_threads(1) as spawn:

        @client.on("/work", blocking=blocking)
        def work(payload: Any, path: str, asking: Any) -> str:
            entered.set()
            while not release.is_set():
                gevent.sleep(0.005)
            return "done"

        client.call("/")
        future = server.connections[0].spawn("/work", timeout=PATIENCE)
        assert wait_for(entered.is_set)
        if answered:
            end = spawn(server.close, PATIENCE)
            assert wait_for(lambda: server._begun.parts.dispatcher._told_all)
            release.set()
            assert "done" == future.result()
            end.get()
        else:
            server.close(0.05)
            with pytest.raises(ReplyLost) as caught:
                future.result()
            assert caught.value.started
            release.set()
    assert answered is server.drained


def test_a_call_that_its_caller_gave_up_is_not_cut_off() -> None:
    """Nobody waits for it."""
    server, entered = WebMeshServer(timeouts=Timeouts(close=0.2)), threading.Event()

    @server.on("/", blocking=False, cancel="never")
    def stuck(payload: Any, path: str, client: Any) -> None:
        entered.set()
        gevent.sleep(PATIENCE)

    with connected(server, retries=None) as client:
        future = client.spawn("/", timeout=PATIENCE)
        assert wait_for(entered.is_set)
        future.cancel()
        client.notify("/")
        with pytest.raises(Unavailable):
            server._begun.home.run(server._begun.parts.dispatcher.refuse_all)
            client.call("/", timeout=PATIENCE)
        server.close(0)
    assert server.drained is True


@EACH_PLACE
@pytest.mark.parametrize("seconds", [0.0, 0.002])
def test_no_reply_is_lost_when_the_end_comes_in_the_middle_of_calls(seconds: float, blocking: bool) -> None:
    """Whatever had begun is answered, also what begins in the very turn of the hub in which the end begins."""
    for _ in range(5):
        began, answered = [0], [0] * 4
        server = WebMeshServer()

        @server.on("/", blocking=blocking)
        def handler(payload: Any, path: str, client: Any, began: list[int] = began) -> Any:
            began[0] += 1
            gevent.sleep(seconds)
            return payload

        def ask(client: WebMeshClient, number: int, answered: list[int] = answered) -> None:
            going_on = True
            while going_on:
                try:
                    futures = [client.spawn("/", one, timeout=PATIENCE) for one in range(8)]
                except TransportError:
                    return
                for future in futures:
                    try:
                        future.result()
                        answered[number] += 1
                    except Unavailable:
                        pass
                    except (ReplyLost, TransportError) as lost:
                        assert not getattr(lost, "started", False)
                        going_on = False

        with running(server), native_threads(4) as spawn:
            clients = [WebMeshClient(server.url, session=False, fail_fast=True, retries=None) for _ in range(4)]
            asking = [spawn(ask, client, number) for number, client in enumerate(clients)]
            assert wait_for(lambda: all(count > 20 for count in answered))
            server.close()
            for job in asking:
                job.get()
            for client in clients:
                client.close()
        assert (began[0], True) == (sum(answered), server.drained)
