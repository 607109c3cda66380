"""How much of everything is done."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Scale:
    """Full or quick, and what the command line said otherwise."""

    quick: bool = False
    count: int | None = None
    """Overrides what a scenario counts: connections, calls, kills, cycles."""
    seconds: float | None = None
    """Overrides how long one takes that goes by time."""

    def of(self, full: int, *, quick: int) -> int:
        """A scenario's main number."""
        return self.count or (quick if self.quick else full)

    def size(self, full: float, *, quick: float) -> float:
        """Any other number."""
        return quick if self.quick else full
