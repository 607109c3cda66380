"""The workers of one service on one port: whom a page asks that is to tell of all, and how often.

A scrape reaches one of them at random. What they are asked is `$metrics`, which `oversight` answers.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, TypeVar

import gevent

from webmesh.node_status import gather_answers

if TYPE_CHECKING:
    from webmesh.websocket.websocket_connection import WebSocketConnection

T = TypeVar("T")

PATIENCE = 1.0
"""Seconds in which the others may answer, all together. One that lives does within milliseconds; who scrapes waits some
10 s, and the page has what is left of `Timeouts.upgrade`, 5 s."""

METRICS = "$metrics"


class Fellows:
    """The other workers, as one of them sees them.

    Args:
        label: What this one is called, as `"1"`.
        links: Tells the links that there are now to others, by their labels. Called in the server's hub.
    """

    def __init__(self, label: str, links: Callable[[], Mapping[str, WebSocketConnection]]) -> None:
        self.label = label
        self._links = links
        self._running: dict[object, gevent.Greenlet[..., Any]] = {}

    def ask(self, payload: Mapping[str, Any]) -> dict[str, Any]:
        """What each other one answers to `$metrics`, by its label; or an exception. Waits for `PATIENCE` at most."""
        links = {label: link for label, link in self._links().items() if label != self.label}
        return gather_answers(links, METRICS, payload, PATIENCE)

    def shared(self, key: object, make: Callable[[], T]) -> T:
        """What *make* returns. Whoever wants the same while it runs waits for the one that runs.

        It has a greenlet of its own: one of those who wait may give up, and the others get it nonetheless.
        """
        running = self._running.get(key)
        if running is None:
            running = self._running[key] = gevent.spawn(self._make, key, make)
        result: T = running.get()
        return result

    def _make(self, key: object, make: Callable[[], T]) -> T:
        try:
            return make()
        finally:
            del self._running[key]


def in_thread(function: Callable[..., T], *args: object) -> T:
    """What *function* returns, which only computes, but for long enough that others would notice."""
    result: T = gevent.get_hub().threadpool.apply(function, args)
    return result
