"""The memory of calls that carry an idempotency key: which ran, with what payload, and how they ended.

Pure: decides what is remembered, how long, and what makes room. Waiting for a call that runs is `keyed_calls`'
business, memory that outlives the process a store's. Wire form: docs/PROTOCOL.md section 2.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from hashlib import blake2b
from typing import Any, NamedTuple, Protocol

import msgpack  # type: ignore[import-untyped]
import ujson

from webmesh.exceptions import Overloaded
from webmesh.shares import Shares

NOT_KEPT = b""
"""Stands for an outcome that cannot be told any more: too large, nothing that msgpack carries, or cut off."""

_NOT_JSON = (TypeError, ValueError, OverflowError, RecursionError)
_NOT_MSGPACK = (*_NOT_JSON, BufferError)
"""What the two encoders raise on values that they cannot carry."""

ENTRY_SIZE = 512
"""Bytes that an entry takes besides its outcome and the texts of its key; measured, with the tables around it."""


SUBJECT_SIZE = 8
"""Bytes at the beginning of a key's digest that stand for its subject."""


class Key(NamedTuple):
    """What tells one keyed call from another."""

    subject: str
    """Who calls, as login says; empty for everybody who has not logged in."""

    path: str
    """The path as it stood on the wire, arguments included."""

    text: str
    """The `idempotency-key` of the request."""

    @property
    def digest(self) -> bytes:
        """The same for stores: of one length, and the texts are not to be read in it. The first `SUBJECT_SIZE` bytes
        are the same for all keys of one subject, so that a store can give each its share."""
        digest = blake2b(digest_size=32 - SUBJECT_SIZE)
        for text in self:
            raw = text.encode("utf-8", "surrogatepass")
            digest.update(b"%d:%b" % (len(raw), raw))
        subject = self.subject.encode("utf-8", "surrogatepass")
        return blake2b(subject, digest_size=SUBJECT_SIZE).digest() + digest.digest()


class Remembered(NamedTuple):
    """What a store knows of a key."""

    fingerprint: bytes
    outcome: bytes | None
    """`None` when the call began and its end was never recorded."""

    running: bool = False
    """Whether another process, which still lives, has begun it and not ended it."""


class IdempotencyStore(Protocol):
    """Remembers beyond the end of the process. All methods may block: they are called one after another, in a thread.

    Raises:
        Unavailable: It cannot at the moment. A call that cannot be entered is refused with this.
    """

    def begin(self, key: bytes, fingerprint: bytes) -> Remembered | None:
        """Record that a call begins, durably; or what is known of its key, which stays as it is."""

    def end(self, key: bytes, outcome: bytes) -> None:
        """Record how it ended, durably."""

    def forget(self, key: bytes) -> None:
        """It never began, or may begin again."""

    def close(self) -> None:
        """Let go of everything; nothing is called after it."""


class Entry:
    """One keyed call that runs or has ended.

    Attributes:
        outcome: `None` while it runs.
        waiting: Whatever the layer above waits with.
    """

    __slots__ = ("ended_at", "fingerprint", "outcome", "size", "waiting")

    def __init__(self, fingerprint: bytes, waiting: Any) -> None:
        self.fingerprint = fingerprint
        self.waiting = waiting
        self.outcome: bytes | None = None
        self.ended_at = 0.0
        self.size = 0


class IdempotencyWindow:
    """The entries of one server or client, bounded by number, bytes and age.

    Args:
        dropped: Called when a bound, not its age, has ended an entry.
    """

    def __init__(self, keys: int, size: int, seconds: float, dropped: Callable[[], object]) -> None:
        self._keys = keys
        self._limit = size
        self._seconds = seconds
        self._dropped = dropped
        self._running: dict[Key, Entry] = {}
        self._ended: dict[Key, Entry] = {}  # in the order in which they ended
        self._runs, self._counts, self._sizes = Shares(), Shares(), Shares()  # of each subject: running, ended, bytes
        self.size = 0
        """Bytes of what has ended."""

    def __len__(self) -> int:
        return len(self._running) + len(self._ended)

    def find(self, key: Key, now: float) -> Entry | None:
        """What is remembered of *key*.

        Args:
            now: The clock's reading.
        """
        entry = self._running.get(key)
        if entry is None:
            self._expire(now)
            entry = self._ended.get(key)
        return entry

    def begin(self, key: Key, fingerprint: bytes, waiting: Any) -> Entry:
        """Enter a call that begins; `find` has found nothing.

        Raises:
            Overloaded: As many keyed calls run as may be remembered.
        """
        if len(self._running) >= self._keys:
            raise Overloaded(f"{len(self._running)} calls with an idempotency key are running, the limit")
        if self._runs[key.subject] > self._keys // 2:
            raise Overloaded(f"{self._runs[key.subject]} such calls of one subject are running, the limit")
        entry = self._running[key] = Entry(fingerprint, waiting)
        self._runs.add(key.subject)
        self._make_room()
        return entry

    def end(self, key: Key, outcome: bytes, now: float) -> None:
        """It has ended so; one that is too large to be kept becomes `NOT_KEPT`."""
        entry = self._running.pop(key)
        self._runs.remove(key.subject)
        entry.outcome = outcome if len(outcome) <= self._limit // 2 else NOT_KEPT
        entry.ended_at = now
        entry.size = ENTRY_SIZE + len(entry.outcome) + sum(map(len, key))
        self._ended[key] = entry
        self.size += entry.size
        self._counts.add(key.subject)
        self._sizes.add(key.subject, entry.size)
        self._make_room()

    def forget(self, key: Key) -> None:
        """It never began, or may begin again."""
        del self._running[key]
        self._runs.remove(key.subject)

    def _expire(self, now: float) -> None:
        while self._ended and now - next(iter(self._ended.values())).ended_at > self._seconds:
            self._drop(next(iter(self._ended)))

    def _make_room(self) -> None:
        """The oldest goes; that of one subject while it has more than half, or it would push out all others'."""
        while self._ended and (len(self) > self._keys or self.size > self._limit):
            shares = self._sizes if self.size > self._limit else self._counts
            oldest: Iterator[Key] = iter(self._ended)
            if shares.greedy:
                oldest = (key for key in self._ended if shares.is_greedy(key.subject))
            self._drop(next(oldest))
            self._dropped()

    def _drop(self, key: Key) -> None:
        size = self._ended.pop(key).size
        self.size -= size
        self._counts.remove(key.subject)
        self._sizes.remove(key.subject, size)


def fingerprint_of(payload: object) -> bytes:
    """The same for equal payloads.

    The order of a map's keys does not count, except where a payload holds bytes; an object of a serializer of the
    program's own counts as its kind only. Made by C code: a payload of 1 MiB takes a few milliseconds.
    """
    try:
        raw = b"j" + ujson.dumps(payload, sort_keys=True, ensure_ascii=False).encode()
    except _NOT_JSON:
        try:
            raw = b"m" + msgpack.packb(payload)
        except _NOT_MSGPACK:
            raw = b"o" + type(payload).__qualname__.encode("utf-8", "replace")
    return blake2b(raw, digest_size=16).digest()
