"""The delays between a client's attempts to connect.

Pure: the clock's readings and the random numbers are handed in. What ended the connection, and whether to come back at
all, is `comeback`'s business; waiting is the link's.
"""

from __future__ import annotations

from collections.abc import Callable

from webmesh.options import Backoff


class BackoffSeries:
    """The delays of one client. Each is random between 0 and a bound that grows, so that clients that lost the same
    server spread (full jitter).

    Args:
        random: A number from 0 to below 1, as `random.random`.

    Attributes:
        attempt: Delays since the series began, or began anew.
    """

    __slots__ = ("_backoff", "_bound", "_down_since", "_opened_at", "_random", "attempt")

    def __init__(self, backoff: Backoff, random: Callable[[], float]) -> None:
        self._backoff = backoff
        self._random = random
        self._bound = backoff.first
        self._opened_at: float | None = None
        self._down_since: float | None = None
        self.attempt = 0

    def opened(self, now: float) -> None:
        """There is a connection. That alone resets nothing: one that is lost at once must not be dialled for ever at
        the shortest delay."""
        self._opened_at = now
        self._down_since = None

    def ended(self, now: float) -> bool:
        """The connection has ended; if it was stable, which is returned, the series begins anew."""
        stable = self._opened_at is not None and now - self._opened_at >= self._backoff.stable_after
        if stable:
            self.reset()
        self._opened_at = None
        self.failed(now)
        return stable

    def failed(self, now: float) -> None:
        """There is none, as an attempt has shown: the time after which to give up begins, unless it has."""
        if self._down_since is None:
            self._down_since = now

    def reset(self) -> None:
        """Begin anew, as when the program itself asks for a connection."""
        self._bound = self._backoff.first
        self._down_since = None
        self.attempt = 0

    def over(self, now: float) -> bool:
        """Whether there has been no connection for so long that it is time to give up."""
        return self._down_since is not None and now - self._down_since >= self._backoff.give_up_after

    def next_delay(self, asked: float | None = None) -> float:
        """Seconds to wait before the next attempt.

        Args:
            asked: What the server asked for. It is never undercut, and spread over as long again: all whom it sent
                away in one second would else meet again in one.
        """
        bound = self._bound
        self._bound = min(self._backoff.maximum, bound * self._backoff.factor)
        self.attempt += 1
        if asked is None:
            return self._random() * min(bound, self._backoff.maximum)
        asked = min(asked, self._backoff.longest_asked)
        return asked + self._random() * max(bound, min(asked, self._backoff.maximum))
