"""Rates: what is allowed, what is owed, and when to come back."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from webmesh.protocol.token_bucket import Appointments, TokenBucket
from webmesh.testing import FakeClock


def taken(bucket: TokenBucket, clock: FakeClock, tries: int) -> int:
    return sum(bucket.take(clock()) for _ in range(tries))


def test_a_burst_of_one_second_is_allowed_at_once():
    """Whoever was quiet may take what a second brings, and no more."""
    clock = FakeClock()
    assert 5 == taken(TokenBucket(5, clock()), clock, 20)


def test_tokens_come_back_with_time_up_to_the_burst():
    """Half a second brings half of a second's, an hour no more than the burst."""
    clock = FakeClock()
    bucket = TokenBucket(10, clock(), burst=20)
    assert 20 == taken(bucket, clock, 50)

    clock.advance(0.5)
    assert 5 == taken(bucket, clock, 50)
    clock.advance(3600)
    assert 20 == taken(bucket, clock, 50)


def test_a_slow_rate_holds_one_token():
    """One a minute is possible: the bucket is never smaller than what is taken from it."""
    clock = FakeClock()
    bucket = TokenBucket(1 / 60, clock())
    assert (True, False) == (bucket.take(clock()), bucket.take(clock()))

    assert 60 == pytest.approx(bucket.wait(clock()))
    clock.advance(61)
    assert 0 == bucket.wait(clock())
    assert bucket.take(clock())


@pytest.mark.row(87)
def test_a_clock_that_goes_back_gives_and_takes_nothing():
    """Readings may come out of order; nobody profits from that."""
    bucket = TokenBucket(1, 100.0)
    assert bucket.take(100.0)

    assert not bucket.take(50.0)
    assert not bucket.take(100.5)
    assert bucket.take(101.0)


@given(st.floats(0.1, 1000), st.lists(st.floats(0, 2), max_size=60))
def test_no_more_than_burst_and_rate_together(rate, pauses):
    """In any time, whatever its pattern, at most the burst and what came back meanwhile was taken."""
    clock = FakeClock(0.0)
    bucket = TokenBucket(rate, clock())
    count = 0
    for pause in pauses:
        clock.advance(pause)
        count += bucket.take(clock())

    assert count <= max(1, rate) + rate * clock() + 1e-6


@pytest.mark.row(75)
def test_a_crowd_is_back_in_time_and_nobody_is_refused_twice():
    """10,000 at once, each coming back when it was told: all are in within 30 s, at most one refusal each."""
    clock = FakeClock(0.0)
    door = Appointments(2000, clock())
    coming: dict[int, int] = {0: 10_000}
    refused = 0

    for second in range(31):
        clock.now = float(second)
        for _ in range(coming.pop(second, 0)):
            wait = door.ask(clock())
            if wait:
                refused += second > 0
                coming[second + wait] = coming.get(second + wait, 0) + 1

    assert {} == coming
    assert 0 == refused


@pytest.mark.row(75)
def test_appointments_are_spread():
    """Those who are sent away are not told the same second."""
    clock = FakeClock()
    door = Appointments(8, clock())
    waits = [door.ask(clock()) for _ in range(24)]

    assert [0] * 8 + [1] * 4 + [2] * 4 + [3] * 4 + [4] * 4 == waits


@pytest.mark.row(75)
def test_a_late_comer_of_the_crowd_takes_no_place_of_those_who_were_sent_away():
    """Whoever is told the first time comes when the rest of the crowd, a second behind, has been in or been told."""
    clock = FakeClock(0.0)
    door = Appointments(2000, clock(), head_start=1.0)
    told = [door.ask(clock()) for _ in range(3_000)]
    clock.now = 1.0
    late = [door.ask(clock()) for _ in range(2_000)]
    clock.now = float(min(filter(None, told)))

    assert [0] * 2_000 == late
    assert {0} == {door.ask(clock()) for wait in told if wait == clock()}


@given(st.integers(1, 5000), st.lists(st.tuples(st.floats(0, 100), st.integers(1, 500)), max_size=20))
def test_an_appointment_is_never_too_late(rate, visits):
    """However large the crowd, whoever has to wait waits from 1 to 30 seconds."""
    clock = FakeClock()
    door = Appointments(rate, clock())
    for pause, crowd in visits:
        clock.advance(pause)
        assert {door.ask(clock()) for _ in range(crowd)} <= {*range(31)}
