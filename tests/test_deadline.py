"""Deadlines: one point in time for a chain of waits, on a clock that is handed in."""

from __future__ import annotations

import math

import pytest

from webmesh.deadline import Deadline


class Clock:
    """Seconds that pass when told."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def test_counts_down_and_stops_at_zero(clock: Clock) -> None:
    """What is left never becomes negative, so that it can be handed to any wait."""
    deadline = Deadline(2.0, clock=clock)
    clock.now += 1.5
    assert (0.5, False) == (deadline.remaining(), deadline.expired)

    clock.now += 1.5
    assert (0.0, True) == (deadline.remaining(), deadline.expired)


def test_steps_share_what_is_left(clock: Clock) -> None:
    """A second wait gets only the time that the first one left."""
    deadline = Deadline(3.0, clock=clock)
    clock.now += 1.0
    first = deadline.remaining()
    clock.now += 1.0

    assert (2.0, 1.0) == (first, deadline.remaining())


def test_no_deadline_never_expires(clock: Clock) -> None:
    """`None` seconds means to wait for as long as it takes."""
    deadline = Deadline(None, clock=clock)
    clock.now += 1e9

    assert deadline.remaining() is None
    assert math.inf == deadline.at
    assert not deadline.expired


@pytest.mark.parametrize("seconds", [0, -1])
def test_nothing_left_has_expired(clock: Clock, seconds: float) -> None:
    """A request that arrives without time left is over before it begins."""
    deadline = Deadline(seconds, clock=clock)

    assert deadline.expired
    assert 0.0 == deadline.remaining()


@pytest.mark.parametrize(
    ("own", "inner", "expected"), [(5.0, 2.0, 2.0), (2.0, 5.0, 2.0), (2.0, None, 2.0), (None, 3.0, 3.0)]
)
def test_tightened_is_the_earlier_of_two(
    clock: Clock, own: float | None, inner: float | None, expected: float
) -> None:
    """A nested call never gets more time than the call that made it."""
    deadline = Deadline(own, clock=clock)
    assert expected == deadline.tightened(inner).remaining()


def test_tightening_leaves_the_outer_deadline_alone(clock: Clock) -> None:
    """A short inner wait does not shorten what comes after it."""
    outer = Deadline(5.0, clock=clock)
    inner = outer.tightened(1.0)
    clock.now += 2.0

    assert inner.expired
    assert 3.0 == outer.remaining()
    assert outer.tightened(None).remaining() == outer.remaining()


@pytest.mark.row(87)
def test_uses_a_monotonic_clock_by_default() -> None:
    """A jump of the wall clock moves no deadline."""
    assert "monotonic" in repr(Deadline.__init__.__kwdefaults__["clock"])


def test_repr_shows_its_state(clock: Clock) -> None:
    """A log line with a deadline can be read."""
    deadline = Deadline(1.25, clock=clock)
    assert "<Deadline 1.250 s left>" == repr(deadline)
    assert "<Deadline never>" == repr(Deadline(None, clock=clock))

    deadline.cancelled = True
    assert "<Deadline cancelled>" == repr(deadline)
