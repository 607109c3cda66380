"""Topics put together: the engine, who subscribes, and what becomes of both."""

from __future__ import annotations

import http.client
from collections.abc import Iterator
from contextlib import closing
from typing import Any

import pytest

from tests.running import running, wait_for
from tests.topic_peer import Refused, topic_peer
from webmesh import losses
from webmesh.brokers.memory import MemoryBroker
from webmesh.exceptions import BrokerUnavailable, InvalidArgument, Unavailable
from webmesh.messages import Message
from webmesh.options import Limits
from webmesh.pubsub import topic_segments
from webmesh.testing import RecordingObserver
from webmesh.webmesh_server import WebMeshServer
from webmesh.websocket.websocket_connection import WebSocketConnection


class FailingBroker(MemoryBroker):
    """In memory, and cannot be reached while `down`."""

    down = False

    def publish(self, *args: Any) -> Any:
        self._check()
        return super().publish(*args)

    def want(self, *args: Any) -> None:
        self._check()
        super().want(*args)

    def retained(self, *args: Any) -> Any:
        self._check()
        return super().retained(*args)

    def history(self, *args: Any, **options: Any) -> Any:
        self._check()
        return super().history(*args, **options)

    def _check(self) -> None:
        if self.down:
            raise BrokerUnavailable("nobody answers")


@pytest.fixture
def broker() -> FailingBroker:
    return FailingBroker()


@pytest.fixture
def observer() -> RecordingObserver:
    return RecordingObserver()


@pytest.fixture
def heard() -> list[Message]:
    return []


@pytest.fixture
def server(broker: FailingBroker, observer: RecordingObserver, heard: list[Message]) -> Iterator[WebMeshServer]:
    made = WebMeshServer(broker=broker, observer=observer)
    made.topic("kept/*", history=5)

    @made.subscribe("heard")
    def note(payload: Any, topic: str, message: Message) -> None:
        heard.append(message)

    with running(made) as started:
        yield started


@pytest.mark.row(96)
def test_an_engine_that_is_away_is_said_so_and_nothing_stays_half_done(server: WebMeshServer, broker: FailingBroker):
    """To the program, and to peers, who may come again; then all is as before."""
    topics = server._begun.parts.topics
    with topic_peer(server) as peer:
        broker.down = True
        with pytest.raises(Unavailable, match="nobody answers"):
            server.publish("a")
        for ask in (
            lambda: peer.subscribe("a/*"), lambda: peer.publish("a"), lambda: peer.ask("$history", {"topic": "kept/a"}),
        ):  # fmt: skip
            with pytest.raises(Refused) as refused:
                ask()
            assert "unavailable" == refused.value.code
        assert 1 == len(topics.subscribers)  # the program's own
        broker.down = False
        peer.subscribe("a/*")
        server.publish("a/b", 1)
        assert [1] == peer.payloads(1)


@pytest.mark.row(96)
def test_a_gap_of_the_engine_is_told_to_every_subscriber(
    server: WebMeshServer, heard: list[Message], observer: RecordingObserver
):
    """Peers and functions of the program, for each of their patterns; never silently."""
    topics = server._begun.parts.topics
    with topic_peer(server) as peer:
        first, second = peer.subscribe("a/*")["sub"], peer.subscribe("b")["sub"]
        server._begun.parts.home.run(topics.gap, "it was away")
        told = [peer.next() for _ in range(2)]
    reason = {"reason": "it was away", "pattern": True}
    assert [
        {"topic": "a/*", "event": "gap", "data": reason, "subs": [first]},
        {"topic": "b", "event": "gap", "data": reason, "subs": [second]},
    ] == sorted(told, key=lambda one: one["topic"])
    assert wait_for(lambda: ["gap"] == [message.event for message in heard])
    assert [("engine", "gap")] == observer.named("refused")


def test_a_gap_that_concerns_nobody_is_no_news(observer: RecordingObserver, caplog: pytest.LogCaptureFixture):
    """As while nodes find each other at their start: nobody has subscribed, so nobody has missed anything."""
    with running(WebMeshServer(observer=observer)) as server:
        parts = server._begun.parts
        parts.home.run(parts.topics.gap, "another node leads")
    assert [] == observer.named("refused")
    assert "may have been missed" not in caplog.text


def test_the_engine_wants_only_what_somebody_subscribes_to(server: WebMeshServer, broker: FailingBroker):
    """As long as anybody does."""
    with topic_peer(server) as alice, topic_peer(server) as bob:
        subs = [peer.subscribe("x/*")["sub"] for peer in (alice, bob)]
        assert 2 == broker._wanted[("x", "*")]
        alice.ask("$unsubscribe", {"sub": subs[0]})
        bob.ask("$unsubscribe", {"sub": subs[1]})
        bob.ask("$unsubscribe", {"sub": subs[1]})
        assert ("x", "*") not in broker._wanted


