"""Where one subscription stands in each of its topics: what it has had, what comes twice, what is missing.

Pure: topics, offsets and epochs in, verdicts out. What is done about a hole is `topic_feed`'s business.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Mapping
from enum import Enum
from typing import Any

from webmesh.messages import Position
from webmesh.protocol.publication import EXCLUDE, EXCLUDED

MOST_TOPICS = 10_000
"""Topics of one subscription whose positions are remembered, about 300 bytes each. Beyond it the oldest is forgotten:
its next message is taken for its first. After the loss of a session every pattern is told of a gap in any case."""

MOST_HELD = 256
"""Live messages that wait for the past of their topic. Beyond it the oldest go that nobody acknowledges; they are in
the history, too."""

MOST_HANDLED = 1024
"""Numbers of a topic that are known to be handled while an older one is not. Others may come twice after a loss."""

MOST_FORMER = 4
"""Epochs of a topic whose messages may be on their way while newer ones have come."""

OWN_OFFSETS = 1024
"""Own publications that are remembered because they are not delivered to their publisher."""


NOTHING = range(0)


class Verdict(Enum):
    """What a numbered message is to its subscription."""

    NEW = "new"
    HAD = "had"
    JUMP = "jump"
    """Others are missing before it, or their numbers begin anew."""


class Place:
    """One topic of one subscription.

    Attributes:
        offset: The newest that it has had; `None` while nothing has come.
        epoch: Whose numbers these are.
        until: The newest when the subscription began, while what is replayed may still come; `None` after it.
        held: What came live while older ones are fetched; `None` while nothing is.
        told: The subscriber has been told of a gap up to here.
        unacknowledged: Offsets that were delivered and are not acknowledged yet; `None` where nobody asked for that.
        handled: Offsets that were acknowledged and may come again, as an older one was not; `None` for none.
        newest: The newest when it went back to what was not acknowledged.
        former: Epochs before this one, the latest last.
        fetched: Offsets that were delivered when the past was fetched last: the node may deliver them, too.
    """

    __slots__ = (
        "epoch", "fetched", "former", "handled", "held", "newest", "offset", "told", "unacknowledged", "until",
    )  # fmt: skip

    def __init__(self, offset: int | None, epoch: str, until: int | None = None) -> None:
        self.offset = offset
        self.epoch = epoch
        self.until = until
        self.told = 0
        self.held: deque[Any] | None = None
        self.unacknowledged: set[int] | None = None
        self.handled: set[int] | None = None
        self.fetched = NOTHING
        self.newest = 0
        self.former: tuple[str, ...] = ()

    @property
    def behind(self) -> bool:
        """Whether older ones have to be fetched before what is live goes on."""
        return self.held is not None

    @property
    def last(self) -> int:
        """Everything up to it has come."""
        return self.offset if self.offset is not None else self.until or 0

    @property
    def position(self) -> Position:
        """From where to go on after a loss: nothing that was not acknowledged lies before it."""
        if self.unacknowledged:
            return Position(min(self.last, min(self.unacknowledged) - 1), self.epoch)
        return Position(self.last, self.epoch)

    def replays(self, offset: int, epoch: str) -> bool:
        """Whether the message with this number is one that is replayed to a new subscription, and new to it."""
        if self.until is None or epoch != self.epoch or offset > self.until:
            return False
        return self.offset is None or offset > self.offset

    def judge(self, offset: int, epoch: str) -> Verdict:
        """What the message with this number is; a new one is counted as had."""
        if epoch != self.epoch:
            return Verdict.JUMP
        if self.until is not None:
            if offset <= self.until:
                if self.offset is not None and offset <= self.offset:
                    return Verdict.HAD
                self.offset = offset
                return Verdict.NEW
            self.offset, self.until = self.last if self.offset is None else max(self.offset, self.until), None
        if offset <= self.last:
            return Verdict.HAD
        if offset > self.last + 1:
            return Verdict.JUMP
        self.offset = offset
        return Verdict.NEW

    def move(self, offset: int, epoch: str) -> None:
        """Everything up to *offset* counts as had."""
        if epoch != self.epoch:
            self.told, self.newest, self.fetched, self.handled = 0, 0, NOTHING, None
            self.former = (*(one for one in self.former if one != epoch), self.epoch)[-MOST_FORMER:]
            self.unacknowledged = None if self.unacknowledged is None else set()
        self.offset, self.epoch, self.until = offset, epoch, None

    def depart(self, offset: int) -> None:
        """One is delivered that is to be acknowledged."""
        if self.unacknowledged is None:
            self.unacknowledged = set()
        self.unacknowledged.add(offset)

    def arrive(self, offset: int) -> None:
        """It was acknowledged; from any thread."""
        waiting = self.unacknowledged
        if waiting is None:
            return
        waiting.discard(offset)
        if not waiting and self.last >= self.newest:
            self.handled = None
        elif self.handled is None:
            self.handled = {offset}
        elif len(self.handled) < MOST_HANDLED:
            self.handled.add(offset)

    def go_back(self) -> None:
        """To before what was not acknowledged; what was comes again with it, and is known by `done`."""
        self.newest = max(self.newest, self.last)
        self.move(*self.position)
        self.fetched = NOTHING

    def done(self, offset: int) -> bool:
        """Whether it has been handled, or was delivered without the node's knowing: nothing is left to do with it."""
        if self.handled is not None and offset in self.handled:
            return True
        return offset in self.fetched and not (self.unacknowledged and offset in self.unacknowledged)

    def fetch(self, offset: int, epoch: str) -> None:
        """The next one of its past is delivered."""
        if self.last + 1 != self.fetched.stop:
            self.fetched = range(self.last + 1, self.last + 1)
        self.fetched = range(self.fetched.start, offset + 1)
        self.move(offset, epoch)

    def fall_behind(self) -> None:
        """From now on what comes live is held. What was held for an earlier reason is let go where it can be fetched,
        and kept where the node waits for its acknowledgement."""
        kept = [one for one in self.held or () if one[1] is not None]
        self.held = deque(kept)

    def hold(self, message: Any, acknowledge: Any) -> None:
        """Keep a live message until older ones have come. What is to be acknowledged never has to go: the node sends no
        more than its window of that, and would wait."""
        assert self.held is not None, "it has fallen behind"
        if len(self.held) >= MOST_HELD:
            plain = next((number for number, one in enumerate(self.held) if one[1] is None), None)
            if plain is not None:
                del self.held[plain]
        self.held.append((message, acknowledge))

    def first_held(self) -> Position | None:
        """Of what is held and not older than what has come, the first; an event comes right behind what it tells."""
        first: Position | None = None
        for message, _ in self.held or ():
            epoch, offset = str(message.epoch), message.offset + (message.event is not None)
            if epoch in self.former or (epoch == self.epoch and offset <= self.last):
                continue
            if first is None or (epoch == first.epoch and offset < first.offset):
                first = Position(offset, epoch)
        return first

    def go_on(self, epoch: str) -> None:
        """The node counts in this epoch, be it a former one that it has gone back to."""
        if epoch != self.epoch:
            self.former = tuple(one for one in self.former if one != epoch)

    def release(self) -> list[Any]:
        """The older ones have come, or never will: what was held, with its acknowledgements."""
        held, self.held = self.held or (), None
        return list(held)


