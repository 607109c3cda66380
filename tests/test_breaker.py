"""The breaker: opens when calls fail, lets one at a time try, closes when that succeeds."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from webmesh.breaker import CLOSED, HALF_OPEN, OPEN, Breaker
from webmesh.call_policy import CallPolicy

POLICY = CallPolicy(breaker_calls=4, breaker_window=10.0, breaker_open=2.0, breaker_longest=5.0)


def opened(now: float = 0.0) -> Breaker:
    breaker = Breaker(POLICY)
    for _ in range(4):
        permit = breaker.enter(now)
        assert permit is not None
        breaker.failed(permit, now)
    assert OPEN is breaker.state
    return breaker


@given(st.lists(st.tuples(st.sampled_from(["enter", "good", "bad", "left"]), st.integers(0, 9), st.floats(0, 4))))
def test_at_most_one_tries(story: list[tuple[str, int, float]]) -> None:
    """Whatever ends in whichever order: none passes an open breaker, one at a time a half-open one, all a closed."""
    breaker, now = Breaker(POLICY), 0.0
    inside: list[tuple[int, str]] = []
    for step, number, pause in story:
        now += pause
        if step == "enter":
            due = breaker.state is OPEN and breaker.wait(now) <= 0
            trying = any(permit == breaker._permits for permit, _ in inside) and breaker.state is HALF_OPEN
            permit = breaker.enter(now)
            may = breaker.state is CLOSED or due or (breaker.state is HALF_OPEN and not trying)
            assert may == (permit is not None)
            if permit is not None:
                inside.append((permit, breaker.state))
        elif inside:
            permit, _ = inside.pop(number % len(inside))
            {"good": breaker.succeeded, "bad": breaker.failed}.get(step, lambda p, _: breaker.left(p))(permit, now)
        current = [permit for permit, _ in inside if permit == breaker._permits]
        assert breaker.state is CLOSED or len(current) <= 1


@given(st.lists(st.booleans(), max_size=100))
def test_it_opens_when_half_fails(outcomes: list[bool]) -> None:
    """With enough calls in the window, and not before."""
    breaker, bad = Breaker(POLICY), 0
    for number, good in enumerate(outcomes, 1):
        permit = breaker.enter(0.0)
        assert permit is not None
        if good:
            assert not breaker.succeeded(permit, 0.0)
            continue
        bad += 1
        assert (number >= 4 and bad * 2 >= number) == breaker.failed(permit, 0.0)
        if breaker.state is OPEN:
            break


def test_failures_of_another_window_do_not_count() -> None:
    """Four failures in an hour are no outage."""
    breaker = Breaker(POLICY)
    for hour in range(10):
        permit = breaker.enter(hour * 3600.0)
        assert permit is not None
        assert not breaker.failed(permit, hour * 3600.0)


def test_a_try_that_succeeds_closes_it() -> None:
    """And what failed before is forgotten."""
    breaker = opened()
    assert breaker.enter(1.9) is None
    assert 2.0 == breaker.wait(0.0)

    permit = breaker.enter(2.0)
    assert permit is not None
    assert (HALF_OPEN, None) == (breaker.state, breaker.enter(2.0))
    assert breaker.succeeded(permit, 2.1)

    assert CLOSED is breaker.state
    again = breaker.enter(2.1)
    assert again is not None
    assert not breaker.failed(again, 2.1)


def test_tries_that_fail_come_ever_later() -> None:
    """Twice as long each time, up to the bound."""
    breaker, now, waits = opened(), 2.0, []
    for _ in range(4):
        permit = breaker.enter(now)
        assert permit is not None
        assert breaker.failed(permit, now)
        waits.append(breaker.wait(now))
        now += breaker.wait(now)
    assert [4.0, 5.0, 5.0, 5.0] == waits


def test_a_try_that_was_given_up_says_nothing() -> None:
    """The next one tries instead."""
    breaker = opened()
    first = breaker.enter(2.0)
    assert first is not None
    breaker.left(first)
    assert HALF_OPEN is breaker.state
    assert first == breaker.enter(2.0)


def test_calls_from_before_have_no_say() -> None:
    """What was sent before it opened, and ends after, neither closes it nor counts as its try."""
    breaker = Breaker(POLICY)
    permits = [breaker.enter(0.0) for _ in range(6)]
    for permit in permits[:4]:
        assert permit is not None
        breaker.failed(permit, 0.0)
    assert breaker.enter(2.0) is not None

    late = permits[4]
    assert late is not None
    assert not breaker.succeeded(late, 2.0)
    assert not breaker.failed(late, 2.0)
    breaker.left(late)
    assert (HALF_OPEN, None) == (breaker.state, breaker.enter(2.0))


def test_its_repr_tells_its_state() -> None:
    """For logs and debuggers."""
    assert "<Breaker open failed=4/4>" == repr(opened())
