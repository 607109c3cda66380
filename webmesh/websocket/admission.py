"""Who gets a place: bounds on connections and on those that are still to become one.

Pure bookkeeping, told what happens by `listener`. Two kinds of places: a *connection* has shown a
whole upgrade request and keeps its place for as long as it likes; a *newcomer* is everything before
that, may be any stranger, and can lose its place to a later one.
"""

from __future__ import annotations

from collections.abc import Hashable
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)


class Admission(Generic[K]):
    """The places of one listener.

    Silent peers cannot keep honest ones out: when newcomers have used up their places, one is dropped
    of those who belong together and are the most, as the sockets of one address do; among them, and
    where nobody has more than others, the one that came first. An honest handshake takes
    milliseconds, a silent one waits for its deadline, so the oldest is the one least likely to be
    honest; dropping the newest instead would let the silent hold all places for the whole deadline.

    Args:
        connections: Most connections at a time.
        spare: Places beyond them, so that newcomers can be told 503 when there are `connections`.
        handshakes: Most newcomers at a time.
        group_handshakes: Most newcomers of one group; `None` for as many as of all together.
    """

    def __init__(self, connections: int, spare: int, handshakes: int, group_handshakes: int | None = None) -> None:
        self.capacity = connections + spare
        """Most places taken at a time by both kinds together."""
        self.connections = 0
        """Connections that have a place."""
        self._most_connections = connections
        self._most_newcomers = handshakes
        self._most_of_group = handshakes if group_handshakes is None else group_handshakes
        self._newcomers: dict[K, Hashable] = {}  # and the group of each; a dict keeps the order of arrival
        self._groups: dict[Hashable, dict[K, None]] = {}
        # Groups of two and more by their size, so that the largest is found at once, however many there are.
        self._by_size: dict[int, dict[Hashable, None]] = {}
        self._largest = 1

    @property
    def newcomers(self) -> int:
        """Newcomers that have a place."""
        return len(self._newcomers)

    def arrive(self, newcomer: K, group: Hashable = None) -> K | None:
        """Give *newcomer* a place; returns another one that has lost its place thereby, if any.

        Args:
            group: What it belongs to; `None` for nothing. One that has a place already changes its group.
        """
        if newcomer in self._newcomers:
            self.leave(newcomer)
        self._newcomers[newcomer] = group
        if group is not None:
            members = self._groups.setdefault(group, {})
            members[newcomer] = None
            self._resized(group, len(members) - 1, len(members))
            if len(members) > self._most_of_group:
                return self._drop(next(iter(members)))
        if len(self._newcomers) <= min(self._most_newcomers, max(1, self.capacity - self.connections)):
            return None
        if self._largest == 1:
            return self._drop(next(iter(self._newcomers)))
        return self._drop(next(iter(self._groups[next(iter(self._by_size[self._largest]))])))

    def admit(self, newcomer: K) -> bool:
        """Turn a newcomer into a connection; False when there are enough, or when it lost its place."""
        if newcomer not in self._newcomers or self.connections >= self._most_connections:
            return False
        self.leave(newcomer)
        self.connections += 1
        return True

    def dismiss(self, connection: K, group: Hashable = None) -> K | None:
        """Turn a connection back into a newcomer, as when its request is refused after all; see `arrive`."""
        self.connections -= 1
        return self.arrive(connection, group)

    def leave(self, newcomer: K) -> None:
        """A newcomer has gone; does nothing for one that has lost its place."""
        group = self._newcomers.pop(newcomer, None)
        if group is None:
            return
        members = self._groups[group]
        del members[newcomer]
        self._resized(group, len(members) + 1, len(members))
        if not members:
            del self._groups[group]

    def end(self) -> None:
        """A connection has gone."""
        self.connections -= 1

    def drain(self) -> list[K]:
        """All newcomers, who lose their places."""
        drained = list(self._newcomers)
        for newcomer in drained:
            self.leave(newcomer)
        return drained

    def _drop(self, newcomer: K) -> K:
        self.leave(newcomer)
        return newcomer

    def _resized(self, group: Hashable, before: int, now: int) -> None:
        """Note the size of a group, which has changed by one."""
        if before > 1:
            same = self._by_size[before]
            del same[group]
            if not same:
                del self._by_size[before]
        if now > 1:
            self._by_size.setdefault(now, {})[group] = None
        if now > self._largest:
            self._largest = now
        elif self._largest not in self._by_size:
            self._largest = max(1, now)
