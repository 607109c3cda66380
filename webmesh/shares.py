"""Who holds how much of a room that all share, so that who fills it loses first.

Decides nothing but whether one holds more than half. Knows no time and no connection.
"""

from __future__ import annotations

from collections.abc import Hashable


class Shares:
    """Amounts of holders, as of subjects."""

    __slots__ = ("_held", "_most", "_total")

    def __init__(self) -> None:
        self._held: dict[Hashable, int] = {}
        self._total = 0
        self._most: Hashable = None

    def __getitem__(self, holder: Hashable) -> int:
        return self._held.get(holder, 0)

    def add(self, holder: Hashable, amount: int = 1) -> None:
        """*holder* holds so much more."""
        held = self._held[holder] = self._held.get(holder, 0) + amount
        self._total += amount
        if 2 * held > self._total:
            self._most = holder

    def remove(self, holder: Hashable, amount: int = 1) -> None:
        """*holder* holds so much less."""
        left = self._held[holder] - amount
        self._total -= amount
        if left:
            self._held[holder] = left
        else:
            del self._held[holder]

    def is_greedy(self, holder: Hashable) -> bool:
        """Whether *holder* was the last to reach more than half, and still has that much."""
        return holder == self._most and 2 * self._held.get(holder, 0) > self._total

    @property
    def greedy(self) -> bool:
        """Whether there is such a holder."""
        return self.is_greedy(self._most)
