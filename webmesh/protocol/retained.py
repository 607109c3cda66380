"""What stays with its sender until the other side surely has it, so that it can be sent once more.

Pure: numbers and bytes. Two things are numbered so: the messages that a session keeps for its peer, and
the items of one stream. When they were sent, and over which connection, is for the layers above.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from itertools import islice


class CommonRoom:
    """Bytes that the rooms of all sessions may take together.

    Attributes:
        rooms: Those that have anything, the one that has had something longest first.
    """

    __slots__ = ("limit", "rooms", "taken")

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.taken = 0
        self.rooms: dict[Room, None] = {}

    def take(self, size: int, room: Room) -> bool:
        """Whether there was, or could be made, room for *size* bytes more; they are counted then.

        The greediest pays: what it has is dropped, unless that is the one who asks.
        """
        while self.taken + size > self.limit:
            greediest = max(self.rooms, key=_taken, default=room)
            if greediest is room or greediest.cut is None:
                return False
            greediest.cut()
            if greediest in self.rooms and greediest.taken:  # it could not let go of everything
                return self.taken + size <= self.limit and self._count(size)
        return self._count(size)

    def _count(self, size: int) -> bool:
        self.taken += size
        return True


class Room:
    """Bytes that everything retained for one session may take together.

    Args:
        common: That of all sessions, of which this one is a part.
        cut: Lets go of what is retained, when all sessions together retain too much and this one most.
    """

    __slots__ = ("common", "cut", "limit", "taken")

    def __init__(
        self, limit: int, common: CommonRoom | None = None, cut: Callable[[], object] | None = None
    ) -> None:
        self.limit = limit
        self.taken = 0
        self.common = common
        self.cut = cut

    def take(self, size: int) -> bool:
        """Whether there was room for *size* bytes more; they are counted then."""
        if self.taken + size > self.limit or not (self.common is None or self.common.take(size, self)):
            return False
        if not self.taken and size and self.common is not None:
            self.common.rooms[self] = None
        self.taken += size
        return True

    def give_back(self, size: int) -> None:
        """Bytes that are no longer retained."""
        self.taken -= size
        if self.common is not None:
            self.common.taken -= size
            if not self.taken:
                self.common.rooms.pop(self, None)

    def close(self) -> None:
        """Nothing of it counts for all any more."""
        if self.common is not None:
            self.common.taken -= self.taken
            self.common.rooms.pop(self, None)
            self.common = None


def _taken(room: Room) -> int:
    return room.taken


class Retained:
    """Messages in a row, numbered from 0, of which the newest are still here.

    Without room the oldest go first: the other side most likely has them. So whoever has received less
    than what went cannot go on, and `after` says so.

    Attributes:
        first: Number of the oldest that can be had again; equal to *next* when there is none.
        next: Number of the one that comes next, which is how many there have been.
    """

    __slots__ = ("_kept", "_room", "first", "next")

    def __init__(self, room: Room) -> None:
        self._room = room
        self._kept: deque[str | bytes] = deque()
        self.first = 0
        self.next = 0

    def __len__(self) -> int:
        return len(self._kept)

    def __iter__(self) -> Iterator[str | bytes]:
        return iter(self._kept)

    def add(self, message: str | bytes) -> bool:
        """Retain the next message; False when another, or this one, had to go for want of room."""
        size = len(message)
        self.next += 1
        complete = True
        while not self._room.take(size):
            complete = False
            if not self._kept:
                self.first = self.next
                return False
            self._drop()
        self._kept.append(message)
        return complete

    def acknowledge(self, received: int) -> None:
        """The other side has had so many of them; a number that cannot be changes nothing that is to come."""
        while self._kept and self.first < received:
            self._drop()

    def after(self, received: int) -> Iterable[str | bytes] | None:
        """Those that the other side misses, who has had *received*; `None` when not all of them are here."""
        if not self.first <= received <= self.next:
            return None
        return islice(self._kept, received - self.first, None)

    def clear(self) -> None:
        """Retain nothing any more; what there was cannot be had again."""
        while self._kept:
            self._drop()
        self.first = self.next

    def _drop(self) -> None:
        self._room.give_back(len(self._kept.popleft()))
        self.first += 1


class Received:
    """What the receiving side remembers of a session's kept messages: how many it has had.

    They carry their number, from 1, so that one that comes twice is known.
    """

    __slots__ = ("count",)

    def __init__(self) -> None:
        self.count = 0

    def accept(self, number: int) -> bool | None:
        """Whether message *number* is new, and counted by that; `None` when others are missing before it."""
        if number == self.count + 1:
            self.count = number
            return True
        return False if number <= self.count else None
