"""Wills that dead nodes have left on an engine."""

from __future__ import annotations

import logging
from typing import Any

import gevent
import pytest

from tests.will_nodes import SESSION, nodes, pass_time
from webmesh import will_watch
from webmesh.brokers.base import PAGE
from webmesh.exceptions import BrokerUnavailable
from webmesh.node_lease import BEAT, LEASE, WAIT
from webmesh.protocol.wills import KICKED, TIMEOUT, Will
from webmesh.will_records import FIRING, FIRING_KEPT, RESTS, WILLS, StoredWills, read_record, rest_record

pytestmark = pytest.mark.row(80)


def will(name: str, number: int = 1, **more: Any) -> Will:
    return Will(name, f"status/{name}", "down", number=number, **more)


def test_a_dead_nodes_wills_are_fired_by_one_of_the_others():
    """After its lease, once; those of nodes that live are left alone."""
    clock, _, (one, other, dead) = nodes(3)
    dead.leave_will("s1", will("a"))
    one.leave_will("s2", will("b"))
    for _ in range(2):
        pass_time(clock, LEASE - 1, one, other)
    one.look()
    assert [("status/a", "lost")] == one.fired + other.fired
    assert {"s2"} == one.broker.records(WILLS).keys()
    assert {} == one.broker.records(FIRING)


def test_a_delay_counts_from_the_death_that_was_noticed():
    """And what is left of a session's wills waits on the engine, in case this node dies too."""
    clock, _, (one, dead) = nodes(2)
    dead.leave_will("s", will("a", 1), will("b", 2, delay=10.0))
    pass_time(clock, LEASE, one)
    assert [("status/a", "lost")] == one.fired
    assert [2] == [kept["number"] for kept in one.broker.records(WILLS)["s"]["wills"]]
    pass_time(clock, 10.0, one)
    assert [("status/a", "lost"), ("status/b", "lost")] == one.fired
    assert {} == one.broker.records(WILLS)


def test_the_session_ends_as_it_would_have_ended_there():
    """Then those fire that are for it; what is for another end never does."""
    clock, _, (one, dead) = nodes(2)
    dead.leave_will("s", will("a", 1, on=frozenset({TIMEOUT})), will("b", 2, on=frozenset({KICKED})))
    pass_time(clock, LEASE, one)
    assert [] == one.fired
    pass_time(clock, SESSION, one)
    assert [("status/a", "timeout")] == one.fired
    assert {} == one.broker.records(WILLS)


def test_two_that_watch_fire_each_will_once():
    """Also where one has its part of a session's wills claimed already when the other comes."""
    clock, _, (one, other, dead) = nodes(3)
    dead.leave_will("s", will("a", 1), will("b", 2, delay=5.0))
    pass_time(clock, LEASE - BEAT, one, other)
    clock.advance(BEAT)
    one.lease.beat()
    one.firing._running.join()
    other.look()
    one.look()
    pass_time(clock, 5.0, other, one)
    assert [("status/a", "lost"), ("status/b", "lost")] == sorted(one.fired + other.fired)


def test_a_peer_that_is_back_elsewhere_has_its_wills_cancelled():
    """Within the delay, on whichever node: the record is gone, and so is what this one knows of it."""
    clock, _, (one, dead) = nodes(2)
    for key in ("s", "t"):
        dead.leave_will(key, will("a", delay=10.0))
    pass_time(clock, LEASE, one)
    assert one.broker.claim(WILLS, "s")
    one.watch.cancels.cancel("t", None)
    pass_time(clock, 10.0, one)
    assert [] == one.fired
    assert {} == one.broker.records(FIRING)


def test_a_node_that_is_back_in_time_keeps_its_wills():
    """It was only slow: its peers may be connected to it."""
    clock, _, (one, slow) = nodes(2)
    slow.leave_will("s", will("a", delay=10.0))
    pass_time(clock, LEASE, one)
    slow.lease.beat()
    clock.advance(10.0)
    slow.lease.beat()
    one.look()
    assert [] == one.fired
    assert {"s"} == one.broker.records(WILLS).keys()


