"""Rivalry: a clock that went back is told from another process with the same id."""

from webmesh.protocol.claims import claim_of
from webmesh.protocol.node_record import NodeRecord
from webmesh.protocol.rivalry import MOST, Rivalry

CLAIM = claim_of(NodeRecord(id="me", epoch=9))


def test_some_are_outbid_and_then_none_for_a_while() -> None:
    """However often the other one speaks."""
    rivalry = Rivalry(60.0)
    told = [rivalry.outbids(CLAIM, 100.0 + number) for number in range(MOST + 5)]
    assert [True] * MOST + [False] * 5 == told and CLAIM.record is rivalry.rival
    assert rivalry.outbids(CLAIM, 161.0) and rivalry.rival is None


def test_who_has_not_shown_its_record_is_no_rival() -> None:
    """Nobody could be named."""
    rivalry = Rivalry(60.0)
    assert all(rivalry.outbids(claim_of(CLAIM.record, lean=True), 1.0) for _ in range(MOST + 5))
