"""Membership of one node: messages in, messages out."""

from __future__ import annotations

from random import Random
from typing import Any

import pytest

from webmesh.exceptions import InvalidArgument
from webmesh.options import GossipSettings
from webmesh.protocol.claims import LOST, SUSPECT, claim_of
from webmesh.protocol.membership import Forward, Membership
from webmesh.protocol.node_record import HIGHEST, NodeRecord
from webmesh.protocol.probing import ASKED, DIRECT, LAST, TELL, Probe
from webmesh.protocol.rivalry import MOST

SETTINGS = GossipSettings()


def record(node: str = "n1", epoch: int = 5, **parts: Any) -> NodeRecord:
    return NodeRecord(id=node, epoch=epoch, **parts)


def membership(*others: str, **settings: Any) -> Membership:
    """Of the node `me`, which has links to the others and nothing to tell."""
    made = Membership(record("me"), GossipSettings(**settings), Random(1), 0.0)
    for node in others:
        made.joined(record(node), 0.0)
    made._news._told.clear()
    made.changes()
    return made


def probes_until(made: Membership, kind: str, *, start: float = 0.0) -> tuple[Probe, float]:
    """The first of a kind, with its time; all before it are left unanswered and not told of."""
    for tenth in range(1, 600):
        now = start + tenth / 10
        for probe in made.tick(now):
            if probe.kind == kind:
                return probe, now
    raise AssertionError(f"no {kind} within a minute")


def state(made: Membership, node: str) -> str:
    return made.members[node].state


def accusation(node: str, seen: str, *, version: int = 1, epoch: int = 5) -> dict[str, Any]:
    return claim_of(record(node, epoch, version=version), seen, lean=True).to_wire()


def test_a_probe_names_the_incarnation_and_is_answered() -> None:
    """Whoever is asked says whether it is this one."""
    here, there = membership("n1"), Membership(record(), SETTINGS, Random(2), 0.0)
    probe, now = probes_until(here, DIRECT)

    reply = there.received("me", probe.message, now)

    assert {"probe": {"id": "n1", "epoch": 5}} == probe.message
    assert {"alive": True} == reply
    assert [] == here.answered(probe, reply, now)


def test_another_incarnation_says_who_it_is() -> None:
    """Then the old one is gone and the new one is known."""
    here, there = membership("n1"), Membership(record(epoch=6), SETTINGS, Random(2), 0.0)
    probe, now = probes_until(here, DIRECT)

    here.answered(probe, there.received("me", probe.message, now), now)

    assert ("ok", 6) == (state(here, "n1"), here.members["n1"].record.epoch)


def test_who_does_not_answer_is_asked_through_others() -> None:
    """Only when nobody gets through it is suspect; then it gets a last word, then it is lost."""
    here = membership("n1", "n2", "n3", "n4", "n5")
    here.link_lost("n1", 0.0)
    probe, now = probes_until(here, DIRECT)
    assert "n1" == probe.to
    now += probe.timeout

    asked = here.failed(probe, now)
    assert [(ASKED, "n1")] * 3 == [(ask.kind, ask.about) for ask in asked]
    assert "ok" == state(here, "n1")
    for ask in asked:
        here.answered(ask, {"alive": False}, now)
    assert "suspect" == state(here, "n1")

    last, now = probes_until(here, LAST, start=now)
    assert ("n1", [accusation("n1", SUSPECT)["seen"]]) == (last.to, [c["seen"] for c in last.message["news"]])
    here.failed(last, now + last.timeout)
    assert "lost" == state(here, "n1")
    assert ["lost"] == [change.after for change in here.changes()]


def test_a_last_word_that_was_overtaken_counts_no_more() -> None:
    """It has answered since then, and is suspect anew: it gets its time again."""
    here = membership("n1")
    here._table.accuse("n1", SUSPECT, 0.0)
    last, now = probes_until(here, LAST)
    here.heard("n1", now + 0.1)
    here._table.accuse("n1", SUSPECT, now + 0.2)

    here.failed(last, now + last.timeout)

    assert "suspect" == state(here, "n1")


def test_one_of_those_who_were_asked_gets_through() -> None:
    """The way from here is broken, the node is not."""
    here = membership("n1", "n2", "n3", "n4", "n5")
    here.link_lost("n1", 0.0)
    probe, now = probes_until(here, DIRECT)
    first, second, third = here.failed(probe, now + 0.5)

    here.failed(first, now + 1.0)
    here.answered(second, {"alive": True}, now + 1.0)
    here.failed(third, now + 1.0)

    assert ("ok", now + 1.0) == (state(here, "n1"), here.members["n1"].proved_at)


