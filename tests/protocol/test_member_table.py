"""What is claimed of nodes, and what is believed of it."""

from __future__ import annotations

from itertools import permutations
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from webmesh.options import GossipSettings
from webmesh.protocol.claims import DEAD, LOST, OK, STRENGTHS, SUSPECT, Claim, claim_of
from webmesh.protocol.member_table import LEFT, NEWS, OLD, UNKNOWN, Change, MemberTable
from webmesh.protocol.node_record import NodeRecord

SETTINGS = GossipSettings()


def record(version: int = 1, *, epoch: int = 5, node: str = "n1", **parts: Any) -> NodeRecord:
    return NodeRecord(id=node, epoch=epoch, version=version, **parts)


def table_with(*claims: Claim, now: float = 0.0, **settings: Any) -> MemberTable:
    table = MemberTable(GossipSettings(**settings))
    for claim in claims:
        table.learn(claim, now)
    return table


CLAIMS = st.builds(
    lambda node, epoch, version, seen: claim_of(record(version, epoch=epoch, node=node, name=f"v{version}"), seen),
    st.sampled_from(["n1", "n2"]), st.integers(1, 3), st.integers(1, 3), st.sampled_from(list(STRENGTHS)),
)  # fmt: skip


def held(table: MemberTable) -> dict[str, Any]:
    return {node: (member.weight, member.record) for node, member in table.members.items()}


@given(st.lists(CLAIMS, max_size=8), st.randoms(use_true_random=False))
def test_the_order_of_claims_does_not_matter(claims: list[Claim], random: Any) -> None:
    """Whoever hears the same claims, in any order, holds the same in the end."""
    shuffled = list(claims)
    random.shuffle(shuffled)

    assert held(table_with(*claims)) == held(table_with(*shuffled))


@given(st.lists(CLAIMS, max_size=8))
def test_a_claim_counts_once(claims: list[Claim]) -> None:
    """Hearing all of it again changes nothing, and says that it was old."""
    table = table_with(*claims)
    before = held(table)

    assert {OLD} >= {table.learn(claim, 1.0) for claim in claims}
    assert before == held(table)


@given(st.lists(CLAIMS, max_size=8))
def test_what_is_held_only_grows(claims: list[Claim]) -> None:
    """In epoch, version and strength."""
    table = table_with()
    for claim in claims:
        before = {node: member.weight for node, member in table.members.items()}
        table.learn(claim, 0.0)

        assert all(table.members[node].weight >= weight for node, weight in before.items())
        assert table.members[claim.id].weight >= claim.weight


@given(st.lists(CLAIMS, max_size=6), st.lists(CLAIMS, max_size=6))
def test_two_who_tell_each_other_all_hold_the_same(one: list[Claim], other: list[Claim]) -> None:
    """Merging is commutative: it does not matter who heard what first."""
    here, there = table_with(*one), table_with(*other)
    told_here = [member.claim(0.0) for member in here.members.values()]
    told_there = [member.claim(0.0) for member in there.members.values()]
    for claim in told_there:
        here.learn(claim, 0.0)
    for claim in told_here:
        there.learn(claim, 0.0)

    assert held(here) == held(there)


def test_a_restarted_node_wins_over_its_old_self() -> None:
    """Whatever is still claimed of the old incarnation."""
    table = table_with(claim_of(record(9)), claim_of(record(1, epoch=6)))

    assert OLD == table.learn(claim_of(record(99), DEAD), 1.0)
    assert ("ok", 6) == (table.members["n1"].state, table.members["n1"].record.epoch)


def test_a_lean_claim_needs_the_record() -> None:
    """Of a node or version that is not known it says too little; one of the known version counts."""
    lean = claim_of(record(2), SUSPECT, lean=True)
    table = table_with(claim_of(record(1)))

    assert UNKNOWN == table.learn(lean, 0.0)
    assert UNKNOWN == table_with().learn(lean, 0.0)
    assert NEWS == table.learn(claim_of(record(1), SUSPECT, lean=True), 0.0)
    assert "suspect" == table.members["n1"].state


def test_its_own_evidence_counts_more() -> None:
    """A node that has answered since then is not taken for lost because others say so."""
    table = table_with(claim_of(record()))
    table.prove("n1", 10.0)

    assert NEWS == table.learn(claim_of(record(), LOST, age=5.0), 12.0)
    assert (OK, LOST) == (table.members["n1"].state, table.members["n1"].seen)


def test_evidence_of_an_old_incarnation_says_nothing_of_the_new() -> None:
    """It was another process that answered."""
    table = table_with(claim_of(record()))
    table.prove("n1", 10.0)

    table.learn(claim_of(record(epoch=6), LOST, age=5.0), 12.0)

    assert SUSPECT == table.members["n1"].state


