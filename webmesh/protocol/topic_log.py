"""The history of one topic: numbered messages, bounded by count and age, and what a subscriber missed.

Pure: the clock's reading and the epoch are passed in. Offsets count from 1 within one epoch and are never used
again; an epoch is lost with the log itself, so a subscriber that names another one has missed an unknown number of
messages. Wire form: docs/PROTOCOL.md sections 4 and 6.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Generic, NamedTuple, TypeVar

M = TypeVar("M")


class Entry(NamedTuple, Generic[M]):
    """One message of a log: its offset, what it is, the clock's reading at which it came, and its bytes."""

    offset: int
    message: M
    at: float
    size: int = 0


@dataclass(frozen=True, slots=True)
class Recovered(Generic[M]):
    """What a subscriber gets that was away.

    Attributes:
        complete: Whether *entries* are all that came after its offset; where it is false there are none.
    """

    complete: bool
    entries: list[Entry[M]]


class TopicLog(Generic[M]):
    """Messages of one topic, oldest first.

    Args:
        epoch: Names this numbering; another log of the same topic needs another one.
        most: Messages that are kept; 0 keeps none and only counts.
        ttl: Seconds that a message is kept; `None` for as long as there is room.
        first: The offset of the first message.
        most_bytes: Bytes that are kept, but for the newest message, whatever its size; `None` for no bound.

    Attributes:
        epoch, most, ttl, most_bytes: As they were given.
    """

    def __init__(
        self, epoch: str, *, most: int, ttl: float | None = None, first: int = 1, most_bytes: int | None = None
    ) -> None:
        self.epoch = epoch
        self.most = most
        self.ttl = ttl
        self.most_bytes = most_bytes
        self._size = 0
        self._entries: deque[Entry[M]] = deque()
        self._next = first

    @property
    def offset(self) -> int:
        """That of the newest message ever; one below the first before there was any."""
        return self._next - 1

    def __len__(self) -> int:
        """Messages that are kept, also those whose time is over and that nothing has looked at since."""
        return len(self._entries)

    def append(self, message: M, now: float, size: int = 0) -> int:
        """Number a message of so many bytes and keep it; returns its offset."""
        offset = self._next
        self._next += 1
        if self.most:
            if len(self._entries) == self.most:
                self._drop()
            self._entries.append(Entry(offset, message, now, size))
            self._size += size
            while self.most_bytes is not None and self._size > self.most_bytes and len(self._entries) > 1:
                self._drop()
        self.expire(now)
        return offset

    def _drop(self) -> None:
        self._size -= self._entries.popleft().size

    def expire(self, now: float) -> None:
        """Let go of what is too old."""
        if self.ttl is not None:
            while self._entries and self._entries[0].at <= now - self.ttl:
                self._drop()

    def after(self, offset: int, epoch: str, now: float) -> Recovered[M]:
        """What came after *offset* of *epoch*: all of it, or nothing."""
        if not self.reaches(offset, epoch, now):
            return Recovered(False, [])
        return Recovered(True, list(self.walk(now, after=offset)))

    def reaches(self, offset: int, epoch: str, now: float) -> bool:
        """Whether everything that came after *offset* of *epoch* is kept."""
        self.expire(now)
        return epoch == self.epoch and self._oldest - 1 <= offset <= self.offset

    @property
    def _oldest(self) -> int:
        return self._entries[0].offset if self._entries else self._next

    def newest(self, now: float) -> Entry[M] | None:
        """The last message, unless its time is over."""
        self.expire(now)
        return self._entries[-1] if self._entries else None

    def recent(self, seconds: float, now: float) -> list[Entry[M]]:
        """What is kept of the last so many seconds."""
        self.expire(now)
        found = list(_until_older(reversed(self._entries), now - seconds))
        found.reverse()
        return found

    def page(self, now: float, *, after: int = 0, most: int | None = None, reverse: bool = False) -> list[Entry[M]]:
        """Part of what is kept: the messages above offset *after*, oldest first, or newest first with *reverse*."""
        return list(islice(self.walk(now, after=after, reverse=reverse, few=most is not None), most))

    def walk(self, now: float, *, after: int = 0, reverse: bool = False, few: bool = False) -> Iterator[Entry[M]]:
        """See `page`; to be read before the log changes. With *few*, what lies before *after* is not walked through."""
        self.expire(now)
        first = max(0, after + 1 - self._oldest)  # offsets have no holes
        count = max(0, len(self._entries) - first)
        if reverse:
            return islice(reversed(self._entries), count)
        if few:
            return (self._entries[index] for index in range(first, first + count))
        return islice(self._entries, first, None)


def _until_older(entries: Iterator[Entry[M]], than: float) -> Iterator[Entry[M]]:
    for entry in entries:
        if entry.at <= than:
            return
        yield entry
