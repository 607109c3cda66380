"""Who waits for room in a full queue, and goes on in the order of arrival. Lives in the hub that owns the socket."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from contextlib import suppress

import gevent
from gevent.hub import Hub, Waiter

IN_A_ROW = 16
"""Of those who wait, so many go on before the hub serves others: each does what it likes until it switches."""


class Room:
    """The places of those who wait.

    Args:
        has_room: Whether the next one may go on; asked again after each.
        on_empty: Called when nobody waits any more and there is room.
    """

    __slots__ = ("_has_room", "_hub", "_on_empty", "_places", "_scheduled")

    def __init__(self, hub: Hub, has_room: Callable[[], bool], on_empty: Callable[[], object]) -> None:
        self._hub = hub
        self._has_room = has_room
        self._on_empty = on_empty
        self._places: deque[Waiter[None]] = deque()
        self._scheduled = False

    def wait(self, seconds: float | None) -> None:
        """Come back when it is the caller's turn and there is room: it is to send before it switches.

        Raises:
            TimeoutError: Not within *seconds*.
        """
        place: Waiter[None] = Waiter(self._hub)
        self._places.append(place)
        timer = None if seconds is None else gevent.Timeout.start_new(max(0.0, seconds))
        try:
            place.get()
        except gevent.Timeout as expired:
            if expired is not timer:
                raise
            raise TimeoutError(f"no room within {seconds:g} s") from None
        finally:
            if timer is not None:
                timer.close()
            with suppress(ValueError):
                self._places.remove(place)

    def open(self) -> None:
        """There may be room."""
        if not self._scheduled:
            self._scheduled = True
            self._hub.loop.run_callback(self._go_on)

    def _go_on(self) -> None:
        self._scheduled = False
        for _ in range(IN_A_ROW):
            if not self._has_room():
                return
            if not self._places:
                self._on_empty()
                return
            self._places.popleft().switch(None)
        self.open()
