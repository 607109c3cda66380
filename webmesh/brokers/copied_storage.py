"""What the leader of a mesh keeps, in such a way that other nodes can have copies of it.

Each change is an operation that can be sent; whoever applies the same ones in the same order has the same. No two nodes
share a clock: ages are sent. A whole state is the operations that lead to it.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from webmesh.brokers.base import GroupName, Keep
from webmesh.brokers.memory import MemoryStorage, size_in
from webmesh.brokers.mesh_messages import (
    group_to_wire, keep_to_wire, publication_to_wire, read_accepted, read_group, read_integer, read_keep, read_list,
    read_number, read_seconds, read_text, read_wire,
)  # fmt: skip
from webmesh.brokers.one_node import KeptGroup, Work
from webmesh.deadline import Clock
from webmesh.protocol.publication import Publication
from webmesh.protocol.topic_log import TopicLog

LONGEST = 2.0**53
"""Seconds: no record holds, or has been over, for longer."""

Operation = list[Any]
"""Its name, and what belongs to it."""


@dataclass(slots=True)
class _Group:
    """A durable group: what it has to do, by token, and whether that must be acknowledged."""

    ttl: float | None = None
    left: float | None = None
    lost: int = 0
    work: OrderedDict[int, tuple[Publication, bool]] = field(default_factory=OrderedDict)


class CopiedStorage(MemoryStorage):
    """A `Storage` that tells of each change.

    Args:
        changed: Called with each operation, once it is done here; `None` on the side that only applies them.
    """

    def __init__(self, clock: Clock = time.monotonic, changed: Callable[[Operation], object] | None = None) -> None:
        super().__init__()
        self.changed = changed
        self._clock = clock
        self._groups: dict[GroupName, _Group] = {}

    def _tell(self, *operation: Any) -> None:
        if self.changed is not None:
            self.changed(list(operation))

    # ---------------------------------------------------------------- what changes it

    def open(self) -> Iterable[KeptGroup]:
        """See `Storage.open`."""
        now = self._clock()
        return [
            KeptGroup(
                name, [(token, *one) for token, one in group.work.items()], group.ttl,
                now if group.left is None else group.left, group.lost,
            )
            for name, group in self._groups.items()
        ]  # fmt: skip

    def keep(self, publication: Publication, keep: Keep, now: float, work: Sequence[Work] = (),
             lost: Sequence[Work] = ()) -> None:  # fmt: skip
        """See `Storage.keep`."""
        super().keep(publication, keep, now, work, lost)
        self._keep_work(publication, work, lost, ack=keep.ack)
        if keep.numbered or keep.retain or work or lost or publication.dedupe_id is not None:
            wire = publication_to_wire(publication, now)
            self._tell("keep", wire, keep_to_wire(keep), _work_to_wire(work), _work_to_wire(lost))

    def _keep_work(self, publication: Publication, work: Sequence[Work], lost: Sequence[Work], *, ack: bool) -> None:
        for group, token in work:
            self._groups.setdefault(group, _Group()).work[token] = publication, ack
        for group, token in lost:
            known = self._groups.setdefault(group, _Group())
            known.work.pop(token, None)
            known.lost += 1

    def drop_work(self, group: GroupName, token: int) -> None:
        """See `Storage.drop_work`."""
        known = self._groups.get(group)
        if known is not None:
            known.work.pop(token, None)
        self._tell("done", group_to_wire(group), token)

    def keep_group(self, group: GroupName, ttl: float | None, left: float | None) -> None:
        """See `Storage.keep_group`."""
        known = self._groups.setdefault(group, _Group())
        known.ttl, known.left = ttl, left
        self._tell("group", group_to_wire(group), ttl, None if left is None else self._clock() - left)

    def told_lost(self, group: GroupName) -> None:
        """See `Storage.told_lost`."""
        if group in self._groups:
            self._groups[group].lost = 0
        self._tell("told", group_to_wire(group))

    def drop_group(self, group: GroupName) -> None:
        """See `Storage.drop_group`."""
        self._groups.pop(group, None)
        self._tell("drop", group_to_wire(group))

    def put(self, table: str, key: str, value: Any, until: float) -> None:
        """See `Storage.put`."""
        super().put(table, key, value, until)
        self._tell("put", table, key, value, until - self._clock())

    def claim(self, table: str, key: str, now: float) -> Any | None:
        """See `Storage.claim`."""
        value = super().claim(table, key, now)
        self._tell("claim", table, key)
        return value

    # ------------------------------------------------------------------------ a copy

    def apply(self, operation: Operation) -> None:
        """Do what another node did.

        Raises:
            InvalidArgument, LookupError, TypeError, ValueError: It makes no sense.
        """
        name, *rest = operation
        _APPLY[name](self, *rest)

    def _apply_keep(self, wire: Any, keep: Any, work: Any, lost: Any) -> None:
        now = self._clock()
        publication = read_wire(wire, now)
        self.keep(publication, read_keep(keep), now, _read_work(work), _read_work(lost))

    def _apply_group(self, group: Any, ttl: Any, age: Any) -> None:
        left = None if age is None else self._clock() - read_number(age, "age")
        self.keep_group(read_group(group), read_seconds(ttl, "ttl"), left)

    def _apply_put(self, table: Any, key: Any, value: Any, seconds: Any) -> None:
        until = self._clock() + read_number(seconds, "seconds", -LONGEST)  # it may be over already
        self.put(read_text(table, "table"), read_text(key, "key"), value, until)

    def _apply_claim(self, table: Any, key: Any) -> None:
        self.claim(read_text(table, "table"), read_text(key, "key"), self._clock())

    def _apply_begin(self, epoch: Any, floor: Any) -> None:
        self._epoch, self._floor = read_text(epoch, "epoch"), read_integer(floor, "floor")

    def _apply_log(self, topic: Any, most: Any, ttl: Any, first: Any, most_bytes: Any = None) -> None:
        made: TopicLog[Publication] = TopicLog(
            self._epoch, most=read_integer(most, "most"), ttl=read_seconds(ttl, "ttl"),
            first=read_integer(first, "first"),
            most_bytes=None if most_bytes is None else read_integer(most_bytes, "most_bytes"),
        )  # fmt: skip
        self._logs[read_text(topic, "topic")] = made
        self._logged_topics.add(topic)

    def _apply_entry(self, topic: Any, wire: Any) -> None:
        publication = read_wire(wire, self._clock())
        log = self._logs[topic]
        log.append(publication, publication.at, size_in(log, publication))

    def _apply_retained(self, wire: Any) -> None:
        self._retain(read_wire(wire, self._clock()))

    def _apply_seen(self, topic: Any, name: Any, age: Any, accepted: Any) -> None:
        at = self._clock() - read_number(age, "age")
        self._seen[read_text(topic, "topic"), read_text(name, "name")] = at, read_accepted(accepted)

    def _apply_work(self, group: Any, lost: Any, items: Any) -> None:
        name, count, now = read_group(group), read_integer(lost, "lost"), self._clock()
        work = {
            read_integer(token, "token"): (read_wire(wire, now), ack is True)
            for token, wire, ack in read_list(items)
        }  # fmt: skip
        known = self._groups.setdefault(name, _Group())
        known.lost = count
        known.work.update(work)

    def whole(self) -> Iterator[Operation]:
        """The operations that lead from nothing to what is kept now."""
        now = self._clock()
        yield ["begin", self._epoch, self._floor]
        for topic, log in self._logs.items():
            entries = log.page(now, after=0)
            yield ["log", topic, log.most, log.ttl, log.offset - len(entries) + 1, log.most_bytes]
            for entry in entries:
                yield ["entry", topic, publication_to_wire(entry.message, now)]
        for publication in self._retained.values():
            yield ["retained", publication_to_wire(publication, now)]
        for (topic, name), (at, accepted) in self._seen.items():
            yield ["seen", topic, name, now - at, list(accepted)]
        for group, known in self._groups.items():
            yield ["group", group_to_wire(group), known.ttl, None if known.left is None else now - known.left]
            yield ["work", group_to_wire(group), known.lost, []]
            for token, (one, ack) in known.work.items():
                yield ["work", group_to_wire(group), known.lost, [[token, publication_to_wire(one, now), ack]]]
        for table, records in self._records.items():
            for key, (until, value) in records.items():
                yield ["put", table, key, value, until - now]


def _work_to_wire(work: Sequence[Work]) -> list[Any]:
    return [[group_to_wire(group), token] for group, token in work]


def _read_work(wire: Any) -> list[Work]:
    return [(read_group(group), read_integer(token, "token")) for group, token in read_list(wire)]


_APPLY: dict[str, Callable[..., None]] = {
    "keep": CopiedStorage._apply_keep,
    "done": lambda storage, group, token: storage.drop_work(read_group(group), token),
    "group": CopiedStorage._apply_group,
    "told": lambda storage, group: storage.told_lost(read_group(group)),
    "drop": lambda storage, group: storage.drop_group(read_group(group)),
    "put": CopiedStorage._apply_put,
    "claim": CopiedStorage._apply_claim,
    "begin": CopiedStorage._apply_begin,
    "log": CopiedStorage._apply_log,
    "entry": CopiedStorage._apply_entry,
    "retained": CopiedStorage._apply_retained,
    "seen": CopiedStorage._apply_seen,
    "work": CopiedStorage._apply_work,
}
