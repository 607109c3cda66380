"""What waits for a slow subscriber."""

from __future__ import annotations

from typing import Any

import pytest

from webmesh.exceptions import ConfigurationError
from webmesh.message_queue import MessageQueue, Overflow
from webmesh.messages import Message


def message(payload: Any, **more: Any) -> Message:
    return Message(payload, "t", **more)


def filled(overflow: Overflow, count: int, most: int = 3) -> MessageQueue:
    queue = MessageQueue(most, overflow, "t/*")
    for number in range(count):
        queue.put(message(number))
    return queue


def shown(queue: MessageQueue) -> list[Any]:
    return [("gap", one.topic, one.payload["lost"]) if one.event == "gap" else one.payload for one in queue.clear()]


@pytest.mark.parametrize(
    ("overflow", "expected"),
    [
        ("drop_oldest", [("gap", "t/*", 5), 5, 6, 7]),
        ("drop_newest", [0, 1, 2, ("gap", "t/*", 5)]),
        ("close", [0, 1, 2]),
    ],
)
def test_what_has_no_room_is_counted_where_it_would_stand(overflow: Overflow, expected: list[Any]) -> None:
    """One gap for several that are lost in a row."""
    queue = filled(overflow, 8)
    assert (overflow == "close") is queue.overflowed
    assert expected == shown(queue)


def test_a_gap_is_closed_when_there_was_room_again() -> None:
    """What is lost later has a gap of its own."""
    queue = filled("drop_newest", 4)
    assert 0 == queue.pop().payload
    queue.pop()
    for number in (4, 5, 6):
        queue.put(message(number))
    assert [2, ("gap", "t/*", 1), 4, ("gap", "t/*", 2)] == shown(queue)


def test_what_asks_for_an_acknowledgement_is_never_dropped() -> None:
    """Nor are events: others go."""
    queue = MessageQueue(2, "drop_oldest", "t")
    queue.put(message("kept", acknowledge=lambda error: None))
    queue.put(message("first"))
    queue.put(message("second"))
    queue.put(message("event", event="presence"))
    queue.put(message("kept too", acknowledge=lambda error: None))
    assert ["kept", ("gap", "t", 1), "second", "event", "kept too"] == shown(queue)


def test_the_new_one_goes_where_all_that_wait_must_stay() -> None:
    """And is counted."""
    queue = MessageQueue(1, "drop_oldest", "t")
    queue.put(message("kept", acknowledge=lambda error: None))
    queue.put(message(1))
    queue.put(message(2))
    assert ["kept", ("gap", "t", 2)] == shown(queue)


def test_some_at_a_time() -> None:
    """As many as are asked for, and there are."""
    queue = filled("drop_oldest", 3)
    assert ([0, 1], 2) == ([one.payload for one in queue.take(2)], queue.room)
    assert (1, False) == (len(queue), queue.full)


@pytest.mark.parametrize(("most", "overflow"), [(0, "drop_oldest"), (True, "drop_oldest"), (1, "never")])
def test_what_makes_no_sense_is_refused(most: Any, overflow: Any) -> None:
    """At once."""
    with pytest.raises(ConfigurationError):
        MessageQueue(most, overflow, "t")
