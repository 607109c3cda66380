"""Who gets a place: bounds on connections and on those that are still to become one.

Pure bookkeeping, told what happens by `listener`. Two kinds of places: a *connection* has shown a
whole upgrade request and keeps its place for as long as it likes; a *newcomer* is everything before
that, may be any stranger, and can lose its place to a later one.
"""

from __future__ import annotations

from typing import Generic, TypeVar

K = TypeVar("K")


class Admission(Generic[K]):
    """The places of one listener.

    Silent peers cannot keep honest ones out: when newcomers have used up their places, the one that
    came first is dropped. An honest handshake takes milliseconds, a silent one waits for its
    deadline, so the oldest is the one least likely to be honest; dropping the newest instead would let
    the silent hold all places for the whole deadline.

    Args:
        connections: Most connections at a time.
        spare: Places beyond them, so that newcomers can be told 503 when there are `connections`.
        handshakes: Most newcomers at a time.
    """

    def __init__(self, connections: int, spare: int, handshakes: int) -> None:
        self.capacity = connections + spare
        """Most places taken at a time by both kinds together."""
        self.connections = 0
        """Connections that have a place."""
        self._most_connections = connections
        self._most_newcomers = handshakes
        self._newcomers: dict[K, None] = {}  # a dict keeps the order of arrival

    @property
    def newcomers(self) -> int:
        """Newcomers that have a place."""
        return len(self._newcomers)

    def arrive(self, newcomer: K) -> K | None:
        """Give *newcomer* a place; returns another one that has lost its place thereby, if any."""
        self._newcomers[newcomer] = None
        most = min(self._most_newcomers, max(1, self.capacity - self.connections))
        if len(self._newcomers) <= most:
            return None
        oldest = next(iter(self._newcomers))
        del self._newcomers[oldest]
        return oldest

    def admit(self, newcomer: K) -> bool:
        """Turn a newcomer into a connection; False when there are enough, or when it lost its place."""
        if newcomer not in self._newcomers or self.connections >= self._most_connections:
            return False
        del self._newcomers[newcomer]
        self.connections += 1
        return True

    def dismiss(self, connection: K) -> K | None:
        """Turn a connection back into a newcomer, as when its request is refused after all; see `arrive`."""
        self.connections -= 1
        return self.arrive(connection)

    def leave(self, newcomer: K) -> None:
        """A newcomer has gone; does nothing for one that has lost its place."""
        self._newcomers.pop(newcomer, None)

    def end(self) -> None:
        """A connection has gone."""
        self.connections -= 1

    def drain(self) -> list[K]:
        """All newcomers, who lose their places."""
        drained = list(self._newcomers)
        self._newcomers.clear()
        return drained
