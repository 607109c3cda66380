"""Wills whose peers have come to this node since."""

from __future__ import annotations

import logging
from typing import Any

import pytest

from tests.will_nodes import SESSION, WillNode, nodes, pass_time
from webmesh import will_cancels
from webmesh.exceptions import BrokerUnavailable
from webmesh.node_lease import LEASE, WAIT
from webmesh.protocol.wills import Will
from webmesh.will_records import KEPT, RESTS, WILLS, StoredWills, rest_record

pytestmark = pytest.mark.row(80, 96)

AWAY = BrokerUnavailable("away")


def leave(node: WillNode, key: str, subject: str | None = None) -> None:
    stored = StoredWills(node.lease.node, [Will("w", f"status/{key}", 1, number=1)], subject)
    node.broker.put(WILLS, key, stored.to_record(), KEPT)


def test_a_peers_former_wills_are_cancelled():
    """Those of another one who names the same session stay."""
    _, _, (one,) = nodes(1)
    leave(one, "mine", "alice")
    leave(one, "other", "bob")
    for key in ("mine", "other", "unknown"):
        one.watch.cancels.cancel(key, "alice")
    assert {"other"} == one.broker.records(WILLS).keys()
    one.watch.cancels.settle()
    assert 0 == len(one.watch.cancels)


def test_what_cannot_be_cancelled_now_is_cancelled_before_anybody_is_looked_for(caplog: pytest.LogCaptureFixture):
    """A node that closed while the engine was away could not say so: it seems dead, but its peers are here."""
    caplog.set_level(logging.WARNING)
    clock, _, (one, gone) = nodes(2)
    leave(gone, "s")
    leave(gone, "lost")
    one.broker.failing = {"records": [AWAY], "claim": [AWAY, AWAY]}
    one.watch.cancels.cancel("s", None)
    assert ["former wills could not be cancelled yet"] == [line.message for line in caplog.records]
    pass_time(clock, WAIT + LEASE, one)
    assert [("status/lost", "lost")] == one.fired
    pass_time(clock, SESSION, one)
    assert [("status/lost", "lost")] == one.fired
    assert ({}, 0) == (one.broker.records(WILLS), len(one.watch.cancels))


def test_nobody_is_looked_for_while_something_cannot_be_cancelled():
    """It would be found, and fire."""
    clock, _, (one, gone) = nodes(2)
    leave(gone, "s")
    one.broker.failing["claim"] = [AWAY] * 30
    one.watch.cancels.cancel("s", None)
    pass_time(clock, LEASE + 5, one)
    assert [] == one.fired
    one.broker.failing.clear()
    pass_time(clock, LEASE, one)
    assert ([], {}) == (one.fired, one.broker.records(WILLS))


def test_what_was_taken_by_mistake_is_put_back_in_the_end():
    """The engine was lost between the two: only this node has it."""
    _, _, (one,) = nodes(1)
    leave(one, "other", "bob")
    kept = one.broker.records(WILLS)["other"]
    one.broker.failing["put"] = [AWAY, AWAY]
    one.watch.cancels.cancel("other", "alice")
    assert {} == one.broker.records(WILLS)
    with pytest.raises(BrokerUnavailable):
        one.watch.cancels.settle()
    one.watch.cancels.settle()
    assert {"other": kept} == one.broker.records(WILLS)


def test_a_session_that_lives_here_meanwhile_keeps_its_wills():
    """It was brought back before the engine was."""
    _, _, (one,) = nodes(1)
    one.broker.failing["claim"] = [AWAY]
    one.watch.cancels.cancel("s", None)
    leave(one, "s")
    one.armed.add("s")
    one.watch.cancels.settle()
    one.watch.cancels.cancel("s", None)
    one.watch.cancels.settle()
    assert {"s"} == one.broker.records(WILLS).keys()
    assert 0 == len(one.watch.cancels)


def test_only_so_many_wait(monkeypatch: pytest.MonkeyPatch):
    """The newest are kept."""
    monkeypatch.setattr(will_cancels, "MOST", 2)
    _, _, (one,) = nodes(1)
    for key in ("a", "b", "c"):
        leave(one, key)
    one.broker.failing["claim"] = [AWAY] * 3
    for key in ("a", "b", "c"):
        one.watch.cancels.cancel(key, None)
    one.watch.cancels.settle()
    assert {"a"} == one.broker.records(WILLS).keys()


@pytest.mark.parametrize("subject", [None, "alice"])
def test_a_record_that_a_node_had_in_hand_when_it_died_does_not_come_back(subject: str | None):
    """Its peer is here before anybody has found out; those of another subject stay."""
    clock, _, (one, dead) = nodes(2)
    rest = StoredWills(dead.lease.node, [Will("w", "status/s", 1, number=1)], subject)
    dead.broker.put(RESTS, "s.x", rest_record(dead.lease.node, rest), KEPT)
    one.watch.cancels.cancel("s", None)
    one.broker.failing["records"] = [AWAY]
    with pytest.raises(BrokerUnavailable):
        one.watch.cancels.settle()
    pass_time(clock, WAIT + LEASE, one)
    assert [("status/s", "lost")] * (subject is not None) == one.fired
    assert ({}, {}) == (one.broker.records(RESTS), one.broker.records(WILLS))


def test_a_record_that_a_node_has_in_hand_just_now_is_not_put_back():
    """The node finds its note taken away, and drops what was left."""
    _, _, (one, other) = nodes(2)
    leave(one, "s")
    rest = StoredWills(one.lease.node, [Will("later", "status/later", 1, number=2)])
    claim = one.broker.claim

    def claim_and_be_overtaken(table: str, key: str) -> Any:
        found = claim(table, key)
        if table == WILLS:
            one.broker.claim = claim  # type: ignore[method-assign]
            other.watch.cancels.cancel("s", None)
            other.watch.cancels.settle()
        return found

    one.broker.claim = claim_and_be_overtaken  # type: ignore[method-assign]
    due = StoredWills(one.lease.node, [Will("w", "status/s", 1, number=1)], reasons={1: "lost"})
    assert not one.firing.fire("s", due, rest, None)
    assert [("status/s", "lost")] == one.fired
    assert ({}, {}) == (one.broker.records(WILLS), one.broker.records(RESTS))
