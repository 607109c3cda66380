"""The engine in this process's memory: one node, no server to run, nothing kept across a restart."""

from __future__ import annotations

import math
import os
import time
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Any

from webmesh.brokers import one_node
from webmesh.brokers.base import Accepted, GroupName, History, Keep, Since, give_way_in, in_parts, kept_size
from webmesh.brokers.one_node import KeptGroup, OneNodeBroker, Work
from webmesh.deadline import Clock
from webmesh.exceptions import ConfigurationError, Overloaded
from webmesh.protocol.publication import Publication
from webmesh.protocol.topic_log import Entry, TopicLog
from webmesh.protocol.topic_order import TopicOrder
from webmesh.protocol.topics import REST


def open_memory(url: str, *, clock: Clock = time.monotonic) -> MemoryBroker:
    """The engine of `memory://`; see `open_broker`."""
    if url.lower() != "memory://":
        raise ConfigurationError("the engine in memory has one URL, memory://")
    return MemoryBroker(clock)


SWEEP = 1.0
"""Seconds between two looks, where there is no room for another topic, at what has ended with its time."""


class MemoryBroker(OneNodeBroker):
    """`memory://`: see `Broker`."""

    def __init__(self, clock: Clock = time.monotonic) -> None:
        super().__init__(MemoryStorage(), clock)
        self.run = os.urandom(6).hex()


