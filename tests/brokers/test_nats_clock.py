"""The clock of a NATS server."""

from typing import Any

import pytest

from webmesh.brokers.nats_clock import ServerClock
from webmesh.testing import FakeClock

STAMP = "2026-01-01T00:00:00.123456789Z"
THEN = 1767225600.123456


def test_it_is_the_servers_as_well_as_can_be_told():
    """The answer came within a tenth of a second, so it is off by no more."""
    own = FakeClock(THEN - 7)
    clock = ServerClock(own)
    assert own.now == clock() == clock.own()
    clock.told(STAMP, own.now - 0.1, own.now)
    assert 0 <= clock() - THEN <= 0.1 + 1e-6
    own.advance(5)
    assert 5 <= clock() - THEN <= 5.1 + 1e-6


def test_clocks_that_agree_stay_as_they_are():
    """Nor is what was found out given up for an answer that took longer."""
    own = FakeClock(THEN)
    clock = ServerClock(own)
    clock.told(STAMP, own.now - 0.1, own.now + 0.1)
    assert own.now == clock()
    own.now = THEN + 9
    clock.told(STAMP, own.now - 0.2, own.now)
    first = clock()
    clock.told(STAMP, own.now - 4, own.now + 4)
    assert first == clock()


@pytest.mark.row(97)
@pytest.mark.parametrize("stamp", [None, 5, "", "soon", "9999-99-99T00:00:00Z"])
def test_what_is_no_time_says_nothing(stamp: Any):
    """Whoever answers."""
    clock = ServerClock(FakeClock(5.0))
    clock.told(stamp, 1.0, 2.0)
    assert 5.0 == clock()


def test_a_clock_that_was_set_back_meanwhile_says_nothing():
    """The two readings have nothing to do with each other."""
    clock = ServerClock(FakeClock(5.0))
    clock.told(STAMP, 9.0, 2.0)
    assert 5.0 == clock()
