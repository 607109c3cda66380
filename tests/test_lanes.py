"""Lanes: first come, first served, for each key."""

from __future__ import annotations

import gevent
import pytest
from gevent.event import Event
from hypothesis import given, strategies as st

from webmesh.lanes import Lanes


def test_what_shares_a_key_runs_one_after_another_in_the_order_of_arrival():
    """However long the first one takes."""
    lanes, log, release = Lanes(), [], Event()

    def work(name: str) -> None:
        with lanes.turn("key"):
            log.append(f"{name} begins")
            release.wait(5)
            log.append(f"{name} ends")

    workers = [gevent.spawn(work, name) for name in "abc"]
    gevent.sleep(0)
    release.set()
    gevent.joinall(workers, 5, raise_error=True)

    assert [f"{name} {what}" for name in "abc" for what in ("begins", "ends")] == log


def test_other_keys_do_not_wait():
    """Order is kept within a key only."""
    lanes, release = Lanes(), Event()

    def hold() -> None:
        with lanes.turn("a"):
            release.wait(5)

    holder = gevent.spawn(hold)
    gevent.sleep(0)
    with gevent.Timeout(5), lanes.turn("b"):
        assert 2 == len(lanes)
    release.set()
    holder.join(5)


def test_a_key_is_forgotten_when_nobody_uses_it():
    """Keys come from peers' data, so none may stay (row 86)."""
    lanes = Lanes()
    for key in range(1000):
        with lanes.turn(key):
            pass

    assert 0 == len(lanes)


@pytest.mark.row(86, 95)
def test_an_error_gives_the_lane_back():
    """Whoever comes next must not wait for ever."""
    lanes = Lanes()
    with pytest.raises(ZeroDivisionError), lanes.turn("key"):
        raise ZeroDivisionError

    with gevent.Timeout(5), lanes.turn("key"):
        pass
    assert 0 == len(lanes)


@pytest.mark.row(95)
@given(kills=st.lists(st.integers(0, 5), max_size=6), pauses=st.lists(st.booleans(), min_size=6, max_size=6))
def test_killed_waiters_leave_no_lane_locked(kills: list[int], pauses: list[bool]):
    """Killed before their turn, in it, or just as it comes: the others still get theirs, in order."""
    lanes, finished = Lanes(), []

    def work(number: int) -> None:
        with lanes.turn("key"):
            gevent.sleep(0)
            finished.append(number)

    workers = [gevent.spawn(work, number) for number in range(6)]
    for number, pause in zip(kills, pauses, strict=False):
        if pause:
            gevent.sleep(0)
        workers[number].kill(block=False)
    gevent.joinall(workers, 5)

    assert all(worker.dead for worker in workers)
    assert 0 == len(lanes)
    assert sorted(finished) == finished
    assert set(range(6)) - set(kills) <= set(finished)


def test_a_wide_lane_holds_as_many_at_once():
    """The next one comes in when one of them leaves, and nobody overtakes it."""
    lanes, log = Lanes(2), []

    def work(name: str) -> None:
        lanes.enter("key")
        log.append(name)

    workers = [gevent.spawn(work, name) for name in "abcd"]
    gevent.sleep(0)
    assert ["a", "b"] == log
    lanes.leave("key")
    gevent.joinall(workers, 0.01)
    assert ["a", "b", "c"] == log
    for _ in range(3):
        lanes.leave("key")
        gevent.sleep(0.001)
    assert (["a", "b", "c", "d"], 0) == (log, len(lanes))
