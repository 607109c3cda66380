"""Dials one node, or one seed, for as long as it is wanted and has no link.

Decides when the next attempt begins. Which links there are is `node_links`'; whom it met is told by `mesh_joins`.
"""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import gevent
from gevent.event import Event

from webmesh.exceptions import ConnectFailed, WebMeshError
from webmesh.log_limit import limit_logs
from webmesh.options import Backoff
from webmesh.protocol.backoff import BackoffSeries
from webmesh.websocket.dial_rounds import shown

if TYPE_CHECKING:
    from webmesh.websocket.websocket_connection import WebSocketConnection

BACKOFF = Backoff(maximum=5.0)
"""A partition that has healed is noticed within 5 s, and a node that is gone costs its peers a packet in 5 s."""

LOOK_AGAIN = 30.0
"""Seconds after which a link is looked at that nobody said has ended."""

ALIKE = 10
"""Attempts that fail in the same way before it is said again."""

logger = logging.getLogger("webmesh.mesh")


class NodeDialler:
    """One greenlet, from `start` to `stop`.

    Args:
        urls: Where the node may be dialled; at least one.
        node: Its id; `None` for a seed, which is whoever answers there.
        meet: Dials one URL and joins; the node's id, and the connection. Raises what makes the attempt a failure.
        linked: Whether a node has a link.
        refused: Called with the node's id when the systems at all its URLs said that nobody listens there.
        delay: Seconds before the first attempt.

    Attributes:
        looked: Whether somebody has answered, if only this node itself.
    """

    def __init__(
        self,
        urls: Sequence[str],
        node: str | None,
        meet: Callable[[str], tuple[str, WebSocketConnection | None]],
        linked: Callable[[str], bool],
        refused: Callable[[str], object],
        *,
        delay: float = 0.0,
        backoff: Backoff = BACKOFF,
    ) -> None:
        limit_logs()
        self.urls = tuple(urls)
        self.node = node
        self._meet = meet
        self._linked = linked
        self._refused = refused
        self._delay = delay
        self._series = BackoffSeries(backoff, random.random)
        self._wake = Event()
        self.looked = False
        self._told: tuple[str, int] = ("", 0)
        self._greenlet: gevent.Greenlet[[], None] | None = None

    def start(self) -> None:
        """Begin, in the calling thread's hub."""
        self._greenlet = gevent.spawn(self._run)

    def stop(self) -> None:
        """End; in the same hub. What was met stays."""
        if self._greenlet is not None:
            self._greenlet.kill(block=False)

    def wake(self) -> None:
        """Look again now: a link has ended."""
        self._wake.set()

    def _run(self) -> None:
        gevent.sleep(self._delay)
        while True:
            if self.node is not None and self._linked(self.node):
                self._series.opened(time.monotonic())
                self._wake.wait(LOOK_AGAIN)
                self._wake.clear()
                continue
            if not self._round():
                self._series.failed(time.monotonic())
                self._wake.wait(self._series.next_delay())
                self._wake.clear()

    def _round(self) -> bool:
        """Try all URLs once; whether somebody is there."""
        gone = 0
        for url in self.urls:
            try:
                self.node, _ = self._meet(url)
            except WebMeshError as error:
                self._tell(url, error)
                gone += isinstance(error, ConnectFailed) and error.refused
            else:
                self.looked = True
                self._series.reset()
                self._told = ("", 0)
                return True
        if gone == len(self.urls) and self.node is not None:
            self._refused(self.node)
        return False

    def _tell(self, url: str, error: WebMeshError) -> None:
        """Once for each kind of failure, and then now and then: an absent peer must not fill the log."""
        text, times = self._told
        now = f"{shown(url)}: {type(error).__name__}"
        self._told = (now, times + 1 if now == text else 1)
        if self._told[1] % ALIKE == 1:
            # That a node which was met has ended is told as what it is, elsewhere.
            ended = self.node is not None and isinstance(error, ConnectFailed) and error.refused
            log = logger.debug if ended else logger.warning
            log("a node cannot be reached", extra={"url": shown(url), "error": str(error)[:500]})
