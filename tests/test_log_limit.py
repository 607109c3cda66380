"""The bound on log lines, and what it does to tracebacks."""

from __future__ import annotations

import logging
import sys
from typing import Any

from webmesh.log_limit import REPEAT, LogLimit, limit_logs
from webmesh.testing import FakeClock


def record(level: int = logging.WARNING, error: BaseException | None = None, **fields: Any) -> logging.LogRecord:
    exc_info = None if error is None else (type(error), error, error.__traceback__)
    made = logging.LogRecord("webmesh.server", level, __file__, 1, "handler failed", (), exc_info)
    vars(made).update(fields)
    return made


def failure(kind: type[Exception] = ValueError) -> Exception:
    try:
        raise kind("secret")
    except kind as error:
        return error


def test_so_many_lines_pass_and_no_more() -> None:
    """The next second lets as many pass again, and its first line says what was left out."""
    clock = FakeClock()
    limit = LogLimit(10, clock=clock)
    assert 10 == sum(limit.filter(record()) for _ in range(50))

    clock.advance(1.0)
    first = record()
    assert limit.filter(first)
    assert 40 == first.suppressed
    assert 9 == sum(limit.filter(record()) for _ in range(50))


def test_refusals_and_failures_silence_each_other_not() -> None:
    """A peer that is turned away again and again must not hide that a handler fails; nor the reverse."""
    for flood, other in ((logging.WARNING, logging.ERROR), (logging.CRITICAL, logging.INFO)):
        limit = LogLimit(10, clock=FakeClock())
        assert 10 == sum(limit.filter(record(flood)) for _ in range(50))
        told = record(other)
        assert limit.filter(told)
        assert not hasattr(told, "suppressed")
        assert 9 == sum(limit.filter(record(other)) for _ in range(50))


def test_what_others_left_out_is_added() -> None:
    """A record may bring a count of its own."""
    clock = FakeClock()
    limit = LogLimit(1, clock=clock)
    assert [True, False] == [limit.filter(record()), limit.filter(record())]
    clock.advance(1.0)
    later = record(suppressed=5)
    assert limit.filter(later) and 6 == later.suppressed


def test_debug_is_not_bounded() -> None:
    """Who asks for it wants everything."""
    limit = LogLimit(1, clock=FakeClock())
    assert all(limit.filter(record(logging.DEBUG)) for _ in range(50))


def test_the_same_traceback_is_told_once_in_a_while() -> None:
    """A handler that fails for everybody fails at the same line."""
    clock = FakeClock()
    limit = LogLimit(1000, clock=clock)
    error = failure()
    records = [record(error=error) for _ in range(3)]
    assert all(limit.filter(one) for one in records)
    assert [True, False, False] == [one.exc_info is not None for one in records]
    assert "ValueError as before" == records[1].error

    other = record(error=failure(KeyError))
    assert limit.filter(other) and other.exc_info is not None
    clock.advance(REPEAT)
    again = record(error=error)
    assert limit.filter(again) and again.exc_info is not None


def test_it_is_installed_once() -> None:
    """However many servers there are."""
    limit_logs()
    limit_logs()
    for name in ("webmesh.server", "webmesh.client"):
        assert 1 == sum(isinstance(one, LogLimit) for one in logging.getLogger(name).filters)


def test_causes_and_long_texts_count() -> None:
    """A traceback has the lines that it will have, and one for which there is no room is left out."""
    limit = LogLimit(40, clock=FakeClock())
    records = []
    for number in range(20):
        namespace: dict[str, Any] = {}
        source = "def fail():\n try: 1 / 0\n except ZeroDivisionError as e: raise ValueError('a\\nb\\nc\\nd') from e"
        exec("\n" * number + source, namespace)
        try:
            namespace["fail"]()
        except ValueError:
            made = logging.LogRecord("webmesh.server", logging.ERROR, "", 1, "failed", (), sys.exc_info())
        if limit.filter(made):
            records.append(logging.Formatter().format(made))
    assert "ZeroDivisionError" in records[0]
    assert 20 <= sum(len(text.splitlines()) for text in records) <= 40


def test_a_traceback_longer_than_any_room_is_told_alone() -> None:
    """Else nobody would ever see it."""
    limit = LogLimit(3, clock=FakeClock())
    first = record(error=failure())
    assert limit.filter(first) and first.exc_info
    assert not limit.filter(record())