def test_one_who_is_asked_probes_and_answers() -> None:
    """It says what it has found; of a node that it does not know, no."""
    here = membership("n1", "n2")
    ask = {"ask": {"id": "n1", "epoch": 5, "timeout_ms": 400}}

    forward = here.received("n2", ask, 1.0)

    assert isinstance(forward, Forward)
    assert ("n1", {"probe": {"id": "n1", "epoch": 5}}, 0.4) == (forward.target, forward.message, forward.timeout)
    assert {"alive": True} == here.forwarded(forward, {"alive": True}, 1.1)
    assert {"alive": False} == here.forwarded(forward, None, 1.4)
    assert {"alive": False} == here.received("n2", {"ask": {"id": "n9", "epoch": 5}}, 1.0)


def test_two_nodes_have_nobody_to_ask() -> None:
    """The other is suspect at once."""
    here = membership("n1")
    probe, now = probes_until(here, DIRECT)

    assert [] == here.failed(probe, now + 0.5)
    assert "suspect" == state(here, "n1")


def test_a_sign_of_life_clears_a_suspect() -> None:
    """Of any kind: an answer on its link will do. It is told, so that it refutes for the others."""
    here = membership("n1")
    probe, now = probes_until(here, DIRECT)
    here.failed(probe, now)

    here.heard("n1", now)

    assert "ok" == state(here, "n1")
    again, _ = probes_until(here, DIRECT, start=now)
    assert "suspect" == again.message["news"][0]["seen"]


@pytest.mark.parametrize("seen", ["suspect", "lost", "dead"])
def test_an_accused_node_refutes_at_once(seen: str) -> None:
    """By a higher version, which stands first in its answer."""
    here = membership("n1")

    reply = here.received("n1", {"news": [accusation("me", seen, version=4)]}, 1.0)

    assert isinstance(reply, dict)
    assert {"node": {"id": "me", "epoch": 5, "version": 5}} == reply["news"][0]
    assert 5 == here.me.version
    assert 1 == here._prober.health  # it was not heard in time: its own network may be what is bad


def test_whoever_speaks_of_its_old_self_is_told_of_the_new() -> None:
    """So that news of the incarnation before dies out."""
    here = membership("n1")

    reply = here.received("n1", {"news": [accusation("me", "dead", epoch=4, version=9)]}, 1.0)

    assert [{"node": here.me.to_wire()}] == reply["news"]  # type: ignore[index]
    assert 1 == here.me.version


def test_an_answer_that_speaks_ill_of_the_asker_is_refuted() -> None:
    """With a telling of its own, as there is no answer to an answer."""
    here = membership("n1")
    probe, now = probes_until(here, DIRECT)

    more = here.answered(probe, {"alive": True, "news": [accusation("me", LOST)]}, now)

    assert [(TELL, 2)] == [(tell.kind, tell.message["news"][0]["node"]["version"]) for tell in more]


def test_a_clock_that_went_back_between_two_runs_is_outbid() -> None:
    """The later process wins although its epoch was smaller."""
    here = membership("n1")

    here.received("n1", {"news": [claim_of(record("me", 50)).to_wire()]}, 1.0)

    assert (51, 1, None) == (here.me.epoch, here.me.version, here.rival)


def test_two_processes_with_one_id_do_not_outbid_each_other_for_ever() -> None:
    """One of them sees that there is another, and stops."""
    here = membership("n1")
    for attempt in range(MOST + 3):
        here.received("n1", {"news": [claim_of(record("me", 50 + 10 * attempt)).to_wire()]}, 1.0)

    assert here.rival is not None and "me" == here.rival.id
    assert 50 + 10 * (MOST - 1) + 1 == here.me.epoch


def test_what_nobody_could_outbid_is_believed_of_the_node_alone() -> None:
    """One lie would otherwise say for ever what a node is; the highest lie that is believed is outbid."""
    here, other = membership("n1"), Membership(record("n9"), SETTINGS, Random(1), 0.0)
    other.joined(here.me, 0.0)
    other.link_lost("me", 0.0)
    for version in (1, HIGHEST):
        top = claim_of(record("me", HIGHEST, version=version, state="draining")).to_wire()
        for one in (here, other):
            one.received("n1", {"news": [top]}, 1.0)
    assert 5 == here.me.epoch == other.members["me"].record.epoch
    lie = claim_of(record("me", HIGHEST - 1, version=HIGHEST, state="left")).to_wire()
    other.received("n1", {"news": [lie]}, 1.0)
    assert "left" == other.members["me"].state
    here.received("n1", {"news": [lie]}, 1.0)
    other.received("me", {"news": [claim_of(here.me).to_wire()]}, 1.0)
    assert "ok" == other.members["me"].state


