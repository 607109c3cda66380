"""What has arrived and waits to be taken, by a greenlet of the owning hub or by any other thread."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from typing import Any, Generic, TypeVar

from gevent.hub import Hub

from webmesh.websocket.hub import Completion

T = TypeVar("T")


class Inbox(Generic[T]):
    """An iterator over what arrives; it ends with the value or error that the sender ends it with.

    The owner bounds what it puts in, by credit or by not reading on.

    Args:
        hub: The hub in which it is filled.
        taken: Called for each item that was taken, in the taker's thread.
    """

    def __init__(self, hub: Hub, taken: Callable[[], object] | None = None) -> None:
        self._hub = hub
        self._items: deque[T] = deque()
        self._taken = taken
        self._bell: Completion[None] = Completion(hub)
        self._over = False
        self._error: BaseException | None = None
        self.value: Any = None
        """What the series ended with: a generator's return value; `None` before."""

    def __len__(self) -> int:
        return len(self._items)

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
            self._over = True
            self._ring()

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
        while True:
            bell = self._bell  # before looking: what is put after the look rings this one
            if self._items:
                break
            if self._over:
                if self._error is not None:
                    raise self._error
                raise StopIteration(self.value)
            bell.wait(timeout)
        item = self._items.popleft()
        if self._taken is not None:
            self._taken()
        return item

    def __iter__(self) -> Iterator[T]:
        return self

    def __next__(self) -> T:
        return self.take()
