"""Publishing wills, each once."""

from __future__ import annotations

import pytest

from tests.will_nodes import WillNode, nodes
from webmesh.exceptions import BrokerError, BrokerUnavailable, PublishDoubtful
from webmesh.protocol.wills import FiredWill, Will
from webmesh.topic_options import TopicOptions
from webmesh.will_firing import will_publication
from webmesh.will_records import FIRING, WILLS, StoredWills

pytestmark = pytest.mark.row(80)

A, B = Will("a", "t/a", 1, number=1), Will("b", "t/b", 2, number=2)
NOBODY = StoredWills("n", [])


@pytest.fixture
def node() -> WillNode:
    _, _, (one,) = nodes(1)
    return one


def due(node: WillNode, *wills: Will) -> StoredWills:
    return StoredWills(node.lease.node, wills, reasons={will.number: "lost" for will in wills})


def test_what_fires_is_published_and_what_is_left_stays(node: WillNode):
    """The note of what was going on is gone in the end."""
    node.leave_will("s", A, B)
    rest = StoredWills(node.lease.node, [B])
    assert node.firing.fire("s", due(node, A), rest, None)
    assert [("t/a", "lost")] == node.fired
    assert {"s": rest.to_record()} == node.broker.records(WILLS)
    assert {} == node.broker.records(FIRING)


def test_who_comes_late_fires_nothing(node: WillNode):
    """Nobody has a record any more: it was fired elsewhere, or cancelled."""
    assert not node.firing.fire("s", due(node, A), NOBODY, None)
    assert ([], {}) == (node.fired, node.broker.records(FIRING))


def test_only_what_the_record_still_has_is_fired(node: WillNode):
    """Another node has fired the rest."""
    node.leave_will("s", B)
    assert node.firing.fire("s", due(node, A, B), NOBODY, None)
    assert [("t/b", "lost")] == node.fired


def test_a_session_that_the_engine_knows_nothing_of_is_this_nodes_own(node: WillNode):
    """Its record could not be kept: that there is none says nothing."""
    assert node.firing.fire("s", due(node, A), NOBODY, None, unsaved=True)
    assert [("t/a", "lost")] == node.fired


@pytest.mark.row(96)
@pytest.mark.parametrize("step", ["put", "claim", "publish"])
def test_an_engine_that_fails_on_the_way_makes_it_late(node: WillNode, step: str):
    """Not lost, and not twice."""
    node.leave_will("s", A)
    node.broker.failing[step] = [BrokerUnavailable("away")]
    assert node.firing.fire("s", due(node, A), NOBODY, None)
    assert [("t/a", "lost")] == node.fired
    assert {} == node.broker.records(FIRING)


@pytest.mark.row(96)
def test_a_claim_that_may_have_happened_counts_as_one(node: WillNode):
    """The engine was lost before it answered; the record is gone when it is back."""
    def claim_and_fail(table: str, key: str) -> None:
        node.broker.claim = claim  # type: ignore[method-assign]
        claim(table, key)
        raise BrokerUnavailable("away")

    claim = node.broker.claim
    node.leave_will("s", A)
    node.broker.claim = claim_and_fail  # type: ignore[method-assign]
    assert node.firing.fire("s", due(node, A), NOBODY, None)
    assert [("t/a", "lost")] == node.fired


@pytest.mark.row(96)
def test_a_publication_that_may_have_happened_happens_once(node: WillNode):
    """It is published again with the same dedupe id."""
    publish = node.broker.publish

    def publish_and_fail(*args):
        node.broker.publish = publish  # type: ignore[method-assign]
        publish(*args)
        raise PublishDoubtful("away")

    node.broker.publish = publish_and_fail  # type: ignore[method-assign]
    node.leave_will("s", A)
    assert node.firing.fire("s", due(node, A), NOBODY, None)
    assert [("t/a", "lost")] == node.fired


def test_what_cannot_be_published_does_not_cost_the_others(node: WillNode):
    """It is counted, and told in the log."""
    node.table.add("t/a", TopicOptions(publish=["nobody"]))
    node.topics.access.__init__(node.table)  # type: ignore[misc]
    node.leave_will("s", A, B)
    assert node.firing.fire("s", due(node, A, B), NOBODY, None)
    assert [("t/b", "lost")] == node.fired
    assert [("will", "unauthenticated")] == node.observer.named("refused")
    assert [("t/b", "lost")] == node.observer.named("will_fired")


def test_the_end_of_a_node_waits_for_what_is_being_fired(node: WillNode):
    """And gives up what does not end, which others finish."""
    node.leave_will("s", A)
    node.broker.failing["publish"] = [BrokerError("away")] * 100
    node.firing.spawn(node.firing.fire, "s", due(node, A), NOBODY, None)
    node.firing.stop(0.05)
    assert 1 == len(node.broker.records(FIRING))


def test_a_wills_message_has_what_its_peer_said_and_the_reason():
    """A dedupe id of the peer's own is kept; otherwise it has one that subscribers do not see."""
    fired = FiredWill(Will("w", "t", 1, headers={"ttl-ms": "1000", "mine": "x"}, number=3), "timeout")
    made = will_publication("key", fired)
    assert ("t", 1, 1.0, "will-key-3") == (made.topic, made.payload, made.ttl, made.dedupe_id)
    assert {"ttl-ms": "1000", "mine": "x", "will": "timeout"} == made.headers
    own = FiredWill(Will("w", "t", None, headers={"dedupe-id": "d"}), "lost")
    assert "d" == will_publication("key", own).dedupe_id