def test_a_later_process_of_a_node_that_is_linked_speaks_for_itself() -> None:
    """Others may lie of it, as that it has left; where the link has ended, or does not answer, they are believed."""
    for doubt in ("none", "link", "probe"):
        here = membership("n1", "n2")
        if doubt == "link":
            here.link_lost("n1", 1.0)
        elif doubt == "probe":
            here._table.accuse("n1", SUSPECT, 1.0)
        here.received("n2", {"news": [claim_of(record(epoch=9, state="left")).to_wire()]}, 2.0)
        assert ("ok" if doubt == "none" else "left") == here.members["n1"].state
        here.received("n1", {"news": [claim_of(record(epoch=10)).to_wire()]}, 3.0)
        assert (10, "ok") == (here.members["n1"].record.epoch, here.members["n1"].state)


def test_a_node_that_gave_way_to_a_rival_tries_again_after_a_while() -> None:
    """The other one may have ended; and a few lies must not keep a node from denying them for ever."""
    here = membership("n1")
    for attempt in range(MOST + 1):
        here.received("n1", {"news": [claim_of(record("me", 50 + 10 * attempt)).to_wire()]}, 1.0)
    assert here.rival is not None
    late = 2.0 + SETTINGS.forget_left
    here.received("n1", {"news": [claim_of(record("me", 50 + 10 * MOST)).to_wire()]}, late)
    assert here.rival is None and 51 + 10 * MOST == here.me.epoch


def test_a_refused_dial_proves_that_no_process_is_there() -> None:
    """Lost at once, told to others, and not counted for a majority."""
    here = membership("n1", "n2", "n3")
    here.refused("n1", 1.0)

    assert ("lost", True) == (state(here, "n1"), here.members["n1"].proven)
    assert (3, 3) == (here.known_count, here.reachable_count)
    tell, _ = probes_until(here, TELL, start=1.0)
    assert ("n1", "dead") == (tell.message["news"][0]["id"], tell.message["news"][0]["seen"])


def test_a_majority_counts_those_who_may_live_elsewhere() -> None:
    """Two of four that cannot be reached: nobody here may say that the others are not a mesh of their own."""
    here = membership("n1", "n2", "n3")
    assert here.has_majority
    for node in ("n1", "n2"):
        here._table.accuse(node, LOST, 1.0)
    assert (4, 2, False) == (here.known_count, here.reachable_count, here.has_majority)

    here.refused("n1", 2.0)
    assert (3, 2, True) == (here.known_count, here.reachable_count, here.has_majority)


def test_a_node_that_leaves_says_so_and_denies_nothing() -> None:
    """The others know at once that it is no loss."""
    here, there = membership("n1"), Membership(record(), SETTINGS, Random(2), 0.0)
    there.joined(here.me, 0.0)

    (tell,) = here.leave(1.0)
    there.received("me", tell.message, 1.0)
    here.received("n1", {"news": [accusation("me", "dead", version=7)]}, 1.0)

    assert "left" == state(there, "me")
    assert (2, "left") == (here.me.version, here.me.state)
    assert 1 == there.known_count


def test_what_a_node_says_anew_of_itself_is_told() -> None:
    """As that it drains."""
    here, there = membership("n1"), Membership(record(), SETTINGS, Random(2), 0.0)
    there.joined(here.me, 0.0)
    there.changes()
    before = here.me

    here.update_me(state="draining", load=2)
    tell, now = probes_until(here, TELL)
    there.received("me", tell.message, now)

    (change,) = there.changes()
    assert (before, "ok", "ok", "draining") == (change.previous, change.before, change.after, change.record.state)


def test_an_old_incarnation_cannot_join() -> None:
    """Nor one that has left, nor another node with this id."""
    here = membership("n1")
    here.joined(record(epoch=6), 1.0)

    assert not here.joined(record(epoch=5), 1.0)
    assert not here.joined(record("me", 9), 1.0)
    here.merge([claim_of(record(epoch=6, version=2, state="left")).to_wire()], 2.0, "n9")
    assert not here.joined(record(epoch=6), 2.0)
    assert here.joined(record(epoch=7), 3.0)


def test_a_join_exchanges_all_that_is_known() -> None:
    """Lost ones with their age, since they count."""
    here = membership("n1", "n2")
    here._table.accuse("n2", LOST, 10.0)
    there = Membership(record("n3"), SETTINGS, Random(2), 0.0)

    there.merge(here.full_state(20.0), 120.0, "me")

    assert {"me": "ok", "n1": "ok", "n2": "lost"} == {node: m.state for node, m in there.members.items()}
    assert 110.0 == there.members["n2"].since


