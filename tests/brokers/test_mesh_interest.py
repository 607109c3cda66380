"""MeshInterest: which nodes want what."""

import pytest

from webmesh.brokers import mesh_interest
from webmesh.brokers.mesh_interest import MeshInterest

A, B, ALL = ("a",), ("b", "*"), ("**",)


def test_nodes_are_known_by_what_they_have_told_last() -> None:
    """More, less, or everything anew."""
    interest = MeshInterest()
    interest.told("x", [A, B], [], all=True)
    interest.told("y", [ALL], [], all=False)
    assert {"x", "y"} == interest.nodes(("a",)) == interest.nodes(("b", "c"))
    interest.told("x", [], [A, ("never",)], all=False)
    assert {"y"} == interest.nodes(("a",))
    interest.told("x", [A], [], all=True)
    assert ({"x", "y"}, {"y"}) == (interest.nodes(("a",)), interest.nodes(("b", "c")))


def test_one_that_is_gone_wants_nothing() -> None:
    """Nor has it groups."""
    interest = MeshInterest()
    interest.told("x", [ALL], [], all=True)
    interest.told_groups("x", [B])
    assert interest.grouped(("b", "c")) and not interest.grouped(("a",))
    interest.forget("x")
    interest.forget("x")
    assert set() == interest.nodes(("a",)) and not interest.grouped(("b", "c"))


def test_groups_are_those_that_were_told_last() -> None:
    """A pattern that is left out has none any more."""
    interest = MeshInterest()
    interest.told_groups("x", [A, B])
    interest.told_groups("x", [B])
    assert not interest.grouped(("a",)) and interest.grouped(("b", "c"))


def test_one_that_wants_too_much_counts_as_wanting_everything(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Its patterns must not fill the memory of others, and nothing may be missed for that, whatever it says next."""
    monkeypatch.setattr(mesh_interest, "NODE_SIZE", 700)
    interest = MeshInterest()
    interest.told("x", [(f"p{number}",) for number in range(4)], [], all=True)
    assert {"x"} == interest.nodes(("anything",)) and 0 == len(interest._wanted.trie)
    assert "wanting everything" in caplog.text
    interest.told("x", [A], [], all=False)
    assert {"x"} == interest.nodes(("anything",))
    interest.told("x", [A], [], all=True)
    assert set() == interest.nodes(("anything",))
    interest.told_groups("x", [(f"p{number}",) for number in range(4)])
    assert interest.grouped(("anything",))
    interest.told_groups("x", [A])
    assert not interest.grouped(("anything",))


def test_all_together_have_a_bound_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """Long patterns count for more; and there is room again when a node is gone."""
    monkeypatch.setattr(mesh_interest, "WHOLE_SIZE", 900)
    interest = MeshInterest()
    interest.told("x", [("a" * 300,)], [], all=True)
    interest.told("y", [("b" * 300,)], [], all=True)
    assert {"y"} == interest.nodes(("anything",))
    interest.forget("x")
    interest.told("y", [("b" * 300,)], [("c",)], all=True)
    assert set() == interest.nodes(("anything",)) and {"y"} == interest.nodes(("b" * 300,))
    interest.told("y", [], [("b" * 300,)], all=False)
    interest.told("x", [("a" * 300,)], [], all=True)
    assert {"x"} == interest.nodes(("a" * 300,)) and set() == interest.nodes(("anything",))


def test_one_that_has_not_spoken_yet_may_want_everything() -> None:
    """Its subscribers must not miss what is published in the moment in which it is linked."""
    interest = MeshInterest()
    interest.expect("x")
    assert {"x"} == interest.nodes(("a",)) and interest.grouped(("a",))
    interest.told_groups("x", [])
    interest.told("x", [B], [], all=False)
    assert {"x"} == interest.nodes(("a",))
    interest.told("x", [B], [], all=True, more=True)
    assert {"x"} == interest.nodes(("a",))
    interest.told("x", [B], [], all=False)
    interest.expect("x")
    assert set() == interest.nodes(("a",)) and not interest.grouped(("a",))
    interest.expect("y")
    interest.forget("y")
    assert set() == interest.nodes(("a",))
