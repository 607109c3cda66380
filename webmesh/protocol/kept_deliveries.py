"""What a session has delivered of topics and its peer may not have, and what came while the peer was away.

Pure: counts and encoded messages, which thousands of sessions share. Deliveries are counted from 0 in the order in
which they are sent; the peer counts them too, so nothing in them tells their number. Loose ones, which may be left
out for a slow peer, are not counted, and kept only while the peer is away. Wire form: docs/PROTOCOL.md section 6.
"""

from __future__ import annotations

import sys
from collections import OrderedDict, deque
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from itertools import islice
from typing import Any

from webmesh.protocol.retained import Room

Expiry = tuple[float, dict[str, Any]]
"""When a delivery is worthless, by the clock of its publication, and what is sent in its place if it is counted."""

Shared = tuple[str | bytes, int, Expiry | None, Sequence[int] | None]
"""An encoded message and the bytes that it counts for: where thousands keep the same one, each counts for a part. And
the subscriptions that it is for, where they are known without decoding it."""

STEP = 4 * 1024
"""Bytes that are taken from the session's room at a time: to ask for each delivery would cost as much as to send it."""
ASK_EVERY = 4 * STEP
"""Bytes after which the peer is asked what it has had; less is asked for when nothing more comes for a while."""
ASK_AFTER = 64
"""The same in deliveries, while there is no room for more."""
COST = 64
"""Bytes that a delivery counts for besides its message: its place here."""


AGAIN = 64
"""Deliveries that are counted again at a time, of those that were counted again before."""
LITTLE = 64 * 1024
"""Bytes of one session below which counting them again can wait."""
TURNS = 8
"""Ticks in which each session that keeps so little is counted again once."""
LOOSE_PART = 8
"""Ticks in which all that may be left out is counted again."""
_OWN_REFERENCES = 2
"""To a message that is looked at, by its name here and as an argument."""


def shared(
    message: str | bytes, receivers: int, expiry: Expiry | None = None, subs: Sequence[int] | None = None
) -> Shared:
    """*message* for so many sessions."""
    return message, COST + len(message) // max(1, receivers), expiry, subs


class Recount:
    """What one session's deliveries count for besides the shares that they had when they were published: the others who
    got them have them by now, and whoever is left keeps the whole in memory.

    How many keep one is told by the references to it, so that whoever takes what it gets pays nothing for this.
    """

    __slots__ = ("extra", "fresh", "loose", "seen", "turn")

    def __init__(self) -> None:
        self.extra: dict[Hashable, int] = {}
        self.fresh = self.loose = self.seen = self.turn = 0

    def count(self, key: Callable[[int], Hashable], messages: Iterable[Shared]) -> int:
        """Count these again; returns how much more they count for.

        Args:
            key: Of each, by its place among them.
        """
        before, more = self.extra, 0
        place = 0
        for message in messages:
            holders = max(1, sys.getrefcount(message) - _OWN_REFERENCES)
            extra = COST + len(message[0]) // holders - message[1]
            name = key(place)
            place += 1
            if extra > 0:
                more += extra - before.get(name, 0)
                before[name] = extra
        return more


