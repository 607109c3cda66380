"""Which routes of the server are idempotent, as far as a client has learnt.

Decides when `$routes` is asked, and what its answer means for a path. What follows from that is `retries`'.
"""

from __future__ import annotations

import random
import re
from typing import TYPE_CHECKING, Any

import gevent

from webmesh.converters import BUILT_IN, Converter
from webmesh.exceptions import ReplyLost, WebMeshError
from webmesh.routing import Router

if TYPE_CHECKING:
    from webmesh.websocket.websocket_connection import WebSocketConnection

LEARN_AFTER = 1.0
"""Seconds from the connection, and up to as long again at random, until the server is asked: thousands of clients that
come back together have more urgent questions. A connection that is not used is not asked on."""
UNREADABLE = (1007, 1009)
"""How our side closes on an answer that is too large, or none of ours: that must not happen on every connection."""
MOST_COMPARED = 10_000
"""Pairs of patterns that are held against each other, which takes 30 ms; beyond it nothing is known of patterns."""

_OWN_KIND = re.compile(f"<(?!(?:{'|'.join(BUILT_IN)}):)([^:>]+):")
_WIDE = re.compile("<(?:(?:str|path):)?[^:>]+>")


class KnownRoutes:
    """What one client knows of its server's routes; may be asked from anywhere.

    A new connection may lead to another version of the server, so it is learnt anew there; until then the old
    knowledge counts.

    Args:
        every: Know the patterns of all routes, for `route`, and not of the idempotent ones alone.
    """

    def __init__(self, *, every: bool = False) -> None:
        self._every = every
        self._fixed: frozenset[str] = frozenset()
        self._router: Router | None = None
        self._learning: gevent.Greenlet[[WebSocketConnection, int], None] | None = None
        self._refused = False

    def idempotent(self, path: str) -> bool:
        """Whether calls of *path* are known to do no harm when they run twice."""
        if path in self._fixed:
            return True
        found = self._router.match(path) if self._router is not None else None
        return found is not None and found[0].options["idempotent"] is True

    def route(self, path: str) -> str | None:
        """The pattern of the route that *path* leads to, as far as is known."""
        found = self._router.match(path) if self._router is not None else None
        return found[0].pattern if found is not None else None

    # ------------------------------------------------------------------ learning

    def opened(self, connection: WebSocketConnection) -> None:
        """In the hub: there is a connection on which to ask, later."""
        self.stop()
        if not self._refused:
            self._learning = gevent.spawn_later(
                LEARN_AFTER * (1 + random.random()), self._learn, connection, connection.requests[0]
            )

    def stop(self) -> None:
        """In the hub: do not ask."""
        learning, self._learning = self._learning, None
        if learning is not None:
            learning.kill(block=False)

    def _learn(self, connection: WebSocketConnection, before: int) -> None:
        while connection.open and connection.requests[0] <= before:
            gevent.sleep(LEARN_AFTER)
        try:
            self.learn(connection.call("$routes"))
        except ReplyLost as lost:
            self._refused = lost.code in UNREADABLE
        except WebMeshError:
            pass  # the next connection is asked again

    def learn(self, listing: Any) -> None:
        """Take over the answer to `$routes`; one that makes no sense means that nothing is known."""
        routes = [one for one in listing if isinstance(one, dict)] if isinstance(listing, list) else []
        flags = {path: one.get("idempotent") is True for one in routes if isinstance(path := one.get("path"), str)}
        # A path without parameters wins over every pattern, so these count whatever else there is.
        self._fixed = frozenset(path for path, idempotent in flags.items() if idempotent and "<" not in path)
        self._router = _router_of(flags, every=self._every)


def _router_of(flags: dict[str, bool], *, every: bool) -> Router | None:
    """Matches as the server does, but for kinds of parameters that only the server knows: here they take any segment.
    `None` where that cannot be."""
    if not every and not any(idempotent and "<" in path for path, idempotent in flags.items()):
        return None
    narrow = [path for path, idempotent in flags.items() if idempotent and _OWN_KIND.search(path)]
    wide = [path for path, idempotent in flags.items() if not idempotent and _WIDE.search(path)]
    if len(narrow) * len(wide) > MOST_COMPARED:
        return None
    # What is too narrow there for such a kind goes on to a wider one, which must do no harm either.
    doubtful = {path for path in narrow if any(_may_meet(path, other) for other in wide)}
    try:
        router = Router(converters={kind: Converter(str) for path in flags for kind in _OWN_KIND.findall(path)})
        for path, idempotent in flags.items():
            router.add(path, _never_called, idempotent=idempotent and path not in doubtful)
    except WebMeshError:
        return None
    return router


def _may_meet(one: str, other: str) -> bool:
    """Whether there may be a path that both patterns match."""
    mine, theirs = one.split("/"), other.split("/")
    for segment, rival in zip(mine, theirs):
        if segment.startswith("<path:") or rival.startswith("<path:"):
            return True
        if segment != rival and not segment.startswith("<") and not rival.startswith("<"):
            return False
    return len(mine) == len(theirs)


def _never_called(payload: object, path: str, client: object, **arguments: object) -> None:
    raise AssertionError("routes of the server are only matched here")
