"""What one group has to do, on an engine of one node: publications that wait, and those that were given to the node.

Decides what goes where there is no room for more. What is kept of it across a restart is the engine's business.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Callable
from typing import NamedTuple

from webmesh.brokers.base import GroupName, Sink
from webmesh.protocol.publication import Publication

NOTHING = -1
"""The token of no publication."""


class Waiting(NamedTuple):
    """A publication, and whether it must be acknowledged."""

    publication: Publication
    ack: bool


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

    def __len__(self) -> int:
        """Publications that are not done."""
        return len(self._waiting) + len(self._given)

    @property
    def end(self) -> float:
        """Until when it lasts if nobody joins it; a group that is not durable ends with its last member."""
        return math.inf if not self.durable or self.ttl is None or self.left is None else self.left + self.ttl

    def restore(self, work: list[tuple[int, Publication, bool]], *, ttl: float | None, left: float, lost: int) -> None:
        """It was there before this process."""
        self.durable, self.ttl, self.left, self.lost = True, ttl, left, lost
        for token, publication, ack in work:
            self._wait(token, Waiting(publication, ack))
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

    def makes_room(self, most: int, *, ack: bool) -> int | None:
        """What another publication displaces where *most* may wait, by its token.

        `NOTHING` where there is room, `next` if the publication itself is lost, `None` if it must be refused. One that
        need not be acknowledged never displaces one that must be.
        """
        if len(self._waiting) < most:
            return NOTHING
        if self._plain:
            return next(iter(self._plain))
        if not ack:
            return self.next
        return None if self._sink is not None else next(iter(self._waiting))

    def put(self, publication: Publication, displaced: int, *, ack: bool) -> None:
        """Another one; `give` follows."""
        token, self.next = self.next, self.next + 1
        if displaced != NOTHING:
            self.lost += 1
            self._waiting.pop(displaced, None)
            self._plain.pop(displaced, None)
        if displaced != token:
            self._wait(token, Waiting(publication, ack))

    def _wait(self, token: int, waiting: Waiting) -> None:
        self._waiting[token] = waiting
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
                token, waiting = self._waiting.popitem(last=False)
                self._plain.pop(token, None)
                self._given[token] = waiting
                self._sink.work(self.name, waiting.publication, token)
        finally:
            self._giving = False

    def _tell_lost(self, sink: Sink) -> None:
        if self.lost:
            lost, self.lost = self.lost, 0
            self._on_told(self)
            sink.lost(self.name, lost)
