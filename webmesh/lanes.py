"""Lanes: what belongs together runs one after another, in the order in which it came."""

from __future__ import annotations

from collections import deque
from collections.abc import Hashable, Iterator
from contextlib import contextmanager

from gevent.hub import get_hub

from webmesh.websocket.hub import Completion


class Lanes:
    """First come, first served, for each key. A key costs memory only while it is in use."""

    def __init__(self) -> None:
        self._waiting: dict[Hashable, deque[Completion[None]]] = {}

    def __len__(self) -> int:
        return len(self._waiting)

    @contextmanager
    def turn(self, key: Hashable) -> Iterator[None]:
        """Wait until all that came before for *key* is over, then hold the lane."""
        queue = self._waiting.get(key)
        if queue is None:
            self._waiting[key] = deque()
        else:
            self._wait(key, queue)
        try:
            yield
        finally:
            self._pass_on(key)

    def _wait(self, key: Hashable, queue: deque[Completion[None]]) -> None:
        mine: Completion[None] = Completion(get_hub())
        queue.append(mine)
        reached = False
        try:
            mine.wait()
            reached = True
        finally:
            if not reached and not mine.done:
                queue.remove(mine)  # killed while waiting: the place is given up
            elif not reached:
                self._pass_on(key)  # killed when its turn had come: the next one's has

    def _pass_on(self, key: Hashable) -> None:
        queue = self._waiting[key]
        if queue:
            queue.popleft().succeed(None)
        else:
            del self._waiting[key]
