"""Futures of several hubs, in the order in which they are done."""

from __future__ import annotations

from collections import deque
from typing import Any, Generic, TypeVar

from webmesh.call import follow_current
from webmesh.websocket.future import Future
from webmesh.websocket.hub import Completion

T = TypeVar("T")


class Arrivals(Generic[T]):
    """For one waiter, in any greenlet or thread; what ends its call ends its wait."""

    __slots__ = ("_bell", "_done")

    def __init__(self) -> None:
        self._done: deque[T] = deque()
        self._bell: Completion[Any] | None = None

    def expect(self, future: Future, name: T) -> None:
        """`take` returns *name* once *future* is done."""
        future.when_done(lambda _: self._arrived(name))

    def _arrived(self, name: T) -> None:
        self._done.append(name)
        bell = self._bell
        if bell is not None:
            bell.succeed(None)

    def take(self, timeout: float | None) -> T | None:
        """The next one; `None` when none has come within *timeout* seconds."""
        if not self._done:
            self._bell = bell = Completion[Any]()
            if not self._done:  # it may have come before there was a bell
                follow_current(bell)
                try:
                    bell.wait(timeout)
                except TimeoutError:
                    pass
        return self._done.popleft() if self._done else None