@pytest.mark.row(96)
@pytest.mark.parametrize("answers", [False, True])
def test_an_engine_that_was_away_makes_nobody_dead(answers: bool):
    """Each node comes back at its own time; who has not within the wait was dead indeed, and its wills fire."""
    clock, _, (one, other, dead) = nodes(3)
    for name, node in (("one", one), ("other", other), ("dead", dead)):
        node.leave_will(name, will(name))
    if answers:  # when it is back, as one that stood still
        clock.advance(LEASE + 1)
    else:
        one.broker.failing["records"] = [BrokerUnavailable("away")] * 7
        pass_time(clock, LEASE + 1, one)
    one.look()
    pass_time(clock, WAIT - LEASE - BEAT, one)
    pass_time(clock, LEASE, one, other)
    assert ([], []) == (one.fired, other.fired)
    pass_time(clock, BEAT, one, other)
    assert [("status/dead", "lost")] == one.fired
    pass_time(clock, WAIT, other, one)
    assert ([("status/dead", "lost")], []) == (one.fired, other.fired)


@pytest.mark.row(96)
def test_what_is_left_by_a_dead_node_waits_too_while_the_engine_is_away():
    """Its peer may have come back to a node that cannot cancel them yet."""
    clock, _, (one, dead) = nodes(2)
    dead.leave_will("s", will("a", delay=3.0))
    pass_time(clock, LEASE, one)
    one.broker.failing["records"] = [BrokerUnavailable("away")]
    pass_time(clock, WAIT, one)
    assert [] == one.fired
    pass_time(clock, BEAT, one)
    assert [("status/a", "lost")] == one.fired


@pytest.mark.row(96)
def test_a_search_that_fails_is_done_again_at_the_next_look():
    """Nobody else may be there to find what a dead node has left."""
    clock, _, (one, dead) = nodes(2)
    dead.leave_will("s", will("a"))
    pass_time(clock, LEASE - BEAT, one)
    one.broker.failing["records"] = [None, BrokerUnavailable("away")]
    pass_time(clock, BEAT, one)
    assert [] == one.fired
    pass_time(clock, BEAT, one)
    assert [("status/a", "lost")] == one.fired


def test_what_living_nodes_keep_is_not_looked_at_closely(monkeypatch: pytest.MonkeyPatch):
    """It may be a great deal; and between two parts of it others get their turn."""
    clock, _, (one, dead) = nodes(2)
    for number in range(3 * PAGE):
        (dead if number == PAGE else one).leave_will(f"s{number:04}", will("a"))
    read, turns = [], []
    monkeypatch.setattr(will_watch, "read_record", lambda record: read.append(record) or read_record(record))
    monkeypatch.setattr(gevent, "sleep", lambda seconds: turns.append(len(read)))
    pass_time(clock, LEASE, one)
    assert [dead.lease.node] == [record["node"] for record in read if record["node"] != one.lease.node]
    assert (1, [0, 0, 1]) == (len(read), turns)


def test_a_search_ends_where_the_engine_goes_away_meanwhile(monkeypatch: pytest.MonkeyPatch):
    """What was seen before says nothing any more."""
    clock, _, (one, dead) = nodes(2)
    dead.leave_will("s", will("a"))

    def stand_still(seconds: float) -> None:
        monkeypatch.undo()
        clock.advance(WAIT)

    pass_time(clock, LEASE - BEAT, one)
    clock.advance(BEAT)
    monkeypatch.setattr(gevent, "sleep", stand_still)
    one.look()
    pass_time(clock, WAIT, one)
    assert [] == one.fired
    pass_time(clock, 2 * BEAT, one)
    assert [("status/a", "lost")] == one.fired


def test_what_a_node_left_on_purpose_is_thrown_away():
    """Its peers were told to go elsewhere, and were there to the end."""
    clock, _, (one, leaving) = nodes(2)
    leaving.leave_will("s", will("a"))
    leaving.lease.start()
    leaving.lease.stop()
    for _ in range(40):
        pass_time(clock, LEASE - 1, one)
    assert [] == one.fired
    assert {} == one.broker.records(WILLS)


def test_after_a_restart_peers_get_the_time_of_a_session_to_come_back():
    """It was not they who were lost; then the wills fire, those of sessions that were away already too."""
    clock, make, (dead,) = nodes(1)
    dead.leave_will("s", will("a", 1), will("b", 2, delay=3600.0), will("c", 3, on=frozenset({TIMEOUT})))
    clock.advance(3600.0)
    again = make()
    pass_time(clock, SESSION - 1, again)
    assert [] == again.fired
    pass_time(clock, 1, again)
    assert [("status/a", "lost"), ("status/b", "lost"), ("status/c", "timeout")] == again.fired


