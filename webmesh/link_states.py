"""The states of a client's link, and who is told of them.

The link says what has changed, in the hub; here is decided how the program, the observer and the log hear of it: in
order, and without holding up the link.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

import gevent

from webmesh.callbacks import Callbacks
from webmesh.observer import Observer

EVENTS = 256
"""Changes that wait for a slow function of the program; beyond it the oldest are left out."""

logger = logging.getLogger("webmesh.client")


@dataclass(frozen=True, kw_only=True, slots=True)
class LinkEvent:
    """A change of a client's link; what functions registered with `WebMeshClient.on_state` get."""

    state: str
    """`connecting`, `connected`, `lost`, `waiting` (for the next attempt), `gave_up` or `closed`."""
    reason: str
    """Why, in fixed words, as `closed with 4001`, `unreachable`, `rejected with 503`."""
    error: Exception | None = None
    """What went wrong, with all that is known of it."""
    delay: float | None = None
    """With `waiting`: seconds until the next attempt."""
    attempt: int = 0
    """With `waiting`: which delay this is since the last stable connection, from 1; 0 for none."""
    url: str = ""
    """What is or was dialled, without its query."""
    resumed: bool = False
    """With `connected`: whether the session went on where it was."""
    refused_wills: tuple[str, ...] = ()
    """With `connected`: ids of last wills that this client has lost the right to: they will not be published."""


Function = Callable[[LinkEvent], object]


class LinkStates:
    """The present state, and the telling of each change. But for `functions`, used in the hub only.

    Attributes:
        state: As `LinkEvent.state`; `idle` before the first use.
        functions: Called with each event, one after another.
    """

    def __init__(self, observer: Observer) -> None:
        self.state = "idle"
        self.functions: list[Function] = []
        self._observer = observer
        self._callbacks: Callbacks | None = None
        self._events: deque[LinkEvent] = deque(maxlen=EVENTS)
        self._teller: gevent.Greenlet[[Callbacks], None] | None = None

    def start(self, callbacks: Callbacks) -> None:
        """From now on functions can be called, by *callbacks*."""
        self._callbacks = callbacks

    def change(self, event: LinkEvent) -> None:
        """Enter a state; never waits and never raises."""
        self.state = event.state
        self._observer.link_changed(event.url, event.state, event.reason)
        shown = event.url.partition("?")[0]  # a query may hold a secret
        logger.log(
            logging.WARNING if event.state == "gave_up" else logging.INFO if event.state == "lost" else logging.DEBUG,
            "link changed",
            extra={"url": shown, "state": event.state, "reason": event.reason, "delay": event.delay},
        )
        if self.functions and self._callbacks is not None:
            self._events.append(event)
            if self._teller is None:
                self._teller = gevent.spawn(self._tell, self._callbacks)

    def _tell(self, callbacks: Callbacks) -> None:
        try:
            while self._events:
                callbacks.tell(tuple(self.functions), self._events.popleft())
        finally:
            self._teller = None

    def finish(self, seconds: float) -> None:
        """Wait until all has been told, at most so long."""
        teller = self._teller
        if teller is not None:
            teller.join(seconds)
            teller.kill(block=False)

    def leave(self) -> None:
        """In a forked child: nothing is told there."""
        self._events.clear()
        if self._teller is not None:
            self._teller.kill(block=False)
