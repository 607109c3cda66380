"""Last wills of the sessions of one node, over real connections, in JSON by hand."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from tests.running import running, wait_for
from tests.topic_peer import Refused, TopicPeer, topic_peer
from webmesh.auth import Identity
from webmesh.brokers.memory import MemoryBroker
from webmesh.exceptions import BrokerUnavailable
from webmesh.messages import Message
from webmesh.node_wills import NodeWills
from webmesh.options import Limits, Timeouts
from webmesh.testing import RecordingObserver
from webmesh.webmesh_server import WebMeshServer

pytestmark = pytest.mark.row(80)

Fired = list[tuple[str, Any, str | None]]
"""What the program of a server has heard: topic, payload, reason."""


class FailingBroker(MemoryBroker):
    """In memory, and cannot be reached while `down`."""

    down = False

    def publish(self, *args: Any) -> Any:
        self._check()
        return super().publish(*args)

    def put(self, *args: Any) -> None:
        self._check()
        super().put(*args)

    def claim(self, *args: Any) -> Any:
        self._check()
        return super().claim(*args)

    def _check(self) -> None:
        if self.down:
            raise BrokerUnavailable("nobody answers")


def listening(fired: Fired, **options: Any) -> WebMeshServer:
    """A server whose program notes what comes on all topics."""
    server = WebMeshServer(**options)

    @server.subscribe("**")
    def note(payload: Any, topic: str, message: Message) -> None:
        fired.append((topic, payload, message.will))

    return server


@pytest.fixture
def fired() -> Fired:
    return []


@pytest.fixture
def observer() -> RecordingObserver:
    return RecordingObserver()


@pytest.fixture
def server(fired: Fired, observer: RecordingObserver) -> Iterator[WebMeshServer]:
    with running(listening(fired, observer=observer)) as started:
        yield started


def wills_of(server: WebMeshServer) -> NodeWills:
    return server._begun.parts.wills


def lose(server: WebMeshServer, peer: TopicPeer) -> None:
    """Cut a peer off; the server has noticed when it returns."""
    before = len(server.connections)
    peer.cut()
    assert wait_for(lambda: len(server.connections) < before)


def nothing_armed(server: WebMeshServer) -> bool:
    """Whether nothing is left that could fire."""
    return wait_for(lambda: not wills_of(server)._armed and not server.broker.records("wills"))


# ----------------------------------------------------------------------- when they fire


def test_a_will_fires_once_when_its_peer_is_lost(server: WebMeshServer, fired: Fired, observer: RecordingObserver):
    """With the reason in a header; the end of the session adds nothing to it."""
    with topic_peer(server) as peer:
        peer.ask("$will", {"id": "w", "topic": "status/a", "data": {"up": False}, "headers": {"mine": "yes"}})
        lose(server, peer)
    assert wait_for(lambda: fired)
    server.kick(lambda session: True)
    assert nothing_armed(server)
    assert [("status/a", {"up": False}, "lost")] == fired
    assert [("status/a", "lost")] == observer.named("will_fired")
    assert not server.broker.records("wills-firing")


def test_a_goodbye_discards_all_that_do_not_ask_for_it(server: WebMeshServer, fired: Fired):
    """Whoever leaves on purpose is not lost."""
    with topic_peer(server) as peer:
        peer.ask("$will", {"id": "a", "topic": "a", "data": 1})
        peer.ask("$will", {"id": "b", "topic": "b", "data": 2, "on": ["goodbye", "lost"], "delay_ms": 3_600_000})
        peer.send({"path": "$goodbye"})
        assert wait_for(lambda: fired)
        assert nothing_armed(server)
    assert [("b", 2, "goodbye")] == fired


def test_a_resume_within_the_delay_cancels(server: WebMeshServer, fired: Fired):
    """For that loss; the will stays set for the next one."""
    with topic_peer(server) as first:
        first.ask("$will", {"id": "w", "topic": "a", "data": 1, "delay_ms": 20_000})
        lose(server, first)
        assert wait_for(lambda: wills_of(server)._waiting)
        with topic_peer(server, resume=first.resume) as second:
            assert second.greeting["resumed"]
            assert not wills_of(server)._waiting
            second.ask("$will", {"id": "now", "topic": "b", "data": 2})
            lose(server, second)
            assert wait_for(lambda: fired)
            assert 1 == len(wills_of(server)._waiting)
    assert [("b", 2, "lost")] == fired


def test_a_delay_is_waited_out(fired: Fired):
    """And nothing fires before it is over, though the session's link is lost."""
    server = listening(fired, timeouts=Timeouts(login=0.4))  # which the pulse looks at every 0.1 s
    with running(server), topic_peer(server) as peer:
        peer.ask("$will", {"id": "late", "topic": "late", "data": 1, "delay_ms": 200})
        peer.ask("$will", {"id": "now", "topic": "now", "data": 2})
        lose(server, peer)
        assert wait_for(lambda: len(fired) == 2)
    assert [("now", 2, "lost"), ("late", 1, "lost")] == fired


