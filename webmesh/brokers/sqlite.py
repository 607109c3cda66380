"""The engine in an SQLite file: one node that keeps its history, groups and wills across a restart, with no server.

Written in WAL mode, each publication in a transaction of its own, before it is answered: what was acknowledged
survives the end of the process, however it ends. Whether it survives the loss of power too is `synchronous`'
business. Statements run in the hub: each takes some 20 us and waits for no disk.
"""

from __future__ import annotations

import math
import os
import sqlite3
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import takewhile
from typing import Any, cast
from urllib.parse import unquote

import gevent

from webmesh.brokers import one_node
from webmesh.brokers.base import Accepted, GroupName, History, Keep, Since
from webmesh.brokers.one_node import KeptGroup, OneNodeBroker, Work
from webmesh.brokers.opening import query_options, split_url
from webmesh.brokers.sqlite_tables import prepare_tables
from webmesh.deadline import Clock
from webmesh.exceptions import (
    BrokerError,
    BrokerUnavailable,
    ConfigurationError,
    InvalidArgument,
    Overloaded,
    SerializationError,
)
from webmesh.message_serializers import MessagePackSerializer
from webmesh.options import Limits
from webmesh.protocol.publication import Publication, read_stored
from webmesh.protocol.topic_trie import TopicTrie
from webmesh.protocol.topics import ONE, REST

SYNCHRONOUS = ("off", "normal", "full", "extra")
"""SQLite's own words. `normal` survives the end of the process, `full` also that of the machine (one fsync each)."""

SWEEP = 60.0
"""Seconds between two looks, where there is no room for another topic, at what has ended with its time."""

_OLDEST = "SELECT number, length(message) FROM log WHERE topic = ? ORDER BY number LIMIT 16"

PAGE = 256
"""Publications of a history that are read from the file at once, at most."""


def open_sqlite(url: str, *, synchronous: str = "normal", clock: Clock = time.time) -> SqliteBroker:
    """The engine of `sqlite:///relative.db` or `sqlite:////absolute.db`; see `open_broker`."""
    parts = split_url(url)
    if parts.netloc or len(parts.path) < 2:
        raise ConfigurationError("the URL of an SQLite file is sqlite:///relative.db or sqlite:////absolute.db")
    options = {"synchronous": synchronous} | query_options(parts.query, {"synchronous": str})
    return SqliteBroker(unquote(parts.path[1:]), clock=clock, **options)


class SqliteBroker(OneNodeBroker):
    """`sqlite:///path`: see `Broker`.

    Args:
        path: Of the file; made when it is not there. One process uses it at a time.
        synchronous: One of `SYNCHRONOUS`.
        clock: The wall clock, as its readings are kept in the file.
    """

    def __init__(
        self, path: str | os.PathLike[str], *, synchronous: str = "normal", clock: Clock = time.time
    ) -> None:
        super().__init__(SqliteStorage(path, synchronous), clock)


