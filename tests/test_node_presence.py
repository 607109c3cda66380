"""Who is on the topics of a node, over real connections, in JSON by hand."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import pytest

from tests.running import running, wait_for
from tests.topic_peer import Refused, TopicPeer, topic_peer
from webmesh.auth import Identity
from webmesh.exceptions import InvalidArgument
from webmesh.node_presence import NodePresence
from webmesh.options import Limits, Timeouts
from webmesh.testing import RecordingObserver
from webmesh.webmesh_server import WebMeshServer


def with_rooms(**options: Any) -> WebMeshServer:
    server = WebMeshServer(**options)
    server.topic("room/*", presence=True)
    return server


@pytest.fixture
def server() -> Iterator[WebMeshServer]:
    with running(with_rooms()) as started:
        yield started


def presence_of(server: WebMeshServer) -> NodePresence:
    return server._begun.parts.topics.presence


def announced(key: str, meta: Any = None) -> dict[str, Any]:
    return {"announce": {"key": key, "meta": meta}}


class Picture:
    """What a subscriber knows of who is there, by the state that it got and what it was told since."""

    def __init__(self, peer: TopicPeer, topic: str = "room/a", **asked: Any) -> None:
        self.peer = peer
        self.messages = 0
        answer = peer.subscribe(topic, presence=True, **asked)
        self.sub = answer["sub"]
        self.state: dict[str, list[Any]] = answer["presence"]

    def hear(self) -> dict[str, Any]:
        """The next event, entered into the picture."""
        event = self.peer.next()
        assert ("presence", [self.sub]) == (event["event"], event["subs"])
        self.messages += 1
        for key, metas in event["data"]["left"].items():
            for meta in metas:
                self.state[key].remove(meta)
            if not self.state[key]:
                del self.state[key]
        for key, metas in event["data"]["joined"].items():
            self.state.setdefault(key, []).extend(metas)
        return event

    def until(self, state: dict[str, list[Any]]) -> None:
        """Hear until the picture is this."""
        while self.state != state:
            self.hear()


def test_who_subscribes_with_an_announcement_is_seen_by_others(server: WebMeshServer):
    """By a state in the answer, itself included, and by what changes since; until the subscription ends."""
    with topic_peer(server) as alice, topic_peer(server) as bob:
        picture = Picture(alice, **announced("alice", {"at": 1}))
        assert {"alice": [{"at": 1}]} == picture.state
        sub = bob.subscribe("room/a", **announced("bob"))["sub"]
        assert {"joined": {"bob": [None]}, "left": {}} == picture.hear()["data"]
        bob.ask("$unsubscribe", {"sub": sub})
        assert {"joined": {}, "left": {"bob": [None]}} == picture.hear()["data"]
        assert {"alice": [{"at": 1}]} == alice.ask("$presence", {"topic": "room/a"})


def test_who_only_listens_is_not_seen(server: WebMeshServer):
    """And who is seen need not be told of others."""
    with topic_peer(server) as alice, topic_peer(server) as bob:
        assert {} == Picture(alice).state
        assert "presence" not in bob.subscribe("room/a", **announced("bob"))
        assert {"keys": 1, "connections": 1} == bob.ask("$presence", {"topic": "room/a", "counts": True})


def test_a_key_is_there_while_one_connection_announces_it(server: WebMeshServer):
    """With one meta for each."""
    with topic_peer(server) as watcher, topic_peer(server) as phone:
        picture = Picture(watcher)
        phone.subscribe("room/a", **announced("alice", "phone"))
        with topic_peer(server) as laptop:
            laptop.subscribe("room/a", **announced("alice", "laptop"))
            picture.until({"alice": ["phone", "laptop"]})
            assert {"keys": 1, "connections": 2} == watcher.ask("$presence", {"topic": "room/a", "counts": True})
            laptop.send({"path": "$goodbye"})
            picture.until({"alice": ["phone"]})


def test_a_crowd_costs_the_others_a_few_messages(server: WebMeshServer):
    """What changes within a moment is told together."""
    with ExitStack() as stack:
        picture = Picture(stack.enter_context(topic_peer(server)))
        crowd = stack.enter_context(topic_peer(server))
        for number in range(50):
            crowd.subscribe("room/a", **announced(str(number)))
        picture.until({str(number): [None] for number in range(50)})
        assert picture.messages <= 10


def test_who_comes_into_a_crowd_gets_a_state_that_what_follows_fits(server: WebMeshServer):
    """State and later messages together are who is there, however they fall."""
    with ExitStack() as stack:
        crowd = stack.enter_context(topic_peer(server))
        watchers = []
        for number in range(20):
            crowd.subscribe("room/a", **announced(str(number)))
            watchers.append(Picture(stack.enter_context(topic_peer(server)), **announced(f"w{number}")))
        everybody = {str(number): [None] for number in range(20)} | {f"w{number}": [None] for number in range(20)}
        for watcher in watchers:
            watcher.until(everybody)
        assert everybody == server.presence("room/a")


@pytest.mark.row(70)
def test_a_session_stays_while_its_peer_is_away(server: WebMeshServer):
    """Nobody flaps who only changes the network; and who was away is told of what it has missed."""
    with topic_peer(server) as watcher, topic_peer(server) as first:
        picture = Picture(watcher)
        own = Picture(first, **announced("alice"))
        picture.until({"alice": [None]})
        before = len(server.connections)
        first.cut()
        assert wait_for(lambda: len(server.connections) < before)
        with topic_peer(server) as bob:
            bob.subscribe("room/a", **announced("bob"))
            picture.until({"alice": [None], "bob": [None]})
            with topic_peer(server, resume=first.resume) as second:
                own.peer = second
                own.until({"alice": [None], "bob": [None]})
                second.send({"path": "$goodbye"})
                picture.until({"bob": [None]})


def test_the_end_of_the_session_ends_it():
    """When its time is up."""
    with running(with_rooms(timeouts=Timeouts(session=0.2))) as server:
        with topic_peer(server) as watcher, topic_peer(server) as gone:
            picture = Picture(watcher)
            gone.subscribe("room/a", **announced("gone"))
            picture.until({"gone": [None]})
            gone.cut()
            picture.until({})
        assert wait_for(lambda: not len(presence_of(server)))


def test_without_a_session_it_ends_with_the_connection(server: WebMeshServer):
    """Nothing is left of it."""
    with topic_peer(server, hello=False) as peer:
        peer.subscribe("room/a", **announced("alice"))
        assert (1, 1) == server.presence_counts("room/a")
    assert wait_for(lambda: (0, 0) == server.presence_counts("room/a"))
    assert not len(presence_of(server)) and not presence_of(server)._announced


@pytest.mark.parametrize("payload", [None, {}, {"topic": 5}, {"topic": "room/*"}, {"topic": "room/a", "counts": 1}])
def test_asking_for_it_wrongly_is_refused(server: WebMeshServer, payload: Any):
    """With a text that says why."""
    with topic_peer(server) as peer, pytest.raises(Refused) as refused:
        peer.ask("$presence", payload)
    assert "invalid_argument" == refused.value.code


def test_a_topic_has_presence_only_where_its_server_says_so(server: WebMeshServer):
    """Nothing of a subscription that asks for it stays."""
    with topic_peer(server) as peer:
        for more in ({"presence": True}, announced("alice")):
            with pytest.raises(Refused, match="without presence") as refused:
                peer.subscribe("other", **more)
            assert "invalid_argument" == refused.value.code
        with pytest.raises(Refused, match="without presence"):
            peer.ask("$presence", {"topic": "other"})
    with pytest.raises(InvalidArgument, match="without presence"):
        server.presence("other")
    assert 0 == len(server._begun.parts.topics.subscribers)


def test_there_is_a_bound_on_what_is_announced():
    """On one announcement, on those of one peer, and on all of a topic together."""
    observer = RecordingObserver()
    limits = Limits(announcements=2, presence_meta=100, presence_size=150)
    with running(with_rooms(limits=limits, observer=observer)) as server, topic_peer(server) as peer:
        codes = []
        for topic, meta in (("a", "x" * 101), ("a", "x" * 80), ("a", "x" * 80), ("b", 1), ("c", 1)):
            try:
                peer.subscribe(f"room/{topic}", **announced("k", meta))
                codes.append("ok")
            except Refused as refused:
                codes.append(refused.code)
        assert ["invalid_argument", "ok", "resource_exhausted", "ok", "resource_exhausted"] == codes
        assert {"k": ["x" * 80]} == server.presence("room/a")
        assert 2 == len(server._begun.parts.topics.subscribers)
    assert [("presence", "too many")] * 2 == observer.named("refused")


def test_who_may_not_subscribe_may_not_look(server: WebMeshServer):
    """Presence is for those who may have what is published."""
    made = WebMeshServer(authenticate=lambda credentials: Identity("alice"))
    made.topic("room/*", presence=True, subscribe=["staff"])
    with running(made), topic_peer(made, token="t") as peer:
        for ask in (lambda: peer.ask("$presence", {"topic": "room/a"}), lambda: peer.subscribe("room/a")):
            with pytest.raises(Refused) as refused:
                ask()
            assert "permission_denied" == refused.value.code
