"""What is kept to be sent once more: numbers, room, and links that are cut at any byte."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest
from hypothesis import given, strategies as st

from webmesh.protocol import envelope
from webmesh.protocol.envelope import Notification
from webmesh.protocol.events import Dropped, PositionLost
from webmesh.protocol.retained import Received, Retained, Room
from webmesh.message_serializers import MessagePackSerializer
from webmesh.testing import memory_pair


def filled(*messages: bytes, limit: int = 100) -> Retained:
    retained = Retained(Room(limit))
    for message in messages:
        retained.add(message)
    return retained


def test_what_was_not_acknowledged_can_be_had_again() -> None:
    """In order, from any position that the other side may be at."""
    retained = filled(b"a", b"b", b"c")

    assert [b"b", b"c"] == list(retained.after(1) or ())
    retained.acknowledge(2)

    assert (2, 3) == (retained.first, retained.next)
    assert [b"c"] == list(retained.after(2) or ())
    assert [] == list(retained.after(3) or ())


@pytest.mark.parametrize("received", [0, 1, 4])
def test_a_position_that_is_gone_or_to_come_is_none(received: int) -> None:
    """Whoever is there cannot go on without a gap."""
    retained = filled(b"a", b"b", b"c")
    retained.acknowledge(2)

    assert retained.after(received) is None


def test_a_receipt_for_more_than_was_sent_frees_only_what_was() -> None:
    """A peer's number cannot acknowledge what is still to come."""
    retained = filled(b"a")

    retained.acknowledge(99)
    retained.add(b"b")

    assert [b"b"] == list(retained.after(1) or ())


def test_without_room_the_oldest_go() -> None:
    """The other side has them, most likely; if not, it cannot go on."""
    retained = filled(b"12345", b"67890", limit=10)

    assert not retained.add(b"x")

    assert (1, 3) == (retained.first, retained.next)
    assert retained.after(0) is None
    assert [b"67890", b"x"] == list(retained.after(1) or ())


def test_what_is_larger_than_the_room_is_not_kept() -> None:
    """It counts, so the position behind it is a valid one."""
    room = Room(4)
    retained = Retained(room)
    retained.add(b"a")

    assert not retained.add(b"12345")

    assert (0, 2, 2) == (room.taken, retained.first, retained.next)
    assert retained.after(1) is None
    assert retained.add(b"b")


def test_room_is_shared() -> None:
    """Everything of one session is bounded together."""
    room = Room(10)
    one, other = Retained(room), Retained(room)
    one.add(b"12345678")

    assert not other.add(b"123")
    one.clear()

    assert other.add(b"123")
    assert one.after(0) is None
    assert 3 == room.taken


def test_received_messages_are_counted_once() -> None:
    """One that comes again is known by its number, and so is one that comes too early."""
    received = Received()

    assert [True, True, False, False, None, True] == [received.accept(number) for number in (1, 2, 2, 1, 4, 3)]
    assert 3 == received.count


@pytest.mark.row(72)
def test_a_conversation_drops_what_was_received_before() -> None:
    """And tells when something is missing; where no session was agreed the number means nothing."""
    peer, _ = memory_pair()
    assert Notification("/", "x", None, 9) == peer.session.receive({"path": "/", "data": "x", "kept": 9})
    peer.session.received = Received()

    assert Notification("/", "x", None, 1) == peer.session.receive({"path": "/", "data": "x", "kept": 1})
    assert Dropped("kept message again") == peer.session.receive({"path": "/", "data": "x", "kept": 1})
    assert PositionLost(3) == peer.session.receive({"path": "/", "data": "x", "kept": 3})
    assert Dropped("kept message again") == peer.session.receive({"topic": "/t", "data": "x", "kept": 1})


@dataclass
class Link:
    """A server's session and a client's over links that are cut; the pure parts of both, and real frames."""

    retained: Retained
    received: Received = field(default_factory=Received)
    seen: list[int] = field(default_factory=list)
    numbers: int = 0
    resumed: bool = True

    def dial(self) -> None:
        self.client, self.server = memory_pair()
        self.client.session.received = self.received

    def send(self) -> None:
        self.numbers += 1
        message = {**envelope.notification("/n", self.numbers), "kept": self.retained.next + 1}
        self.retained.add(MessagePackSerializer().serialize(message))
        self.server.send(message)

    def arrive(self, size: int | None) -> None:
        for event in self.client.receive(size):
            if isinstance(event, Notification):
                self.seen.append(event.data)
            else:
                assert isinstance(event, Dropped)

    def cut(self, delivered: int) -> None:
        """The link ends after so many bytes of what is on its way; the client comes back."""
        self.arrive(min(delivered, len(self.client.wire)))
        self.dial()
        missed = self.retained.after(self.received.count)
        if missed is None:
            self.resumed = False
            return
        for data in missed:
            self.server.send(MessagePackSerializer().deserialize(data))  # type: ignore[arg-type]


Step = st.one_of(
    st.just("send"), st.just("receipt"), st.tuples(st.just("arrive"), st.integers(0, 60)),
    st.tuples(st.just("cut"), st.integers(0, 120)),
)  # fmt: skip


@pytest.mark.row(72)
@given(steps=st.lists(Step, max_size=60), limit=st.sampled_from([40, 100, 10_000]))
def test_every_kept_message_is_seen_once_or_the_loss_is_told(steps: list[object], limit: int) -> None:
    """Wherever the link is cut, and however often: the client sees what was kept once and in order, up to a resume that
    was refused."""
    link = Link(Retained(Room(limit)))
    link.dial()
    for step in steps:
        if step == "send":
            link.send()
        elif step == "receipt":  # a pong: what the client has counted by now has arrived
            link.retained.acknowledge(link.received.count)
        else:
            getattr(link, step[0])(step[1])  # type: ignore[index]
        assert list(range(1, len(link.seen) + 1)) == link.seen
        if not link.resumed:
            return
    link.cut(0)
    if link.resumed:
        link.arrive(None)
        assert list(range(1, link.numbers + 1)) == link.seen
