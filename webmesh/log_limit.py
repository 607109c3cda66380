"""The bound on what WebMesh's loggers write, all servers, clients and connections of the process together.

An attack, or a handler that fails for everybody, must not fill a disk or drown what matters. Decides which records
pass; what they say is their makers' business. DEBUG is not bounded: who asks for it wants everything.
"""

from __future__ import annotations

import logging
import time
import traceback
from collections.abc import Callable
from types import TracebackType

RATE = 50
"""Lines a second of level ERROR and above, and as many below it, averaged over a burst of the same size, those of
tracebacks included. Two bounds, so that peers who are turned away silence no handler's failure, nor the reverse.
Records beyond are dropped, and the next one of the same bound that passes says how many (`suppressed`)."""

REPEAT = 10.0
"""Seconds in which the same error at the same place is told without its traceback, which was the same."""

PLACES = 256
"""Places that are remembered for that."""

LOGGERS = ("webmesh.server", "webmesh.client", "webmesh.broker", "webmesh.mesh")


class LogLimit(logging.Filter):
    """A filter for loggers; one for all of them. Takes no lock: a count that is off by one does not matter.

    Args:
        rate: Lines a second of each of the two bounds.
    """

    def __init__(self, rate: int = RATE, *, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__()
        self._rate = rate
        self._clock = clock
        self.reset()

    def reset(self) -> None:
        """Forget everything; for tests."""
        now = self._clock()
        self._errors, self._others = Bound(self._rate, now), Bound(self._rate, now)
        self._told: dict[tuple[object, ...], float] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether *record* may be written; it may lose a traceback that was told just now."""
        if record.levelno <= logging.DEBUG:
            return True
        now = self._clock()
        bound = self._errors if record.levelno >= logging.ERROR else self._others
        if not bound.take(now):
            return False
        bound.tokens -= self._lines_below(record, bound.tokens, now)
        if bound.suppressed:
            record.suppressed = bound.suppressed + getattr(record, "suppressed", 0)
            bound.suppressed = 0
        return True

    def _lines_below(self, record: logging.LogRecord, room: float, now: float) -> int:
        """How many lines it takes besides its own; drops a traceback that says nothing new, or has no room."""
        if not record.exc_info or record.exc_info[0] is None:
            lines = record.stack_info.count("\n") + 1 if record.stack_info else 0
            if lines > room:
                record.stack_info = None
            return lines if record.stack_info else 0
        kind, error, trace = record.exc_info
        key = (record.msg, kind, *_place(trace))
        if now - self._told.get(key, -REPEAT) < REPEAT:
            return _without_traceback(record, f"{kind.__name__} as before")
        if room < 1:
            return _without_traceback(record, f"{kind.__name__}, its traceback left out")
        lines = sum(part.count("\n") for part in traceback.format_exception(kind, error, trace))
        if lines > room and room < self._rate - 1:  # one that is longer than any room has it alone
            return _without_traceback(record, f"{kind.__name__}, its traceback left out")
        if len(self._told) >= PLACES:
            self._told.clear()
        self._told[key] = now
        return lines


class Bound:
    """What is left of one bound, and what was dropped since it last let one pass."""

    __slots__ = ("_counted_at", "_rate", "suppressed", "tokens")

    def __init__(self, rate: int, now: float) -> None:
        self._rate = rate
        self._counted_at = now
        self.tokens = float(rate)
        self.suppressed = 0

    def take(self, now: float) -> bool:
        """Whether there is room for one line more, which it then has."""
        self.tokens = min(self._rate, self.tokens + (now - self._counted_at) * self._rate)
        self._counted_at = now
        if self.tokens < 1:
            self.suppressed += 1
            return False
        self.tokens -= 1
        return True


def _without_traceback(record: logging.LogRecord, instead: str) -> int:
    record.exc_info = record.exc_text = None
    record.error = instead
    return 0


def _place(trace: TracebackType | None) -> tuple[object, ...]:
    """Where an error was raised."""
    place: tuple[object, ...] = ()
    while trace is not None:
        place = (trace.tb_frame.f_code, trace.tb_lineno)
        trace = trace.tb_next
    return place


LIMIT = LogLimit()
"""The one of this process."""


def limit_logs() -> None:
    """Bound WebMesh's loggers; whoever makes a server or a client does it. Safe to do again."""
    for name in LOGGERS:
        logging.getLogger(name).addFilter(LIMIT)
