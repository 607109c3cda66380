"""The delays between attempts to connect: random below a growing bound, reset by a stable connection only."""

from __future__ import annotations

import math
from random import Random

import pytest

from webmesh.options import Backoff
from webmesh.protocol.backoff import BackoffSeries


def highest() -> float:
    """A random number as large as they come."""
    return math.nextafter(1.0, 0.0)


def delays(series: BackoffSeries, count: int) -> list[float]:
    return [round(series.next_delay(), 3) for _ in range(count)]


def test_the_bound_doubles_up_to_the_cap() -> None:
    """0.1 s to 30 s by default."""
    series = BackoffSeries(Backoff(), highest)

    assert [0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 6.4, 12.8, 25.6, 30, 30] == delays(series, 11)
    assert 11 == series.attempt


def test_a_delay_may_be_as_short_as_nothing() -> None:
    """Full jitter: anything below the bound."""
    assert [0.0] * 12 == delays(BackoffSeries(Backoff(), lambda: 0.0), 12)


def test_the_shortest_cap_holds_for_the_first_delay_too() -> None:
    """Whatever the first one was to be."""
    assert [1.0, 1.0] == delays(BackoffSeries(Backoff(first=5, maximum=1), highest), 2)


@pytest.mark.row(75)
def test_a_herd_spreads() -> None:
    """Ten thousand clients that lost the same server, and find it away until the fifth attempt at least, come in every
    tenth of the time in about equal numbers."""
    random = Random(4269)
    fifth = []
    for _ in range(10_000):
        series = BackoffSeries(Backoff(), random.random)
        fifth.append(delays(series, 5)[-1])
    counts = [sum(1 for delay in fifth if n <= delay / 0.16 < n + 1) for n in range(10)]
    assert all(850 < count < 1150 for count in counts)


@pytest.mark.row(75)
def test_only_a_stable_connection_begins_anew() -> None:
    """One that lasted a minute, not one that was lost before that."""
    series = BackoffSeries(Backoff(stable_after=60), highest)
    delays(series, 4)

    series.opened(100.0)
    series.ended(159.9)
    after_a_short_one = delays(series, 1)
    series.opened(200.0)
    series.ended(260.0)
    after_a_stable_one = delays(series, 1)

    assert ([1.6], [0.1]) == (after_a_short_one, after_a_stable_one)


@pytest.mark.row(77)
def test_a_flapping_client_comes_to_the_cap() -> None:
    """Fifteen connections that are lost at once, although each attempt succeeds."""
    series, now, bounds = BackoffSeries(Backoff(), highest), 0.0, []
    for _ in range(15):
        series.opened(now)
        series.ended(now + 1)
        bounds.append(series.next_delay())
        now += 1 + bounds[-1]
    assert 30 == round(bounds[-1])


@pytest.mark.row(76)
@pytest.mark.parametrize("number", [0.0, 0.5, highest()])
def test_a_delay_that_the_server_asked_for_is_never_undercut(number: float) -> None:
    """And spread over as long again, so that those it sent away together do not come back together."""
    delay = BackoffSeries(Backoff(), lambda: number).next_delay(5.0)
    assert 5 + 5 * number == pytest.approx(delay)


@pytest.mark.row(76)
def test_a_short_delay_of_the_server_does_not_shorten_ours() -> None:
    """The bound has grown by then, and the spread with it."""
    series = BackoffSeries(Backoff(), highest)
    delays(series, 6)
    assert 0.2 + 6.4 == pytest.approx(series.next_delay(0.2))


@pytest.mark.row(76)
def test_an_absurd_delay_of_the_server_is_cut() -> None:
    """`Retry-After: 999999999` must not keep a client away for thirty years."""
    delay = BackoffSeries(Backoff(longest_asked=300), highest).next_delay(1e9)
    assert 330 == pytest.approx(delay)


def test_it_is_over_when_there_was_no_connection_for_so_long() -> None:
    """Counted from the loss or the first failure; a connection, however short, ends the count."""
    series = BackoffSeries(Backoff(give_up_after=60), highest)
    assert not series.over(1e9)
    series.failed(100.0)
    series.failed(150.0)
    assert [False, True] == [series.over(159.0), series.over(160.0)]
    series.opened(161.0)
    assert not series.over(1e9)
    series.ended(170.0)
    assert [False, True] == [series.over(229.0), series.over(230.0)]
    series.reset()
    assert not series.over(1e9)


def test_without_a_bound_it_is_never_over() -> None:
    """The default."""
    series = BackoffSeries(Backoff(), highest)
    series.failed(0.0)
    assert not series.over(1e12)
