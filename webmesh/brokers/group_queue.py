"""What one group has to do, on an engine of one node: publications that wait, and those that were given to the node.

Decides what goes where there is no room for more. What is kept of it across a restart is the engine's business.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator
from itertools import chain
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from webmesh.brokers.base import GroupName, Sink
    from webmesh.protocol.publication import Publication


class Waiting(NamedTuple):
    """A publication, whether it must be acknowledged, and the bytes that it counts for."""

    publication: Publication
    ack: bool
    size: int


class GroupQueue:
    """See above.

    Args:
        done: Called with the token of what was done.
        told: Called when what was lost has been told.
        first: The token of its first publication.

    Attributes:
        next: The token of the next publication.
        ttl: Seconds that a durable group lasts without members; `None` for ever.
        left: The clock's reading since when it has none; `None` while it has.
        lost: Publications that it has lost, of which its members are told before they get more.
    """

    def __init__(
        self, name: GroupName, done: Callable[[GroupQueue, int], None], told: Callable[[GroupQueue], None],
        first: int = 0,
    ) -> None:  # fmt: skip
        self.name = name
        self.next = first
        self.durable = False
        self.ttl: float | None = None
        self.left: float | None = None
        self.lost = 0
        self._on_done, self._on_told = done, told
        self._sink: Sink | None = None
        self._window = 0
        self._waiting: OrderedDict[int, Waiting] = OrderedDict()
        self._plain: OrderedDict[int, None] = OrderedDict()  # of these, what need not be acknowledged
        self._given: dict[int, Waiting] = {}
        self._giving = False
        self._size = 0  # of what waits

    def __len__(self) -> int:
        """Publications that are not done."""
        return len(self._waiting) + len(self._given)

    @property
    def end(self) -> float:
        """Until when it lasts if nobody joins it; a group that is not durable ends with its last member."""
        return math.inf if not self.durable or self.ttl is None or self.left is None else self.left + self.ttl

    def restore(self, work: Iterable[tuple[int, Waiting]], *, ttl: float | None, left: float, lost: int) -> None:
        """It was there before this process."""
        self.durable, self.ttl, self.left, self.lost = True, ttl, left, lost
        for token, waiting in work:
            self._wait(token, waiting)
            self.next = token + 1

    def open(self, sink: Sink, window: int, *, durable: bool, ttl: float | None) -> None:
        """The node has members, or others than before."""
        self._sink, self._window, self.durable, self.ttl, self.left = sink, window, durable, ttl, None
        self.give()

    def close(self, now: float) -> None:
        """It has none any more: what they have not done waits for the next, before all else."""
        self._sink, self.left = None, now
        for token, waiting in reversed(self._given.items()):
            self._wait(token, waiting)
            self._waiting.move_to_end(token, last=False)
            if not waiting.ack:
                self._plain.move_to_end(token, last=False)
        self._given.clear()

    def makes_room(self, size: int, most: int, most_bytes: int, *, ack: bool) -> list[int] | None:
        """What another publication of *size* bytes displaces where *most* may wait, and *most_bytes*; by their tokens.

        Only `next` if the publication itself is lost, `None` if it must be refused. One that need not be acknowledged
        never displaces one that must be. Where nothing else waits there is room for any.
        """
        count, total = len(self._waiting), self._size + size
        displaced: list[int] = []
        for token in chain((None,), self._yielding(ack=ack)):
            if token is not None:
                displaced.append(token)
                count, total = count - 1, total - self._waiting[token].size
            # What was given back may be more than there was room for: another one adds no more to it.
            if (count < most or displaced) and (total <= max(most_bytes, self._size) or not count):
                return displaced
        return None if ack else [self.next]

    def _yielding(self, *, ack: bool) -> Iterator[int]:
        """What gives way to another one: what nobody must acknowledge, and without members the oldest of the rest."""
        yield from self._plain
        if ack and self._sink is None:
            yield from (token for token in self._waiting if token not in self._plain)

    def put(self, publication: Publication, size: int, displaced: list[int], *, ack: bool) -> None:
        """Another one; `give` follows."""
        token, self.next = self.next, self.next + 1
        self.lost += len(displaced)
        for other in displaced:
            if other != token:
                self._take(other)
        if token not in displaced:
            self._wait(token, Waiting(publication, ack, size))

    def _take(self, token: int) -> Waiting:
        waiting = self._waiting.pop(token)
        self._plain.pop(token, None)
        self._size -= waiting.size
        return waiting

    def _wait(self, token: int, waiting: Waiting) -> None:
        self._waiting[token] = waiting
        self._size += waiting.size
        if not waiting.ack:
            self._plain[token] = None

    def done(self, token: int) -> None:
        """See `Broker.done`."""
        if self._given.pop(token, None) is not None:
            self._on_done(self, token)
            self.give()

    def give(self) -> None:
        """Let the node have as much as it takes."""
        if self._giving:  # the node was done at once: the loop below goes on with the next
            return
        self._giving = True
        try:
            while self._sink is not None and len(self._given) < self._window:
                self._tell_lost(self._sink)
                if not self._waiting:
                    break
                token = next(iter(self._waiting))
                waiting = self._given[token] = self._take(token)
                self._sink.work(self.name, waiting.publication, token)
        finally:
            self._giving = False

    def _tell_lost(self, sink: Sink) -> None:
        if self.lost:
            lost, self.lost = self.lost, 0
            self._on_told(self)
            sink.lost(self.name, lost)
