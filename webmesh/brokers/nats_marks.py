"""What a node writes beside a publication that NATS keeps: its number, and how its topic is kept.

Pure. It stands in a header of its own, since it is decided anew whenever another node was faster. What is read may be
anyone's.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from webmesh.brokers.base import Keep

MARK = "Webmesh-Mark"

_NUMBER = "(0|[1-9][0-9]{0,14})"
_MARK = re.compile(rf"{_NUMBER} ([0-9a-f]{{1,32}}) {_NUMBER} (-|{_NUMBER}) (n?r?a?)\.")


@dataclass(frozen=True, slots=True)
class Mark:
    """Attributes:
    last: The topic's newest offset, this publication included if it is numbered.
    epoch: In which it counts.
    history: Publications of the topic that stay readable.
    ttl_ms: For how many milliseconds.
    numbered, retained, acknowledged: What holds for this publication.
    """

    last: int
    epoch: str
    history: int
    ttl_ms: int | None
    numbered: bool
    retained: bool
    acknowledged: bool

    @property
    def offset(self) -> int | None:
        """The publication's own."""
        return self.last if self.numbered else None

    def __str__(self) -> str:
        flags = "n" * self.numbered + "r" * self.retained + "a" * self.acknowledged
        return f"{self.last} {self.epoch} {self.history} {'-' if self.ttl_ms is None else self.ttl_ms} {flags}."


def mark_for(keep: Keep, before: int, epoch: str) -> Mark:
    """The mark of a publication after which *before* was the topic's newest offset."""
    return Mark(
        before + keep.numbered, epoch, keep.history, None if keep.ttl is None else round(keep.ttl * 1000),
        keep.numbered, keep.retain, keep.ack,
    )  # fmt: skip


def read_mark(text: str | None) -> Mark | None:
    """The mark, or none where there is none.

    Raises:
        ValueError: It is nothing that a node writes.
    """
    if text is None:
        return None
    found = _MARK.fullmatch(text)
    if found is None:
        raise ValueError("its mark is nothing that a node writes")
    last, epoch, history, ttl, _, flags = found.groups()
    return Mark(
        int(last), epoch, int(history), None if ttl == "-" else int(ttl), "n" in flags, "r" in flags, "a" in flags
    )
