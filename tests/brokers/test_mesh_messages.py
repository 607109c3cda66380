"""What nodes send each other of publications: the same comes out, whatever the clocks say; and nothing else gets in."""

from __future__ import annotations

from typing import Any

import pytest

from tests.brokers.contract import WORK, message
from webmesh.brokers import mesh_messages as messages
from webmesh.brokers.base import Accepted, History, Keep, Since
from webmesh.exceptions import InvalidArgument


def test_a_publication_is_as_old_there_as_it_was_here() -> None:
    """No two nodes share a clock: its age is sent, and its time goes on."""
    sent = message("a/b", {"x": [1]}, ttl_ms="5000", dedupe_id="d", mine="y")
    sent.at, sent.offset, sent.epoch, sent.retained = 100.0, 7, "e", True
    read = messages.read_wire(messages.publication_to_wire(sent, 103.0), 9000.0)
    assert (8997.0, 2000) == (read.at, read.left_ms(9000.0))
    read.at = sent.at
    assert sent == read


@pytest.mark.parametrize(
    "write, read, value",
    [
        (messages.keep_to_wire, messages.read_keep, Keep(5, 2.5, True, True)),
        (messages.keep_to_wire, messages.read_keep, Keep()),
        (messages.group_to_wire, messages.read_group, WORK),
        (messages.accepted_to_wire, messages.read_accepted, Accepted(3, "e", True)),
        (messages.since_to_wire, messages.read_since, Since(4, "e")),
        (messages.since_to_wire, messages.read_since, Since(seconds=2.0)),
    ],
)
def test_what_was_written_is_read(write: Any, read: Any, value: object) -> None:
    """Of each kind."""
    assert value == read(write(value))


def test_a_history_is_read_as_it_was_written() -> None:
    """With its publications."""
    item = message()
    item.offset, item.epoch, item.at = 3, "e", 1.0
    history = History([item], 3, "e", True)
    assert history == messages.read_history(messages.history_to_wire(history, 1.0), 1.0)


BAD = [None, 5, [], {}, "x"]


@pytest.mark.parametrize("wire", [*BAD, {"topic": ""}, {"topic": 5, "age": 1}, {"topic": "a", "age": -1}])
def test_what_is_no_publication_is_refused(wire: object) -> None:
    """It came from another node, perhaps of another version."""
    with pytest.raises(InvalidArgument):
        messages.read_wire(wire, 0.0)


@pytest.mark.parametrize(
    "change",
    [
        {"headers": {"a": 1}}, {"headers": []}, {"publisher": 5}, {"offset": "1"}, {"offset": 1, "epoch": 5},
        {"age": float("nan")}, {"age": True}, {"headers": {"ttl-ms": "x"}},
    ],
)  # fmt: skip
def test_parts_that_make_no_sense_are_refused(change: dict[str, Any]) -> None:
    """Each of them."""
    with pytest.raises(InvalidArgument):
        messages.read_wire({"topic": "a", "age": 0.0} | change, 0.0)


@pytest.mark.parametrize("read", [messages.read_keep, messages.read_group, messages.read_accepted, messages.read_since])
@pytest.mark.parametrize("wire", [None, 5, [], [1, 2], ["a" + 32 * "/b", "g"], ["a", "g" * 1025], "x"])
def test_other_parts_likewise(read: Any, wire: object) -> None:
    """Whatever came instead of them."""
    with pytest.raises(InvalidArgument):
        read(wire)


@pytest.mark.parametrize(
    "read, wire",
    [
        (messages.read_accepted, ["1", None, False]), (messages.read_accepted, [1, 5, False]),
        (messages.read_accepted, [1, "e", None]), (messages.read_accepted, [-1, "e", False]),
        (messages.read_since, ["1", None, None]), (messages.read_since, [1, 5, None]),
        (messages.read_since, [None, None, float("nan")]), (messages.read_since, [None, None, -1]),
        (messages.read_keep, {"history": 10**18}), (messages.read_keep, {"history": 1, "ttl": 10**400}),
        (messages.read_places, [["a", -1]]), (messages.read_places, [["a", 10**18]]), (messages.read_places, [[5, 1]]),
    ],
)  # fmt: skip
def test_numbers_are_bounded_and_of_their_kind(read: Any, wire: object) -> None:
    """Before anything is done with them."""
    with pytest.raises(InvalidArgument):
        read(wire)


@pytest.mark.parametrize("wire", [None, "a", [5], [""], ["a" * 513], ["a" + 32 * "/b"], ["a"] * 20_001])
def test_patterns_are_texts(wire: object) -> None:
    """In a list."""
    assert [("a", "*")] == messages.read_patterns(["a/*"])
    with pytest.raises(InvalidArgument):
        messages.read_patterns(wire)
