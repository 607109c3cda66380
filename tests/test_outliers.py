"""When an instance is left out, for how long, and how many may be."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.instance_fakes import instance, several
from webmesh.call_policy import CallPolicy
from webmesh.instances import Instance
from webmesh.outliers import ejection, ejection_time

POLICY = CallPolicy()


def fail(one: Instance, instances: list[Instance], now: float, policy: CallPolicy = POLICY) -> str | None:
    one.failed(now)
    why = ejection(one, instances, policy, now)
    if why is not None:
        one.eject(now + ejection_time(one, policy, now))
    return why


@given(
    st.integers(1, 7),
    st.lists(st.tuples(st.integers(0, 6), st.booleans(), st.floats(0, 3)), max_size=200),
)
def test_never_more_than_half(count: int, story: list[tuple[int, bool, float]]) -> None:
    """Whoever fails how often and when."""
    instances, now = several(count), 0.0
    for number, good, pause in story:
        now += pause
        one = instances[number % count]
        if good:
            one.succeeded(now)
        else:
            fail(one, instances, now, CallPolicy(eject_failures=2, eject_calls=4))
        assert sum(other.ejected_until > now for other in instances) * 2 <= count


def test_failures_in_a_row() -> None:
    """The fifth one, by default; a success in between begins anew."""
    instances = several(2)
    for _ in range(4):
        assert fail(instances[0], instances, 0.0) is None
    instances[0].succeeded(0.0)
    reasons = [fail(instances[0], instances, 0.0) for _ in range(5)]

    assert [None] * 4 + ["failures in a row"] == reasons
    assert POLICY.eject_time == instances[0].ejected_until


def test_the_only_one_stays() -> None:
    """There is nobody else."""
    one = instance()
    assert {None} == {fail(one, [one], 0.0) for _ in range(50)}


def test_more_failures_than_the_others() -> None:
    """Also without a row of them, as when one in two of its calls fails."""
    instances = several(3)
    for _ in range(15):
        for one in instances[1:]:
            one.succeeded(0.0)
    reasons = set()
    for _ in range(20):
        instances[0].succeeded(0.0)
        reasons.add(fail(instances[0], instances, 0.0))

    assert {None, "fails more than others"} == reasons


def test_when_all_fail_alike_nobody_is_left_out() -> None:
    """The fault is elsewhere then, as in a database that they share."""
    instances = several(4)
    for _ in range(100):
        for one in instances:
            one.succeeded(0.0)
            assert fail(one, instances, 0.0) is None


def test_a_few_calls_prove_nothing() -> None:
    """Neither of the instance nor of the others."""
    instances = several(2)
    for _ in range(19):
        instances[0].succeeded(0.0)
        assert fail(instances[0], instances, 0.0) is None


def test_times_grow_and_are_forgotten() -> None:
    """Twice as long each time, up to the bound; one that was well for long begins anew."""
    instances, now, times = several(2), 0.0, []
    one = instances[0]
    while len(times) < 9:
        now = max(now, one.ejected_until)
        if fail(one, instances, now) is not None:
            times.append(one.ejected_until - now)

    assert [5, 10, 20, 40, 80, 160, 300, 300, 300] == times
    assert POLICY.eject_time == ejection_time(one, POLICY, one.ejected_until + POLICY.eject_longest)


def test_one_that_fails_its_trial_is_left_out_again() -> None:
    """One failure is enough then; one success ends the trial."""
    instances = several(2)
    instances[0].eject(5.0)

    assert fail(instances[0], instances, 4.0) is None  # a call from before
    assert "failed again" == fail(instances[0], instances, 5.0)
    instances[0].succeeded(20.0)
    assert fail(instances[0], instances, 20.0) is None


@pytest.mark.parametrize("count", [10**3, 10**6])
def test_a_long_story_of_ejections(count: int) -> None:
    """Does not overflow."""
    one = instance()
    one.eject(0.0)
    one.ejections = count
    assert POLICY.eject_longest == ejection_time(one, POLICY, 0.0)
