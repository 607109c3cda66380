"""What a client makes of what comes of topics."""

from __future__ import annotations

from typing import Any

import pytest

from webmesh.messages import HistoryPage, Message, Position
from webmesh.protocol.envelope import TopicMessage
from webmesh.topic_arrivals import Arrival, flight_of, is_complete, read_message, read_page, read_position


@pytest.mark.parametrize(
    "answer", [None, [], {"items": 3}, {"items": [None, 3], "offset": "x", "epoch": None}]
)
def test_a_page_is_read_with_distrust(answer: Any) -> None:
    """Whatever makes no sense in it counts as not there."""
    assert HistoryPage([], 0, "", True) == read_page("a", answer)


def test_a_page_has_messages_with_their_positions() -> None:
    """A node that does not say whether it is complete is believed to be."""
    page = read_page("a", {"items": [{"data": 1, "offset": 3, "headers": {"x": "y"}}], "offset": 4, "epoch": 7})
    (message,) = page.items
    assert (1, {"x": "y"}, Position(3, "7")) == (message.payload, message.headers, message.position)
    assert (4, "7", True) == (page.offset, page.epoch, page.complete)
    assert not read_page("a", {"items": [], "complete": False}).complete


@pytest.mark.parametrize(
    ("offsets", "newest", "epoch", "complete", "expected"),
    [
        ((4, 5), 5, "e", True, True),
        ((), 3, "e", True, True),
        ((5,), 5, "e", True, True),  # the time of 4 was over
        ((), 5, "e", True, True),  # of all of them
        ((4,), 4, "f", True, False),
        ((4,), 4, "e", False, False),
        ((), 2, "e", True, False),  # a numbering that has gone back
    ],
)
def test_a_page_is_complete_if_nothing_is_missing_after_a_position(
    offsets: tuple[int, ...], newest: int, epoch: str, complete: bool, expected: bool
) -> None:
    """The node is believed, if it numbers as before."""
    page = HistoryPage([Message(0, "a", offset=offset, epoch=epoch) for offset in offsets], newest, epoch, complete)
    assert expected is is_complete(page, Position(3, "e"))


def test_what_is_known_of_a_delivery_that_comes_again() -> None:
    """Its number, or its dedupe id; without either it is another one."""
    assert ("a", "e", 3) == flight_of(TopicMessage("a", offset=3, epoch="e", headers={"dedupe-id": "x"}))
    assert ("a", "x", 0) == flight_of(TopicMessage("a", headers={"dedupe-id": "x"}))
    assert flight_of(TopicMessage("a")) is None


def test_a_message_tells_the_node_of_its_end_and_before_that_us() -> None:
    """By the acknowledgement of its latest delivery."""
    told: list[Any] = []
    arrival = Arrival(lambda error: told.append("first"), lambda error: told.append("here"))
    message = read_message(TopicMessage("a", 1, 7, offset=3, epoch=4, attempt=2), arrival)
    arrival.acknowledge = lambda error: told.append("latest")
    message.ack()
    assert (["here", "latest"], 2, "4") == (told, message.attempt, message.epoch)


def test_a_position_needs_both_of_its_parts() -> None:
    """Otherwise the topic is not numbered."""
    assert Position(0, "7") == read_position({"offset": 0, "epoch": 7})
    assert read_position({"offset": "0", "epoch": "e"}) is None
    assert read_position({"offset": 0}) is None