def test_a_new_link_that_replaces_the_old_one_is_no_loss(server: WebMeshServer, fired: Fired):
    """The peer is there, only sooner than the end of its old link."""
    with topic_peer(server) as first:
        first.ask("$will", {"id": "w", "topic": "a", "data": 1})
        with topic_peer(server, resume=first.resume) as second:
            assert second.greeting["resumed"]
            second.publish("b", 2)
            assert wait_for(lambda: fired)
            assert [("b", 2, None)] == fired
            lose(server, second)
            assert wait_for(lambda: len(fired) == 2)
    assert ("a", 1, "lost") == fired[1]


def test_the_end_of_the_session_is_the_end_of_the_delay(fired: Fired):
    """Those that are only for it give it as their reason."""
    server = listening(fired, timeouts=Timeouts(session=0.2))
    with running(server), topic_peer(server) as peer:
        peer.ask("$will", {"id": "a", "topic": "a", "data": 1, "delay_ms": 3_600_000})
        peer.ask("$will", {"id": "b", "topic": "b", "data": 2, "on": ["timeout"]})
        peer.ask("$will", {"id": "c", "topic": "c", "data": 3, "on": ["kicked"]})
        lose(server, peer)
        assert wait_for(lambda: len(fired) == 2)
        assert nothing_armed(server)
    assert [("a", 1, "lost"), ("b", 2, "timeout")] == fired


def test_who_is_kicked_is_told_of_as_such(server: WebMeshServer, fired: Fired):
    """By the program, or since it broke a rule."""
    with topic_peer(server) as peer:
        peer.ask("$will", {"id": "w", "topic": "a", "data": 1, "delay_ms": 3_600_000})
        assert 1 == server.kick(lambda connection: True)
        assert wait_for(lambda: fired)
        assert nothing_armed(server)
    assert [("a", 1, "kicked")] == fired


def test_wills_that_were_set_again_fire_again(server: WebMeshServer, fired: Fired):
    """A will counts as another one when it is set anew, also for who drops repeated publications."""
    with topic_peer(server, wills=[{"id": "w", "topic": "a", "data": 1}]) as first:
        lose(server, first)
        assert wait_for(lambda: len(fired) == 1)
        with topic_peer(server, resume=first.resume, wills=[{"id": "w", "topic": "a", "data": 2}]) as second:
            lose(server, second)
            assert wait_for(lambda: len(fired) == 2)
    assert [("a", 1, "lost"), ("a", 2, "lost")] == fired


def test_the_message_is_a_publication_like_others(fired: Fired):
    """Retained where the topic is, and numbered."""
    server = listening(fired)
    server.topic("status/*", retain=True, history=5)
    with running(server), topic_peer(server) as watcher, topic_peer(server) as peer:
        sub = watcher.subscribe("status/*")["sub"]
        peer.publish("status/a", "up")
        assert ["up"] == watcher.payloads(1)
        peer.ask("$will", {"id": "w", "topic": "status/a", "data": "down"})
        lose(server, peer)
        heard = watcher.next()
        assert ("down", 2, {"will": "lost"}, [sub]) == (
            heard["data"], heard["offset"], heard["headers"], heard["subs"]
        )
        with topic_peer(server) as later:
            later.subscribe("status/*")
            assert {"data": "down", "retained": True, "headers": {"will": "lost"}}.items() <= later.next().items()


# --------------------------------------------------------------------- how they are set


