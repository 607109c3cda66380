"""Story: neither side takes more than it can keep, and no two sides wait for each other."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from gevent.event import Event

from tests.integration.test_slow_and_stalled_peers import Crawler
from tests.running import PATIENCE, native_threads, running, wait_for
from webmesh import ConfigurationError, Limits, RequestTimeout, Timeouts, WebMeshClient, WebMeshServer
from webmesh.message_serializers import MessagePackSerializer
from webmesh.websocket.websocket_connection import WebSocketConnection

FORM = MessagePackSerializer()
BLOB = os.urandom(50_000).hex()
SMALL = Limits(send_queue=300_000)
SLOW = Timeouts(write=60, close=0.3)


def ask(crawler: Crawler, *messages: dict[str, Any]) -> None:
    crawler.sock.sendall(b"".join(crawler.frames.encode(FORM.serialize(message)) for message in messages))


def answers(crawler: Crawler, count: int) -> dict[Any, dict[str, Any]]:
    """Read until there are so many."""
    while len(crawler.received) < count and crawler.read():
        pass
    return {message["id"]: message for message in map(FORM.deserialize, crawler.received)}


@contextmanager
def crawled(**routes: Callable[..., Any]) -> Iterator[tuple[WebSocketConnection, Crawler]]:
    """A server's connection to a peer by hand."""
    server = WebMeshServer(limits=SMALL, timeouts=SLOW)
    for name, handler in routes.items():
        server.on(f"/{name}", blocking=False)(handler)
    with running(server):
        crawler = Crawler(server)
        assert wait_for(lambda: server.connections)
        yield server.connections[0], crawler
        crawler.sock.close()


def fill(connection: WebSocketConnection) -> None:
    """Notify until no more is taken."""
    while connection.notify("/noise", BLOB, slow_peer="drop_newest"):
        pass
    with pytest.raises(RequestTimeout):
        while True:
            connection.spawn("/noise", BLOB[: SMALL.send_queue // 10], timeout=0.1)


def each_asks(peer: WebSocketConnection, count: int) -> list[Any]:
    asked = [peer.spawn("/echo", BLOB, timeout=PATIENCE) for _ in range(count)]
    return [future.result() for future in asked]


@pytest.mark.row(66)
def test_two_peers_that_ask_each_other_for_more_than_both_queues_hold():
    """A reader does not wait for what its own side has queued, so all is answered."""
    timeouts = Timeouts(write=3)
    server = WebMeshServer(limits=SMALL, timeouts=timeouts)
    server.on("/echo", blocking=False)(lambda payload, path, peer: payload)
    with running(server), native_threads(2) as spawn:
        client = WebMeshClient(server.url, limits=SMALL, timeouts=timeouts)
        client.on("/echo", blocking=False)(lambda payload, path, peer: payload)
        with client:
            theirs = client.connect()
            assert wait_for(lambda: server.connections)
            ours = server.connections[0]
            asking = [spawn(each_asks, peer, 60) for peer in (ours, theirs)]
            assert [[BLOB] * 60] * 2 == [each.get() for each in asking]


@pytest.mark.row(66)
def test_answers_of_handlers_that_waited_wait_for_room():
    """However many are ready at once, no more than the limit and one of them are queued; all arrive in the end."""
    gate, ended = Event(), []

    def slow(payload: int, path: str, peer: Any) -> str:
        gate.wait()
        ended.append(payload)
        return BLOB

    with crawled(slow=slow, go=lambda payload, path, peer: gate.set()) as (connection, crawler):
        ask(crawler, *({"path": "/slow", "data": number, "id": number} for number in range(60)), {"path": "/go"})
        assert wait_for(lambda: 60 == len(ended))
        assert connection.stats.queued < SMALL.send_queue + 2 * len(BLOB)

        assert [BLOB] * 60 == [answer["data"] for answer in answers(crawler, 60).values()]


@pytest.mark.row(66)
def test_requests_are_not_begun_while_their_peer_takes_nothing():
    """What else it says is heard: notifications, and cancels of what waits. The rest is handled once it has read."""
    began: list[Any] = []
    with crawled(do=lambda payload, path, peer: began.append(payload)) as (connection, crawler):
        fill(connection)
        ask(crawler, {"path": "/do", "data": "told"})
        ask(crawler, *({"path": "/do", "data": number, "id": number} for number in range(5)), {"id": 3, "cancel": True})
        assert wait_for(lambda: ["told"] == began)

        assert wait_for(lambda: crawler.read() and 5 == len(began))
        assert ["told", 0, 1, 2, 4] == began


@pytest.mark.row(66)
def test_calls_wait_for_room_within_their_time():
    """From the hub or from a thread: then nothing of them is queued, and none of them is known."""
    with crawled() as (connection, _):
        fill(connection)
        queued, known = connection.stats.queued, connection.requests[0]
        for ask_for in (connection.call, connection.spawn, connection.stream):
            for _ in range(3):
                with pytest.raises(RequestTimeout):
                    ask_for("/never", BLOB, timeout=0.05)
        assert connection.stats.queued < queued + len(BLOB)
        assert known == connection.requests[0]
        assert connection.open


def test_a_key_that_cannot_be_hashed_is_refused_however_quick_the_peer_is():
    """And not only on the day when it is slow."""
    with crawled() as (connection, _), pytest.raises(ConfigurationError, match="hashable"):
        connection.notify("/price", 1, conflate_key=["gold"])
