"""Whom to ask next, and what no answer means."""

from __future__ import annotations

from random import Random

from webmesh.options import GossipSettings
from webmesh.protocol.probing import WORST_HEALTH, Prober


def prober() -> Prober:
    return Prober(GossipSettings(), Random(1))


def test_each_node_is_asked_once_before_any_is_asked_again() -> None:
    """So that the time until a dead one is asked is bounded."""
    asker, nodes = prober(), [f"n{number}" for number in range(20)]

    rounds = [[asker.next_target(nodes) for _ in nodes] for _ in range(3)]

    assert all(set(nodes) == set(asked) for asked in rounds)
    assert rounds[0] != rounds[1]


def test_who_has_gone_is_not_asked() -> None:
    """And where nobody is, nobody is."""
    asker = prober()
    asker.next_target(["a", "b", "c"])

    assert {"b"} == {asker.next_target(["b"]) for _ in range(4)}
    assert asker.next_target([]) is None


def test_one_that_joins_is_asked_in_this_round() -> None:
    """At a random place of it."""
    asker, nodes = prober(), [f"n{number}" for number in range(10)]
    asker.next_target(nodes)
    asker.joined("new")

    assert "new" in [asker.next_target([*nodes, "new"]) for _ in range(10)]


def test_a_lost_link_is_asked_at_once() -> None:
    """Once, unless it shows life before."""
    asker = prober()
    asker.hurry("a")
    asker.hurry("b")
    asker.hurry("a")
    asker.settle("b")

    assert ["a"] == asker.take_urgent()
    assert [] == asker.take_urgent()


def test_the_last_no_of_those_who_were_asked_decides() -> None:
    """Each counts once; one that was not asked does not count."""
    asker = prober()
    asked = asker.ask_others("x", ["x", "a", "b", "c", "d", "e"])

    assert 3 == len(asked) and "x" not in asked
    assert [False, False, False] == [asker.told("x", by, answer=True) for by in (asked[0], asked[0], "z")]
    assert [False, True] == [asker.told("x", by, answer=False) for by in asked[1:]]
    assert 0 == asker.health


def test_a_yes_ends_the_round() -> None:
    """What comes after it means nothing."""
    asker = prober()
    asked = asker.ask_others("x", ["a", "b"])
    asker.settle("x")

    assert not any(asker.told("x", by, answer=False) for by in asked)


def test_when_nobody_answers_it_doubts_itself() -> None:
    """Its own network may be what is broken: it gives the others more time, up to a bound."""
    asker = prober()
    best = asker.timeout
    for by in asker.ask_others("x", ["a", "b", "c"]):
        asker.told("x", by, answer=False)
    assert (1, 2 * best) == (asker.health, asker.timeout)

    asker.doubt(100)
    assert WORST_HEALTH == asker.health
    asker.doubt(-100)
    assert best == asker.timeout


def test_with_nobody_to_ask_there_is_no_round() -> None:
    """Two nodes have only each other."""
    assert [] == prober().ask_others("x", ["x"])
