"""What peers say of their wills."""

from __future__ import annotations

import pytest

from webmesh.exceptions import InvalidArgument
from webmesh.protocol.will_request import ID_SIZE, read_will, read_will_change, read_wills, will_to_wire
from webmesh.protocol.wills import GOODBYE, UNCLEAN, Will


def test_what_is_left_out_has_its_default():
    """All ends but a goodbye, at once."""
    assert Will("w", "a/b", None, UNCLEAN, 0.0, {}) == read_will({"id": "w", "topic": "a/b"})


def test_a_will_is_read_as_it_was_written():
    """With everything that can be said of it."""
    will = Will("w", "a/b", {"x": [1]}, frozenset({GOODBYE}), 1.5, {"key": "k"})
    assert will == read_will(will_to_wire(will))


def test_a_change_sets_or_revokes():
    """One or the other; `revoke` that is null says nothing."""
    assert "w" == read_will_change({"id": "w", "revoke": True})
    assert Will("w", "a", 1) == read_will_change({"id": "w", "topic": "a", "data": 1, "revoke": None})


def test_of_several_with_one_id_the_last_holds():
    """As if they had been set one after another."""
    wills = [{"id": "w", "topic": "a"}, {"id": "v", "topic": "b"}, {"id": "w", "topic": "c"}]
    assert [("w", "c"), ("v", "b")] == [(will.id, will.topic) for will in read_wills(wills)]


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"id": "x" * (ID_SIZE + 1)}, "the id of a will"), ({"id": "a\n"}, "the id of a will"),
        ({"topic": "a//b"}, "segment is empty"), ({"topic": 5}, "a topic is text"), ({"on": [1]}, "list of reasons"),
        ({"on": ["no"]}, "one or more of"), ({"delay_ms": float("inf")}, "milliseconds"),
        ({"headers": {"a": 1}}, "text to text"), ({"headers": {"ttl-ms": "x"}}, "ttl-ms"),
        ({"headers": {"will": "lost"}}, "set by the node"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_said(wrong, said):
    """In words for who wrote the client."""
    with pytest.raises(InvalidArgument, match=said):
        read_will({"id": "w", "topic": "a"} | wrong)


@pytest.mark.parametrize("wire", [None, "w", [], 7])
def test_a_will_is_a_map(wire):
    """And the wills of a hello are a list of them."""
    with pytest.raises(InvalidArgument, match="is a map"):
        read_will_change(wire)
    with pytest.raises(InvalidArgument):
        read_wills([wire])
    with pytest.raises(InvalidArgument):
        read_wills({"id": "w"})
