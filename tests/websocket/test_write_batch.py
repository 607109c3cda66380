"""Writes of all connections of a hub, together."""

from __future__ import annotations

import gevent
from gevent.hub import get_hub

from webmesh.testing import FakeClock
from webmesh.websocket.write_batch import HUB_TURN, WriteBatch, write_batch


def test_what_was_added_runs_when_the_hub_turns():
    """In the order in which it was added, all in one go."""
    batch, log = WriteBatch(get_hub(), FakeClock()), []
    for name in "abc":
        batch.add(lambda name=name: log.append(name))
    assert [] == log

    gevent.sleep(0)

    assert ["a", "b", "c"] == log


def test_nothing_runs_twice():
    """The next batch begins empty."""
    batch, log = WriteBatch(get_hub(), FakeClock()), []
    batch.add(lambda: log.append(1))
    gevent.sleep(0)
    batch.add(lambda: log.append(2))
    gevent.sleep(0)
    gevent.sleep(0)

    assert [1, 2] == log


def test_a_batch_that_has_waited_long_runs_at_once():
    """While handlers hold the hub, answers that are there do not wait for all of them."""
    clock, log = FakeClock(), []
    batch = WriteBatch(get_hub(), clock)
    batch.add(lambda: log.append("first"))
    clock.advance(HUB_TURN * 2)

    batch.add(lambda: log.append("second"))

    assert ["first", "second"] == log
    gevent.sleep(0)
    assert ["first", "second"] == log


def test_what_is_added_while_a_batch_runs_is_in_the_next_one():
    """A flush that leads to another cannot make the hub run for ever."""
    batch, log = WriteBatch(get_hub(), FakeClock()), []

    def again() -> None:
        log.append("again")
        if len(log) < 3:
            batch.add(again)

    batch.add(again)
    gevent.sleep(0)
    gevent.sleep(0)
    gevent.sleep(0)

    assert 3 == len(log)


def test_a_hub_has_one_batch():
    """Connections of one hub must find the same."""
    assert write_batch(get_hub()) is write_batch(get_hub())