class MemoryStorage:
    """See `one_node.Storage`."""

    def __init__(self) -> None:
        self._epoch = os.urandom(6).hex()
        self._logs: dict[str, TopicLog[Publication]] = {}
        self._logged_topics = TopicOrder()
        self._floor = 0  # the highest number of a topic that was forgotten: no number is used twice in one epoch
        self._swept_at = -math.inf
        self._retained: dict[str, Publication] = {}
        self._retained_topics = TopicOrder()
        self._seen: OrderedDict[tuple[str, str], tuple[float, Accepted]] = OrderedDict()
        self._records: dict[str, dict[str, tuple[float, Any]]] = {}
        self._record_keys: dict[str, TopicOrder] = {}
        self._claims: dict[str, int] = {}  # since the table was last rid of what is over

    def open(self) -> Iterable[KeptGroup]:
        """See `Storage.open`."""
        return ()

    def close(self) -> None:
        """See `Storage.close`."""

    # -------------------------------------------------------------- publications

    def remembered(self, publication: Publication, now: float) -> Accepted | None:
        """See `Storage.remembered`."""
        seen = self._seen
        while seen and next(iter(seen.values()))[0] <= now - one_node.DEDUPE_WINDOW:
            seen.popitem(last=False)
        found = seen.get((publication.topic, publication.dedupe_id or ""))
        return None if found is None else found[1]

    def keep(self, publication: Publication, keep: Keep, now: float, work: Sequence[Work] = (),
             lost: Sequence[Work] = ()) -> None:  # fmt: skip
        """See `Storage.keep`; the broker's own tables are all there is of groups."""
        topic = publication.topic
        if keep.numbered:
            self._check_room(self._logs, topic, now)
        if keep.retain:
            self._check_room(self._retained, topic, now)
        if keep.numbered:
            self._number(publication, keep, now)
        if keep.retain:
            self._retain(publication)
        if publication.dedupe_id is not None:
            if len(self._seen) >= one_node.DEDUPE_MOST:
                self._seen.popitem(last=False)
            self._seen[topic, publication.dedupe_id] = (now, Accepted(publication.offset, publication.epoch))

    def _check_room(self, table: Mapping[str, object], topic: str, now: float) -> None:
        if topic in table or len(table) < one_node.MOST_TOPICS:
            return
        if now - self._swept_at >= SWEEP:
            self._swept_at = now
            self._forget_expired(now)
        if len(table) >= one_node.MOST_TOPICS:
            raise Overloaded(f"{len(table)} topics are kept, the limit; {topic} would be one more")

    def _forget_expired(self, now: float) -> None:
        """Make room: of what has ended with its time nothing needs to be known but that its numbers were used."""
        for topic, log in tuple(self._logs.items()):
            log.expire(now)
            if not len(log):
                self._floor = max(self._floor, log.offset)
                self._logged_topics.remove(topic)
                del self._logs[topic]
        for one in tuple(self._retained.values()):
            if one.expired(now):
                self._forget(one.topic)

    def _number(self, publication: Publication, keep: Keep, now: float) -> None:
        log = self._logs.get(publication.topic)
        if log is None:
            log = self._logs[publication.topic] = TopicLog(
                self._epoch, most=keep.history, ttl=keep.ttl, first=self._floor + 1, most_bytes=keep.history_bytes
            )
            self._logged_topics.add(publication.topic)
        publication.offset, publication.epoch = log.offset + 1, log.epoch
        log.append(publication, now, size_in(log, publication))

    def _retain(self, publication: Publication) -> None:
        """Null takes the retained value away, as with MQTT."""
        topic = publication.topic
        if publication.payload is None:
            self._forget(topic)
            return
        self._retained_topics.add(topic)
        self._retained[topic] = publication

    def _forget(self, topic: str) -> None:
        if self._retained.pop(topic, None) is not None:
            self._retained_topics.remove(topic)

    def history(self, topic: str, since: Since, now: float, *, most: int | None, reverse: bool) -> History:
        """See `Storage.history`."""
        log = self._logs.get(topic)
        if log is None:
            log = TopicLog(self._epoch, most=0, first=self._floor + 1)
        return read_log(log, since, now, most=most, reverse=reverse)

    def topics(self, pattern: tuple[str, ...], now: float) -> list[str]:
        """See `Storage.topics`."""
        return list(self.topics_after(None, pattern, now))

    def topics_after(self, after: str | None, pattern: tuple[str, ...], now: float) -> Iterator[str]:
        """The same, in the order of their names, behind that of *after*."""
        for some in give_way_in(self._logged_topics.select(pattern, after), every=1):
            for topic in some:
                log = self._logs.get(topic)  # others had their turn: it may have gone
                if log is not None and log.newest(now) is not None:
                    yield topic

    def retained(self, pattern: tuple[str, ...], now: float) -> Iterator[Publication]:
        """See `Storage.retained`."""
        return self.retained_after(None, pattern, now)

    def retained_after(self, after: str | None, pattern: tuple[str, ...], now: float) -> Iterator[Publication]:
        """The same, in the order of their topics, behind that of *after*."""
        for some in give_way_in(self._retained_topics.select(pattern, after), every=1):
            for topic in some:
                one = self._retained.get(topic)  # likewise
                if one is not None and one.expired(now):
                    self._forget(topic)
                elif one is not None:
                    yield one.as_retained()

    # ------------------------------------------------------- groups and records

    def keep_group(self, group: GroupName, ttl: float | None, left: float | None) -> None:
        """See `Storage.keep_group`."""

    def told_lost(self, group: GroupName) -> None:
        """See `Storage.told_lost`."""

    def drop_group(self, group: GroupName) -> None:
        """See `Storage.drop_group`."""

    def drop_work(self, group: GroupName, token: int) -> None:
        """See `Storage.drop_work`."""

    def put(self, table: str, key: str, value: Any, until: float) -> None:
        """See `Storage.put`."""
        self._records.setdefault(table, {})[key] = (until, value)
        self._record_keys.setdefault(table, TopicOrder()).add(key)

    def claim(self, table: str, key: str, now: float) -> Any | None:
        """See `Storage.claim`."""
        until, value = self._records.get(table, {}).get(key, (-math.inf, None))
        self._drop_record(table, key)
        self._claims[table] = self._claims.get(table, 0) + 1
        if self._claims[table] >= len(self._records.get(table, {})):  # of all, and so seldom where they are many
            self.records(table, now)
            self._claims.pop(table, None)
        return value if until > now else None

    def _drop_record(self, table: str, key: str) -> None:
        kept = self._records.get(table, {})
        if kept.pop(key, None) is not None:
            self._record_keys[table].remove(key)
            if not kept:
                del self._records[table], self._record_keys[table]
                self._claims.pop(table, None)

    def records(self, table: str, now: float) -> Mapping[str, Any]:
        """See `Storage.records`."""
        kept = self._records.get(table, {})
        for key in [key for key, (until, _) in kept.items() if until <= now]:
            self._drop_record(table, key)
        return {key: value for key, (_, value) in kept.items()}

    def records_after(self, after: str | None, table: str, now: float) -> Iterator[tuple[str, Any]]:
        """The same, in the order of their keys, behind that key; read as they are taken."""
        keys = self._record_keys.get(table, TopicOrder())
        for some in give_way_in(keys.select((REST,), after), every=1):
            for key in some:
                until, value = self._records.get(table, {}).get(key, (-math.inf, None))  # it may have gone meanwhile
                if until > now:
                    yield key, value
                else:
                    self._drop_record(table, key)

    def pages(self, table: str, now: float, most: int) -> Iterator[Mapping[str, Any]]:
        """See `Storage.pages`."""
        return in_parts(self.records(table, now), most)  # they are here already: nothing is read


def size_in(log: TopicLog[Publication], publication: Publication) -> int:
    """What a publication counts for in a log."""
    return 0 if log.most_bytes is None else kept_size(publication)


def read_log(
    log: TopicLog[Publication], since: Since, now: float, *, most: int | None, reverse: bool
) -> History:
    """What `Broker.history` answers where *log* is all that is kept of the topic."""
    complete = True
    if since.seconds is not None:
        recent = log.recent(since.seconds, now)
        found: Iterable[Entry[Publication]] = reversed(recent) if reverse else recent
    else:
        complete = reverse or since.offset is None or log.reaches(since.offset, since.epoch or "", now)
        after = since.offset or 0 if complete else log.offset
        found = log.walk(now, after=after, reverse=reverse, few=most is not None)
    items = islice((entry.message for entry in found if not entry.message.expired(now)), most)
    return History(list(items), log.offset, log.epoch, complete)
