"""Counting items and credit at both ends of a stream."""

from __future__ import annotations

import pytest
from hypothesis import given, strategies as st

from webmesh.protocol.streams import ItemReceiver, ItemSender


def test_sender_without_a_bound_is_always_ready():
    """No credit in the request means that only TCP bounds the sender."""
    sender = ItemSender(None)

    numbers = [sender.take() for _ in range(1000)]

    assert list(range(1000)) == numbers
    assert sender.ready


def test_sender_stops_when_its_credit_is_spent():
    """Each item costs one credit."""
    sender = ItemSender(2)

    sender.take()
    assert sender.ready
    sender.take()

    assert not sender.ready


def test_granted_credit_makes_a_sender_ready_again():
    """The receiver decides how many items may be on their way."""
    sender = ItemSender(0)

    sender.grant(3)

    assert 3 == sender.credit
    assert 0 == sender.take()


def test_credit_is_not_counted_where_there_is_no_bound():
    """A grant to an unbounded sender changes nothing: it does not become bounded by it."""
    sender = ItemSender(None)

    sender.grant(1)
    sender.take()

    assert sender.ready


@pytest.mark.parametrize("seq", [1, 2**40])
def test_an_item_out_of_order_is_a_fault(seq: int):
    """Items come numbered from 0 without a gap."""
    receiver = ItemReceiver(4)

    assert f"item {seq} came where item 0 was due" == receiver.accept(seq)


def test_a_repeated_item_is_a_fault():
    """The same number twice means that the sender has lost count."""
    receiver = ItemReceiver(4)
    receiver.accept(0)

    assert "item 0 came where item 1 was due" == receiver.accept(0)


@pytest.mark.row(51)
def test_an_item_beyond_the_credit_is_a_fault():
    """A peer cannot fill our memory with items that nobody has taken."""
    receiver = ItemReceiver(2)
    assert receiver.accept(0) is None
    assert receiver.accept(1) is None

    assert "item 2 is beyond the credit of 2" == receiver.accept(2)


def test_credit_goes_back_in_halves_of_the_window():
    """One message for many items, and the sender never runs dry while the reader keeps up."""
    receiver = ItemReceiver(8)
    for seq in range(8):
        receiver.accept(seq)

    assert [0, 0, 0, 4, 0, 0, 0, 4] == [receiver.consume() for _ in range(8)]


@given(window=st.integers(1, 200), reads=st.lists(st.booleans(), max_size=400))
def test_a_sender_that_keeps_to_its_credit_is_never_faulted(window: int, reads: list[bool]):
    """Whatever the order of sending and reading, both ends agree about the credit."""
    sender, receiver, unread = ItemSender(window), ItemReceiver(window), 0
    for read in reads:
        if read and unread:
            unread -= 1
            credit = receiver.consume()
            if credit:
                sender.grant(credit)
        elif not read and sender.ready:
            assert receiver.accept(sender.take()) is None
            unread += 1
        assert unread <= window


@given(window=st.integers(1, 200), items=st.integers(0, 500))
def test_reading_everything_never_leaves_a_sender_dry(window: int, items: int):
    """When all that was sent has been read, at least half of the window may be sent again."""
    sender, receiver = ItemSender(window), ItemReceiver(window)
    for _ in range(items):
        assert sender.ready
        receiver.accept(sender.take())
        credit = receiver.consume()
        if credit:
            sender.grant(credit)
