"""The pulse: deadlines of many connections, looked after by one greenlet."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator

import gevent
import pytest
from gevent.event import Event

import webmesh.websocket.pulse as pulse_module
from tests.websocket.loopback import PATIENCE, until
from webmesh.options import Timeouts
from webmesh.testing import FakeClock
from webmesh.websocket.pulse import SLICE, Pulse

FAST = Timeouts(ping_interval=0.02, liveness=0.05, message=5, write=5)


class Connection:
    """Notes the readings that it is ticked with."""

    def __init__(self, act: Callable[[], object] = lambda: None) -> None:
        self.ticks: list[float] = []
        self.lates: list[float] = []
        self.act = act
        self.ticked = Event()

    def tick(self, now: float, late: float = 0.0) -> None:
        self.lates.append(late)
        self.ticks.append(now)
        self.ticked.set()
        self.act()

    def wait(self, count: int = 1) -> None:
        """Until it was ticked so many times in all."""
        until(lambda: len(self.ticks) >= count)


@pytest.fixture
def beating() -> Iterator[Callable[..., Pulse]]:
    """Starts pulses, and stops them after the test."""
    pulses: list[Pulse] = []

    def start(connections: object, timeouts: Timeouts = FAST, **options: object) -> Pulse:
        pulse = Pulse(connections, timeouts, **options)  # type: ignore[arg-type]
        pulses.append(pulse)
        pulse.start()
        return pulse

    yield start
    for pulse in pulses:
        pulse.stop()


@pytest.mark.parametrize(
    ("timeouts", "period"),
    [
        (Timeouts(), 1.0),
        (Timeouts(write=2), 0.5),
        (Timeouts(message=0.4), 0.1),
        (Timeouts(ping_interval=0.2), 0.05),
        (Timeouts(ping_interval=2, liveness=3), 0.5),
        (Timeouts(close=0.1, request=0.1), 1.0),
    ],
)
def test_no_wait_is_overrun_by_more_than_a_quarter(timeouts: Timeouts, period: float, monkeypatch: pytest.MonkeyPatch):
    """It beats four times in the shortest of the waits that it looks after, and at least once a second."""
    slept: list[float] = []
    assert period == pytest.approx(Pulse([], timeouts).period)

    def sleep(seconds: float) -> None:
        slept.append(seconds)
        raise gevent.GreenletExit

    monkeypatch.setattr(pulse_module.gevent, "sleep", sleep)
    pulse = Pulse([], timeouts)
    pulse.start()
    assert pulse._greenlet is not None
    pulse._greenlet.join(PATIENCE)

    assert [pytest.approx(period)] == slept


def test_every_connection_gets_the_clocks_reading(beating: Callable[..., Pulse]):
    """The same for all in one beat, and the next one's in the next."""
    clock = FakeClock()
    connections = [Connection(), Connection()]
    beating(connections, clock=clock)
    connections[1].wait()
    clock.advance(5)
    connections[1].wait(len(connections[1].ticks) + 2)

    assert {1000.0, 1005.0} == set(connections[0].ticks) == set(connections[1].ticks)
    assert sorted(connections[0].ticks) == connections[0].ticks


def test_a_stopped_pulse_looks_at_nothing(beating: Callable[..., Pulse]):
    """Stopping is safe at any time, also before the start and twice; it can be started again."""
    connection = Connection()
    Pulse([connection], FAST).stop()
    pulse = beating([connection])
    pulse.stop()
    pulse.stop()
    gevent.sleep(0.02)
    assert [] == connection.ticks

    pulse.start()
    connection.wait()
    pulse.stop()
    gevent.sleep(0)
    seen = len(connection.ticks)
    gevent.sleep(0.02)
    assert seen == len(connection.ticks)


def test_connections_come_and_go(beating: Callable[..., Pulse]):
    """Each beat looks at those that are there, in a live view of the server's table."""
    table: dict[int, Connection] = {}
    beating(table.values())
    table[1] = first = Connection(lambda: table.pop(1, None))
    first.wait()
    table[2] = second = Connection(lambda: table.setdefault(3, third))
    third = Connection()
    third.wait(2)
    table[3] = fourth = Connection()
    fourth.wait()

    assert 1 == len(first.ticks)
    assert 2 <= len(second.ticks)


@pytest.mark.row(82)
def test_others_are_served_between_slices(beating: Callable[..., Pulse]):
    """10,000 connections do not hold the hub for the whole of a beat."""
    between: list[int] = []
    connections = [Connection() for _ in range(3 * SLICE)]

    def ticked() -> int:
        return sum(len(connection.ticks) for connection in connections)

    def look() -> None:
        connections[0].ticked.wait()
        while ticked() < 3 * SLICE:
            between.append(ticked())
            gevent.sleep(0)

    looking = gevent.spawn(look)
    beating(connections)
    looking.join(PATIENCE)

    assert {SLICE, 2 * SLICE} <= set(between)


@pytest.mark.row(93)
def test_a_tick_that_raises_is_logged_and_spoils_no_other(
    beating: Callable[..., Pulse], caplog: pytest.LogCaptureFixture
):
    """Without a pulse no deadline of any connection would ever be kept again."""
    bad, good = Connection(lambda: 1 / 0), Connection()
    with caplog.at_level(logging.ERROR, "webmesh.server"):
        beating([bad, good])
        good.wait(2)

    assert 2 <= len(bad.ticks)
    assert "connection could not be looked after" == caplog.records[0].getMessage()
    assert caplog.records[0].exc_info is not None


def test_a_connection_may_stop_the_pulse(beating: Callable[..., Pulse]):
    """As when the end of the last one closes a client; the beat is finished, and is the last."""
    connections = [Connection(lambda: pulse.stop()), Connection()]
    pulse = beating(connections)
    connections[1].wait()
    assert pulse._greenlet is not None
    pulse._greenlet.join(PATIENCE)

    assert pulse._greenlet.dead
    assert [1, 1] == [len(connection.ticks) for connection in connections]


@pytest.mark.row(53)
def test_the_guard_looks_at_connections_and_at_nothing_else(
    beating: Callable[..., Pulse], caplog: pytest.LogCaptureFixture
):
    """What is no connection has no login; whatever the guard does to one spoils no other."""
    first, second, other = Connection(), Connection(), Connection()
    seen: list[object] = []

    def guard(connection: object, now: float) -> None:
        seen.append(connection)
        if connection is first:
            raise ValueError("spoilt")

    with caplog.at_level(logging.ERROR):
        beating([first, second], others=(other,), guard=guard)
        other.wait(2)
        until(lambda: len(seen) >= 4)

    assert {first, second} == set(seen)
    assert {"connection could not be looked after"} == {record.getMessage() for record in caplog.records}


def test_a_late_beat_tells_how_late_it_is(beating: Callable[..., Pulse]):
    """As after a hold of the hub; ordinary lateness is none."""
    clock = FakeClock()
    connection = Connection()
    pulse = beating([connection], clock=clock)
    connection.wait()
    clock.advance(60)
    connection.wait(len(connection.ticks) + 2)

    assert [60 - pulse.period] == [pytest.approx(late) for late in connection.lates if late]
