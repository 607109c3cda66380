"""Streams that outlive their connection: what comes again, and which of them go on."""

from __future__ import annotations

import pytest
from hypothesis import given, strategies as st

from webmesh.options import Limits
from webmesh.protocol.envelope import Request
from webmesh.protocol.kept_streams import KeptStreams
from webmesh.protocol.retained import Room
from webmesh.protocol.session import Answering, Session
from webmesh.protocol.streams import ItemReceiver


def entered(streams: KeptStreams, request_id: int = 1, credit: int = 4) -> Answering:
    answering = Answering(Request("/", request_id, credit=credit), "owner", 64)
    assert streams.enter(answering)
    return answering


def sent(answering: Answering, count: int) -> None:
    for _ in range(count):
        seq = answering.sender.take()
        assert answering.sender.retained is not None
        answering.sender.retained.add(b"%d" % seq)


def missed(streams: KeptStreams, request_id: int = 1) -> list[str | bytes]:
    found = streams.missed(request_id)
    return [] if found is None else found[1]


def test_items_are_kept_until_credit_tells_that_they_were_taken() -> None:
    """No more of them than are allowed to be on their way."""
    streams = KeptStreams(Room(100), 8)
    answering = entered(streams)
    sent(answering, 4)

    answering.sender.grant(2)

    assert ([b"2", b"3"], 2) == (missed(streams), answering.sender.credit)


def test_a_receiver_goes_on_where_it_is() -> None:
    """What it has not had comes again, and it is owed the credit that it says."""
    streams = KeptStreams(Room(100), 8)
    answering = entered(streams)
    sent(answering, 3)
    streams.leave([answering])

    going, ended = streams.resume([(1, 1, 3)])

    assert ([1], []) == (going, ended)
    assert ([b"1", b"2"], 1) == (missed(streams), answering.sender.credit)


def test_credit_that_was_lost_is_made_up_for() -> None:
    """The receiver tells the credit it knows of, whatever arrived of its grants."""
    streams = KeptStreams(Room(100), 8)
    answering = entered(streams)
    sent(answering, 4)

    streams.resume([(1, 4, 4)])

    assert 4 == answering.sender.credit
    sent(answering, 4)
    answering.sender.grant(2)
    assert [b"6", b"7"] == missed(streams)


def test_items_that_wait_for_their_reader_are_not_acknowledged_twice() -> None:
    """Credit after the resume is for them first, and not for items that are on their way."""
    streams = KeptStreams(Room(100), 8)
    answering = entered(streams)
    sent(answering, 3)
    streams.resume([(1, 3, 1)])  # three have come, none has been read
    sent(answering, 1)

    answering.sender.grant(3)

    assert [b"3"] == missed(streams)


@pytest.mark.parametrize("position", [(1, 0, 9), (1, 5, 1), (1, 2, 1), (2, 3, 1)])
def test_a_stream_that_cannot_go_on_ends(position: tuple[int, int, int]) -> None:
    """Items that are gone, items that were never sent, less credit than was given, an id that is unknown."""
    streams = KeptStreams(Room(100), 8)
    answering = entered(streams)
    sent(answering, 4)
    answering.sender.grant(1)

    assert ([], [answering]) == streams.resume([position])
    assert 0 == len(streams)


def test_a_stream_that_nobody_asks_for_ends() -> None:
    """Its receiver has given it up while it was away."""
    streams = KeptStreams(Room(100), 8)
    answering = entered(streams)

    assert ([], [answering]) == streams.resume([])


def test_the_end_of_a_stream_follows_its_items() -> None:
    """And is kept until it has arrived."""
    streams = KeptStreams(Room(100), 8)
    answering = entered(streams)
    sent(answering, 2)

    streams.finish(answering, b"reply")

    assert ([b"0", b"1", b"reply"], True, []) == (missed(streams), streams.unsettled, streams.running())
    assert [1] == streams.resume([(1, 2, 2)])[0]
    assert [b"reply"] == missed(streams)
    streams.acknowledge(streams.ended)
    assert (0, False) == (len(streams), streams.unsettled)


def test_a_receipt_frees_only_the_ends_that_came_before_it() -> None:
    """The ping was sent between the two."""
    streams = KeptStreams(Room(100), 8)
    first, second = entered(streams, 1), entered(streams, 2)
    streams.finish(first, b"a")
    told = streams.ended
    streams.finish(second, b"b")

    streams.acknowledge(told)

    assert ([], [b"b"]) == (missed(streams, 1), missed(streams, 2))


@pytest.mark.row(86)
def test_streams_are_bounded() -> None:
    """Beyond the limit they end with their connection, as without a session."""
    streams = KeptStreams(Room(100), 1)
    entered(streams, 1)

    assert not streams.enter(Answering(Request("/", 2, credit=4), "owner", 64))
    assert 1 == len(streams)


def test_an_id_that_is_used_again_has_had_its_answer() -> None:
    """What was kept under it goes."""
    room = Room(100)
    streams = KeptStreams(room, 1)
    streams.finish(entered(streams, 1), b"reply")

    entered(streams, 1)

    assert ([], 0) == (missed(streams), room.taken)


def test_the_end_of_a_session_gives_back_its_room() -> None:
    """All of it."""
    room = Room(100)
    streams = KeptStreams(room, 2)
    sent(entered(streams, 1), 2)
    streams.finish(entered(streams, 2), b"reply")

    streams.clear()

    assert (0, 0, False) == (room.taken, len(streams), streams.unsettled)


def test_those_that_are_not_kept_end_with_their_connection() -> None:
    """The others wait."""
    streams = KeptStreams(Room(100), 2)
    kept, other = entered(streams, 1), Answering(Request("/", 2), "owner", 64)

    assert [other] == streams.leave([kept, other])
    assert (True, False) == (kept.away, other.away)


def test_a_conversation_takes_over_what_an_earlier_one_answered() -> None:
    """Unless its peer has used the id again."""
    session, answering = Session(Limits(), dialled=False), Answering(Request("/", 1, credit=4), "owner", 64)

    assert session.take_over(answering)
    assert session.take_over(answering)
    assert not session.take_over(Answering(Request("/", 1, credit=4), "another", 64))


Step = st.sampled_from(["send", "send", "arrive", "read", "grant", "cut"])


@given(steps=st.lists(Step, max_size=120), window=st.integers(1, 9))
def test_a_stream_goes_on_after_any_cut(steps: list[str], window: int) -> None:
    """Whatever was on its way in either direction: no item is missing, none comes twice, none is beyond the credit."""
    streams = KeptStreams(Room(10_000), 8)
    answering, receiver = entered(streams, 1, window), ItemReceiver(window)
    wire: list[int] = []
    grants: list[int] = []
    unread = 0
    for step in steps:
        if step == "send" and answering.sender.ready:
            wire.append(answering.sender.seq)
            sent(answering, 1)
        elif step == "arrive" and wire:
            assert receiver.accept(wire.pop(0)) is None
            unread += 1
        elif step == "read" and unread:
            unread -= 1
            credit = receiver.consume()
            if credit:
                grants.append(credit)
        elif step == "grant" and grants:
            answering.sender.grant(grants.pop(0))
        elif step == "cut":
            grants.clear()
            assert ([1], []) == streams.resume([(1, receiver.seq, receiver.allowance)])
            wire = [int(data) for data in missed(streams)]
        assert len(missed(streams)) <= window
