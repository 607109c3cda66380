"""What has arrived and waits to be taken, by a greenlet of the owning hub or by any other thread."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import Any, Generic, TypeVar

from gevent.hub import Hub

from webmesh.deadline import Deadline
from webmesh.websocket.hub import Completion

T = TypeVar("T")


class Inbox(Generic[T]):
    """An iterator over what arrives; it ends with the value or error that the sender ends it with.

    The owner bounds what it puts in, by credit or by not reading on.

    Args:
        hub: The hub in which it is filled.
        taken: Called for each item that was taken before the end, in the taker's thread.
    """

    def __init__(self, hub: Hub, taken: Callable[[], object] | None = None) -> None:
        self._hub = hub
        self._items: deque[T] = deque()
        self._taken = taken
        self._bell: Completion[None] = Completion(hub)
        self._over = False
        self._error: BaseException | None = None
        self._trace: TracebackType | None = None
        self.value: Any = None
        """What the series ended with: a generator's return value; `None` before."""

    def __len__(self) -> int:
        return len(self._items)

    @property
    def awaited(self) -> bool:
        """Whether anybody waits for the next item."""
        return self._bell.awaited

    @property
    def over(self) -> bool:
        """Whether nothing more will arrive; items may still wait."""
        return self._over

    @property
    def error(self) -> BaseException | None:
        """What ended it, if it was an error."""
        return self._error

    def put(self, item: T) -> None:
        """Add an item; after the end it is dropped."""
        if not self._over:
            self._items.append(item)
            self._ring()

    def end(self, value: Any = None) -> None:
        """Say that nothing more comes."""
        if not self._over:
            self.value = value
            self._over = True
            self._ring()

    def fail(self, error: BaseException) -> None:
        """End with an error, which whoever waits for more gets after the items that are there."""
        if not self._over:
            self._error = error
            self._trace = error.__traceback__
            self._over = True
            self._ring()

    def clear(self) -> None:
        """Forget what has not been taken."""
        self._items.clear()

    def _ring(self) -> None:
        bell, self._bell = self._bell, Completion(self._hub)
        bell.succeed(None)

    def take(self, timeout: float | None = None) -> T:
        """The next item.

        Args:
            timeout: Seconds to wait for it; `None` waits for ever.

        Raises:
            StopIteration: Nothing more comes; its value is the series' own.
            TimeoutError: Nothing came in time.
        """
        deadline = None
        while True:
            bell = self._bell  # before looking: what is put after the look rings this one
            over = self._over  # before looking, too: what is put before the end counts
            try:
                item = self._items.popleft()
                break
            except IndexError:
                pass
            if over:
                self._raise_end()
            if deadline is None:
                deadline = Deadline(timeout)
            bell.wait(deadline.remaining())
        if self._taken is not None and not over:
            self._taken()
        return item

    def _raise_end(self) -> None:
        if self._error is not None:
            # Each raise adds to the traceback, which would grow, and hold frames, with every call.
            raise self._error.with_traceback(self._trace)
        raise StopIteration(self.value)

    def __iter__(self) -> Iterator[T]:
        return self

    def __next__(self) -> T:
        return self.take()
