"""Fan-out: equal bytes once, order, pieces, room, and who is passed over."""

from __future__ import annotations

from collections import Counter
from typing import Any

import gevent
import pytest

from tests.topic_fakes import CountingSerializer, FakeStream, fake_peer
from webmesh import fan_out as module
from webmesh.fan_out import AT_ONCE, MOST_JOBS, FanOut
from webmesh.peer_subscriber import PeerSubscriber
from webmesh.protocol.publication import Publication
from webmesh.protocol.retained import Room
from webmesh.subscribers import PatternEntry
from webmesh.testing import RecordingObserver
from webmesh.topic_options import TopicOptions

PLAIN = TopicOptions()
MANY = 1000


class Node:
    """Peers by pattern, and a fan-out to them."""

    def __init__(self) -> None:
        self.observer = RecordingObserver()
        self.serializer = CountingSerializer()
        self.letters: list[tuple[PeerSubscriber, Any, list[int], int]] = []
        self.now = 0.0
        self.fan_out = FanOut(self.observer, self._letters, self._clock)
        self.entry = PatternEntry(("a",))
        self.streams: list[FakeStream] = []

    def _clock(self) -> float:
        """Each look at it takes longer than a fan-out may hold the hub."""
        self.now += 1.0
        return self.now

    def _letters(self, peer: PeerSubscriber) -> Any:
        class Letters:
            def put(_, publication: Publication, options: TopicOptions, subs: list[int], size: int) -> None:
                self.letters.append((peer, publication.payload, subs, size))

        return Letters()

    def peer(
        self, entry: PatternEntry | None = None, sub: int = 1, *, serializer: Any = None, room: Room | None = None
    ) -> PeerSubscriber:
        entry = self.entry if entry is None else entry
        peer, stream = fake_peer(serializer or self.serializer, room)
        if sub not in entry.ids:
            entry.ids.append(sub)
        entry.peers.setdefault((peer.serializer, sub), {})[peer] = None
        self.streams.append(stream)
        return peer

    def send(self, payload: Any, *entries: PatternEntry, options: TopicOptions = PLAIN, **more: Any) -> None:
        self.fan_out.send(Publication("a", payload, **more), options, list(entries) or [self.entry])

    def settle(self) -> None:
        """Until all pieces have gone."""
        with gevent.Timeout(10):
            while self.fan_out._jobs:
                gevent.sleep(0)


@pytest.fixture
def node() -> Node:
    return Node()


@pytest.mark.parametrize("count", [3, MANY])
def test_equal_bytes_are_written_once(node: Node, count: int) -> None:
    """One serialization and one frame, which all of them share."""
    for _ in range(count):
        node.peer()
    node.send("x")
    node.settle()
    assert 1 == node.serializer.written
    assert {("x",)} == {tuple(stream.payloads) for stream in node.streams}
    assert 1 == len({id(stream.frames[0]) for stream in node.streams})


def test_each_serializer_and_each_set_of_subscriptions_once(node: Node) -> None:
    """A peer with two subscriptions that match gets one delivery that names both."""
    other, wide = CountingSerializer(), PatternEntry(("*",))
    both = node.peer(sub=1)
    wide.peers[node.serializer, 2] = {both: None}
    node.peer(sub=1)
    node.peer(sub=1, serializer=other)
    node.send("x", node.entry, wide)
    assert (2, 1) == (node.serializer.written, other.written)
    assert [[1, 2], [1], [1]] == [stream.sent[0]["subs"] for stream in node.streams]


def test_a_second_subscription_of_one_pattern(node: Node) -> None:
    """Is named beside the first, in one delivery."""
    peer = node.peer(sub=1)
    node.entry.ids.append(2)
    node.entry.peers[node.serializer, 2] = {peer: None}
    node.send("x")
    assert [[1, 2]] == [message["subs"] for message in node.streams[0].sent]


def test_few_get_it_at_once(node: Node) -> None:
    """In the turn of the hub in which it was published."""
    for _ in range(AT_ONCE):
        node.peer()
    node.send("x")
    assert all(stream.payloads == ["x"] for stream in node.streams)


def test_many_get_it_in_pieces_and_in_order(node: Node) -> None:
    """Others run in between; what is published meanwhile comes after it, for everybody, however few that are."""
    for _ in range(MANY):
        node.peer()
    seen: list[int] = []

    def look() -> None:
        while not seen or seen[-1] < MANY:
            seen.append(sum(bool(stream.sent) for stream in node.streams))
            gevent.sleep(0)

    looking = gevent.spawn(look)
    for number in range(3):
        node.send(number)
    node.send("few", PatternEntry(("none",)))
    node.settle()
    looking.get(timeout=10)
    assert {(0, 1, 2)} == {tuple(stream.payloads) for stream in node.streams}
    assert any(0 < count < MANY for count in seen)


def test_what_goes_to_few_does_not_overtake_what_goes_to_many(node: Node) -> None:
    """The few wait for their turn."""
    few = PatternEntry(("a", "b"))
    for _ in range(MANY):
        node.peer()
    last = node.peer()
    few.peers[node.serializer, 1] = {last: None}
    node.send("first")
    node.send("second", few)
    node.settle()
    assert ["first", "second"] == node.streams[-1].payloads


