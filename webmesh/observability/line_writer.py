"""A descriptor that takes lines without ever making the caller wait.

Decides what happens when standard error is a pipe that nobody empties or a disk that is full: lines
wait in a bounded queue for a native thread, and beyond the bound they are counted instead of kept.
Everything in here is native, in a monkey-patched process too: the thread that writes shares no lock
with greenlets, so neither can hold up the other. Knows nothing of log records: see `logs`.
"""

from __future__ import annotations

import os
import select
import weakref
from typing import TYPE_CHECKING

from gevent.monkey import get_original

if TYPE_CHECKING:
    from _thread import LockType
    from queue import SimpleQueue as Queue

    Lines = Queue[bytes | LockType | None]

SimpleQueue = get_original("queue", "SimpleQueue")
poll = get_original("select", "poll")
allocate_lock = get_original("_thread", "allocate_lock")
start_new_thread = get_original("_thread", "start_new_thread")

QUEUE_LINES = 4096
"""Lines that may wait for the descriptor. At 200 bytes each this is under 1 MiB, and several seconds
of a busy node; beyond it lines are dropped and counted."""

WRITE_SIZE = 64 * 1024
"""Bytes that one write gathers: the size of a pipe's buffer on Linux."""

FLUSH_TIMEOUT = 1.0
"""Seconds that `flush` waits for a reader that has stopped reading, as when a program ends."""


class LineWriter:
    """Writes lines to a descriptor, in order, from a thread of its own.

    Attributes:
        dropped: Lines that were not written since the writer was made: no room, or the descriptor
            failed. Two native threads that drop at the same instant may count as one.
    """

    def __init__(self, descriptor: int, *, bound: int = QUEUE_LINES) -> None:
        self.dropped = 0
        self._descriptor = descriptor
        self._bound = bound
        self._reset()
        _at_fork(self)

    def __repr__(self) -> str:
        return f"<LineWriter fd={self._descriptor} waiting={self._queue.qsize()} dropped={self.dropped}>"

    @property
    def full(self) -> bool:
        """Whether a line that came now would be dropped."""
        return self._queue.qsize() >= self._bound

    def write(self, line: str) -> bool:
        """Queue *line*, without its newline; False when there was no room and it was dropped."""
        if self.full:
            self.dropped += 1
            return False
        self._queue.put(line.encode("utf-8", "backslashreplace") + b"\n")
        if not self._started:
            self._start()
        return True

    def flush(self, timeout: float = FLUSH_TIMEOUT) -> bool:
        """Wait natively, at most *timeout* seconds, until what was queued is written; False if it is not."""
        if not self._started:
            return True
        written = allocate_lock()
        written.acquire()
        self._queue.put(written)
        return bool(written.acquire(timeout=timeout))

    def _reset(self) -> None:
        """Begin anew, as a forked child must: it has no thread, and its parent writes what was queued."""
        self._queue: Lines = SimpleQueue()
        self._starting = allocate_lock()
        self._started = False

    def _start(self) -> None:
        with self._starting:
            if not self._started:
                start_new_thread(_write_all, (self._queue, self._descriptor, weakref.ref(self)))
                self._started = True

    def __del__(self) -> None:
        self._queue.put(None)


def _at_fork(writer: LineWriter) -> None:
    """Reset *writer* in forked children, for as long as it lives."""
    reference = weakref.ref(writer)

    def reset() -> None:
        if (alive := reference()) is not None:
            alive._reset()

    os.register_at_fork(after_in_child=reset)


def _write_all(lines: Lines, descriptor: int, owner: weakref.ref[LineWriter]) -> None:
    """The thread: write what is queued, until the owner is gone and has queued None as its last word."""
    while True:
        batch, marker = _gather(lines)
        if batch and not _write(descriptor, b"".join(batch)):
            _count_dropped(owner, len(batch))
        if marker is None:
            return
        if not isinstance(marker, bytes):
            marker.release()


def _gather(lines: Lines) -> tuple[list[bytes], bytes | LockType | None]:
    """Wait for a line, then take what else is there, up to one write or up to what is no line."""
    item = lines.get()
    batch: list[bytes] = []
    size = 0
    while isinstance(item, bytes):
        batch.append(item)
        size += len(item)
        if size >= WRITE_SIZE or lines.empty():
            break
        item = lines.get()
    return batch, item


def _write(descriptor: int, content: bytes) -> bool:
    """Write all of *content*; False when the descriptor is broken, closed or its disk full."""
    rest = memoryview(content)
    while rest:
        try:
            rest = rest[os.write(descriptor, rest) :]
        except BlockingIOError:  # the descriptor is shared with a program that made it non-blocking
            waiting = poll()
            waiting.register(descriptor, select.POLLOUT)
            waiting.poll()
        except OSError:
            return False
    return True


def _count_dropped(owner: weakref.ref[LineWriter], count: int) -> None:
    if (writer := owner()) is not None:
        writer.dropped += count
