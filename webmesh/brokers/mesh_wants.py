"""What one node of a mesh wants, and telling all others of it.

Decides when each of them is told what. One greenlet for each sends one message after another, and what it sends is how
things stand then: however fast subscriptions come and go, and whatever is lost on the way, in the end all know it.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from itertools import islice
from typing import Any

import gevent
from gevent.event import Event

from webmesh.brokers.mesh_messages import fitting
from webmesh.brokers.mesh_port import MeshPort
from webmesh.brokers.mesh_questions import ANSWER
from webmesh.exceptions import ConnectionClosed, WebMeshError

HEARD = 1.0
"""Seconds for other nodes to take note of something; one that does not is told again."""
PART = 4096
"""Patterns in one message at most: whoever reads it serves nobody else meanwhile."""
AGAIN, MOST_AGAIN = 0.1, 5.0
"""Seconds until then, the first time, and after many."""

logger = logging.getLogger("webmesh.broker")


class _Listener:
    """Another node, and what it has yet to hear of."""

    def __init__(self, patterns: list[str]) -> None:
        self.news = dict.fromkeys(patterns)
        self.begins = self.introduced = self.groups = True
        self.waiting: list[Event] = []
        self.wake = Event()
        self.job: gevent.Greenlet[..., None] | None = None

    @property
    def due(self) -> bool:
        return bool(self.news) or self.begins or self.groups

    def awaited(self) -> Event:
        """Set when it has heard all of that, or has not answered."""
        heard = Event()
        self.waiting.append(heard)
        self.wake.set()
        return heard


class MeshWants:
    """See above; in the node's hub.

    Args:
        groups: The patterns of all groups that this node knows of.
    """

    def __init__(self, port: MeshPort, groups: Callable[[], list[str]]) -> None:
        self._port = port
        self._groups = groups
        self._counts: dict[str, int] = {}
        self._listeners: dict[str, _Listener] = {}

    def want(self, pattern: tuple[str, ...]) -> None:
        """Once more; returns when all have taken note, as far as that is quick."""
        text = "/".join(pattern)
        self._counts[text] = self._counts.get(text, 0) + 1
        if self._counts[text] == 1:
            gevent.wait(self._tell(text), HEARD)

    def unwant(self, pattern: tuple[str, ...]) -> None:
        """Once less; does not wait."""
        text = "/".join(pattern)
        count = self._counts.pop(text, 0) - 1
        if count > 0:
            self._counts[text] = count
        elif count == 0:
            self._tell(text)

    def tell_groups(self) -> None:
        """There are other groups than before; returns when all have taken note, as far as that is quick."""
        for listener in self._listeners.values():
            listener.groups = True
        gevent.wait([listener.awaited() for listener in self._listeners.values()], HEARD)

    def _tell(self, text: str) -> list[Event]:
        for listener in self._listeners.values():
            listener.news[text] = None
        return [listener.awaited() for listener in self._listeners.values()]

    # ------------------------------------------------------------------------- links

    def link(self, node: str) -> None:
        """There is a link to it: it is told everything."""
        self.unlink(node)
        listener = self._listeners[node] = _Listener(list(self._counts))
        listener.wake.set()
        listener.job = gevent.spawn(self._keep_informed, node, listener)

    def unlink(self, node: str) -> None:
        """There is none any more."""
        listener = self._listeners.pop(node, None)
        if listener is None:
            return
        if listener.job is not None:
            listener.job.kill(block=False)
        for heard in listener.waiting:
            heard.set()

    def stop(self) -> None:
        """Tell nobody any more."""
        for node in tuple(self._listeners):
            self.unlink(node)

    def _keep_informed(self, node: str, listener: _Listener) -> None:
        pause = AGAIN
        while True:
            while listener.due:
                if self._send(node, listener):
                    pause = AGAIN
                else:
                    gevent.sleep(pause)
                    pause = min(2 * pause, MOST_AGAIN)
            listener.wake.clear()
            listener.wake.wait()

    def _send(self, node: str, listener: _Listener) -> bool:
        """Tell it a part; whether it has heard it."""
        part = fitting(islice(listener.news, PART))
        for text in part:
            del listener.news[text]
        waiting = [] if listener.news else listener.waiting
        if waiting:
            listener.waiting = []
        begins, groups, listener.begins, listener.groups = listener.begins, listener.groups, False, False
        said: dict[str, Any] = {
            "add": [text for text in part if text in self._counts],
            "remove": [text for text in part if text not in self._counts],
        }
        if begins:
            said["all"] = True
        if groups:
            said["groups"] = self._groups()
        if listener.introduced and listener.news:
            said["more"] = True
        try:
            self._port.ask(node, "$interest", said, ANSWER)
        except WebMeshError as error:
            if not isinstance(error, ConnectionClosed):  # of links that end there is other news
                logger.info("a node did not hear what is wanted here", extra={"node": node, "error": str(error)})
            listener.news = dict.fromkeys(part) | listener.news
            listener.begins, listener.groups = begins or listener.begins, groups or listener.groups
            return False
        finally:
            for heard in waiting:
                heard.set()
        listener.introduced = listener.introduced and bool(listener.news)
        return True