def test_who_comes_later_is_not_meant_and_who_has_gone_is_passed_over(node: Node) -> None:
    """While it goes out in pieces."""
    peers = [node.peer() for _ in range(MANY)]
    node.send("x")
    peers[-1].end()
    node.peer()
    node.settle()
    assert ([], []) == (node.streams[-2].sent, node.streams[-1].sent)
    assert ["x"] == node.streams[-3].payloads


def test_who_is_away_has_it_kept(node: Node) -> None:
    """If it has a session; the others go on."""
    peers = [node.peer(room=Room(10_000)) for _ in range(MANY)]
    peers[0].leave()
    node.send("x")
    node.settle()
    assert ([], 1) == (node.streams[0].sent, peers[0].delivered)
    assert all(stream.payloads == ["x"] for stream in node.streams[1:])


def test_the_publisher_gets_no_echo(node: Node) -> None:
    """Where it asks for that, in one turn or in pieces."""
    peers = [node.peer() for _ in range(3)]
    node.send(1, publisher=peers[1].name, exclude_self=True)
    node.send(2, publisher=peers[1].name)
    assert [[1, 2], [2], [1, 2]] == [stream.payloads for stream in node.streams]


@pytest.mark.parametrize("key", [None, "k"])
def test_what_may_be_left_out_is_marked(node: Node, key: str | None) -> None:
    """Policies that drop, and conflation; a full queue is told later what it has lost."""
    peer = node.peer(room=Room(10_000))
    node.streams[0].full = True
    options = PLAIN if key else TopicOptions(slow_peer="drop_oldest")
    node.send("x", options=options, conflate_key=key)
    node.streams[0].full = False
    node.send("y", options=options, conflate_key=key)
    last = node.streams[0].sent[-1]
    assert ("y", True) == (last["data"], last["loose"])
    told = [] if key else ["gap"]  # the one thing that is counted: it must not be lost as well
    assert (told, len(told)) == ([one["event"] for one in node.streams[0].sent[:-1]], peer.delivered)


def test_what_one_form_cannot_carry_the_other_gets(node: Node) -> None:
    """Who cannot have it is told that there was something."""
    class Fussy(CountingSerializer):
        def serialize(self, obj: Any) -> Any:
            if "event" not in obj:
                raise module.EncodeError("not in this form")
            return super().serialize(obj)

    node.peer(serializer=Fussy()).tick()
    poor = next(iter(node.entry.peers.values()))
    node.peer()
    node.send("x")
    for peer in poor:
        peer.tick()
    assert ("gap", "encoding") == (node.streams[0].sent[0]["event"], node.streams[0].sent[0]["data"]["reason"])
    assert ["x"] == node.streams[1].payloads
    assert ("refused", "delivery", "not encodable") in node.observer.events


def test_others_are_given_the_publication_itself(node: Node) -> None:
    """Functions, and subscriptions that catch up."""
    taken: list[Any] = []

    class Taking:
        def take(self, publication: Publication) -> None:
            taken.append(publication.payload)

    node.entry.takers[Taking()] = None  # type: ignore[index]
    node.send("x")
    assert ["x"] == taken


@pytest.mark.parametrize("count", [3, MANY])
def test_what_must_be_acknowledged_is_put_to_the_rest(node: Node, count: int) -> None:
    """Each has its own; all count the same part of it; not who has gone."""
    peers = [node.peer() for _ in range(count)]
    node.send("x", options=TopicOptions(ack=True), publisher=peers[0].name, exclude_self=True)
    if count == MANY:
        peers[1].end()
    node.settle()
    expected = [peer for peer in peers[1:] if not peer.over]
    assert expected == [peer for peer, _, _, _ in node.letters]
    assert 1 == len({size for _, _, _, size in node.letters})
    assert [] == node.streams[1].sent


def test_who_publishes_waits_for_room(node: Node) -> None:
    """While too many publications wait for their fan-out; then all go on."""
    for _ in range(AT_ONCE + 1):
        node.peer()
    for number in range(MOST_JOBS + 1):
        node.send(number)
    waiting = [gevent.spawn(node.fan_out.wait_room) for _ in range(2)]
    gevent.sleep(0)
    assert not any(one.ready() for one in waiting)
    gevent.joinall(waiting, timeout=10, raise_error=True)
    assert all(one.ready() for one in waiting)
    node.settle()
    assert list(range(MOST_JOBS + 1)) == node.streams[-1].payloads


def test_only_who_subscribes_several_times_leaves_the_shared_path(node: Node) -> None:
    """It gets one message for all of its subscriptions; the others are sent theirs as if it were not there."""
    wide = PatternEntry(("**",))
    looked: list[Any] = []

    class Noted(PeerSubscriber):
        __slots__ = ()

        def __hash__(self) -> int:
            looked.append(self)
            return id(self) >> 4

    once = [node.peer() for _ in range(MANY)]
    for peer in once:
        peer.__class__ = Noted
    both = node.peer()
    wide.ids.append(9)
    wide.peers[(both.serializer, 9)] = {both: None}
    node.peer(wide, 9)
    del looked[:]
    node.send("x", node.entry, wide)
    node.settle()
    assert [] == looked
    subs = Counter(tuple(message["subs"]) for stream in node.streams for message in stream.sent)
    assert {(1,): MANY, (1, 9): 1, (9,): 1} == subs
