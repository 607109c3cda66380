"""What is counted of a route's calls: each of them, and the time of enough of them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from webmesh.call_counts import BUCKETS, OTHER, SAMPLE, CallCounts, quantile


def begin(counts: CallCounts) -> bool:
    """A call begins, as the dispatcher does it; whether it is to be timed."""
    counts.left -= 1
    return counts.left < 0


def run(counts: CallCounts, calls: int, *, every: float, now: float = 0.0, took: float = 0.001) -> int:
    """Quick calls, one after another; how many were timed."""
    timed = 0
    for _ in range(calls):
        now += every
        if begin(counts):
            timed += 1
            counts.quick(took, now)
    return timed


def test_every_call_of_a_quiet_route_is_timed() -> None:
    """So that few calls say something, too."""
    counts = CallCounts()
    assert 50 == run(counts, 50, every=0.01)
    assert (50, 50) == (counts.begun, sum(counts.latency))
    assert 0.05 == pytest.approx(counts.seconds)


def test_of_a_busy_route_samples_are_timed() -> None:
    """They stand for the others; all are counted."""
    counts = CallCounts()
    timed = run(counts, 10_000, every=0.0001)
    assert timed < 10_000 / SAMPLE + 3 * SAMPLE
    assert 10_000 == counts.begun
    assert 10_000 == pytest.approx(sum(counts.latency), abs=SAMPLE)
    assert 10.0 == pytest.approx(counts.seconds, rel=0.02)


def test_a_route_that_becomes_quiet_is_timed_again() -> None:
    """After the sample that shows it."""
    counts = CallCounts()
    run(counts, 1000, every=0.0001)
    run(counts, SAMPLE, every=0.1, now=1.0)
    assert 20 == run(counts, 20, every=0.1, now=10.0)


def test_a_sample_that_waited_is_taken_from_the_next_call() -> None:
    """Calls that wait are all timed, so they say nothing of the quick ones; and none is lost from the count."""
    counts = CallCounts()
    assert [True, True] == [begin(counts), begin(counts)]
    counts.slow(0.5)
    counts.slow(0.5)
    assert begin(counts)
    counts.quick(0.001, 1.0)
    assert (3, 3) == (counts.begun, sum(counts.latency))


def test_a_call_that_waits_unexpectedly_has_the_next_one_timed() -> None:
    """From its beginning; of a route whose calls wait only the first may be timed from its first wait on."""
    counts = CallCounts()
    run(counts, 1000, every=0.0001)
    assert not begin(counts)
    counts.slow(0.5)
    assert begin(counts)
    counts.quick(0.001, 0.2)
    assert 1002 == counts.begun
    assert 1002 == pytest.approx(sum(counts.latency), abs=1)


@given(st.lists(st.sampled_from(["begin", "quick", "slow"]), max_size=300), st.sampled_from([0.0001, 0.1]))
def test_each_call_is_counted_in_whatever_order_they_end(events: list[str], every: float) -> None:
    """Whichever of them are timed."""
    counts = CallCounts()
    now, begun, waiting = 0.0, 0, 0
    for event in events:
        now += every
        if event == "slow":
            if waiting:
                waiting -= 1
                counts.slow(0.5)
            continue
        begun += 1
        timed = begin(counts)
        if event == "begin":
            waiting += 1
        elif timed:
            counts.quick(0.001, now)
        assert begun == counts.begun
    assert (begun, waiting) == (counts.begun, counts.to_wire(waiting)["in_flight"])
    assert min(counts.latency) >= 0


def test_what_has_not_ended_is_in_flight() -> None:
    """And not among those that have."""
    counts = CallCounts()
    run(counts, 5, every=1.0)
    counts.fail("not_found")
    told = counts.to_wire(2)
    assert (3, {"ok": 2, "not_found": 1}, 2) == (told["count"], told["codes"], told["in_flight"])
    assert len(BUCKETS) + 1 == len(told["latency"])


def test_codes_of_a_handlers_own_do_not_grow_the_counts() -> None:
    """There could be any number of them."""
    counts = CallCounts()
    for number in range(100):
        counts.fail(f"code {number}")
    counts.fail("internal")
    assert {OTHER: 100, "internal": 1} == counts.errors


def test_the_buckets_ascend_to_the_default_timeout() -> None:
    """From what a quick handler takes, by factors of 1.41."""
    assert sorted(set(BUCKETS)) == list(BUCKETS)
    assert (0.00001, True) == (BUCKETS[0], 25 < BUCKETS[-1] < 35)
    assert all(1.35 < after / before < 1.48 for before, after in zip(BUCKETS, BUCKETS[1:]))


def test_quantiles_are_found_in_the_buckets() -> None:
    """Between a bucket's bounds in proportion; beyond the last they are at least that."""
    assert 1.5 == quantile(0.5, [0, 10, 0], (1.0, 2.0))
    assert 0.5 == quantile(0.5, [10, 0, 0], (1.0, 2.0))
    assert 2.0 == quantile(0.99, [1, 0, 99], (1.0, 2.0))
    assert quantile(0.5, [0, 0, 0], (1.0, 2.0)) is None


def test_negative_counts_are_none() -> None:
    """Differences of estimates may be below nothing."""
    assert 1.5 == quantile(0.5, [-3, 10, 0], (1.0, 2.0))


def test_calls_of_known_length_have_their_quantiles() -> None:
    """To a fifth."""
    counts = CallCounts()
    for number in range(1, 101):
        counts.slow(number / 1000)
    assert 0.05 == pytest.approx(quantile(0.5, counts.latency, BUCKETS), rel=0.2)
    assert 0.099 == pytest.approx(quantile(0.99, counts.latency, BUCKETS), rel=0.2)
