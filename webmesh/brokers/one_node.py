"""What engines of one node share: live messages and groups. What is kept, and where, is their `Storage`'s business."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Protocol

from webmesh.brokers.base import Accepted, Broker, GroupName, History, Keep, Since, Sink
from webmesh.deadline import Clock
from webmesh.exceptions import Overloaded
from webmesh.protocol.publication import Publication
from webmesh.protocol.topic_trie import TopicTrie

DEDUPE_WINDOW = 120.0
"""Seconds for which a dedupe id is remembered (JetStream's default)."""

DEDUPE_MOST = 100_000
"""Dedupe ids that are remembered; the oldest goes first."""

MOST_TOPICS = 100_000
"""Topics that are kept at a time: a publisher may name as many as it likes."""

GROUP_BACKLOG = 10_000
"""Publications that wait for a group without room for them. Beyond it the oldest is dropped, or publishing is refused
where each must be acknowledged."""

MOST_GROUPS = 10_000
"""Groups: durable ones outlive their members, and a subscriber may name as many as it likes."""


Work = tuple[GroupName, int]
"""What a durable group has to do, by its token."""


class Storage(Protocol):
    """What one engine keeps. *now* is the reading of the clock that the engine was given."""

    def open(self) -> Iterable[tuple[GroupName, list[tuple[int, Publication]]]]:
        """Begin; returns the durable groups that were there, each with what it has to do, oldest first."""

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
            lost: What these groups lose for it.

        Raises:
            Overloaded: Too many topics are kept.
        """

    def history(self, topic: str, since: Since, now: float, *, most: int | None, reverse: bool) -> History:
        """See `Broker.history`."""

    def topics(self, pattern: tuple[str, ...], now: float) -> list[str]:
        """See `Broker.topics`."""

    def retained(self, pattern: tuple[str, ...], now: float) -> list[Publication]:
        """See `Broker.retained`."""

    def drop_work(self, group: GroupName, token: int) -> None:
        """A durable group has this no longer to do."""

    def add_group(self, group: GroupName) -> None:
        """A durable group begins."""

    def put(self, table: str, key: str, value: Any, until: float) -> None:
        """See `Broker.put`."""

    def claim(self, table: str, key: str, now: float) -> Any | None:
        """See `Broker.claim`."""

    def records(self, table: str, now: float) -> Mapping[str, Any]:
        """See `Broker.records`."""


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
        self._queues: dict[GroupName, _Queue] = {}

    def start(self, sink: Sink) -> None:
        """See `Broker.start`."""
        for group, work in self._storage.open():
            self._queue(group).restore(work)
        self._sink = sink

    def stop(self) -> None:
        """See `Broker.stop`."""
        if self._sink is not None:
            self._sink = None
            for queue in self._queues.values():
                queue.close()
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
        queues = [self._queues[name] for name in self._groups.match(segments)]
        if keep.ack and any(queue.full for queue in queues):
            raise Overloaded(f"a group of {publication.topic} has {GROUP_BACKLOG} messages to do")
        publication = replace(publication, at=now)
        self._keep(publication, keep, now, queues)
        if self._sink is not None and self._interest.match(segments):
            self._sink.deliver(publication)
        for queue in queues:
            queue.give()
        return Accepted(publication.offset, publication.epoch)

    def _keep(self, publication: Publication, keep: Keep, now: float, queues: list[_Queue]) -> None:
        """In one step what is kept of it and whose work it is: a process killed between would have it half."""
        durable = [queue for queue in queues if queue.durable]
        work = [(queue.group, queue.next) for queue in durable]
        lost = [(queue.group, queue.oldest) for queue in durable if queue.full]
        self._storage.keep(publication, keep, now, work, lost)
        for queue in queues:
            queue.put(publication)

    def want(self, pattern: tuple[str, ...]) -> None:
        """See `Broker.want`."""
        self._wanted[pattern] = self._wanted.get(pattern, 0) + 1
        self._interest.add(pattern, pattern)

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

    def retained(self, pattern: tuple[str, ...]) -> list[Publication]:
        """See `Broker.retained`."""
        return self._storage.retained(pattern, self.clock())

    # -------------------------------------------------------------------- groups

    def join(self, group: GroupName, window: int, *, durable: bool) -> None:
        """See `Broker.join`.

        Raises:
            Overloaded: There are too many groups.
        """
        assert self._sink is not None
        if group not in self._queues and len(self._queues) >= MOST_GROUPS:
            raise Overloaded(f"there are {len(self._queues)} groups, the limit")
        queue = self._queue(group)
        if durable and not queue.durable:
            self._storage.add_group(group)
        queue.open(self._sink, window, durable=durable)

    def _queue(self, group: GroupName) -> _Queue:
        queue = self._queues.get(group)
        if queue is None:
            queue = self._queues[group] = _Queue(group, self._storage)
            self._groups.add(group.pattern, group)
        return queue

    def leave(self, group: GroupName) -> None:
        """See `Broker.leave`."""
        queue = self._queues.get(group)
        if queue is not None:
            queue.close()
            if not queue.durable:
                del self._queues[group]
                self._groups.remove(group.pattern, group)

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


class _Queue:
    """What one group has to do: publications that wait, and those that were given to the node."""

    def __init__(self, group: GroupName, storage: Storage) -> None:
        self.durable = False
        self.group = group
        self.next = 0
        self._storage = storage
        self._sink: Sink | None = None
        self._window = 0
        self._waiting: deque[tuple[int, Publication]] = deque()
        self._given: dict[int, Publication] = {}
        self._giving = False

    @property
    def full(self) -> bool:
        return len(self._waiting) >= GROUP_BACKLOG

    @property
    def oldest(self) -> int:
        return self._waiting[0][0]

    def restore(self, work: list[tuple[int, Publication]]) -> None:
        """It was there before this process."""
        self.durable = True
        self._waiting.extend(work)
        self.next = max((token for token, _ in work), default=-1) + 1

    def open(self, sink: Sink, window: int, *, durable: bool) -> None:
        self._sink, self._window, self.durable = sink, window, durable
        self.give()

    def close(self) -> None:
        self._sink = None
        self._waiting.extendleft(reversed(self._given.items()))
        self._given.clear()

    def put(self, publication: Publication) -> None:
        """It is kept already; `give` follows."""
        if self.full:
            self._waiting.popleft()
        self._waiting.append((self.next, publication))
        self.next += 1

    def done(self, token: int) -> None:
        if self._given.pop(token, None) is not None:
            if self.durable:
                self._storage.drop_work(self.group, token)
            self.give()

    def give(self) -> None:
        if self._giving:  # the node was done at once: the loop below goes on with the next
            return
        self._giving = True
        try:
            while self._sink is not None and self._waiting and len(self._given) < self._window:
                token, publication = self._waiting.popleft()
                self._given[token] = publication
                self._sink.work(self.group, publication, token)
        finally:
            self._giving = False
