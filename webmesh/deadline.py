"""One absolute deadline that several steps share.

Knows only the clock that it is given. Turning a deadline into an interrupt is the business of the
layer that waits.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable

from webmesh.exceptions import ConfigurationError

Clock = Callable[[], float]
"""Monotonic seconds. `time.monotonic` everywhere but in tests: a wall clock jumps."""


LONGEST = 365 * 86400.0
"""Seconds that a call may be given, and what it gets where somebody says for ever: timers cannot count that."""


def finite(seconds: float) -> float:
    """*seconds*, or `LONGEST` where they are more.

    Raises:
        ConfigurationError: They are no number.
    """
    if seconds != seconds:
        raise ConfigurationError("a timeout must be a number of seconds, not nan")
    return min(seconds, LONGEST)


class Deadline:
    """A point in time that a chain of waits must not pass.

    Args:
        seconds: From now; `None` for no end. Zero or less has already expired.
    """

    __slots__ = ("_clock", "at", "cancelled")

    def __init__(self, seconds: float | None, *, clock: Clock = time.monotonic) -> None:
        self._clock = clock
        self.at = math.inf if seconds is None else clock() + seconds
        """The clock's reading at which it expires; infinity for never."""
        self.cancelled = False
        """True once the asking side has gone or has said that it no longer wants the answer."""

    def remaining(self) -> float | None:
        """Seconds left, never below 0; `None` when there is no end."""
        if self.at == math.inf:
            return None
        return max(0.0, self.at - self._clock())

    @property
    def expired(self) -> bool:
        """Whether the time is up."""
        return self._clock() >= self.at

    def tightened(self, seconds: float | None) -> Deadline:
        """The earlier of this deadline and one *seconds* from now; `None` adds nothing."""
        other = Deadline(seconds, clock=self._clock)
        other.at = min(self.at, other.at)
        return other

    def __repr__(self) -> str:
        left = self.remaining()
        state = "cancelled" if self.cancelled else "never" if left is None else f"{left:.3f} s left"
        return f"<Deadline {state}>"