@pytest.mark.row(86)
def test_peers_that_come_and_go_leave_nothing(server: WebMeshServer):
    """No subscriptions, no ids that grow with them, no peers."""
    topics = server._begun.parts.topics
    for _ in range(20):
        with topic_peer(server) as peer:
            peer.subscribe("x/*")
            peer.publish("x/y", 1)
            peer.send({"path": "$goodbye"})
    assert wait_for(lambda: not topics._peers)
    assert 1 == len(topics.subscribers)


def test_what_one_peer_cannot_read_others_get(server: WebMeshServer, observer: RecordingObserver):
    """Bytes do not go into JSON: that subscriber is told that it has lost it."""
    with topic_peer(server) as peer:
        sub = peer.subscribe("kept/*")["sub"]
        published = server.publish("kept/a", b"\x00")
        server._begun.parts.home.run(server._begun.parts.topics.tick, 0.0)
        assert {
            "topic": "kept/a", "event": "gap", "data": {"reason": "encoding"}, "subs": [sub],
            "offset": 1, "epoch": published.epoch,
        } == peer.next()  # fmt: skip
    assert ("delivery", "not encodable") in observer.named("refused")


@pytest.mark.parametrize("topic", ["", "a//b", "*", 5, None])
def test_what_is_no_topic_is_an_invalid_argument(topic: Any):
    """Whoever names it."""
    with pytest.raises(InvalidArgument):
        topic_segments(topic)


def test_a_node_whose_engine_is_away_is_not_ready(server: WebMeshServer):
    """Load balancers send nobody there; who is connected stays."""
    topics, home = server._begun.parts.topics, server._begun.parts.home
    with topic_peer(server) as peer:
        for up, status in ((False, 503), (True, 200)):
            home.run(topics.health, up, "for a test")
            answer = http.client.HTTPConnection("127.0.0.1", server.port, timeout=10)
            with closing(answer):
                answer.request("GET", "/readyz")
                assert status == answer.getresponse().status
        peer.subscribe("a")


def test_a_handler_publishes_on_behalf_of_who_asked(observer: RecordingObserver):
    """The peer can be left out; the rules are those of the program, which asked none."""
    server = WebMeshServer(observer=observer)
    server.topic("rooms/*", publish=lambda asked: False)

    @server.on("/say")
    def say(payload: Any, path: str, client: WebSocketConnection) -> Any:
        published = client.publish("rooms/a", payload, exclude_self=True, key="k")
        assert published is not None
        return published.receivers

    with running(server), topic_peer(server) as alice, topic_peer(server) as bob:
        alice.subscribe("rooms/*")
        bob.subscribe("rooms/*")
        assert 2 == alice.ask("/say", "hello")
        server.publish("rooms/a", "end")
        assert ["hello", "end"] == bob.payloads(2)
        assert ["end"] == alice.payloads(1)
        with pytest.raises(Refused):
            alice.publish("rooms/a", "by hand")


@pytest.mark.row(86)
def test_a_loss_on_very_many_topics_is_told_by_the_pattern(server: WebMeshServer, monkeypatch: pytest.MonkeyPatch):
    """What is noted for a peer that cannot be told is bounded."""
    monkeypatch.setattr(losses, "MOST_TOPICS", 3)
    with topic_peer(server) as peer:
        sub = peer.subscribe("x/*")["sub"]
        for number in range(10):
            server.publish(f"x/{number}", b"not in JSON")
        server._begun.parts.home.run(server._begun.parts.topics.tick, 0.0)
        told = [peer.next() for _ in range(4)]
    assert ["x/*", "x/0", "x/1", "x/2"] == sorted(one["topic"] for one in told)
    assert all([sub] == one["subs"] and "gap" == one["event"] for one in told)


def test_what_may_be_left_out_and_found_no_room_while_away_is_told() -> None:
    """To the subscriptions that may miss it, and to no others."""
    server = WebMeshServer(limits=Limits(session_backlog=32 * 1024))
    server.topic("d/**", slow_peer="drop_oldest")
    with running(server), topic_peer(server) as before:
        sub = before.subscribe("d/*")["sub"]
        before.subscribe("x")
        before.cut()
        wait_for(lambda: server._begun.parts.sessions.away == 1)
        server.publish("x", "kept")
        for number in range(100):
            server.publish("d/y", f"{number} {'x' * 1000}")
        with topic_peer(server, resume=before.resume) as after:
            assert after.greeting["resumed"]
            server.publish("x", "end")
            got = []
            while not got or got[-1]["data"] != "end":
                got.append(after.next())
            gaps = [(one["subs"], one["data"]) for one in got if "event" in one]
            assert [([sub], {"reason": "slow", "pattern": True})] == gaps
            assert 0 < sum(one["topic"] == "d/y" for one in got) < 100
