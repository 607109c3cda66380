"""Councils: which of two counts, who decides, and what is believed of one that came from a peer."""

from __future__ import annotations

from typing import Any

import pytest

from webmesh.exceptions import InvalidArgument
from webmesh.protocol.council import Council, read_council

COUNCIL = Council(1, "a", 2, 3, ("a", "b"), ("a",))


def test_a_council_reads_as_it_was_written() -> None:
    """Whatever else stands in its map."""
    assert COUNCIL == read_council(COUNCIL.to_wire() | {"more": 1})


@pytest.mark.parametrize(
    "change",
    [
        {"founded": "x"}, {"term": -1}, {"version": 2**60}, {"founder": ""}, {"voters": []}, {"voters": ["a", "a"]},
        {"voters": ["a", 5]}, {"keepers": ["z"]}, {"voters": "ab"}, {"founder": ["a"]}, {"voters": ["x"] * 2000},
    ],
)  # fmt: skip
def test_what_is_no_council_is_refused(change: dict[str, Any]) -> None:
    """It came from a peer."""
    with pytest.raises(InvalidArgument):
        read_council(COUNCIL.to_wire() | change)
    with pytest.raises(InvalidArgument):
        read_council(None)


def test_the_later_of_one_line_counts_by_its_leader_s_term_first() -> None:
    """Whatever its version: it is the one that a majority has come to know."""
    later = COUNCIL.following(3)
    assert COUNCIL.gives_way(later) and not later.gives_way(COUNCIL)
    long = COUNCIL.following(2).following(2).following(2)
    assert long.gives_way(COUNCIL.following(3))


def test_of_two_lines_the_one_with_several_voters_counts_and_then_the_older_one() -> None:
    """A node that started alone gives way to a mesh, though it be older."""
    alone, older = Council.of_one("x", 0), Council(0, "y", 1, 1, ("y", "z"), ("y",))
    assert alone.gives_way(COUNCIL) and not COUNCIL.gives_way(alone)
    assert COUNCIL.gives_way(older) and not older.gives_way(COUNCIL)
    assert Council.of_one("b", 2).gives_way(Council.of_one("a", 1))


@pytest.mark.parametrize(
    "voters, votes, dead, decides",
    [
        ("abc", "ab", "", True), ("abc", "a", "", False), ("ab", "a", "", False), ("ab", "a", "b", True),
        ("abcd", "ab", "", False), ("abcd", "ab", "d", True), ("abc", "xyz", "", False), ("a", "a", "", True),
    ],
)  # fmt: skip
def test_more_than_half_of_those_that_may_live_decide(voters: str, votes: str, dead: str, decides: bool) -> None:
    """The dead have no vote; nor has who is no voter."""
    council = Council(1, "a", 1, 1, tuple(voters), ())
    assert decides is council.decides(set(votes), set(dead))


def test_a_keeper_that_is_no_voter_any_more_keeps_nothing() -> None:
    """And each is named once."""
    made = COUNCIL.following(4, voters="bc", keepers="bba")
    assert (("b", "c"), ("b",), 4, 4) == (made.voters, made.keepers, made.term, made.version)
