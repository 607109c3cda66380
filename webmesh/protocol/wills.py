"""Last wills: what a session leaves to be published when it ends without a goodbye.

Pure: the clock's reading is passed in, publishing is the caller's. A will fires at most once for each loss of its
session, at the earlier of its delay after the loss and the session's end. Wire form: docs/PROTOCOL.md section 6.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

LOST, TIMEOUT, KICKED, GOODBYE = "lost", "timeout", "kicked", "goodbye"
REASONS = (LOST, TIMEOUT, KICKED, GOODBYE)
"""Why a session's link ended: without a word; so long ago that the session ended too; by this side's decision; on
purpose, with `$goodbye`."""

UNCLEAN = frozenset((LOST, TIMEOUT, KICKED))
"""What a will is for that names no reasons."""


@dataclass(frozen=True, slots=True)
class Will:
    """One message for after the end.

    Attributes:
        id: Names it within its session; a later one with the same id replaces it.
        on: The reasons for which it fires.
        delay: Seconds between the loss and its publication, in which a resume cancels it.
        number: Tells it from other wills of its session, former ones of the same id included.
    """

    id: str
    topic: str
    payload: Any
    on: frozenset[str] = UNCLEAN
    delay: float = 0.0
    headers: Mapping[str, str] = field(default_factory=dict)
    number: int = 0


@dataclass(frozen=True, slots=True)
class FiredWill:
    """A will whose time has come, and why."""

    will: Will
    reason: str


class Wills:
    """The wills of one session, in the order in which they were set.

    While the session is away those whose reason has come wait out their delays; `fire` hands each out once.
    """

    __slots__ = ("_due", "_wills")

    def __init__(self) -> None:
        self._wills: dict[str, Will] = {}
        self._due: dict[str, tuple[float, str]] = {}

    def __len__(self) -> int:
        """Wills that are set."""
        return len(self._wills)

    def all(self) -> list[Will]:
        """Those that are set and have not fired."""
        return list(self._wills.values())

    def clear(self) -> None:
        """None is set any more."""
        self._wills.clear()
        self._due.clear()

    def set(self, will: Will) -> None:
        """Set a will, in the place of the one with the same id."""
        self._wills[will.id] = will

    def revoke(self, will_id: str) -> bool:
        """Remove a will; False when there is none of that id."""
        self._due.pop(will_id, None)
        return self._wills.pop(will_id, None) is not None

    def leave(self, reason: str, now: float) -> None:
        """The link has ended for *reason*. After a goodbye the wills that do not ask for it are gone."""
        if reason == GOODBYE:
            self._wills = {will.id: will for will in self._wills.values() if GOODBYE in will.on}
        for will in self._wills.values():
            if reason in will.on:
                self._due[will.id] = (now + will.delay, reason)

    def resume(self) -> None:
        """The peer is back: what has not fired yet does not fire for that loss."""
        self._due.clear()

    def fire(self, now: float) -> list[FiredWill]:
        """The wills whose delay is over, the earliest first; each is removed and so handed out once."""
        over = sorted((at, will_id) for will_id, (at, _) in self._due.items() if at <= now)
        return [self._fired(will_id) for _, will_id in over]

    def end(self, reason: str) -> list[FiredWill]:
        """The session ends: what waits fires at once, and what is for *reason*; none is left."""
        self._due.update({will.id: (0.0, reason) for will in self._wills.values()
                          if reason in will.on and will.id not in self._due})  # fmt: skip
        fired = [self._fired(will_id) for will_id in list(self._wills) if will_id in self._due]
        self._wills.clear()
        return fired

    def next_due(self) -> float | None:
        """The clock's reading at which `fire` has something to hand out; `None` when nothing waits."""
        return min((at for at, _ in self._due.values()), default=None)

    def _fired(self, will_id: str) -> FiredWill:
        return FiredWill(self._wills.pop(will_id), self._due.pop(will_id)[1])


def checked_reasons(reasons: Collection[str] | None) -> frozenset[str]:
    """The reasons that a peer or a program gave; `None` means all but a goodbye.

    Raises:
        ValueError: There are none, or one is unknown.
    """
    if reasons is None:
        return UNCLEAN
    unknown = [reason for reason in reasons if reason not in REASONS]
    if unknown or not reasons:
        raise ValueError(f"a will is for one or more of {', '.join(REASONS)}")
    return frozenset(reasons)