def test_states_that_are_equal_cost_one_digest() -> None:
    """Else what each knows better goes to the other, and nothing more."""
    here, there = membership("n1", "n2"), Membership(record(), SETTINGS, Random(2), 0.0)
    for known in (record("me"), record("n2")):
        there.joined(known, 0.0)
    there._news._told.clear()

    compare = here._compare("n1", 1.0)
    assert {"same": True} == there.received("me", compare.message, 1.0)

    there.joined(record("n4"), 1.0)
    here._table.accuse("n2", LOST, 1.0)
    here.update_me(load=1.0)
    here._news._told.clear()
    there._news._told.clear()
    compare = here._compare("n1", 2.0)
    (exchange,) = here.answered(compare, there.received("me", compare.message, 2.0), 2.0)
    assert (["n4"], 2) == (exchange.message["want"], len(exchange.message["news"]))
    here.answered(exchange, there.received("me", exchange.message, 2.0), 2.0)

    assert "ok" == state(here, "n4")
    assert (2, LOST) == (there.members["me"].record.version, there.members["n2"].seen)


def test_a_lean_claim_of_an_unknown_record_is_asked_for() -> None:
    """In the answer, or after one."""
    here = membership("n1")
    lean = accusation("n7", SUSPECT)

    assert ["n7"] == here.received("n1", {"news": [lean]}, 1.0)["want"]  # type: ignore[index]
    probe, now = probes_until(here, DIRECT)
    (more,) = here.answered(probe, {"alive": True, "news": [lean]}, now)
    assert {"want": ["n7"]} == more.message


def test_who_wants_a_record_gets_it() -> None:
    """Also after an answer that says so."""
    here = membership("n1", "n2")
    probe, now = probes_until(here, DIRECT)

    reply = here.received("n1", {"want": ["n2", "n9"]}, 1.0)
    assert ["n2"] == [claim["node"]["id"] for claim in reply["news"]]  # type: ignore[index]
    (more,) = here.answered(probe, {"alive": True, "want": ["n2"]}, now)
    assert ["n2"] == [c["node"]["id"] for c in more.message["news"]]


@pytest.mark.row(70)
def test_a_node_that_was_itself_away_blames_nobody() -> None:
    """Stopped for a minute: that no answer came meanwhile says nothing, and suspects get their time again."""
    here = membership("n1", "n2")
    probe, now = probes_until(here, DIRECT)
    here._table.accuse("n2" if probe.to == "n1" else "n1", SUSPECT, now)
    woken = now + 60.0

    assert [] == [p for p in here.tick(woken) if p.kind == LAST]
    assert [] == here.failed(probe, woken)
    assert "ok" == state(here, probe.to)
    assert probe.timeout < here._prober.timeout


def test_who_is_lost_is_looked_for() -> None:
    """So that two halves of a mesh find each other when the network is whole again."""
    here = membership("n1")
    here._table.accuse("n1", LOST, 0.0)

    probe, now = probes_until(here, "revival")
    more = here.answered(probe, {"alive": True, "news": [claim_of(record(version=2)).to_wire()]}, now)

    assert "ok" == state(here, "n1")
    assert ["sync"] == [key for tell in more for key in tell.message if key == "sync"]


@pytest.mark.row(100)
@pytest.mark.parametrize("message", [
    None, [], "x", 7, {"news": 7}, {"news": [{}] * 600}, {"probe": {}}, {"probe": 7}, {"ask": "n1"},
    {"ask": {"id": "n1", "epoch": None}},
])  # fmt: skip
def test_what_makes_no_sense_is_refused(message: Any) -> None:
    """And changes nothing."""
    here = membership("n1")

    with pytest.raises(InvalidArgument):
        here.received("n1", message, 1.0)
    assert [] == here.changes()


@pytest.mark.row(100)
@pytest.mark.parametrize("reply", [
    None, [], {"news": 7}, {"index": 7}, {"index": {"x": 1}}, {"want": 7}, {"want": [7]}, {"alive": "yes"}, {},
])  # fmt: skip
def test_an_answer_that_makes_no_sense_is_no_sign_of_life_or_ignored(reply: Any) -> None:
    """It never raises: there is nobody to tell."""
    here = membership("n1")
    probe, now = probes_until(here, DIRECT)

    here.answered(probe, reply, now)

    assert state(here, "n1") in ("ok", "suspect")


@pytest.mark.row(101)
def test_what_a_later_version_adds_is_ignored() -> None:
    """Keys that are not known, in messages and in records."""
    here = membership("n1")

    reply = here.received("n1", {"colour": 1, "news": [{"node": {**record("n8").to_wire(), "x": {}}, "y": 1}]}, 1.0)

    assert {} == reply
    assert "ok" == state(here, "n8")


def test_a_mesh_has_room_for_so_many() -> None:
    """More are turned away and counted: nobody fills a node's memory with names."""
    here = membership("n1", members=4)

    here.merge([claim_of(record(f"x{number}")).to_wire() for number in range(8)], 1.0, "n9")

    assert (3, 6) == (len(here.members), here.turned_away)
