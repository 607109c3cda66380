"""Shares: who holds more than half of a common room is known."""

from __future__ import annotations

import pytest

from webmesh.shares import Shares

pytestmark = pytest.mark.row(86)


def test_who_holds_more_than_half_is_greedy() -> None:
    """Half is not yet too much, and what was given back does not count."""
    shares = Shares()
    shares.add("a", 5)
    shares.add("b", 5)
    assert not shares.greedy
    shares.add("b")
    assert (True, True, False) == (shares.greedy, shares.is_greedy("b"), shares.is_greedy("a"))
    shares.remove("b", 2)
    assert (False, 4) == (shares.greedy, shares["b"])