def test_others_losses_are_asked_once_more() -> None:
    """A side that was cut off says of all others that they are lost: each may answer first, at once."""
    table = table_with(claim_of(record()))

    table.learn(claim_of(record(), LOST), 12.0)

    assert SUSPECT == table.members["n1"].state
    assert ["n1"] == table.take_due(12.0)
    assert [] == table.take_due(12.1)


def test_a_suspect_that_is_lost_elsewhere_is_lost() -> None:
    """It had its time."""
    table = table_with(claim_of(record(), SUSPECT))

    table.learn(claim_of(record(), LOST), 2.0)

    assert LOST == table.members["n1"].state


def test_a_proof_of_death_counts_at_once() -> None:
    """Whose address refuses connections need not be waited for; it does not count for a majority."""
    table = table_with(claim_of(record()))

    table.learn(claim_of(record(), DEAD), 2.0)

    assert table.members["n1"].proven


def test_a_later_version_refutes() -> None:
    """Only the node itself makes one."""
    table = table_with(claim_of(record(), LOST))

    table.learn(claim_of(record(2)), 2.0)

    assert (OK, OK) == (table.members["n1"].state, table.members["n1"].seen)


def test_who_is_proven_to_have_ended_is_forgotten_after_a_minute() -> None:
    """Services that are started anew under new ids would fill the table; and no majority waits for them."""
    table = table_with(claim_of(record(), DEAD))
    table.forget_old(SETTINGS.forget_left - 1)
    assert ["n1"] == list(table.members)
    table.forget_old(SETTINGS.forget_left + 1)
    assert {} == table.members


def test_who_is_lost_is_forgotten_after_an_hour_and_who_left_after_a_minute() -> None:
    """Both for all nodes at about the same time, since an age goes along."""
    table = table_with(claim_of(record(), LOST), claim_of(record(node="n2", state=LEFT)))
    table.forget_old(SETTINGS.forget_left + 1)
    assert ["n1"] == list(table.members)

    assert OLD == table.learn(claim_of(record(node="n2", state=LEFT), age=SETTINGS.forget_left + 1), 61.0)
    table.forget_old(SETTINGS.forget + 1)
    assert {} == table.members


def test_late_news_does_not_bring_back_who_left() -> None:
    """What was said of it before is old; only a new incarnation comes back."""
    table = table_with(claim_of(record(1)), claim_of(record(2, state=LEFT)))

    assert OLD == table.learn(claim_of(record(1), DEAD), 1.0)
    assert not table.accuse("n1", LOST, 1.0)
    assert LEFT == table.members["n1"].state
    table.learn(claim_of(record(1, epoch=6)), 2.0)
    assert OK == table.members["n1"].state


def test_there_is_room_for_so_many() -> None:
    """The next one takes the place of one that has been gone for long, or is turned away and counted."""
    table = table_with(
        claim_of(record(node="a")), claim_of(record(node="b"), LOST), claim_of(record(node="c")),
        claim_of(record(node="d")), members=4,
    )  # fmt: skip

    assert (["a", "c", "d"], 0) == (list(table.members), table.turned_away)
    assert OLD == table.learn(claim_of(record(node="e")), 1.0)
    assert 1 == table.turned_away


def test_changes_are_told_once_and_together() -> None:
    """From what was told last to what is: a suspicion that came to nothing is none."""
    first = record()
    table = table_with(claim_of(first))
    assert [Change(first, None, OK)] == list(table.changes())

    table.accuse("n1", SUSPECT, 1.0)
    table.prove("n1", 2.0)
    assert [] == list(table.changes())

    table.accuse("n1", DEAD, 3.0)
    again = record(epoch=6)
    table.learn(claim_of(again), 4.0)
    assert [Change(again, OK, OK, first)] == list(table.changes())

    table.learn(claim_of(again, DEAD), 5.0)
    table.forget_old(10_000.0)
    assert [Change(again, OK, None, again)] == list(table.changes())
    assert [] == list(table.changes())


@pytest.mark.row(70)
def test_after_an_absence_of_this_node_suspects_get_their_time_again() -> None:
    """They may have denied it while nobody listened."""
    table = table_with(claim_of(record(), SUSPECT))

    table.postpone(60.0)

    assert [] == table.take_due(60.0 + SETTINGS.suspicion - 0.1)
    assert ["n1"] == table.take_due(60.0 + SETTINGS.suspicion)


def test_the_strongest_of_one_version_is_held_whatever_came_first() -> None:
    """All orders of the four states end alike."""
    ends = set()
    for order in permutations(STRENGTHS):
        table = table_with(*(claim_of(record(), seen) for seen in order))
        ends.add((table.members["n1"].seen, table.members["n1"].state))
    assert {(DEAD, LOST)} == ends
