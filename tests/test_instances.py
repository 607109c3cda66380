"""What is known of an instance, and which ones may get a call."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.instance_fakes import Link, busy, instance
from webmesh.instances import LATENCY_MEMORY, UNKNOWN_LATENCY, Instance, usable

SECONDS = st.floats(0, 1e6)
FLAGS = st.fixed_dictionaries({
    "draining": st.booleans(), "stalled": st.booleans(), "ejected": st.booleans(), "resting": st.booleans(),
    "open": st.booleans(), "near": st.booleans(), "tried": st.booleans(),
})  # fmt: skip


def made(flags: dict[str, bool], number: int) -> Instance:
    one = instance(f"n{number}", zone="here" if flags["near"] else "there")
    one.draining, one.stalled = flags["draining"], flags["stalled"]
    one.connection = Link(is_open=flags["open"])
    if flags["ejected"]:
        one.eject(200.0)
    if flags["resting"]:
        one.rest(200.0)
    return one


@given(st.lists(FLAGS, max_size=8), st.floats(0, 1))
def test_who_gets_a_call(every: list[dict[str, bool]], share: float) -> None:
    """Somebody whenever anybody can be reached; never one that drains or is gone; the ready ones where there are any,
    and those that were tried only when there is nobody else."""
    instances = [made(flags, number) for number, flags in enumerate(every)]
    tried = [one for one, flags in zip(instances, every) if flags["tried"]]

    found = usable(instances, 100.0, zone="here", share=share, without=tried)

    reachable = [one for one in instances if one.reachable()]
    assert bool(reachable) == bool(found)
    assert set(found) <= set(reachable)
    fresh = [one for one in reachable if one not in tried]
    assert set(found) <= set(fresh) or not fresh
    if any(one.ready(100.0) for one in fresh):
        assert all(one.ready(100.0) for one in found)


@pytest.mark.parametrize(("ill", "share", "expected"), [
    (0, 0.5, {"here"}), (2, 0.5, {"here"}), (3, 0.5, {"here", "there"}), (3, 0.0, {"here"}), (4, 0.0, {"there"}),
    (1, 1.0, {"here", "there"}), (0, 1.0, {"here"}),
])  # fmt: skip
def test_the_own_zone_comes_first(ill: int, share: float, expected: set[str]) -> None:
    """Unless fewer than that share of its instances is usable."""
    near = [instance(f"near-{number}", zone="here") for number in range(4)]
    far = [instance(f"far-{number}", zone="there") for number in range(4)]
    for one in near[:ill]:
        one.stalled = True

    assert expected == {one.zone for one in usable(near + far, 0.0, zone="here", share=share)}


def test_those_that_drain_do_not_count_in_their_zone() -> None:
    """A rolling restart is no outage: the others of the zone go on alone."""
    near = [instance(f"near-{number}", zone="here") for number in range(3)]
    for one in near[1:]:
        one.draining = True
    assert near[:1] == usable([*near, instance("far", zone="there")], 0.0, zone="here", share=0.9)


def test_nobody_is_preferred_without_a_zone() -> None:
    """Nor where no instance is in the own one."""
    all_of_them = [instance("a", zone="x"), instance("b", zone="y"), instance("c")]
    assert all_of_them == usable(all_of_them, 0.0, zone=None, share=0.5)
    assert all_of_them == usable(all_of_them, 0.0, zone="z", share=0.5)


def test_a_rest_ends() -> None:
    """Nothing new goes to an overloaded instance until its time is up, and a shorter one does not end a longer."""
    one, other = instance("a"), instance("b")
    one.rest(5.0)
    one.rest(2.0)

    assert [other] == usable([one, other], 4.9, zone=None, share=0.5)
    assert [one, other] == usable([one, other], 5.0, zone=None, share=0.5)


def test_when_all_rest_they_are_asked_even_so() -> None:
    """An answer that says no is better than none, and those that only rest come before those that are ejected."""
    resting, ejected, stalled = instance("a"), instance("b"), instance("c")
    resting.rest(9.0)
    ejected.eject(9.0)
    stalled.stalled = True

    assert [resting] == usable([resting, ejected, stalled], 0.0, zone=None, share=0.5)
    assert [ejected] == usable([ejected, stalled], 0.0, zone=None, share=0.5)
    assert [stalled] == usable([stalled], 0.0, zone=None, share=0.5)


def test_one_that_was_ejected_proves_itself() -> None:
    """After its time it gets one call at a time, until one succeeds."""
    one = instance()
    one.eject(10.0)

    assert not one.ready(9.9)
    assert one.ready(10.0)
    assert not busy(one, 1).ready(10.0)
    one.succeeded(10.0)
    assert one.ready(10.0)


@given(st.lists(st.tuples(SECONDS, SECONDS), min_size=1))
def test_the_mean_lies_between_what_was_seen(seen: list[tuple[float, float]]) -> None:
    """Whatever the latencies and the times between them."""
    one, now = instance(), 0.0
    for seconds, pause in seen:
        now += pause
        one.answered(seconds, now)

    values = [seconds for seconds, _ in seen]
    assert min(values) * 0.999999 <= one.latency <= max(values) * 1.000001


def test_a_peak_counts_at_once_and_fades() -> None:
    """A slow answer is believed immediately; fast ones take their time to be."""
    one = instance()
    one.answered(0.001, 0.0)
    one.answered(1.0, 0.0)
    assert 1.0 == one.latency

    one.answered(0.0, LATENCY_MEMORY)
    assert math.exp(-1) == pytest.approx(one.latency)


def test_what_was_not_waited_for_counts_too() -> None:
    """The loser of a hedged call is at least that slow, and no faster than it was."""
    one = instance()
    one.answered(0.2, 0.0)
    one.took_at_least(0.1, 1.0)
    assert 0.2 == one.latency
    one.took_at_least(0.3, 1.0)
    assert 0.3 == one.latency


def test_costs_grow_with_calls_in_progress() -> None:
    """An instance that was never asked is cheap, but not for all at once."""
    one = instance()
    assert UNKNOWN_LATENCY == one.cost()
    assert 4 * UNKNOWN_LATENCY == busy(one, 3).cost()
    assert 3 == one.pending


@given(st.lists(st.tuples(st.booleans(), st.floats(0, 100)), min_size=1))
def test_recent_outcomes(outcomes: list[tuple[bool, float]]) -> None:
    """Never more than there were, and failures in a row are counted from the last success."""
    one, now, row = instance(), 0.0, 0
    for good, pause in outcomes:
        now += pause
        (one.succeeded if good else one.failed)(now)
        row = 0 if good else row + 1

    calls, failed = one.recent()
    assert 0 <= failed <= calls <= len(outcomes) + 1e-9
    assert row == one.failed_in_row
    assert len(outcomes) == one.successes + one.failures


def test_its_repr_tells_who_it_is() -> None:
    """For logs and debuggers."""
    assert "<Instance stock of a pending=0" in repr(instance())
