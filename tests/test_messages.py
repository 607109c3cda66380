"""What subscribers see."""

import pytest

from webmesh.messages import Message, Position


def test_a_message_is_acknowledged_once():
    """By hand, or by the end of its handling: whichever is first."""
    told: list[object] = []
    message = Message(1, "a/b", acknowledge=told.append)
    error = ValueError("no")
    assert message.wants_ack
    message.ack()
    message.reject(error)
    message.ack()
    assert [None] == told
    assert not message.wants_ack


def test_a_message_can_be_rejected():
    """Then its error is told."""
    told: list[object] = []
    error = ValueError("no")
    Message(1, "a/b", acknowledge=told.append).reject(error)
    assert [error] == told


def test_a_message_that_nobody_waits_for_can_be_acknowledged_all_the_same():
    """So a handler need not know how its topic is kept."""
    message = Message(1, "a/b")
    message.ack()
    message.reject(ValueError("no"))
    assert not message.wants_ack


@pytest.mark.parametrize(
    ("offset", "epoch", "position"), [(3, "e", Position(3, "e")), (None, None, None), (3, None, None)]
)
def test_a_position_is_where_a_numbered_message_stands(offset, epoch, position):
    """One without a number has none."""
    assert position == Message(1, "a", offset=offset, epoch=epoch).position


def test_a_will_says_why_it_fired():
    """By a header that only nodes set."""
    assert "lost" == Message(1, "a", {"will": "lost"}).will
    assert Message(1, "a").will is None


def test_a_message_shows_no_payload():
    """It may be logged, and payloads may hold anything."""
    assert "<Message a/b offset=3 retained>" == repr(Message("secret", "a/b", offset=3, epoch="e", retained=True))
    assert "<Message gap of a/b>" == repr(Message({"reason": "slow"}, "a/b", event="gap"))