class SqliteStorage:
    """See `one_node.Storage`."""

    def __init__(self, path: str | os.PathLike[str], synchronous: str) -> None:
        if synchronous not in SYNCHRONOUS:
            raise ConfigurationError(f"synchronous must be one of {', '.join(SYNCHRONOUS)}, not {synchronous!r}")
        self._path = os.fspath(path)
        self._synchronous = synchronous
        self._serializer = MessagePackSerializer(Limits(message_size=64 * 1024 * 1024))
        self._database: sqlite3.Connection | None = None
        self._epoch = ""
        self._floor = 0  # the highest number of a topic that was forgotten: no number is used twice in one epoch
        self._counts: dict[str, int] = {}
        self._sizes: dict[str, int] = {}  # bytes of the log, of topics that have a bound
        self._swept_at = -math.inf

    # -------------------------------------------------------------- the file

    def open(self) -> Iterable[KeptGroup]:
        """See `Storage.open`.

        Raises:
            BrokerUnavailable: The file cannot be used; the text says why.
        """
        try:
            self._database = database = sqlite3.connect(self._path, isolation_level=None, check_same_thread=False)
            database.execute("PRAGMA locking_mode = EXCLUSIVE")  # a second process is refused instead of interleaved
            database.execute("PRAGMA journal_mode = WAL")
            database.execute(f"PRAGMA synchronous = {self._synchronous}")
            prepare_tables(database)
            self._recall()
            return self._groups()
        except (sqlite3.Error, BrokerError) as error:
            self.close()
            raise BrokerUnavailable(f"cannot use {self._path} as an engine's file: {error}") from error

    def _recall(self) -> None:
        self._epoch = self._row("SELECT value FROM about WHERE name = 'epoch'")[0]
        self._floor = int(self._row("SELECT value FROM about WHERE name = 'floor'")[0])
        self._count()

    def _count(self) -> None:
        """Counting them for each publication would look at all of them."""
        self._counts = {name: self._row(f"SELECT count(*) FROM {name}")[0] for name in ("topics", "retained", "seen")}

    def close(self) -> None:
        """See `Storage.close`."""
        database, self._database = self._database, None
        if database is not None:
            database.close()

    def _run(self, statement: str, *values: object) -> list[tuple[Any, ...]]:
        if self._database is None:
            raise BrokerUnavailable(f"{self._path} is closed")
        try:
            return self._database.execute(statement, values).fetchall()
        except sqlite3.Error as error:
            raise BrokerError(f"{self._path}: {error}") from error

    def _delete(self, table: str, where: str, *values: object) -> None:
        """Delete rows of a table that is counted."""
        self._run(f"DELETE FROM {table} WHERE {where}", *values)
        self._counts[table] -= self._run("SELECT changes()")[0][0]

    def _row(self, statement: str, *values: object) -> tuple[Any, ...]:
        return next(iter(self._run(statement, *values)), (None, None))

    def _packed(self, publication: Publication, **more: int | None) -> bytes:
        stored = {"p": publication.payload, "h": dict(publication.headers), "at": publication.at} | more
        try:
            return bytes(self._serializer.serialize(stored))
        except SerializationError as error:
            raise BrokerError(f"a message for {publication.topic} cannot be kept: {error}") from error

    def _loaded(self, packed: bytes) -> dict[str, Any]:
        try:
            return cast(dict[str, Any], self._serializer.deserialize(packed))
        except SerializationError as error:
            raise BrokerError(f"{self._path} is damaged: {error}") from error

    def _unpacked(self, topic: str, message: bytes) -> Publication:
        stored = self._loaded(message)
        try:
            one = read_stored(topic, stored["p"], stored["h"], at=stored["at"])
        except (InvalidArgument, LookupError, TypeError, AttributeError) as error:
            raise BrokerError(f"{self._path} is damaged: it holds no publication for {topic}") from error
        number = stored.get("n")  # of retained values, where no former version has written them
        if type(number) is int:
            one.offset, one.epoch = number, self._epoch
        return one

    # -------------------------------------------------------------- publications

    def remembered(self, publication: Publication, now: float) -> Accepted | None:
        """See `Storage.remembered`."""
        self._delete("seen", "at <= ?", now - one_node.DEDUPE_WINDOW)
        found = self._run(
            "SELECT number FROM seen WHERE topic = ? AND id = ?", publication.topic, publication.dedupe_id
        )
        if not found:
            return None
        number = found[0][0]
        return Accepted() if number is None else Accepted(number, self._epoch)

    def keep(self, publication: Publication, keep: Keep, now: float, work: Sequence[Work] = (),
             lost: Sequence[Work] = ()) -> None:  # fmt: skip
        """See `Storage.keep`."""
        if not keep.numbered and not keep.retain and publication.dedupe_id is None and not work and not lost:
            return
        self._run("BEGIN")
        try:
            self._keep(publication, keep, now)
            for group, token in lost:
                self.drop_work(group, token)
                self._run("UPDATE groups SET lost = lost + 1 WHERE pattern = ? AND name = ?", *_key(group))
            for group, token in work:
                self._add_work(group, token, publication, ack=keep.ack)
        except BaseException:
            self._run("ROLLBACK")
            self._count()
            self._sizes.clear()
            raise
        self._run("COMMIT")

    def _keep(self, publication: Publication, keep: Keep, now: float) -> None:
        if keep.numbered:
            self._number(publication, keep, now)
        if keep.retain:
            self._retain(publication, now)
        if publication.dedupe_id is not None:
            if self._counts["seen"] >= one_node.DEDUPE_MOST:
                self._delete("seen", "(topic, id) = (SELECT topic, id FROM seen ORDER BY at LIMIT 1)")
            self._counts["seen"] += 1
            self._run(
                "INSERT INTO seen VALUES (?, ?, ?, ?)", publication.topic, publication.dedupe_id, now,
                publication.offset,
            )  # fmt: skip

    def _number(self, publication: Publication, keep: Keep, now: float) -> None:
        topic = publication.topic
        last = self._row("SELECT last FROM topics WHERE topic = ?", topic)[0]
        if last is None:
            self._check_room("topics", topic, now)
            self._counts["topics"] += 1
            last = self._floor
        number = last + 1
        self._run("INSERT OR REPLACE INTO topics VALUES (?, ?)", topic, number)
        if keep.history:
            until = None if keep.ttl is None else now + keep.ttl
            packed = self._packed(publication)
            if keep.history_bytes is not None:
                self._make_room(topic, number, len(packed), keep.history_bytes)
            self._run("INSERT INTO log VALUES (?, ?, ?, ?, ?)", topic, number, now, until, packed)
        self._drop("topic = ? AND number <= ?", topic, number - keep.history)
        publication.offset, publication.epoch = number, self._epoch

    def _make_room(self, topic: str, number: int, size: int, most: int) -> None:
        """Drop the oldest of a topic until another message of so many bytes finds room, or is alone."""
        if topic not in self._sizes:
            counted = self._row("SELECT total(length(message)) FROM log WHERE topic = ?", topic)
            self._sizes[topic] = int(counted[0])
        excess = self._sizes[topic] + size - most
        while excess > 0 and (rows := self._run(_OLDEST, topic)):
            for oldest, length in rows:
                self._drop("topic = ? AND number = ?", topic, oldest)
                excess -= length or 0
                if excess <= 0:
                    break
        self._sizes[topic] += size

    def _drop(self, where: str, *values: object) -> None:
        """Delete rows of the log."""
        for topic, length in self._run(f"DELETE FROM log WHERE {where} RETURNING topic, length(message)", *values):
            if length and topic in self._sizes:
                self._sizes[topic] -= length

    def _check_room(self, table: str, topic: str, now: float) -> None:
        if self._counts[table] >= one_node.MOST_TOPICS and now - self._swept_at >= SWEEP:
            self._swept_at = now
            self._forget_expired(now)
        count = self._counts[table]
        if count >= one_node.MOST_TOPICS:
            raise Overloaded(f"{count} topics are kept, the limit; {topic} would be one more")

    def _forget_expired(self, now: float) -> None:
        """Make room: of what has ended with its time nothing needs to be known but that its numbers were used."""
        self._drop("until <= ?", now)
        empty = "topic NOT IN (SELECT DISTINCT topic FROM log)"
        self._floor = max(self._floor, self._row(f"SELECT max(last) FROM topics WHERE {empty}")[0] or 0)
        self._run("UPDATE about SET value = ? WHERE name = 'floor'", self._floor)
        self._delete("topics", empty)
        self._sizes.clear()
        for topic, message in self._run("SELECT topic, message FROM retained"):
            if self._unpacked(topic, message).expired(now):
                self._delete("retained", "topic = ?", topic)

    def _retain(self, publication: Publication, now: float) -> None:
        """Null takes the retained value away, as with MQTT."""
        topic = publication.topic
        if publication.payload is None:
            self._delete("retained", "topic = ?", topic)
            return
        if not self._run("SELECT 1 FROM retained WHERE topic = ?", topic):
            self._check_room("retained", topic, now)
            self._counts["retained"] += 1
        packed = self._packed(publication, n=publication.offset)
        self._run("INSERT OR REPLACE INTO retained VALUES (?, ?)", topic, packed)

    def history(self, topic: str, since: Since, now: float, *, most: int | None, reverse: bool) -> History:
        """See `Storage.history`."""
        self._drop("until <= ?", now)  # by its index: of one topic all rows would be looked at
        last = self._row("SELECT last FROM topics WHERE topic = ?", topic)[0]
        last = self._floor if last is None else last
        after = since.offset if since.offset is not None else 0
        recovering = since.offset is not None and not reverse
        if recovering and (since.epoch != self._epoch or not self._oldest(topic, last) - 1 <= after <= last):
            return History([], last, self._epoch, False)
        oldest_at = -math.inf if since.seconds is None else now - since.seconds
        items: list[Publication] = []
        for number, page in self._pages(topic, after, last, oldest_at, now, most, reverse):
            # Others had their turn since the last page: what comes next may have gone meanwhile.
            if recovering and self._oldest(topic, last) - 1 > number:
                return History([], last, self._epoch, False)
            items += page
            if most is not None and len(items) >= most:
                break
        return History(items[:most], last, self._epoch)

    def _oldest(self, topic: str, last: int) -> int:
        return self._row("SELECT min(number) FROM log WHERE topic = ?", topic)[0] or last + 1

    def _pages(
        self, topic: str, after: int, last: int, oldest_at: float, now: float, most: int | None, reverse: bool
    ) -> Iterator[tuple[int, list[Publication]]]:
        """Page by page, each with the number behind which it begins: what is not wanted is not read."""
        size = PAGE if most is None else max(1, min(most, PAGE))
        before = last + 1
        while True:
            rows = self._run(
                "SELECT number, message FROM log WHERE topic = ? AND number > ? AND number < ? AND at > ? "
                f"AND message IS NOT NULL ORDER BY number {'DESC' if reverse else 'ASC'} LIMIT {size}",
                topic, after, before, oldest_at,
            )  # fmt: skip
            read = [replace(self._unpacked(topic, found), offset=at, epoch=self._epoch) for at, found in rows]
            self._empty(topic, [one.offset for one in read if one.expired(now)])
            yield after, [one for one in read if not one.expired(now)]
            if len(rows) < size:
                return
            gevent.sleep(0)  # a long past holds up nobody
            after, before = (after, rows[-1][0]) if reverse else (rows[-1][0], before)
            size = PAGE

    def _empty(self, topic: str, numbers: list[int | None]) -> None:
        """What ended with a time of its own is read once; its number stays, or it would look as if it were missed."""
        if numbers:
            places = ", ".join("?" * len(numbers))
            self._run(f"UPDATE log SET message = NULL WHERE topic = ? AND number IN ({places})", topic, *numbers)
            self._sizes.pop(topic, None)  # to be counted again

    def topics(self, pattern: tuple[str, ...], now: float) -> list[str]:
        """See `Storage.topics`."""
        self._drop("until <= ?", now)
        logged = "topics WHERE EXISTS (SELECT 1 FROM log WHERE log.topic = topics.topic) AND"
        return [topic for topic, _ in self._matching(logged, pattern)]

    def retained(self, pattern: tuple[str, ...], now: float) -> Iterator[Publication]:
        """See `Storage.retained`."""
        for topic, message in self._matching("retained WHERE", pattern):
            one = self._unpacked(topic, message)
            if not one.expired(now):
                one.retained = True
                yield one

    def _matching(self, table: str, pattern: tuple[str, ...]) -> Iterator[tuple[Any, ...]]:
        """The rows whose topics match, page by page, sorted: others may run between two of them."""
        fixed = tuple(takewhile(lambda segment: segment not in (ONE, REST), pattern))
        if len(fixed) == len(pattern):
            yield from self._run(f"SELECT * FROM {table} topic = ?", "/".join(fixed))
            return
        matching: TopicTrie[bool] = TopicTrie()
        matching.add(pattern, True)
        # Topics that begin like the pattern stand together in the table.
        last = start = "".join(f"{segment}/" for segment in fixed)
        page = f"SELECT * FROM {table} topic > ? AND topic < ? ORDER BY topic LIMIT {PAGE}"
        while rows := self._run(page, last, start + "\U0010ffff"):
            yield from (row for row in rows if matching.match(tuple(row[0].split("/"))))
            last = rows[-1][0]
            gevent.sleep(0)

    # ------------------------------------------------------- groups and records

    def _groups(self) -> list[KeptGroup]:
        rows = self._run("SELECT pattern, name, ttl, left, lost FROM groups")
        names = [GroupName(tuple(row[0].split("/")), row[1]) for row in rows]
        return [KeptGroup(name, self._work(name), *row[2:]) for name, row in zip(names, rows, strict=True)]

    def _work(self, group: GroupName) -> list[tuple[int, Publication, bool]]:
        rows = self._run(
            "SELECT token, topic, number, message, ack FROM work WHERE pattern = ? AND name = ? ORDER BY token",
            *_key(group),
        )
        return [
            (token, replace(self._unpacked(topic, message), offset=number, epoch=number and self._epoch), bool(ack))
            for token, topic, number, message, ack in rows
        ]

    def keep_group(self, group: GroupName, ttl: float | None, left: float | None) -> None:
        """See `Storage.keep_group`."""
        self._run(
            "INSERT INTO groups (pattern, name, ttl, left) VALUES (?, ?, ?, ?) "
            "ON CONFLICT DO UPDATE SET ttl = excluded.ttl, left = excluded.left",
            *_key(group), ttl, left,
        )  # fmt: skip

    def told_lost(self, group: GroupName) -> None:
        """See `Storage.told_lost`."""
        self._run("UPDATE groups SET lost = 0 WHERE pattern = ? AND name = ?", *_key(group))

    def drop_group(self, group: GroupName) -> None:
        """See `Storage.drop_group`."""
        self._run("DELETE FROM groups WHERE pattern = ? AND name = ?", *_key(group))
        self._run("DELETE FROM work WHERE pattern = ? AND name = ?", *_key(group))

    def _add_work(self, group: GroupName, token: int, publication: Publication, *, ack: bool) -> None:
        self._run(
            "INSERT INTO work (pattern, name, token, topic, number, message, ack) VALUES (?, ?, ?, ?, ?, ?, ?)",
            *_key(group), token, publication.topic, publication.offset, self._packed(publication), ack,
        )  # fmt: skip

    def drop_work(self, group: GroupName, token: int) -> None:
        """See `Storage.drop_work`."""
        self._run("DELETE FROM work WHERE pattern = ? AND name = ? AND token = ?", *_key(group), token)

    def put(self, table: str, key: str, value: Any, until: float) -> None:
        """See `Storage.put`."""
        packed = bytes(self._serializer.serialize({"v": value}))
        self._run("INSERT OR REPLACE INTO records VALUES (?, ?, ?, ?)", table, key, until, packed)

    def claim(self, table: str, key: str, now: float) -> Any | None:
        """See `Storage.claim`."""
        rows = self._run("DELETE FROM records WHERE kind = ? AND key = ? RETURNING until, value", table, key)
        return self._loaded(rows[0][1])["v"] if rows and rows[0][0] > now else None

    def records(self, table: str, now: float) -> Mapping[str, Any]:
        """See `Storage.records`."""
        self._run("DELETE FROM records WHERE until <= ?", now)
        rows = self._run("SELECT key, value FROM records WHERE kind = ?", table)
        return {key: self._loaded(value)["v"] for key, value in rows}

    def pages(self, table: str, now: float, most: int) -> Iterator[Mapping[str, Any]]:
        """See `Storage.pages`."""
        last: Any = ""
        while rows := self._run(
            "SELECT key, until, value FROM records WHERE kind = ? AND key > ? ORDER BY key LIMIT ?", table, last, most
        ):
            last = rows[-1][0]
            yield {key: self._loaded(value)["v"] for key, until, value in rows if until > now}


def _key(group: GroupName) -> tuple[str, str]:
    return "/".join(group.pattern), group.name
