"""What Redis keeps of topics: history by pages, retained values by patterns."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from webmesh.brokers.base import History, Since
from webmesh.brokers.redis_messages import BadMessage, Keys, glob, read_body, read_message
from webmesh.options import Limits
from webmesh.protocol.publication import Publication
from webmesh.protocol.topic_trie import TopicTrie
from webmesh.protocol.topics import is_topic

PAGE, PAGE_SIZE = 256, 1024 * 1024
"""Entries, and bytes of them, that are read at a time: others' commands are answered in between."""

FIRST_PAGE = 32
"""Entries that are read at first, when nobody knows how large they are."""

_NUMBER = re.compile(rb"([1-9][0-9]{0,15})-0")


class _Page(NamedTuple):
    """Some entries of a log, and what was so when they were read."""

    epoch: str
    newest: int
    now: float
    oldest: int
    entries: list[Any]

    def covers(self, after: int) -> bool:
        """Whether all that came after that number was still there."""
        return self.oldest - 1 <= after <= self.newest


class RedisPast:
    """Reads.

    Args:
        run, ask: Run a script, or a command.
        refused: Told of what is no message of ours.
    """

    def __init__(
        self, run: Callable[..., Any], ask: Callable[..., Any], keys: Keys, limits: Limits,
        refused: Callable[[str, BadMessage], None],
    ) -> None:  # fmt: skip
        self._run, self._ask = run, ask
        self._keys, self._limits = keys, limits
        self._refused = refused

    def history(self, topic: str, since: Since, *, most: int | None, reverse: bool) -> History:
        """See `Broker.history`."""
        after = 0 if since.seconds is not None else since.offset or 0
        recovering = since.seconds is None and since.offset is not None and not reverse
        backwards = reverse or since.seconds is not None  # the last so many seconds are found from the end
        items: list[Publication] = []
        first: _Page | None = None
        for page in self._pages(topic, after, backwards=backwards):
            first = first or page
            # Also beyond the first page: it may have been cut off meanwhile, at the end that is read.
            if recovering and not (page.epoch == since.epoch and page.covers(after)):
                return History([], page.newest, page.epoch, False)
            after = _number(page.entries[-1][0]) if page.entries else after
            found = [self._read(topic, page, *entry) for entry in page.entries]
            items += [one for one in found if one is not None]
            if since.seconds is not None and items and items[-1].at <= page.now - since.seconds:
                items = [one for one in items if one.at > page.now - since.seconds]
                break
            if most is not None and since.seconds is None and len(items) >= most:
                break
        assert first is not None, "there is always a first page"
        if backwards and not reverse:
            items.reverse()
        return History(items if most is None else items[:most], first.newest, first.epoch)

    def _pages(self, topic: str, after: int, *, backwards: bool) -> Iterator[_Page]:
        start, end = f"({after}-0" if after else "-", "+"
        count = min(FIRST_PAGE, PAGE)
        while True:
            epoch, newest, now, oldest, entries = self._run(
                "history", [self._keys.topics, self._keys.log(topic)], topic, start, end, count, int(backwards),
                os.urandom(6).hex(),
            )  # fmt: skip
            number = _number(oldest)
            last = int(newest) if newest.isdigit() else 0
            yield _Page(epoch.decode(errors="replace"), last, int(now) / 1000, number or last + 1, entries)
            if len(entries) < count:
                return
            size = sum(len(part) for _, fields in entries for part in fields)
            count = max(1, min(PAGE, PAGE_SIZE * count // max(1, size)))
            edge = "(" + entries[-1][0].decode()
            start, end = (start, edge) if backwards else (edge, end)

    def _read(self, topic: str, page: _Page, entry: bytes, fields: list[bytes]) -> Publication | None:
        """One entry; `None` where its time is over or it is none of ours."""
        named = dict(zip(fields[::2], fields[1::2], strict=False))
        at, until = named.get(b"a", b""), named.get(b"u", b"")
        number = _number(entry)
        try:
            if not number or not at.isdigit() or len(at) > 16:
                raise BadMessage("an entry of a log without its numbers")
            publication = read_body(topic, named.get(b"m"), int(at), self._limits)
        except BadMessage as bad:
            self._refused(self._keys.log(topic), bad)
            return None
        if publication.expired(page.now) or (until.isdigit() and int(until[:16]) <= page.now * 1000):
            return None
        publication.offset, publication.epoch = number, page.epoch
        return publication

    def topics(self, pattern: tuple[str, ...]) -> list[str]:
        """See `Broker.topics`."""
        matching: TopicTrie[bool] = TopicTrie()
        matching.add(pattern, True)
        topics = {name.decode(errors="replace") for name, _ in self._fields(self._keys.topics, pattern)}
        chosen = [topic for topic in topics if topic[:1] != "$" and matching.match(tuple(topic.split("/")))]
        found: list[str] = []
        for start in range(0, len(chosen), PAGE):
            batch = chosen[start : start + PAGE]
            kept = self._run("kept", [self._keys.log(topic) for topic in batch])
            found += [topic for topic, some in zip(batch, kept, strict=True) if some]
        return found

    def retained(self, pattern: tuple[str, ...], now: float) -> Iterator[Publication]:
        """See `Broker.retained`."""
        matching: TopicTrie[bool] = TopicTrie()
        matching.add(pattern, True)
        found: set[str] = set()
        for topic, data in self._fields(self._keys.retained, pattern):
            try:
                publication = read_message(topic, data, self._limits)
            except BadMessage as bad:
                self._refused(self._keys.retained, bad)
                continue
            if publication.expired(now):
                self._run("forget", [self._keys.retained], topic, data)
            elif publication.topic not in found and matching.match(tuple(publication.topic.split("/"))):
                found.add(publication.topic)
                yield publication.as_retained()

    def _fields(self, key: str, pattern: tuple[str, ...]) -> Iterator[tuple[bytes, bytes]]:
        """The topics of a table that may match, and what stands there; the same one may come twice."""
        text = "/".join(pattern)
        if is_topic(text):
            value = self._ask("HGET", key, text)
            if value is not None:
                yield text.encode(), value
            return
        cursor = b"0"
        while True:
            cursor, flat = self._ask("HSCAN", key, cursor, "MATCH", glob(pattern), "COUNT", PAGE)
            yield from zip(flat[::2], flat[1::2], strict=True)
            if cursor == b"0":
                return


def _number(entry: bytes) -> int:
    """The number of an entry; 0 for none of ours."""
    found = _NUMBER.fullmatch(entry)
    return int(found[1]) if found else 0
