"""The circuit breaker of one route of a service: whether a call is worth trying at all.

Pure; time is passed in. Counts what callers got after all attempts: single instances that fail are `outliers`'.
May be used from several threads; of two calls that end in the same moment one may not be counted.
"""

from __future__ import annotations

import math

from webmesh.call_policy import CallPolicy
from webmesh.exceptions import (
    ConnectionClosed, DeadlineExceeded, HandlerFailed, Overloaded, ReplyLost, RequestTimeout, Unavailable,
)  # fmt: skip

NODE_FAULTS = (
    Unavailable, Overloaded, HandlerFailed, DeadlineExceeded, RequestTimeout, ReplyLost, ConnectionClosed,
)  # fmt: skip
"""What counts against a node or a service. Any other error is an answer: the caller's own fault, and a sign of life."""

CLOSED, OPEN, HALF_OPEN = "closed", "open", "half-open"


class Breaker:
    """Closed: calls go through. Open: none does. Half-open: one at a time does, and its end decides."""

    __slots__ = ("_bad", "_calls", "_delay", "_permits", "_policy", "_probes", "_since", "_until", "state")

    def __init__(self, policy: CallPolicy) -> None:
        self._policy = policy
        self.state = CLOSED
        self._calls = self._bad = 0
        self._since = -math.inf
        self._until = -math.inf
        self._delay = policy.breaker_open
        self._permits = 0  # of how many changes of the state: what was let through before one has no say after it
        self._probes: list[int] = []

    def enter(self, now: float) -> int | None:
        """A permit for one call, to be given back by `succeeded`, `failed` or `left`; `None`: it must not be made."""
        if self.state is CLOSED:
            return self._permits
        if self.state is OPEN:
            if now < self._until:
                return None
            self._change(HALF_OPEN)
        permit = self._permits
        self._probes.append(permit)
        if len(self._probes) > 1:
            self._probes.pop()
            return None
        return permit

    def wait(self, now: float) -> float:
        """Seconds until it is worth asking again."""
        return max(0.0, self._until - now)

    def succeeded(self, permit: int, now: float) -> bool:
        """A call has got an answer; whether that has closed it."""
        if permit != self._permits:
            return False
        if self.state is HALF_OPEN:
            self._change(CLOSED)
            self._delay = self._policy.breaker_open
            self._calls = self._bad = 0
            return True
        self._count(now)
        return False

    def failed(self, permit: int, now: float) -> bool:
        """A call has failed by the service's fault; whether that has opened it."""
        if permit != self._permits:
            return False
        if self.state is HALF_OPEN:
            self._delay = min(self._policy.breaker_longest, self._delay * 2)
        else:
            self._count(now)
            self._bad += 1
            if self._calls < self._policy.breaker_calls or self._bad < self._calls * self._policy.breaker_share:
                return False
        self._change(OPEN)
        self._until = now + self._delay
        return True

    def left(self, permit: int) -> None:
        """A call was given up: that says nothing."""
        if permit == self._permits:
            self._probes.clear()

    def _count(self, now: float) -> None:
        if now - self._since >= self._policy.breaker_window:
            self._since = now
            self._calls = self._bad = 0
        self._calls += 1

    def _change(self, state: str) -> None:
        self.state = state
        self._permits += 1
        self._probes.clear()

    def __repr__(self) -> str:
        return f"<Breaker {self.state} failed={self._bad}/{self._calls}>"
