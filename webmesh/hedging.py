"""When a call of an idempotent route is sent to a second instance as well.

Pure. The delay is what 95 of 100 recent calls of the route took, so that about one call in twenty gets a second one;
the budget holds that when all become slow at once. Sending is `service_calls`' business.
"""

from __future__ import annotations

from webmesh.call_policy import CallPolicy

SAMPLES = 128
"""Recent latencies that are looked at."""
FEWEST = 20
"""With fewer, there is no 95th of a hundred."""
REFRESH = 16
"""Calls after which they are put in order anew: that costs 5 us."""
SAVED = 10.0
"""Second calls that can be saved up."""
QUANTILE = 0.95


class Hedging:
    """For one route of a service; may be used from any thread."""

    __slots__ = ("_delay", "_next", "_policy", "_recent", "_saved")

    def __init__(self, policy: CallPolicy) -> None:
        self._policy = policy
        self._recent: list[float] = []
        self._next = 0
        self._saved = 0.0
        self._delay: float | None = None

    def delay(self) -> float | None:
        """A call is made: seconds after which it is to be sent once more; `None` for never."""
        hedge = self._policy.hedge
        if hedge is False:
            return None
        self._saved = min(SAVED, self._saved + self._policy.hedge_share)
        return self._delay if hedge is True else float(hedge)

    def afford(self) -> bool:
        """Whether there is a second call to spare; it is spent then."""
        # A trifle less than one: twenty times 0.05 is not quite 1.
        if self._saved < 1 - 1e-9:
            return False
        self._saved -= 1
        return True

    def took(self, seconds: float) -> None:
        """A call has got its answer after so long."""
        if self._policy.hedge is not True:
            return
        recent, number = self._recent, self._next
        if len(recent) < SAMPLES:
            recent.append(seconds)
        else:
            recent[number % SAMPLES] = seconds
        self._next = number + 1
        if len(recent) >= FEWEST and (self._delay is None or number % REFRESH == 0):
            self._delay = sorted(recent)[int(len(recent) * QUANTILE)]
