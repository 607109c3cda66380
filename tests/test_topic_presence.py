"""One topic's presence, and when its subscribers are told."""

from __future__ import annotations

import json
from typing import Any

import gevent
import pytest

from tests.running import wait_for
from webmesh import topic_presence
from webmesh.exceptions import EncodeError
from webmesh.message_serializers import StandardJsonSerializer
from webmesh.testing import RecordingObserver
from webmesh.topic_presence import Seat, TopicPresence


class Peer:
    """Stands for a `PeerSubscriber`: keeps what is delivered."""

    def __init__(self, serializer: Any) -> None:
        self.serializer = serializer
        self.told: list[dict[str, Any]] = []

    def deliver(self, message: tuple[Any, int], frame: bytes, policy: str) -> bool:
        assert "close" == policy
        self.told.append(json.loads(message[0])["data"])
        return True


class Counting(StandardJsonSerializer):
    """Counts, and cannot write the word "unspeakable"."""

    calls = 0

    def serialize(self, message: object) -> str:
        self.calls += 1
        if "unspeakable" in repr(message):
            raise EncodeError("unspeakable")
        return super().serialize(message)


@pytest.fixture
def observer() -> RecordingObserver:
    return RecordingObserver()


@pytest.fixture
def changes() -> list[TopicPresence]:
    return []


@pytest.fixture
def topic(observer: RecordingObserver, changes: list[TopicPresence], monkeypatch: pytest.MonkeyPatch) -> TopicPresence:
    monkeypatch.setattr(topic_presence, "BATCH", 0.05)
    return TopicPresence("t", observer, changes.append)


def watching(topic: TopicPresence, serializer: Any = None, *, begun: bool = True) -> tuple[Peer, Seat]:
    peer = Peer(serializer or Counting())
    seat = Seat(topic, peer, 1, lambda seat: topic.watchers.pop(seat, None))  # type: ignore[arg-type]
    topic.watch(seat)
    if begun:
        seat.begin()
    return peer, seat


def test_the_first_change_is_told_at_once_and_the_next_ones_together(topic: TopicPresence):
    """Who came and went meanwhile is left out."""
    peer, _ = watching(topic)
    topic.come(("n", "a"), "a", 1)
    gevent.sleep(0)
    assert [{"joined": {"a": [1]}, "left": {}}] == peer.told
    for name in ("b", "c", "d"):
        topic.come(("n", name), name, None)
    topic.go(("n", "d"))
    topic.go(("n", "a"))
    gevent.sleep(0)
    assert 1 == len(peer.told)
    assert wait_for(lambda: len(peer.told) == 2)
    assert {"joined": {"b": [None], "c": [None]}, "left": {"a": [1]}} == peer.told[1]


def test_equal_bytes_are_made_once(topic: TopicPresence):
    """For all who speak alike and know their subscription by the same number."""
    serializer = Counting()
    peers = [watching(topic, serializer)[0] for _ in range(200)]
    topic.come(("n", "a"), "a", 1)
    assert wait_for(lambda: all(peer.told for peer in peers))
    assert 1 == serializer.calls


def test_nothing_comes_before_the_state(topic: TopicPresence):
    """What changes before it is on its way follows it."""
    peer, seat = watching(topic, begun=False)
    topic.come(("n", "a"), "a", 1)
    gevent.sleep(0)
    assert [] == peer.told
    seat.begin()
    assert [{"joined": {"a": [1]}, "left": {}}] == peer.told


def test_a_newcomer_gets_the_state_of_the_last_message(topic: TopicPresence):
    """So that the next one, which is the same for all, fits it."""
    watching(topic)
    topic.come(("n", "a"), "a", 1)
    topic.come(("n", "b"), "b", 2)
    topic.go(("n", "a"))
    late = Peer(Counting())
    seat = Seat(topic, late, 1, lambda seat: None)  # type: ignore[arg-type]
    assert {"a": [1]} == topic.watch(seat)
    seat.begin()
    assert wait_for(lambda: late.told)
    assert [{"joined": {"b": [2]}, "left": {"a": [1]}}] == late.told


def test_who_has_left_is_told_no_more(topic: TopicPresence):
    """Not even what was held for it."""
    peer, seat = watching(topic, begun=False)
    topic.come(("n", "a"), "a", 1)
    gevent.sleep(0)
    seat.leave()
    seat.begin()
    assert [] == peer.told


def test_what_cannot_be_written_for_some_is_told_to_the_others(topic: TopicPresence, observer: RecordingObserver):
    """It is counted."""
    deaf, _ = watching(topic, Counting())
    hearing, _ = watching(topic, StandardJsonSerializer())
    topic.come(("n", "a"), "unspeakable", 1)
    assert wait_for(lambda: hearing.told)
    assert [] == deaf.told
    assert [("delivery", "not encodable")] == observer.named("refused")


def test_only_members_of_this_node_are_news_for_others(topic: TopicPresence, changes: list[TopicPresence]):
    """Those of other nodes they know from there."""
    topic.come(("other", "a"), "a", 1)
    assert ([], True) == (changes, topic.idle)
    topic.come(("n", "b"), "b", 2, local=True)
    assert ([topic], {"b": ("b", 2)}, False) == (changes, topic.local, topic.idle)
    topic.go(("n", "b"), local=True)
    assert ([topic, topic], {}, True) == (changes, topic.local, topic.idle)
