"""The pulse: one greenlet looks after the deadlines of all connections."""

from __future__ import annotations

import gevent
import pytest

from webmesh.options import Timeouts
from webmesh.testing import FakeClock
from webmesh.websocket.pulse import SLICE, Pulse

FAST = Timeouts(ping_interval=0.04, liveness=0.09, message=0.04, write=0.04)


class Ticked:
    """Notes when it was looked at."""

    def __init__(self) -> None:
        self.times: list[float] = []

    def tick(self, now: float) -> None:
        self.times.append(now)


def beats(connection: Ticked, count: int) -> None:
    with gevent.Timeout(10):
        while len(connection.times) < count:
            gevent.sleep(0.005)


def test_every_connection_is_looked_at_again_and_again():
    """With the clock's reading, so that deadlines are those of one clock."""
    clock, connections = FakeClock(50.0), [Ticked(), Ticked()]
    pulse = Pulse(connections, FAST, clock=clock)
    pulse.start()
    beats(connections[1], 2)
    pulse.stop()

    assert {50.0} == set(connections[0].times) == set(connections[1].times)


def test_connections_may_come_and_go_meanwhile():
    """Each beat looks at those that are there when it begins."""
    connections = {"first": Ticked()}
    pulse = Pulse(connections.values(), FAST)
    pulse.start()
    beats(connections["first"], 1)
    gone = connections.pop("first")
    later = connections["later"] = Ticked()
    beats(later, 2)
    seen = len(gone.times)
    beats(later, 4)
    pulse.stop()

    assert seen == len(gone.times)


@pytest.mark.row(82)
def test_many_connections_do_not_hold_the_hub():
    """Others get their turn between two slices."""
    order: list[str] = []

    class Watching(Ticked):
        def tick(self, now: float) -> None:
            order.append("tick")

    pulse = Pulse([Watching() for _ in range(SLICE * 3)], FAST)
    pulse.start()
    with gevent.Timeout(10):
        while order.count("tick") < SLICE * 3:
            order.append("other")
            gevent.sleep(0)
    pulse.stop()

    first = order.index("tick")
    assert "other" in order[first : first + SLICE * 2]


def test_a_connection_that_fails_does_not_stop_the_others(caplog: pytest.LogCaptureFixture):
    """A fault in one must not leave all others without deadlines."""

    class Failing(Ticked):
        def tick(self, now: float) -> None:
            super().tick(now)
            raise ZeroDivisionError

    connections = [Failing(), Ticked()]
    pulse = Pulse(connections, FAST)
    pulse.start()
    beats(connections[1], 3)
    pulse.stop()

    assert "connection could not be looked after" in caplog.text


def test_a_stopped_pulse_looks_at_nothing():
    """Stopping is safe at any time, also before the start and twice."""
    connection = Ticked()
    pulse = Pulse([connection], FAST)
    pulse.stop()
    pulse.start()
    beats(connection, 1)
    pulse.stop()
    pulse.stop()
    gevent.sleep(0)
    seen = len(connection.times)
    gevent.sleep(0.05)

    assert seen == len(connection.times)


@pytest.mark.parametrize(
    ("timeouts", "period"),
    [(Timeouts(), 1.0), (Timeouts(write=0.4), 0.1), (Timeouts(ping_interval=2, liveness=5), 0.5)],
)
def test_it_beats_often_enough_for_the_shortest_wait(timeouts: Timeouts, period: float):
    """No deadline is overrun by more than a quarter; a second is fine for the defaults."""
    assert period == pytest.approx(Pulse([], timeouts).period)