class KeptDeliveries:
    """Those of one session.

    Args:
        room: That of everything that the session keeps.

    Attributes:
        first: Number of the oldest that can be had again.
        mark: How many had been sent when the loss of the peer was noticed; `None` while it is there.
        expired: How many were worthless when the peer came back, so far.
        left_out: Whether loose ones had to go, of which the peer is not told yet.
        broken: Whether something of what came while the peer was away had to go: then it cannot go on.
    """

    __slots__ = (
        "_asked", "_granted", "_kept", "_loose", "_places", "_recount", "_room", "_size", "_ticked", "_turn", "broken",
        "expired", "first", "left_out", "mark",
    )  # fmt: skip

    def __init__(self, room: Room) -> None:
        self._room = room
        self._granted = 0
        self._size = 0
        self._kept: deque[Shared] = deque()
        # By key, or by a number of its own: a newer one with the same key takes the place of the older one.
        self._loose: OrderedDict[Hashable, tuple[int, Shared]] | None = None
        self._places = 0
        self._recount: Recount | None = None  # made for those that keep it long
        self._ticked = -1
        self._turn = (id(self) >> 6) % TURNS  # so that not all that were made together are counted in the same tick
        self._asked = 0
        self.first = 0
        self.mark: int | None = None
        self.broken = self.left_out = False
        self.expired = 0

    def __len__(self) -> int:
        """Counted deliveries that the peer may not have."""
        return len(self._kept)

    @property
    def next(self) -> int:
        """Number of the one that comes next, which is how many there have been."""
        return self.first + len(self._kept)

    def add(self, message: Shared) -> bool:
        """The next counted one. Without room the oldest go: a peer that is there most likely has them.

        Returns:
            Whether so much has gathered that the peer should be asked what it has had.
        """
        self._kept.append(message)
        self._size += message[1]
        if self._size <= self._granted:
            return False
        first = self.first
        self._grow()
        asked, self._asked = self._asked, self._granted // ASK_EVERY
        return self._asked != asked or self.first != first and not self.next % ASK_AFTER

    def add_loose(self, message: Shared, conflate_key: Hashable = None) -> None:
        """One that is not counted, for a peer that is away; a newer one with the same key takes its place."""
        if self._loose is None:
            self._loose = OrderedDict()
        if conflate_key is None:
            self._places += 1
        place = (self._places,) if conflate_key is None else (None, conflate_key)
        before = self._loose.get(place)
        self._loose[place] = (self.next if before is None else before[0], message)
        self._size += message[1] - (0 if before is None else before[1][1] + self._extra(place))
        if self._size > self._granted:
            self._grow()

    def _grow(self) -> None:
        while self._size > self._granted:
            step = max(STEP, self._size - self._granted)
            if self._room.take(step):
                self._granted += step
            elif not self._let_go():
                return

    def _let_go(self) -> bool:
        """Drop one to make room; false when nothing is left."""
        if self._loose:
            place, (_, message) = self._loose.popitem(last=False)
            self._size -= message[1] + self._extra(place)
            self.left_out = True
            return True
        if not self._kept:
            return False
        self._drop()
        if self.mark is not None and self.first > self.mark:
            self.broken = True
        return True

    def _drop(self) -> None:
        self._size -= self._kept.popleft()[1]
        if self._recount is not None:
            self._size -= self._extra(self.first)
        self.first += 1

    def _extra(self, key: Hashable) -> int:
        return 0 if self._recount is None else self._recount.extra.pop(key, 0)

    def tick(self) -> None:
        """Called about once a second: what the peer does not take is counted again, as others may have taken it."""
        stuck, self._ticked = self._ticked == self.first, self.first
        if not stuck or not (self._kept or self._loose) or not self._is_due():
            return
        again = self._recount
        if again is None:
            again = self._recount = Recount()
        fresh = max(again.fresh, self.first)
        again.fresh = max(fresh, again.seen)
        again.seen = self.next
        if again.turn < self.first or again.turn >= fresh:
            again.turn = self.first
        until = min(again.turn + AGAIN, fresh)
        for start, stop in ((fresh, again.fresh), (again.turn, until)):
            place = start - self.first
            self._size += again.count(start.__add__, islice(self._kept, place, max(place, stop - self.first)))
        again.turn = until
        if self._loose:
            self._count_loose(again, self._loose)
        if self._size > self._granted:
            self._grow()

    def _is_due(self) -> bool:
        """Whether it is worth it now: of thousands of sessions most keep little, until their next receipt. These take
        turns."""
        self._turn = (self._turn + 1) % TURNS
        if not self._turn or self._loose:
            return True
        largest = max(len(self._kept[0][0]), len(self._kept[-1][0]))
        return len(self._kept) * largest >= LITTLE

    def acknowledge(self, received: int) -> None:
        """The peer has had so many; a number that cannot be changes nothing that is to come."""
        while self._kept and self.first < received:
            self._drop()
        if not self._size and self._granted:
            self._room.give_back(self._granted)
            self._granted = self._asked = 0
            self._recount = None

    def _count_loose(self, again: Recount, loose: OrderedDict[Hashable, tuple[int, Shared]]) -> None:
        start = again.loose if again.loose < len(loose) else 0
        again.loose = start + max(AGAIN, len(loose) // LOOSE_PART)
        places = tuple(islice(loose, start, again.loose))
        self._size += again.count(places.__getitem__, _messages(islice(loose.values(), start, again.loose)))

    def leave(self) -> None:
        """The peer's loss is noticed; what comes from now on waits."""
        if self.mark is None:
            self.mark = self.next

    def resume(self, received: int | None) -> bool:
        """The peer is back, and has had *received*, or as many as were sent when its loss was noticed.

        Returns:
            Whether it can go on: all that it misses is here.
        """
        mark = self.next if self.mark is None else self.mark
        received = mark if received is None else received
        if self.broken or not self.first <= received <= self.next:
            return False
        self.acknowledge(received)
        if self.mark is not None:
            self.mark = received  # from here on it must be whole until it is taken
        return True

    def take_missed(
        self, now: float = 0.0, write: Callable[[dict[str, Any]], str | bytes] | None = None,
        left: Callable[[str | bytes, float], str | bytes] = lambda message, seconds: message,
    ) -> list[str | bytes]:  # fmt: skip
        """What the peer misses, in order, to be sent now; the counted ones stay until they are acknowledged.

        Args:
            now: By which some of it is worthless: that is left out, and replaced where it is counted.
            write: Encodes what is sent in its place; without it nothing is looked at for that.
            left: Makes anew what has so many seconds left.
        """
        missed: list[str | bytes] = []
        waiting = deque(self._loose.values() if self._loose is not None else ())
        for number, message in enumerate(self._kept, self.first):
            while waiting and waiting[0][0] <= number:
                missed.extend(self._loose_one(waiting.popleft()[1], now, left))
            expiry = message[2]
            if write is None or expiry is None:
                missed.append(message[0])
            elif now < expiry[0]:
                missed.append(left(message[0], expiry[0] - now))
            else:
                self.expired += 1
                missed.append(write(expiry[1]))
        for _, message in waiting:
            missed.extend(self._loose_one(message, now, left))
        for place in self._loose or () if self._recount is not None else ():
            self._size -= self._extra(place)
        self._loose = None
        self.mark = None
        return missed

    def _loose_one(
        self, message: Shared, now: float, left: Callable[[str | bytes, float], str | bytes]
    ) -> Iterator[str | bytes]:
        self._size -= message[1]
        if message[2] is None:
            yield message[0]
        elif now < message[2][0]:
            yield left(message[0], message[2][0] - now)
        else:
            self.expired += 1

    def rewrite(self, change: Callable[[Shared], Shared | None], filler: Shared) -> None:
        """Some of it is not to be sent as it is.

        Args:
            change: What comes in the place of a message: itself, another one, or nothing.
            filler: Takes the place of a counted one for which nothing comes, so that both sides count the same. It
                counts for no more than what it replaces: nothing that stays has to go for it.
        """
        fillers: dict[int, Shared] = {}

        def instead(message: Shared) -> Shared:
            size = min(message[1], filler[1])
            return change(message) or fillers.setdefault(size, (filler[0], size, *filler[2:]))

        self._kept = deque(map(instead, self._kept))
        loose = self._loose or OrderedDict()
        for place, (number, message) in tuple(loose.items()):
            changed = change(message)
            if changed is None:
                del loose[place]
            else:
                loose[place] = number, changed
        self._recount = None
        self._size = sum(one[1] for one in self._kept) + sum(one[1][1] for one in loose.values())
        if self._size > self._granted:
            self._grow()

    def let_go(self) -> None:
        """Keep nothing of what there is: it cannot be had again."""
        self.broken = self.mark is not None and self.next > self.mark
        self.clear()

    def clear(self) -> None:
        """Nothing is kept any more."""
        self.first = self.next
        self._kept.clear()
        self._loose = self._recount = None
        self._size = 0
        self._room.give_back(self._granted)
        self._granted = self._asked = 0


def _messages(loose: Iterable[tuple[int, Shared]]) -> Iterator[Shared]:
    for one in loose:
        yield one[1]
