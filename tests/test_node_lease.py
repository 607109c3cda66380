"""How nodes of one engine know of each other that they live."""

from __future__ import annotations

import logging
from contextlib import suppress

import gevent
import pytest
from gevent.event import Event

from tests.running import PATIENCE
from tests.will_nodes import nodes, pass_time
from webmesh import node_lease
from webmesh.brokers.memory import MemoryBroker
from webmesh.exceptions import BrokerUnavailable
from webmesh.node_lease import BEAT, LEASE, SLOW, TABLE, WAIT, NodeLease


def test_nodes_know_each_other_with_their_facts():
    """Themselves they leave out."""
    _, _, (one, other) = nodes(2)
    other.lease.facts["x"] = 1
    other.lease.renew()
    one.lease.beat()
    assert {other.lease.node: {"x": 1}} == one.lease.others
    assert not one.lease.lapsed


def test_who_does_not_renew_is_dead_after_its_lease():
    """Not before, however often others look."""
    clock, _, (one, other) = nodes(2)
    clock.advance(LEASE - BEAT)
    one.lease.beat()
    assert {other.lease.node} == one.lease.others.keys()
    clock.advance(BEAT)
    one.lease.beat()
    assert {} == one.lease.others


def test_a_node_finds_out_that_others_may_take_it_for_dead():
    """After a pause that was longer than its lease; once."""
    clock, _, (one,) = nodes(1)
    clock.advance(LEASE)
    one.lease.beat()
    assert one.lease.lapsed
    one.lease.beat()
    assert not one.lease.lapsed


def test_who_leaves_on_purpose_is_known_to_have_left():
    """It is not among those who live."""
    _, _, (one, other) = nodes(2)
    other.lease.start()
    other.lease.stop()
    one.lease.beat()
    assert ({other.lease.node}, {}) == (one.lease.left, one.lease.others)


@pytest.mark.row(93)
def test_the_end_is_not_held_up_by_a_look_that_takes_it_for_a_failure(monkeypatch: pytest.MonkeyPatch):
    """The engine, or who looks, may have caught what was to end it."""
    monkeypatch.setattr(node_lease, "BEAT", 0.0)
    _, _, (one,) = nodes(1)
    looking = Event()

    def look() -> None:
        looking.set()
        with suppress(gevent.GreenletExit):
            Event().wait()

    one.lease.start()
    one.lease.on_look.append(look)
    assert looking.wait(PATIENCE)
    with gevent.Timeout(PATIENCE):
        one.lease.stop()


def test_an_engine_for_one_node_gets_no_leases():
    """Nothing is written there again and again for nobody; who wants to look may."""
    broker, looks = MemoryBroker(), []
    lease = NodeLease(broker)
    lease.on_look.append(lambda: looks.append(1))
    lease.start()
    lease.renew()
    lease.stop()
    assert ({}, [1]) == (broker.records(TABLE), looks)


@pytest.mark.row(93, 96)
def test_a_look_that_fails_ends_nothing(caplog: pytest.LogCaptureFixture):
    """Whether the engine cannot be reached or something else is wrong: the next one may go well."""
    caplog.set_level(logging.ERROR)
    _, _, (one, other) = nodes(2)
    one.broker.failing["records"] = [BrokerUnavailable("away"), ValueError("wrong")]
    for _ in range(2):
        one.lease.beat()
        assert {other.lease.node} == one.lease.others.keys()
    assert ["looking at the other nodes failed"] == [record.message for record in caplog.records]
    one.lease.beat()


@pytest.mark.row(96)
@pytest.mark.parametrize("away", ["failed", "slow", "lapsed", "begun"])
def test_who_was_away_itself_judges_nobody_for_a_while(away: str):
    """Until the others have had the time to come back too."""
    clock, _, (one,) = nodes(1)
    assert one.lease.certain
    if away == "failed":
        one.broker.failing["put"] = [BrokerUnavailable("away")]
        one.lease.beat()
    elif away == "slow":
        clock.advance(SLOW + 0.1)
        assert not one.lease.certain
        one.lease.beat()
    elif away == "lapsed":
        one.broker.claim(TABLE, one.lease.node)
        one.lease.beat()
    else:
        one.lease.start()
        one.lease.stop()
    pass_time(clock, WAIT - BEAT, one)
    assert not one.lease.certain
    pass_time(clock, BEAT, one)
    assert one.lease.certain


def test_on_an_engine_for_one_node_nobody_is_waited_for():
    """Whoever else has left something there is a former run of this one."""
    lease = NodeLease(MemoryBroker())
    lease.start()
    assert lease.certain