class TopicPositions:
    """The places of one subscription."""

    def __init__(self, most: int = MOST_TOPICS) -> None:
        self._most = most
        self._places: dict[str, Place] = {}

    def __len__(self) -> int:
        return len(self._places)

    def get(self, topic: str) -> Place | None:
        """The place in *topic*; `None` where none of its messages had a number."""
        return self._places.get(topic)

    def put(self, topic: str, place: Place) -> Place:
        """Begin, or begin anew."""
        if topic not in self._places and len(self._places) >= self._most:
            del self._places[next(iter(self._places))]
        self._places[topic] = place
        return place

    def drop(self, topic: str) -> None:
        """Nothing is known of *topic*."""
        self._places.pop(topic, None)

    def topics(self) -> list[str]:
        """Those that are numbered, the one that came first first."""
        return list(self._places)

    def judge(self, topic: str, offset: int, epoch: str) -> Verdict:
        """What the message with this number is; a new one is counted as had."""
        place = self._places.get(topic)
        if place is None:
            self.put(topic, Place(offset, epoch))
            return Verdict.NEW
        return place.judge(offset, epoch)


class OwnOffsets:
    """This program's own publications that are not to be delivered to it: their numbers are no holes.

    Attributes:
        mark: What they bear, as their node may know them of one session alone.
    """

    def __init__(self) -> None:
        self.mark = os.urandom(8).hex()
        self._known: dict[tuple[str, str, int], None] = {}

    def add(self, topic: str, epoch: str, offset: int) -> None:
        """One was accepted under this number."""
        if len(self._known) >= OWN_OFFSETS:
            del self._known[next(iter(self._known))]
        self._known[topic, epoch, offset] = None

    def marks(self, headers: Mapping[str, str] | None) -> bool:
        """Whether a publication with these headers is one of them."""
        return headers is not None and headers.get(EXCLUDED) == self.mark and headers.get(EXCLUDE) == "true"

    def has(self, topic: str, epoch: str, offset: int) -> bool:
        """Whether this is one of them."""
        return (topic, epoch, offset) in self._known

    def cover(self, topic: str, epoch: str, first: int, last: int) -> bool:
        """Whether all from *first* to *last* are."""
        return last - first < len(self._known) and all(
            (topic, epoch, offset) in self._known for offset in range(first, last + 1)
        )
