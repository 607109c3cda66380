"""What counts of a topic's history on NATS: pages that a thread brings, as a node reads them."""

from __future__ import annotations

from typing import Any

import pytest

from tests.brokers.contract import message
from webmesh.brokers.base import Since
from webmesh.brokers.nats_bodies import Arrived
from webmesh.brokers.nats_marks import Mark
from webmesh.brokers.nats_past import NatsPast
from webmesh.brokers.nats_topics import Head
from webmesh.protocol.publication import Publication
from webmesh.testing import FakeClock


class Log:
    """A topic of which the thread knows these numbers; `broken` are none of a node's."""

    def __init__(self, numbers: list[int], *, history: int = 100, ttl_ms: int | None = None) -> None:
        self.numbers, self.broken, self.asked = numbers, set[int](), list[int]()
        self.clock = FakeClock()
        self.marks = {one: Mark(one, "e", history, ttl_ms, True, False, False) for one in numbers}
        self.past = NatsPast(  # type: ignore[arg-type]
            lambda ask, *args: ask(*args), lambda *_: None, self, self.read, self.clock
        )
        self.at: dict[int, float] = {}

    def newest_of(self, subject: str) -> Any:
        last = self.numbers[-1]
        return Head(last, last, "e"), self.marks[last]

    def part(self, subject: str, head: Head, offset: int, most: int | None) -> list[tuple[bytes, Mark]]:
        found = [one for one in self.numbers if one >= offset][:most]
        self.asked.append(len(found))
        return [(b"", self.marks[one]) for one in found]

    def read(self, subject: str, body: bytes, mark: Mark) -> Arrived | None:
        made: Publication = message(payload=mark.last)
        made.offset, made.epoch, made.at = mark.last, mark.epoch, self.at.get(mark.last, self.clock())
        return None if mark.last in self.broken else Arrived(made, "i", mark)

    def history(self, since: Since = Since(), **options: Any) -> list[Any] | None:  # noqa: B008 - frozen
        found = self.past.history("a", since, **{"most": None, "reverse": False} | options)
        return [one.payload for one in found.items] if found.complete else None


@pytest.mark.parametrize("missing", [True, False])
def test_what_is_missing_hides_what_was_before_it(missing: bool):
    """A number that is not there, or that nobody can read; who recovers from before it is told."""
    log = Log([1, 2, 4, 5] if missing else [1, 2, 3, 4, 5])
    log.broken = set() if missing else {3}
    assert [4, 5] == log.history() == log.history(Since(3, "e"))
    assert [5, 4] == log.history(most=9, reverse=True)
    assert log.history(Since(1, "e")) is None
    assert log.history(Since(2, "e"), most=1) is None


def test_what_is_too_old_is_not_recovered():
    """By the time that the topic keeps it, and by the number; what ended with a time of its own is left out."""
    log = Log([1, 2, 3, 4], history=3, ttl_ms=1000)
    log.at[2] = log.clock() - 2.0
    assert log.history(Since(0, "e")) is None
    assert log.history(Since(1, "e")) is None
    assert [3, 4] == log.history(Since(2, "e")) == log.history()
    assert log.history(Since(2, "another")) is None
    assert log.history(Since(5, "e")) is None


def test_no_more_is_read_than_is_wanted():
    """From either end."""
    log = Log(list(range(1, 2001)), history=2000)
    assert [2000] == log.history(most=1, reverse=True)
    assert [1, 2] == log.history(most=2)
    assert [1500, 1501] == log.history(Since(1499, "e"), most=2)
    assert [1, 2, 2] == log.asked


def test_the_last_seconds_are_read_from_the_end():
    """In parts that grow, until one is old enough."""
    log = Log(list(range(1, 5001)), history=5000)
    log.at = {number: log.clock() - (5000 - number) for number in log.numbers}
    assert list(range(4401, 5001)) == log.history(Since(seconds=600.0))
    assert [256, 1024] == log.asked