def test_what_a_node_was_firing_when_it_died_is_finished():
    """Once, whoever finds it, and however far it had come."""
    clock, _, (one, other, dead) = nodes(3)
    due = StoredWills(dead.lease.node, [will("a", 1), will("b", 2)], reasons={1: "lost", 2: "lost"})
    dead.broker.put(FIRING, "s.x", due.to_record(), FIRING_KEPT)
    dead.firing.publish("s", due.fired[:1], None)  # and there it ended
    pass_time(clock, LEASE, one, other)
    assert [("status/a", "lost"), ("status/b", "lost")] == dead.fired + one.fired + other.fired
    assert {} == one.broker.records(FIRING)


def test_what_it_had_not_claimed_is_not_finished():
    """Its record stands as before: it is fired by that, or cancelled."""
    clock, _, (one, dead) = nodes(2)
    dead.leave_will("s", will("a", delay=10.0))
    due = StoredWills(dead.lease.node, [will("a")], reasons={1: "lost"})
    dead.broker.put(FIRING, "s.x", due.to_record(), FIRING_KEPT)
    pass_time(clock, LEASE, one)
    assert ([], {}) == (one.fired, one.broker.records(FIRING))
    pass_time(clock, 10.0, one)
    assert [("status/a", "lost")] == one.fired


class Killed(BaseException):
    """The end of a node, wherever it stands."""


@pytest.mark.parametrize("step", ["put 1", "claim 0", "put 2", "claim 1", "publish 0", "claim 2"])
@pytest.mark.parametrize("again", [False, True])
def test_a_node_that_dies_while_it_fires_loses_none_of_the_later_wills(step: str, again: bool):
    """Wherever it dies between its notes and their end; also where who goes on with it fails in the same step."""
    clock, _, (one, two, dead) = nodes(3)
    first, later = will("a", 1), will("b", 2, delay=10.0)
    dead.leave_will("s", first, later)
    name, before = step.split()
    dead.broker.failing[name] = [None] * int(before) + [Killed()]
    due = StoredWills(dead.lease.node, [first], reasons={1: "lost"})
    with pytest.raises(Killed):
        dead.firing.fire("s", due, StoredWills(dead.lease.node, [later]), None)
    pass_time(clock, LEASE - BEAT, one, two)
    if again:
        one.broker.failing["put"] = [None, None, BrokerUnavailable("away")]  # its lease, its own note, the record
    pass_time(clock, BEAT, one, two)
    pass_time(clock, 10.0 + WAIT, one, two)
    assert [("status/a", "lost"), ("status/b", "lost")] == sorted(dead.fired + one.fired + two.fired)
    assert [{}, {}, {}] == [one.broker.records(table) for table in (WILLS, FIRING, RESTS)]


def test_what_could_not_be_put_back_is_put_back_later():
    """A note of this node's own that it has not in hand is one of an attempt that failed."""
    clock, _, (one, dead) = nodes(2)
    rest = StoredWills(dead.lease.node, [will("a")])
    dead.broker.put(RESTS, "s.x", rest_record(dead.lease.node, rest), FIRING_KEPT)
    pass_time(clock, LEASE - BEAT, one)
    one.broker.failing["put"] = [None, None, BrokerUnavailable("away")]  # its lease, its own note, the record
    pass_time(clock, BEAT, one)
    assert [one.lease.node] == [record["node"] for record in one.broker.records(RESTS).values()]
    pass_time(clock, WAIT, one)
    assert [("status/a", "lost")] == one.fired
    assert {} == one.broker.records(RESTS)


@pytest.mark.row(97)
@pytest.mark.parametrize("record", [None, 1, {}, {"node": "n", "wills": [{}], "subject": None, "roles": []}])
def test_records_that_nobody_of_us_has_written_are_left_alone(record: Any, caplog: pytest.LogCaptureFixture):
    """Another version's, or a stranger's: told in the log, and the others are fired all the same."""
    caplog.set_level(logging.WARNING)
    clock, _, (one, dead) = nodes(2)
    one.broker.put(WILLS, "a", record, 100.0)
    one.broker.put(FIRING, "a.x", record, 100.0)
    one.broker.put(RESTS, "a.x", record, 100.0)
    dead.leave_will("s", will("a"))
    pass_time(clock, LEASE, one)
    assert [("status/a", "lost")] == one.fired
    assert "a record of wills cannot be read" in [line.message for line in caplog.records]
