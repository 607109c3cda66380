"""Claims: their order, and what is refused."""

from __future__ import annotations

from typing import Any

import pytest

from webmesh.exceptions import InvalidArgument
from webmesh.protocol.claims import DEAD, LOST, OK, SUSPECT, Claim, claim_of, read_claim, read_identity
from webmesh.protocol.node_record import NodeRecord

RECORD = NodeRecord(id="n1", epoch=5, version=3, name="shop")


@pytest.mark.parametrize("claim", [
    claim_of(RECORD), claim_of(RECORD, SUSPECT, 1.5), claim_of(RECORD, DEAD, 2.0, lean=True),
])  # fmt: skip
def test_a_claim_survives_the_wire(claim: Claim) -> None:
    """Full or lean."""
    assert claim == read_claim(claim.to_wire())


def test_a_lean_claim_is_small() -> None:
    """Suspicions and losses go to many: they name a record and do not repeat it."""
    wire = {"id": "n1", "epoch": 5, "version": 3, "seen": "lost", "age_ms": 2500}

    assert wire == claim_of(RECORD, LOST, 2.5, lean=True).to_wire()


def test_claims_of_a_node_are_ordered() -> None:
    """By epoch, by version, and by how bad it is: so that a node refutes with its next version."""
    later, restarted = RECORD.changed(), NodeRecord(id="n1", epoch=6)
    claims = [
        claim_of(RECORD, OK), claim_of(RECORD, SUSPECT), claim_of(RECORD, LOST), claim_of(RECORD, DEAD),
        claim_of(later, OK), claim_of(later, DEAD), claim_of(restarted, OK),
    ]  # fmt: skip

    assert claims == sorted(claims, key=lambda claim: claim.weight)


@pytest.mark.row(100)
@pytest.mark.parametrize("wire", [
    None, [], "n1", {}, {"id": "n1"}, {"id": 1, "epoch": 1, "version": 1}, {"id": "n1", "epoch": -1, "version": 1},
    {"id": "n1", "epoch": True, "version": 1}, {"id": "n1", "epoch": 1, "version": 1, "seen": "gone"},
    {"id": "n1", "epoch": 1, "version": 1, "seen": ["ok"]}, {"id": "n1", "epoch": 1, "version": 1, "age_ms": -1},
    {"id": "n1", "epoch": 1, "version": 1, "age_ms": float("nan")}, {"id": "n1", "epoch": 2**60, "version": 1},
    {"id": "n1", "epoch": 1, "version": 1, "age_ms": 10**15}, {"node": {"id": "n1"}}, {"id": "x" * 65, "epoch": 1},
])  # fmt: skip
def test_what_is_no_claim_is_refused(wire: Any) -> None:
    """Every part is looked at."""
    with pytest.raises(InvalidArgument):
        read_claim(wire)


def test_who_is_asked_for_needs_no_version() -> None:
    """A probe names an incarnation."""
    assert ("n1", 5, 0) == read_identity({"id": "n1", "epoch": 5, "more": 1})
