"""So many a second, and a burst: the rule behind every rate limit.

Pure: the clock's reading is passed in. What is counted, and what happens beyond the rate, is decided by the callers.
"""

from __future__ import annotations

import math


class TokenBucket:
    """Allows *rate* a second, averaged over a burst.

    Args:
        rate: Tokens that come back each second.
        now: The clock's reading; the bucket is full then.
        burst: Tokens that it holds; `None` takes those of one second, and never less than one.
    """

    __slots__ = ("_at", "_burst", "_rate", "_tokens")

    def __init__(self, rate: float, now: float, *, burst: float | None = None) -> None:
        self._rate = rate
        self._burst = max(1.0, float(rate if burst is None else burst))
        self._tokens = self._burst
        self._at = now

    def take(self, now: float) -> bool:
        """Take one token; False when there is none, and then nothing is owed."""
        self._fill(now)
        if self._tokens < 1:
            return False
        self._tokens -= 1
        return True

    def wait(self, now: float) -> float:
        """Seconds until there is a token again; 0 while there is one."""
        self._fill(now)
        return max(0.0, (1 - self._tokens) / self._rate)

    def _fill(self, now: float) -> None:
        if now > self._at:
            self._tokens = min(self._burst, self._tokens + (now - self._at) * self._rate)
            self._at = now


class Appointments:
    """Tells those who come too fast when to come back, so that they do not all come at once again.

    A crowd that found the door shut is given times one after the other, at half the *rate*: the other half is for
    those who come for the first time. So 10,000 clients at 2,000 a second have all been in within 10 s.

    Args:
        rate: How many may come in a second.
        now: The clock's reading.
        latest: Seconds beyond which nobody is sent away; a larger crowd comes back denser.
        head_start: Seconds, before the first of these times, for the rest of the crowd, which comes a little later.
    """

    __slots__ = ("_bucket", "_gap", "_head_start", "_latest", "_next")

    def __init__(self, rate: float, now: float, *, latest: int = 30, head_start: float = 0.0) -> None:
        self._bucket = TokenBucket(rate, now)
        self._gap = 2 / rate
        self._latest = latest
        self._head_start = head_start
        self._next = now

    def ask(self, now: float) -> int:
        """0 for whoever may come in now; otherwise whole seconds after which to come back, at least 1."""
        if self._bucket.take(now):
            return 0
        # Beyond the latest appointment the row starts again at its beginning: everybody stays spread.
        if not now + self._head_start <= self._next <= now + self._latest - 1:
            self._next = now + self._head_start
        self._next += self._gap
        return min(self._latest, math.ceil(self._next - now))
