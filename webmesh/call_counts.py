"""What is counted of the calls of one route, always and whatever is installed: how many, how they ended, how long.

Pure. A call takes one from a number, and only when none is left it is timed: of a route that is called often, one of
sixty-four calls that end at once is, and stands for the others. Calls that wait are all timed; where a quick one was
expected perhaps only from the first wait on, but then the next one is from its beginning.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from typing import Any

from webmesh.exceptions import REMOTE_ERRORS

BUCKETS = tuple(float(f"{0.00001 * 2 ** (step / 2):.3g}") for step in range(44))
"""Seconds: upper bounds of the latency histogram, 10 us to 30 s. Each is 1.41 times the one before, so that a quantile
is known to a fifth; `Timeouts.request` is 30 s."""

SAMPLE = 64
"""Quick calls of a busy route of which one is timed: to time each costs a pipelined call 6 %, this less than 1 %."""

BUSY = 1000.0
"""Quick calls a second beyond which only samples are timed."""

OTHER = "other"
_CODES = frozenset({"unknown", *REMOTE_ERRORS})


class CallCounts:
    """The counts of one route.

    Attributes:
        left: Calls that may begin before one is to be timed. Whoever begins one takes one away, and times it if that
            leaves less than none.
        seconds: What all took together; estimated where not all are timed.
    """

    __slots__ = ("_granted", "_looked_at", "_seen", "_weight", "errors", "latency", "left", "seconds")

    def __init__(self) -> None:
        self.left = 0
        self._granted = 0
        self._weight = 1
        self.errors: dict[str, int] = {}
        self.latency = [0] * (len(BUCKETS) + 1)
        self.seconds = 0.0
        self._seen = 0
        self._looked_at = 0.0

    @property
    def begun(self) -> int:
        """Calls so far."""
        return self._granted - self.left

    def quick(self, seconds: float, now: float) -> None:
        """A call that never waited took so long; it stands for those that are not noted."""
        weight = self._weight
        self.latency[bisect_left(BUCKETS, seconds)] += weight
        self.seconds += weight * seconds
        self._seen += weight
        if self._seen >= SAMPLE:
            self._weight = SAMPLE if (now - self._looked_at) * BUSY < self._seen else 1
            self._seen, self._looked_at = 0, now
        self._granted += self._weight - 1 - self.left
        self.left = self._weight - 1

    def slow(self, seconds: float) -> None:
        """A call that has waited took so long."""
        self.latency[bisect_left(BUCKETS, seconds)] += 1
        self.seconds += seconds
        left = self.left
        if left > 0:  # it began as one that is not timed: the next one of its kind is, from its beginning
            self._weight -= left
            self._granted -= left
            self.left = 0

    def fail(self, code: str) -> None:
        """A call ended with an error. Codes of a handler's own are not kept apart: there could be any number."""
        if code not in _CODES:
            code = OTHER
        self.errors[code] = self.errors.get(code, 0) + 1

    def to_wire(self, in_flight: int) -> dict[str, Any]:
        """As `$stats` tells it.

        Args:
            in_flight: How many have begun and not ended.
        """
        count = self.begun - in_flight
        failed = sum(self.errors.values())
        codes = {"ok": count - failed} if count > failed else {}
        return {
            "count": count,
            "codes": codes | self.errors,
            "seconds": round(self.seconds, 6),
            "in_flight": in_flight,
            "latency": list(self.latency),
        }


def quantile(share: float, latency: Sequence[float], buckets: Sequence[float]) -> float | None:
    """Within how many seconds that share of the calls ended; `None` where there were none.

    Args:
        latency: How many took so long, for each bucket and beyond the last.
        buckets: Their upper bounds.
    """
    counts = [max(0.0, count) for count in latency]
    wanted = share * sum(counts)
    if not wanted:
        return None
    lower, before = 0.0, 0.0
    for count, bound in zip(counts, buckets):
        if before + count >= wanted:
            return lower + (bound - lower) * (wanted - before) / count
        lower, before = bound, before + count
    return lower
