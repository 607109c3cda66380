"""Lanes: what belongs together runs one after another, in the order in which it came."""

from __future__ import annotations

from collections import deque
from collections.abc import Hashable, Iterator
from contextlib import contextmanager

from gevent.hub import get_hub

from webmesh.websocket.hub import Completion


class Lanes:
    """First come, first served, for each key. A key costs memory only while it is in use.

    Args:
        width: How many may hold one lane at a time.
    """

    def __init__(self, width: int = 1) -> None:
        self._width = width
        self._lanes: dict[Hashable, _Lane] = {}

    def __len__(self) -> int:
        return len(self._lanes)

    @contextmanager
    def turn(self, key: Hashable) -> Iterator[None]:
        """Wait until there is room in the lane of *key*, after all that came before, then hold a place in it."""
        self.enter(key)
        try:
            yield
        finally:
            self.leave(key)

    def enter(self, key: Hashable) -> None:
        """As `turn` begins; whoever gets here must `leave`."""
        lane = self._lanes.get(key)
        if lane is None:
            self._lanes[key] = _Lane()
        elif lane.inside < self._width:
            lane.inside += 1
        else:
            self._wait(key, lane)

    def leave(self, key: Hashable) -> None:
        """Give a place back: to who has waited longest."""
        lane = self._lanes[key]
        if lane.queue:
            lane.queue.popleft().succeed(None)
            return
        lane.inside -= 1
        if not lane.inside:
            del self._lanes[key]

    def _wait(self, key: Hashable, lane: _Lane) -> None:
        mine: Completion[None] = Completion(get_hub())
        lane.queue.append(mine)
        reached = False
        try:
            mine.wait()
            reached = True
        finally:
            if not reached and not mine.done:
                lane.queue.remove(mine)  # killed while waiting: the place is given up
            elif not reached:
                self.leave(key)  # killed when its turn had come: the next one's has


class _Lane:
    __slots__ = ("inside", "queue")

    def __init__(self) -> None:
        self.inside = 1
        self.queue: deque[Completion[None]] = deque()