def test_wills_are_set_replaced_and_revoked_one_by_one(server: WebMeshServer, fired: Fired):
    """Several, each by its id; what is not there can be revoked without harm."""
    with topic_peer(server, wills=[{"id": "a", "topic": "a", "data": 1}, {"id": "b", "topic": "b", "data": 2}]) as peer:
        assert peer.ask("$will", {"id": "b", "topic": "b", "data": 3}) is None
        peer.ask("$will", {"id": "c", "topic": "c", "data": 4})
        assert peer.ask("$will", {"id": "a", "revoke": True}) is None
        assert peer.ask("$will", {"id": "nobody", "revoke": True}) is None
        lose(server, peer)
        assert wait_for(lambda: len(fired) == 2)
    assert [("b", 3, "lost"), ("c", 4, "lost")] == sorted(fired)


def test_a_hello_says_all_the_wills_of_its_session(server: WebMeshServer, fired: Fired):
    """So a peer that resumes need not know which have fired; without `wills` they stay as they are."""
    with topic_peer(server, wills=[{"id": "a", "topic": "a", "data": 1}]) as peer:
        peer.hello()
        peer.hello(wills=[{"id": "b", "topic": "b", "data": 2}])
        lose(server, peer)
        assert wait_for(lambda: fired)
        server.kick(lambda session: True)
        assert nothing_armed(server)
    assert [("b", 2, "lost")] == fired


def test_without_a_session_there_are_no_wills(server: WebMeshServer):
    """Nobody could tell when it ends."""
    with topic_peer(server, hello=False) as peer, pytest.raises(Refused, match="say .hello first") as refused:
        peer.ask("$will", {"id": "w", "topic": "a", "data": 1})
    assert "failed_precondition" == refused.value.code


@pytest.mark.parametrize(
    "will",
    [
        None, {}, {"id": "w"}, {"topic": "a"}, {"id": "", "topic": "a"}, {"id": "w", "topic": "a/*"},
        {"id": "w", "topic": "$hello"}, {"id": "w", "topic": "a", "on": []}, {"id": "w", "topic": "a", "on": ["death"]},
        {"id": "w", "topic": "a", "on": "lost"}, {"id": "w", "topic": "a", "delay_ms": -1},
        {"id": "w", "topic": "a", "delay_ms": True}, {"id": "w", "topic": "a", "headers": {"will": "lost"}},
        {"id": "w", "topic": "a", "headers": {"ttl-ms": "0"}}, {"id": "w", "topic": "a", "headers": [1]},
        {"id": "w", "revoke": False}, {"revoke": True},
    ],
)  # fmt: skip
def test_a_will_that_makes_no_sense_is_refused(server: WebMeshServer, will: Any):
    """With a text that says why; now, and not when it would fire."""
    with topic_peer(server) as peer:
        for path, payload in (("$will", will), ("$hello", {"wills": [will]})):
            with pytest.raises(Refused) as refused:
                peer.ask(path, payload)
            assert "invalid_argument" == refused.value.code
    assert not wills_of(server)._armed


def test_there_are_only_so_many_and_so_large_ones(fired: Fired):
    """A server keeps them for as long as the session lasts."""
    server = listening(fired, limits=Limits(wills=2, wills_size=1000))
    with running(server), topic_peer(server) as peer:
        for name in ("a", "b"):
            peer.ask("$will", {"id": name, "topic": "t", "data": 1})
        for will in ({"id": "c", "topic": "t"}, {"id": "a", "topic": "t", "data": "x" * 1000}):
            with pytest.raises(Refused) as refused:
                peer.ask("$will", will)
            assert "resource_exhausted" == refused.value.code
        peer.ask("$will", {"id": "a", "topic": "t", "data": 2})
        lose(server, peer)
        assert wait_for(lambda: len(fired) == 2)
    assert [1, 2] == sorted(payload for _, payload, _ in fired)


# ----------------------------------------------------------------------------- rights


