"""The pulse: looks after the deadlines of many connections, about once a second.

One greenlet for all of them: a timer per connection would cost memory, and a timer per read would cost
each message.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Collection
from typing import Any, Protocol

import gevent

from webmesh.options import Timeouts

logger = logging.getLogger("webmesh.server")

SLICE = 256
"""Connections that are looked at before the hub serves others: about 0.2 ms."""


class Ticking(Protocol):
    """What has deadlines."""

    def tick(self, now: float, late: float = 0.0) -> None:
        """Look at them; *now* is the clock's reading. For *late* seconds of late nothing could be read or written here,
        as while code held the hub or the process was stopped: the peer must not pay for them."""


class Pulse:
    """Calls `tick` of everything in *connections* until stopped.

    Args:
        connections: Changes meanwhile; each beat looks at those that are there when it begins.
        others: What has deadlines and is no connection.
        guard: Looks at each connection too, given the clock's reading.
    """

    def __init__(
        self,
        connections: Collection[Ticking],
        timeouts: Timeouts,
        *,
        others: Collection[Ticking] = (),
        guard: Callable[[Any, float], None] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._guard = guard
        self._connections = connections
        self._others = others
        self._clock = clock
        # A quarter of the shortest wait, so that none is overrun by more; a second is fine for the defaults.
        shortest = min(
            timeouts.ping_interval, timeouts.stalled, timeouts.liveness, timeouts.message, timeouts.write,
            timeouts.session, timeouts.login,
        )  # fmt: skip
        self.period = min(1.0, shortest / 4)
        """Seconds from one beat to the next."""
        self._greenlet: gevent.Greenlet[[], None] | None = None

    def start(self) -> None:
        """Begin, in the calling thread's hub."""
        self._greenlet = gevent.spawn(self._beat)

    def stop(self) -> None:
        """End; called in the same hub."""
        if self._greenlet is not None:
            self._greenlet.kill(block=False)

    def _beat(self) -> None:
        before = self._clock()
        while True:
            gevent.sleep(self.period)
            now = self._clock()
            late = now - before - self.period
            before = now
            late = late if late > self.period else 0.0
            for other in self._others:
                self._look_at(other, now, 0.0, None)
            for number, connection in enumerate(tuple(self._connections), 1):
                self._look_at(connection, now, late, self._guard)
                if number % SLICE == 0:
                    gevent.sleep(0)

    def _look_at(
        self, connection: Ticking, now: float, late: float, guard: Callable[[Any, float], None] | None
    ) -> None:
        try:
            if late:
                connection.tick(now, late)
            else:
                connection.tick(now)
            if guard is not None:
                guard(connection, now)
        except Exception as error:  # a supervisor's edge: one connection's fault must not cost the others theirs
            logger.error("connection could not be looked after", exc_info=error, extra={"connection": repr(connection)})
