"""What NATS keeps, as a node reads it: as much of a topic's history as somebody asks for, or all of many, in pages.

In the hub. What a page is, and where it begins, `nats_topics` finds out; here is what of it counts: numbers that follow
each other up to the newest, as many as the topic keeps and none too old.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from typing import Any

from webmesh.brokers.base import History, Since, give_way_in
from webmesh.brokers.jetstream import READS, Reading
from webmesh.brokers.memory import read_log
from webmesh.brokers.nats_bodies import Arrived, unbroken_log
from webmesh.brokers.nats_marks import Mark
from webmesh.brokers.nats_topics import Head, Topics
from webmesh.deadline import Clock
from webmesh.exceptions import BrokerUnavailable
from webmesh.protocol.publication import Publication
from webmesh.protocol.topic_log import TopicLog

PAGE = 256
"""Publications that are read at a time; between two pages others have their turn."""


def in_pages(
    ask: Callable[..., Any], post: Callable[..., None], begin: Callable[[], Any], more: Callable[[Reading], Any]
) -> Iterator[list[Any]]:
    """What a `Reading` gives, in parts of which each is read when it is wanted; what has one name comes once.

    Args:
        ask, post: Run what they are given in the thread; the former waits.
        begin, more: Coroutine functions: they begin a reading, and take what comes next of it, whose names stand first.
    """
    had: set[str] = set()
    for _ in range(READS):
        reading: Reading = ask(begin)
        try:
            while part := ask(more, reading):
                fresh = [one for one in part if one[0] not in had]
                had.update(one[0] for one in fresh)
                yield fresh
        finally:
            with suppress(BrokerUnavailable):  # the engine may have been stopped
                post(reading.end_soon)
        if reading.complete:
            break


class NatsPast:
    """See above.

    Args:
        ask: Runs what it is given in the thread, and waits.
        post: The same, and does not wait.
        read: Makes a publication of a body and its mark, or drops it.
    """

    def __init__(
        self, ask: Callable[..., Any], post: Callable[..., None], topics: Topics,
        read: Callable[[str, bytes, Mark], Arrived | None], clock: Clock,
    ) -> None:  # fmt: skip
        self._ask, self._post, self._topics, self._read, self._clock = ask, post, topics, read, clock

    def newest(self, subject: str) -> Iterator[Arrived]:
        """The newest kept publications of all topics that match, each once, read as they are taken.

        Of a topic where something is published meanwhile it is one of those that were its newest, or none.
        """
        if subject.endswith(">") or "*" in subject.split("."):
            pages = in_pages(self._ask, self._post, partial(self._topics.begin, subject), self._topics.newest)
        else:
            pages = iter([self._ask(self._topics.newest_one, subject)])
        for page in pages:
            for topic, body, mark in give_way_in(page):
                arrived = self._read(topic, body, mark)
                if arrived is not None:
                    yield arrived

    def history(self, subject: str, since: Since, *, most: int | None, reverse: bool) -> History:
        """See `Broker.history`; *subject* is the topic's."""
        found: tuple[Head, Mark] | str = self._ask(self._topics.newest_of, subject)
        if isinstance(found, str):
            return read_log(TopicLog(found, most=0), since, self._clock(), most=most, reverse=reverse)
        head, newest = found
        if reverse or since.seconds is not None:
            return self._backwards(subject, head, newest, since, most, reverse)
        if since.offset is None:
            return self._forwards(subject, head, newest, most)
        return self._recover(subject, head, newest, since.offset, since.epoch, most)

    def _part(self, subject: str, head: Head, offset: int, most: int | None) -> list[Arrived | None]:
        found = self._ask(self._topics.part, subject, head, offset, most)
        return [self._read(subject, body, mark) for body, mark in found]

    def _backwards(
        self, subject: str, head: Head, newest: Mark, since: Since, most: int | None, reverse: bool
    ) -> History:
        """From the newest on, in parts that grow, until there is as much as is asked for."""
        oldest = max(_oldest(newest), 1 + (since.offset or 0))
        now = self._clock()
        size = newest.history if most is None and since.seconds is None else min(most or PAGE, PAGE)
        while True:
            start = max(oldest, newest.last - size + 1)
            log = unbroken_log(self._part(subject, head, start, None), newest)
            found = read_log(log, since, now, most=most, reverse=reverse)
            first = log.page(now)[:1]
            broken = not first or first[0].offset > start
            enough = most is not None and len(found.items) >= most and since.seconds is None
            old = since.seconds is not None and bool(first) and first[0].at <= now - since.seconds
            if start <= oldest or broken or enough or old:
                return found
            size *= 4

    def _forwards(self, subject: str, head: Head, newest: Mark, most: int | None) -> History:
        """From the oldest that is kept and that all others follow."""
        items: list[Publication] = []
        start, now = _oldest(newest), self._clock()
        while start <= newest.last and (most is None or len(items) < most):
            page = self._part(subject, head, start, PAGE if most is None else min(PAGE, most))
            if not page:
                break
            for one in page:
                if one is None or one.publication.offset != start or one.publication.epoch != newest.epoch:
                    items.clear()  # something is missing: what was before it is kept no longer
                if one is not None:
                    start = 1 + (one.publication.offset or start)
                    items += [one.publication] if self._counts(one, now) else []
                else:
                    start += 1
        return History(items[:most], newest.last, newest.epoch)

    def _recover(
        self, subject: str, head: Head, newest: Mark, offset: int, epoch: str | None, most: int | None
    ) -> History:
        """All that came after *offset*, or nothing."""
        nothing = History([], newest.last, newest.epoch, False)
        if epoch != newest.epoch or not _oldest(newest) - 1 <= offset <= newest.last:
            return nothing
        items: list[Publication] = []
        now = self._clock()
        while offset < newest.last and (most is None or len(items) < most):
            page = self._part(subject, head, offset + 1, PAGE if most is None else min(PAGE, most))
            if not page:
                return nothing
            for one in page:
                wanted = (offset + 1, newest.epoch)
                if one is None or (one.publication.offset, one.publication.epoch) != wanted or not one.in_history(now):
                    return nothing
                offset += 1
                items += [one.publication] if self._counts(one, now) else []
        return History(items[:most], newest.last, newest.epoch)

    def _counts(self, one: Arrived, now: float) -> bool:
        return one.in_history(now) and not one.publication.expired(now)


def _oldest(newest: Mark) -> int:
    """The first number that may be kept."""
    return max(1, newest.last - newest.history + 1)