def test_a_will_needs_the_right_to_publish_when_it_is_set_and_when_it_fires(observer: RecordingObserver):
    """What was taken away meanwhile is not done after the end."""
    fired: Fired = []
    allowed = {"a", "b", "c"}

    def rule(asked: Any) -> bool:
        if asked.topic == "c" and "a" not in allowed:
            raise ValueError("of the program's own")
        return asked.topic in allowed and asked.identity.subject == "alice"

    server = listening(fired, observer=observer, authenticate=lambda credentials: Identity("alice"))
    for topic in ("a", "b", "c", "d"):
        server.topic(topic, publish=rule)
    with running(server), topic_peer(server, token="t") as peer:
        for name in ("c", "a", "b"):
            peer.ask("$will", {"id": name, "topic": name, "data": 1})
        with pytest.raises(Refused) as refused:
            peer.ask("$will", {"id": "d", "topic": "d"})
        assert "permission_denied" == refused.value.code
        allowed.discard("a")
        lose(server, peer)
        assert wait_for(lambda: fired)
    assert [("b", 1, "lost")] == fired
    told = [("will", "permission_denied"), ("will", "internal"), ("will", "permission_denied")]
    assert sorted(told) == sorted(one for one in observer.named("refused") if one[0] == "will")


# ------------------------------------------------------------------- the end of the server


def test_a_server_that_closes_fires_none_of_those_who_are_there(fired: Fired):
    """They go elsewhere. Who was lost before is lost."""
    server = listening(fired)
    with running(server), topic_peer(server) as here, topic_peer(server) as gone:
        here.ask("$will", {"id": "w", "topic": "here", "data": 1, "on": ["lost", "timeout", "kicked", "goodbye"]})
        gone.ask("$will", {"id": "w", "topic": "gone", "data": 2, "delay_ms": 20_000})
        gone.ask("$will", {"id": "v", "topic": "gone", "data": 3, "on": ["timeout"]})
        lose(server, gone)
        assert wait_for(lambda: wills_of(server)._waiting)
        server.close(0)
    assert [("gone", 2, "lost")] == fired
    assert not server.broker.records("wills")


# --------------------------------------------------------------------------- the engine


@pytest.mark.row(96)
def test_wills_wait_for_an_engine_that_cannot_be_reached():
    """A will is set although the peer is told to come again; it fires when the engine is back, once."""
    fired: Fired = []
    broker = FailingBroker()
    server = listening(fired, broker=broker)
    with running(server), topic_peer(server) as peer:
        peer.ask("$will", {"id": "a", "topic": "a", "data": 1})
        broker.down = True
        with pytest.raises(Refused) as refused:
            peer.ask("$will", {"id": "b", "topic": "b", "data": 2})
        assert "unavailable" == refused.value.code
        lose(server, peer)
        assert wait_for(lambda: len(wills_of(server).firing._running))
        broker.down = False
        assert wait_for(lambda: len(fired) == 2)
        assert wait_for(lambda: not broker.records("wills") and not broker.records("wills-firing"))
    assert [("a", 1, "lost"), ("b", 2, "lost")] == sorted(fired)


def test_another_node_that_has_claimed_them_is_the_one_that_fires_them(server: WebMeshServer, fired: Fired):
    """Here nothing is published twice."""
    with topic_peer(server) as peer:
        peer.ask("$will", {"id": "w", "topic": "a", "data": 1})
        (key,) = server.broker.records("wills")
        assert server.broker.claim("wills", key)
        lose(server, peer)
        own = wills_of(server)
        assert wait_for(lambda: not len(own.firing._running) and not own._armed[key].wills)
    assert [] == fired
    assert not server.broker.records("wills-firing")


def test_what_is_set_while_another_node_has_the_former_ones_stays(fired: Fired):
    """Only those are gone that the other one had."""
    broker = FailingBroker()
    with running(listening(fired, broker=broker)) as server, topic_peer(server) as peer:
        peer.ask("$will", {"id": "w", "topic": "a", "data": 1, "delay_ms": 20_000})
        (own,) = wills_of(server)._armed.values()
        rest = own.wills.all()
        peer.ask("$will", {"id": "w", "topic": "a", "data": 2})
        own.drop(rest)
        lose(server, peer)
        assert wait_for(lambda: fired)
    assert [("a", 2, "lost")] == fired


def test_the_engine_never_learns_the_id_of_a_session(server: WebMeshServer):
    """Whoever knew it could resume the session."""
    with topic_peer(server) as peer:
        peer.ask("$will", {"id": "w", "topic": "a", "data": 1})
        kept = repr(dict(server.broker.records("wills")))
        assert peer.greeting["session"] not in kept
