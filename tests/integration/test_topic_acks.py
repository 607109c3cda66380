"""At least once, over real connections: peers that speak JSON by hand, and functions of the server's program."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gevent
import pytest
from websockets.exceptions import ConnectionClosed

from tests.running import running, wait_for
from tests.topic_peer import TopicPeer, topic_peer
from webmesh.acknowledged import MOST_OPEN
from webmesh.messages import Message
from webmesh.options import Limits
from webmesh.protocol.deliveries import Redelivery
from webmesh.testing import RecordingObserver
from webmesh.webmesh_server import WebMeshServer

PATIENT = Redelivery(first=600.0, most=600.0)
QUICK = Redelivery(first=0.25, factor=1.0, attempts=3)


def answer(peer: TopicPeer, message: dict[str, Any]) -> Any:
    """Acknowledge a delivery; what it carries."""
    peer.send({"id": message["id"], "data": None})
    return message["data"]


def fail(peer: TopicPeer, message: dict[str, Any]) -> Any:
    """Say that it could not be handled; what it carries."""
    peer.send({"id": message["id"], "error": {"code": "internal", "message": "no"}})
    return message["data"]


@pytest.fixture
def server() -> Iterator[WebMeshServer]:
    made = WebMeshServer()
    made.topic("safe/**", ack=True, history=100, window=4, redelivery=PATIENT)
    with running(made):
        yield made


def test_each_delivery_has_an_id_to_be_answered(server: WebMeshServer) -> None:
    """Counted by the server from 2**52, one after another."""
    with topic_peer(server) as peer:
        answered = peer.subscribe("safe/*")
        server.publish("safe/a", "x")
        server.publish("safe/a", "y")
        got = [peer.next(), peer.next()]
    assert [2**52, 2**52 + 1] == [message["id"] for message in got]
    expected = {"topic": "safe/a", "data": "x", "offset": 1, "subs": [answered["sub"]], "id": 2**52}
    assert expected == {name: value for name, value in got[0].items() if name != "epoch"}


def test_no_more_than_the_window_is_on_its_way(server: WebMeshServer) -> None:
    """What comes meanwhile waits, in order."""
    with topic_peer(server) as peer:
        peer.subscribe("safe/*")
        for number in range(10):
            server.publish("safe/a", number)
        first = [peer.next() for _ in range(4)]
        peer.ask("$info")
        assert not peer.messages
        got = [answer(peer, message) for message in first]
        while len(got) < 10:
            got.append(answer(peer, peer.next()))
    assert list(range(10)) == got


def test_two_subscriptions_of_one_peer_get_one_delivery(server: WebMeshServer) -> None:
    """Acknowledged once; when one of them ends it goes on for the other."""
    with topic_peer(server) as peer:
        subs = [peer.subscribe("safe/*")["sub"], peer.subscribe("safe/**")["sub"]]
        server.publish("safe/a", "x")
        assert sorted(subs) == sorted(peer.next()["subs"])
        peer.ask("$unsubscribe", {"sub": subs[0]})
        server.publish("safe/a", "y")
        assert [subs[1]] == peer.next()["subs"]


def test_errors_and_silence_are_followed_by_another_attempt() -> None:
    """Until there were enough: then it is a dead letter, and what came after it had not to wait."""
    server = WebMeshServer()
    server.topic("safe/**", ack=True, redelivery=QUICK, dead_letter="dead")
    with running(server), topic_peer(server) as peer, topic_peer(server) as watcher:
        watcher.subscribe("dead")
        peer.subscribe("safe/*")
        server.publish("safe/a", "bad")
        attempts = []
        for _ in range(3):
            message = peer.next()
            attempts.append(message.get("attempt", 1))
            if message.get("attempt") != 2:  # the second one it leaves alone
                fail(peer, message)
        dead = watcher.next()
    assert [1, 2, 3] == attempts
    assert ("bad", "safe/a", "3") == (
        dead["data"], dead["headers"]["dead-letter-topic"], dead["headers"]["dead-letter-attempts"]
    )  # fmt: skip
    assert dead["headers"]["dead-letter-reason"]


def test_a_poisonous_one_holds_up_no_other(server: WebMeshServer) -> None:
    """While it waits for its next attempt the others go on."""
    with topic_peer(server) as peer:
        peer.subscribe("safe/*")
        for number in range(10):
            server.publish("safe/a", number)
        assert 0 == fail(peer, peer.next())
        assert list(range(1, 10)) == [answer(peer, peer.next()) for _ in range(9)]


def test_a_session_that_is_away_has_its_deliveries_again(server: WebMeshServer) -> None:
    """Those that it had not acknowledged, marked, and those that came meanwhile; under new ids."""
    with topic_peer(server) as peer:
        peer.subscribe("safe/*")
        for number in range(3):
            server.publish("safe/a", number)
        before = [peer.next() for _ in range(3)]
        answer(peer, before[0])
        peer.ask("$info")
        peer.cut()
    assert wait_for(lambda: not server.connections)
    server.publish("safe/a", 3)
    with topic_peer(server, resume=peer.resume) as back:
        assert back.greeting["resumed"]
        got = [back.next() for _ in range(3)]
        assert [(1, 2), (2, 2), (3, 1)] == [(one["data"], one.get("attempt", 1)) for one in got]
        assert not {one["id"] for one in got} & {one["id"] for one in before}
        answer(back, before[1])  # a late answer to what went by the old connection is nobody's
        back.ask("$info")
        assert [1, 2, 3] == [answer(back, one) for one in got]


def test_deliveries_with_an_id_are_not_counted(server: WebMeshServer) -> None:
    """A peer that resumes says how many others it has had."""
    with topic_peer(server) as peer:
        peer.subscribe("**")
        server.publish("plain", 0)
        server.publish("safe/a", 1)
        server.publish("plain", 2)
        assert [0, 1, 2] == peer.payloads(3)
        peer.cut()
    assert wait_for(lambda: not server.connections)
    server.publish("plain", 3)
    with topic_peer(server, resume=peer.resume | {"messages": 1}) as back:
        assert back.greeting["resumed"]
        assert [2, 3, 1] == back.payloads(3)


def test_what_is_replayed_must_be_acknowledged_too(server: WebMeshServer) -> None:
    """First the answer, then the past within the window, then what is live, in order."""
    for number in range(8):
        server.publish("safe/a", number)
    with topic_peer(server) as peer:
        peer.subscribe("safe/a", since=600)
        server.publish("safe/a", 8)
        got = []
        while len(got) < 9:
            message = peer.next()
            assert message["id"] >= 2**52
            got.append(answer(peer, message))
    assert list(range(9)) == got


def test_functions_have_failures_again() -> None:
    """In order but for that; one that never succeeds is a dead letter."""
    server, heard, dead = WebMeshServer(), [], []
    server.topic("safe/**", ack=True, redelivery=QUICK, dead_letter="dead")

    @server.subscribe("safe/*")
    def handle(payload: str, topic: str, message: Message) -> None:
        heard.append((payload, message.attempt))
        if payload == "bad" or payload == "once" and message.attempt == 1:
            raise ValueError("on purpose")

    @server.subscribe("dead")
    def bury(payload: str, topic: str, message: Message) -> None:
        dead.append((payload, message.headers["dead-letter-reason"]))

    with running(server):
        for payload in ("bad", "once", "fine"):
            server.publish("safe/a", payload)
        assert wait_for(lambda: dead and ("once", 2) in heard)
    assert [("bad", 1), ("once", 1), ("fine", 1)] == heard[:3]
    assert [("bad", 1), ("bad", 2), ("bad", 3)] == [one for one in heard if one[0] == "bad"]
    assert [("bad", "ValueError")] == dead


def test_the_time_of_a_publication_goes_on_while_it_waits() -> None:
    """A delivery tells what is left of it; one whose time is over is dropped and counted."""
    observer = RecordingObserver()
    server = WebMeshServer(observer=observer)
    server.topic("safe/**", ack=True, window=1, redelivery=PATIENT)
    with running(server), topic_peer(server) as peer:
        peer.subscribe("safe/*")
        server.publish("safe/a", 0)
        server.publish("safe/a", "short", ttl=0.001)
        server.publish("safe/a", "long", ttl=600)
        first, began = peer.next(), time.monotonic()
        assert wait_for(lambda: time.monotonic() - began > 0.005)
        answer(peer, first)
        message = peer.next()
    assert "long" == message["data"]
    assert 0 < int(message["headers"]["ttl-ms"]) < 600_000
    assert ("refused", "delivery", "expired") in observer.events


def test_a_newer_one_of_the_same_key_takes_the_place_of_one_that_waits() -> None:
    """One that was sent already stays as it is."""
    server = WebMeshServer()
    server.topic("safe/**", ack=True, window=1, redelivery=PATIENT)
    with running(server), topic_peer(server) as peer:
        peer.subscribe("safe/*")
        for number in range(5):
            server.publish("safe/a", number, conflate_key="k")
        server.publish("safe/a", "end")
        assert [0, 4, "end"] == [answer(peer, peer.next()) for _ in range(3)]


@pytest.mark.row(66)
def test_who_never_acknowledges_is_cut_off_and_told_of_the_gap() -> None:
    """When as much waits as may: its session keeps that, and is told that there was more."""
    server = WebMeshServer(limits=Limits(send_queue=20_000))
    server.topic("safe/**", ack=True, window=2, redelivery=PATIENT)
    with running(server):
        with topic_peer(server) as peer:
            peer.subscribe("safe/*")
            while server.connections:
                server.publish("safe/a", "x" * 500)
                gevent.sleep(0)
            with pytest.raises(ConnectionClosed) as closed:
                while True:
                    peer.next()
            assert closed.value.rcvd is not None and 4008 == closed.value.rcvd.code
        last = server.publish("safe/a", "lost").offset
        with topic_peer(server, resume=peer.resume) as back:
            assert back.greeting["resumed"]
            got = back.next()
            count = 0
            while "event" not in got:
                answer(back, got)
                count += 1
                got = back.next()
            assert ("gap", last) == (got["event"], got["offset"])
    assert 10 < count < MOST_OPEN


def test_history_fills_what_a_crash_of_the_server_left_open(tmp_path: Path) -> None:
    """A peer that comes back to another run has everything after its last offset, in the same epoch."""

    def make() -> WebMeshServer:
        made = WebMeshServer(broker=f"sqlite:///{tmp_path}/topics.db")
        made.topic("safe/**", ack=True, history=100, redelivery=PATIENT)
        return made

    first = make()
    with running(first), topic_peer(first) as peer:
        peer.subscribe("safe/a")
        for number in range(3):
            first.publish("safe/a", number)
        had = peer.next()
        answer(peer, had)
    second = make()
    with running(second), topic_peer(second) as peer:
        since = {"offset": had["offset"], "epoch": had["epoch"]}
        assert peer.subscribe("safe/a", since=since)["recovered"]
        assert [1, 2] == [answer(peer, peer.next()) for _ in range(2)]


def test_a_publisher_wants_no_echo(server: WebMeshServer) -> None:
    """As on other topics."""
    with topic_peer(server) as peer, topic_peer(server) as other:
        peer.subscribe("safe/*")
        other.subscribe("safe/*")
        peer.publish("safe/a", "own", exclude_self="true")
        other.publish("safe/a", "others", exclude_self="true")
        assert (["others"], ["own"]) == (peer.payloads(1), other.payloads(1))


def test_a_publication_with_a_known_id_is_delivered_once(server: WebMeshServer) -> None:
    """The publisher is told that it had been published before."""
    with topic_peer(server) as peer:
        peer.subscribe("safe/*")
        first = peer.publish("safe/a", "x", dedupe_id="1")
        again = peer.publish("safe/a", "x", dedupe_id="1")
        peer.publish("safe/a", "y")
        assert ["x", "y"] == peer.payloads(2)
    assert again["duplicate"] and first["offset"] == again["offset"]


def test_what_is_worthless_when_a_session_is_back_is_told_as_a_gap(server: WebMeshServer) -> None:
    """On topics that need no acknowledgement: both sides have counted it."""
    with topic_peer(server) as peer:
        sub = peer.subscribe("plain")["sub"]
        peer.cut()
    assert wait_for(lambda: not server.connections)
    began = time.monotonic()
    server.publish("plain", "short", ttl=0.001)
    server.publish("plain", "long", ttl=600)
    assert wait_for(lambda: time.monotonic() - began > 0.005)
    with topic_peer(server, resume=peer.resume | {"messages": 0}) as back:
        assert back.greeting["resumed"]
        gap, message = back.next(), back.next()
    assert {"topic": "plain", "event": "gap", "data": {"reason": "expired"}, "subs": [sub]} == gap
    assert "long" == message["data"]
