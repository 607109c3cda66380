"""`Instance`: a node's registration of a service, and what calls to it have told of it.

Pure; time is passed in. Written from many threads without a lock: what is counted is a set, whose operations are whole,
and of two figures that fall together one may be lost.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Sequence
from typing import Any

from webmesh.hashing import digest

LATENCY_MEMORY = 10.0
"""Seconds in which a past latency comes to count for a third: a burst is forgotten, a slow disk is not."""

OUTCOME_MEMORY = 30.0
"""Seconds in which calls that failed, or did not, come to count for a third: they are rarer."""

OUTCOME_STEP = 0.1
"""Seconds in which they all count alike: to age them at each call would cost it a per cent."""

UNKNOWN_LATENCY = 0.001
"""Seconds that an instance counts with which has never answered: about what a call costs, so it is tried soon."""


class Instance:
    """What is known of one instance of a service.

    Args:
        node: The id of its node.
        connection: Calls go over it; anything with the methods of a `WebSocketConnection`. Whoever makes the instance
            puts another one here when the link was made anew.
        epoch: Of the node; another one is another process.
    """

    __slots__ = (
        "_bad", "_good", "_told", "_weighed", "calls", "connection", "draining", "ejected_until", "ejections", "epoch",
        "failed_in_row", "failures", "latency", "node", "proving", "resting_until", "routes", "seed", "service",
        "stalled", "successes", "zone",
    )  # fmt: skip

    def __init__(
        self, node: str, service: str, connection: Any = None, *, zone: str | None = None, epoch: int = 0
    ) -> None:
        self.node = node
        self.service = service
        self.connection = connection
        self.zone = zone
        self.epoch = epoch
        self.seed = digest(node)
        self.draining = False
        """Its node is about to leave: it gets nothing new, ever."""
        self.stalled = False
        """Its node does not answer at the moment."""
        self.routes: Any = None
        """What is known of its routes, once they were asked for."""
        self.calls: set[object] = set()
        """One mark for each call of ours in progress."""
        self.latency = UNKNOWN_LATENCY
        """Seconds: a decaying mean that jumps up at once and comes down slowly (peak-EWMA)."""
        self._weighed = -math.inf
        self.successes = 0
        self.failures = 0
        self.failed_in_row = 0
        self._good = self._bad = 0.0
        self._told = -math.inf
        self.ejected_until = -math.inf
        self.ejections = 0
        self.proving = False
        """It was left out, and no call has succeeded since: it gets one at a time."""
        self.resting_until = -math.inf
        """It has said that it has no room before that."""

    @property
    def pending(self) -> int:
        """Calls of ours in progress."""
        return len(self.calls)

    def ready(self, now: float) -> bool:
        """Whether it is a good idea to send it something new."""
        return (
            self.ejected_until <= now >= self.resting_until
            and not (self.draining or self.stalled or (self.proving and self.calls))
            and self.connection is not None
            and self.connection.open
        )

    def reachable(self) -> bool:
        """Whether it can be sent something at all."""
        return not self.draining and self.connection is not None and bool(self.connection.open)

    def answered(self, seconds: float, now: float) -> None:
        """It has answered after so long, and without an error."""
        latency, since = self.latency, now - self._weighed
        if seconds > latency:
            self.latency = seconds
        elif since > 0:
            self.latency = seconds + (latency - seconds) * math.exp(-since / LATENCY_MEMORY)
        self._weighed = now
        self.succeeded(now)

    def took_at_least(self, seconds: float, now: float) -> None:
        """It was not waited for any longer."""
        if seconds > self.latency:
            self.latency = seconds
            self._weighed = now

    def cost(self) -> float:
        """What one more call is likely to wait for: seconds."""
        return self.latency * (len(self.calls) + 1)

    def succeeded(self, now: float) -> None:
        """It has answered, be it with the caller's own fault."""
        if now - self._told >= OUTCOME_STEP:
            self._fade(now)
        self._good += 1
        self.successes += 1
        self.failed_in_row = 0
        self.proving = False

    def failed(self, now: float) -> None:
        """A call has failed by the node's fault."""
        if now - self._told >= OUTCOME_STEP:
            self._fade(now)
        self._bad += 1
        self.failures += 1
        self.failed_in_row += 1

    def _fade(self, now: float) -> None:
        kept = math.exp((self._told - now) / OUTCOME_MEMORY)
        self._good *= kept
        self._bad *= kept
        self._told = now

    def recent(self) -> tuple[float, float]:
        """Calls, and those of them that failed; the older they are, the less they count."""
        return self._good + self._bad, self._bad

    def eject(self, until: float) -> None:
        """Leave it out until then; it has to prove itself afterwards."""
        self.ejected_until = until
        self.ejections += 1
        self.proving = True
        self.failed_in_row = 0
        self._good = self._bad = 0.0

    def rest(self, until: float) -> None:
        """It has no room before that."""
        self.resting_until = max(self.resting_until, until)

    def __repr__(self) -> str:
        return f"<Instance {self.service} of {self.node} pending={len(self.calls)} latency={self.latency:.4f}>"


def usable(
    instances: Sequence[Instance], now: float, *, zone: str | None, share: float, without: Collection[Instance] = ()
) -> list[Instance]:
    """Those that may get a new call, the best that there are; empty when none can be reached.

    Who rests, is left out or stalls is asked only where nobody else is there, and who was tried already only after
    that. Nothing new goes to one that is draining.

    Args:
        zone: The caller's own, which is preferred; `None` has no preference.
        share: Of the zone's instances, how many must be usable for that.
        without: Those that this call was sent to already.
    """
    every = [one for one in instances if one not in without] if without else instances
    ready = [one for one in every if one.ready(now)]
    if ready:
        return ready if zone is None else _near(every, ready, zone, share)
    return _second_best(every, now) or _second_best([one for one in without if one.reachable()], now)


def _near(every: Sequence[Instance], ready: list[Instance], zone: str, share: float) -> list[Instance]:
    near = [one for one in ready if one.zone == zone]
    if not near:
        return ready
    total = sum(one.zone == zone and not one.draining for one in every)
    return near if len(near) >= total * share else ready


def _second_best(instances: Iterable[Instance], now: float) -> list[Instance]:
    """Where nobody is ready: who only rests, then whoever can be reached."""
    reachable = [one for one in instances if one.reachable()]
    healthy = [one for one in reachable if one.ejected_until <= now and not one.stalled]
    return healthy or [one for one in reachable if not one.stalled] or reachable
