"""What engines of one node share: live messages and groups. What is kept, and where, is their `Storage`'s business."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple, Protocol

from webmesh.brokers.base import (
    PAGE, Accepted, Broker, GroupName, History, Keep, Places, Since, Sink, check_places, kept_size,
)  # fmt: skip
from webmesh.deadline import Clock
from webmesh.brokers.group_queue import GroupQueue, Waiting
from webmesh.exceptions import FailedPrecondition, Overloaded
from webmesh.protocol.publication import Publication
from webmesh.protocol.topic_trie import TopicTrie

logger = logging.getLogger("webmesh.broker")

DEDUPE_WINDOW = 120.0
"""Seconds for which a dedupe id is remembered (JetStream's default)."""

DEDUPE_MOST = 100_000
"""Dedupe ids that are remembered; the oldest goes first."""

MOST_TOPICS = 100_000
"""Topics that are kept at a time: a publisher may name as many as it likes."""

GROUP_BACKLOG = 10_000
"""Publications that wait for a group without room for them. Beyond it the oldest that need not be acknowledged goes.
Where there is none, publishing is refused, or what waits longest goes if the group has no member: who is not there
must not stop the others."""

GROUP_BACKLOG_SIZE = 64 * 1024 * 1024
"""Bytes of them, likewise, as `kept_size` counts."""

MOST_DROPPED = 1000
"""Groups that ended with their time of which it is remembered what they lost."""

MOST_GROUPS = 10_000
"""Groups: durable ones outlive their members, and a subscriber may name as many as it likes."""


Work = tuple[GroupName, int]
"""What a durable group has to do, by its token."""


class KeptGroup(NamedTuple):
    """A durable group that was there before this process.

    Attributes:
        work: What it has to do, oldest first: token, publication, and whether that must be acknowledged.
        ttl: Seconds that it lasts without members.
        left: The clock's reading since when it has none, where that is known.
        lost: Publications that it has lost and that nobody was told of.
    """

    name: GroupName
    work: list[tuple[int, Publication, bool]]
    ttl: float | None
    left: float | None
    lost: int


class Storage(Protocol):
    """What one engine keeps. *now* is the reading of the clock that the engine was given."""

    def open(self) -> Iterable[KeptGroup]:
        """Begin; returns the durable groups that were there."""

    def close(self) -> None:
        """End."""

    def remembered(self, publication: Publication, now: float) -> Accepted | None:
        """What a publication of the same dedupe id got, if that is still known."""

    def keep(self, publication: Publication, keep: Keep, now: float, work: Sequence[Work] = (),
             lost: Sequence[Work] = ()) -> None:  # fmt: skip
        """Give the publication its number, keep it as *keep* says, remember its dedupe id, and add it to what durable
        groups have to do; all of it or nothing.

        Args:
            work: Whose work it is.
            lost: What these groups lose for it, which is counted; it may be the publication itself.

        Raises:
            Overloaded: Too many topics are kept.
        """

    def history(self, topic: str, since: Since, now: float, *, most: int | None, reverse: bool) -> History:
        """See `Broker.history`."""

    def topics(self, pattern: tuple[str, ...], now: float) -> list[str]:
        """See `Broker.topics`."""

    def retained(self, pattern: tuple[str, ...], now: float) -> Iterator[Publication]:
        """See `Broker.retained`."""

    def drop_work(self, group: GroupName, token: int) -> None:
        """A durable group has this no longer to do."""

    def keep_group(self, group: GroupName, ttl: float | None, left: float | None) -> None:
        """A durable group begins or goes on, or has no members since *left*."""

    def told_lost(self, group: GroupName) -> None:
        """What a durable group has lost was told."""

    def drop_group(self, group: GroupName) -> None:
        """A durable group ends, with its work."""

    def put(self, table: str, key: str, value: Any, until: float) -> None:
        """See `Broker.put`."""

    def claim(self, table: str, key: str, now: float) -> Any | None:
        """See `Broker.claim`."""

    def records(self, table: str, now: float) -> Mapping[str, Any]:
        """See `Broker.records`."""

    def pages(self, table: str, now: float, most: int) -> Iterator[Mapping[str, Any]]:
        """See `Broker.pages`."""


class OneNodeBroker(Broker):
    """An engine whose only node is this one.

    Args:
        clock: Monotonic, or the wall clock where what is kept outlives the process.
    """

    immediate = True
    shared = False

    def __init__(self, storage: Storage, clock: Clock = time.monotonic) -> None:
        self._storage = storage
        self.clock = clock
        self._sink: Sink | None = None
        self._wanted: dict[tuple[str, ...], int] = {}
        self._interest: TopicTrie[tuple[str, ...]] = TopicTrie()
        self._groups: TopicTrie[GroupName] = TopicTrie()
        self._queues: dict[GroupName, GroupQueue] = {}
        self._next_end = math.inf
        self._first = 0
        self._dropped: dict[GroupName, int] = {}

    def start(self, sink: Sink) -> None:
        """See `Broker.start`."""
        now = self.clock()
        for kept in self._storage.open():
            queue = self._queue(kept.name)
            work = ((token, Waiting(one, ack, kept_size(one))) for token, one, ack in kept.work)
            queue.restore(work, ttl=kept.ttl, left=now if kept.left is None else kept.left, lost=kept.lost)
            if kept.left is None:  # the process was killed while it had members
                self._storage.keep_group(queue.name, queue.ttl, now)
            self._next_end = min(self._next_end, queue.end)
        self._sink = sink
        self._end_groups(now)

    def stop(self) -> None:
        """See `Broker.stop`."""
        if self._sink is not None:
            self._sink = None
            now = self.clock()
            for queue in self._queues.values():
                if queue.left is None:
                    self._close(queue, now)
            self._storage.close()

    @property
    def up(self) -> bool:
        """While it is started."""
        return self._sink is not None

    # -------------------------------------------------------------- publications

    def publish(self, publication: Publication, keep: Keep) -> Accepted:
        """See `Broker.publish`.

        Raises:
            Overloaded: Too many topics are kept already, or a group of acknowledged messages has too many to do.
        """
        now = self.clock()
        before = None if publication.dedupe_id is None else self._storage.remembered(publication, now)
        if before is not None:
            return before._replace(duplicate=True)
        segments = tuple(publication.topic.split("/"))
        if now >= self._next_end:
            self._end_groups(now)
        queues = [self._queues[name] for name in self._groups.match(segments)]
        publication = replace(publication, at=now)
        self._keep(publication, keep, now, queues)
        if self._sink is not None and self._interest.match(segments):
            self._sink.deliver(publication)
        for queue in queues:
            queue.give()
        return Accepted(publication.offset, publication.epoch)

    def _keep(self, publication: Publication, keep: Keep, now: float, queues: list[GroupQueue]) -> None:
        """In one step what is kept of it and whose work it is: a process killed between would have it half."""
        if not queues:
            self._storage.keep(publication, keep, now)
            return
        size = kept_size(publication)
        outs = [
            (queue, queue.makes_room(size, GROUP_BACKLOG, GROUP_BACKLOG_SIZE, ack=keep.ack)) for queue in queues
        ]
        known = [(queue, out) for queue, out in outs if out is not None]
        if len(known) < len(outs):
            raise Overloaded(f"a group of {publication.topic} has as much to do as may wait for it")
        work = [(queue.name, queue.next) for queue, out in known if queue.durable and queue.next not in out]
        lost = [(queue.name, token) for queue, out in known if queue.durable for token in out]
        self._storage.keep(publication, keep, now, work, lost)
        for queue, out in known:
            queue.put(publication, size, out, ack=keep.ack)

    def want(self, pattern: tuple[str, ...]) -> None:
        """See `Broker.want`."""
        self._wanted[pattern] = self._wanted.get(pattern, 0) + 1
        self._interest.add(pattern, pattern)

    def wants(self, segments: tuple[str, ...]) -> bool:
        """Whether what is published on a topic is delivered."""
        return bool(self._interest.match(segments))

    def unwant(self, pattern: tuple[str, ...]) -> None:
        """See `Broker.unwant`."""
        count = self._wanted.pop(pattern, 0) - 1
        if count > 0:
            self._wanted[pattern] = count
        else:
            self._interest.remove(pattern, pattern)

    def history(self, topic: str, since: Since, *, most: int | None = None, reverse: bool = False) -> History:
        """See `Broker.history`."""
        return self._storage.history(topic, since, self.clock(), most=most, reverse=reverse)

    def topics(self, pattern: tuple[str, ...]) -> list[str]:
        """See `Broker.topics`."""
        return self._storage.topics(pattern, self.clock())

    def retained(self, pattern: tuple[str, ...]) -> Iterator[Publication]:
        """See `Broker.retained`."""
        return self._storage.retained(pattern, self.clock())

    # -------------------------------------------------------------------- groups

    def join(
        self, group: GroupName, window: int, *, durable: bool, ttl: float | None = None, places: Sequence[Places] = ()
    ) -> None:
        """See `Broker.join`."""
        assert self._sink is not None
        self.admit(group, places)
        queue = self._queue(group)
        if durable:
            self._storage.keep_group(group, ttl, None)
        queue.lost += self._dropped.pop(group, 0)
        queue.open(self._sink, window, durable=durable, ttl=ttl)

    def admit(self, group: GroupName, places: Sequence[Places]) -> None:
        """See whether `join` would be refused.

        Raises:
            Overloaded: There are too many groups.
        """
        self._end_groups(self.clock())
        if group not in self._queues and len(self._queues) >= MOST_GROUPS:
            raise Overloaded(f"there are {len(self._queues)} groups, the limit")
        check_places(group, (queue.name for queue in self._queues.values() if queue.durable), places)

    def _queue(self, group: GroupName) -> GroupQueue:
        queue = self._queues.get(group)
        if queue is None:
            queue = self._queues[group] = GroupQueue(group, self._done, self._told, self._first)
            self._groups.add(group.pattern, group)
        return queue

    def leave(self, group: GroupName) -> None:
        """See `Broker.leave`."""
        queue = self._queues.get(group)
        if queue is None:
            return
        self._close(queue, self.clock())
        if not queue.durable:
            self._forget(queue)

    def _close(self, queue: GroupQueue, now: float) -> None:
        queue.close(now)
        self._lasts(queue)

    def groups(self) -> list[GroupName]:
        """See `Broker.groups`."""
        self._end_groups(self.clock())
        return [queue.name for queue in self._queues.values() if queue.durable]

    def drop_group(self, group: GroupName) -> int | None:
        """See `Broker.drop_group`."""
        queue = self._queues.get(group)
        if queue is None or not queue.durable:
            return None
        if queue.left is None:
            raise FailedPrecondition(f"the group {group.name!r} has members")
        self._forget(queue)
        return len(queue)

    def _forget(self, queue: GroupQueue) -> None:
        self._first = max(self._first, queue.next)  # a token is never another publication's
        if queue.durable:
            self._storage.drop_group(queue.name)
        del self._queues[queue.name]
        self._groups.remove(queue.name.pattern, queue.name)

    def _lasts(self, queue: GroupQueue) -> None:
        """It has no members since some time."""
        if queue.durable:
            self._storage.keep_group(queue.name, queue.ttl, queue.left)
        self._next_end = min(self._next_end, queue.end)

    def _end_groups(self, now: float) -> None:
        """Those that nobody has taken for too long."""
        if now < self._next_end:
            return
        for queue in [queue for queue in self._queues.values() if queue.end <= now]:
            self._forget(queue)
            lost = len(queue) + queue.lost
            logger.warning("a group without members has ended", extra={"group": queue.name.label, "lost": lost})
            if lost:
                self._dropped[queue.name] = lost
                if len(self._dropped) > MOST_DROPPED:
                    del self._dropped[next(iter(self._dropped))]
        self._next_end = min((queue.end for queue in self._queues.values()), default=math.inf)

    def _done(self, queue: GroupQueue, token: int) -> None:
        if queue.durable:
            self._storage.drop_work(queue.name, token)

    def _told(self, queue: GroupQueue) -> None:
        if queue.durable:
            self._storage.told_lost(queue.name)

    def done(self, group: GroupName, token: Any) -> None:
        """See `Broker.done`."""
        queue = self._queues.get(group)
        if queue is not None:
            queue.done(token)

    # ------------------------------------------------------------------- records

    def put(self, table: str, key: str, value: Any, ttl: float) -> None:
        """See `Broker.put`."""
        self._storage.put(table, key, value, self.clock() + ttl)

    def claim(self, table: str, key: str) -> Any | None:
        """See `Broker.claim`."""
        return self._storage.claim(table, key, self.clock())

    def records(self, table: str) -> Mapping[str, Any]:
        """See `Broker.records`."""
        return self._storage.records(table, self.clock())

    def pages(self, table: str, most: int = PAGE) -> Iterator[Mapping[str, Any]]:
        """See `Broker.pages`."""
        return self._storage.pages(table, self.clock(), most)
