"""`$stats` and `$peers`: what a node has counted, and whom it knows.

Decides how the numbers look on the wire, and how long they are waited for. Who may ask is `oversight`'s business; what
the mesh knows of other nodes is handed in (`SystemRoutes.peers`).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import gevent

from webmesh.call import current_call
from webmesh.call_counts import BUCKETS
from webmesh.exceptions import InvalidArgument, RemoteError, RequestTimeout, WebMeshError

if TYPE_CHECKING:
    from webmesh.routing import Router
    from webmesh.system_routes import SystemRoutes
    from webmesh.websocket.websocket_connection import WebSocketConnection

PEERS_TIMEOUT = 2.0
"""Seconds that the counts of other nodes are waited for, at most: whoever shows them does so every second or two."""

CALL_SHARE = 0.8
"""The part of what is left of the asking side's time that they may take: what has come by then must still arrive."""

Counted = Callable[[], dict[str, dict[str, Any]]]
Events = Callable[[], dict[str, Any]]


class NodeStatus:
    """Answers what operators ask of one run of a server.

    Args:
        system: Knows the node's identity, and what the mesh has told it.
        check: Raises what a connection is answered that may not ask.
        events: The counters and gauges.

    """

    def __init__(self, system: SystemRoutes, check: Callable[[WebSocketConnection], None], events: Events) -> None:
        self._system = system
        self._check = check
        self._events = events
        self._began = time.monotonic()
        self._counted: Counted = dict
        self._address: Callable[[], str] = str
        self._closing: Callable[[], bool] = bool

    def attend(self, counted: Counted, address: Callable[[], str], closing: Callable[[], bool]) -> None:
        """The run begins.

        Args:
            counted: What was counted of each route, by pattern.
            address: Where it listens.
            closing: Whether its end has begun.
        """
        self._counted, self._address, self._closing = counted, address, closing
        self._began = time.monotonic()

    def register(self, router: Router) -> None:
        """Put them into the router; asking other nodes lets others go on."""
        for path, handler in {"$stats": self.stats, "$peers": self.peers}.items():
            if router.match(path) is None:
                router.add(path, handler, reserved=True, blocking=False)

    def stats(self, payload: Any, path: str, client: WebSocketConnection) -> dict[str, Any]:
        """What this node has counted since it began."""
        self._check(client)
        return self._counts()

    def peers(self, payload: Any, path: str, client: WebSocketConnection) -> list[dict[str, Any]]:
        """This node, and all that it knows; with their counts where that is asked for."""
        self._check(client)
        asked = {} if payload is None else payload
        if not isinstance(asked, dict) or type(asked.get("stats", False)) is not bool:
            raise InvalidArgument("the data of $peers must be a map; stats must be a boolean")
        others = [] if self._system.peers is None else list(self._system.peers())
        own = self._own()
        listed = [own, *(one for one in others if one["node"].get("id") != own["node"]["id"])]
        return self._with_stats(listed) if asked.get("stats") else listed

    def _counts(self) -> dict[str, Any]:
        system = self._system
        return {
            "node": {**system.node, "epoch": system.epoch},
            "seconds": round(time.monotonic() - self._began, 3),
            "routes": self._counted(),
            "buckets": list(BUCKETS),
            **self._events(),
        }

    def _own(self) -> dict[str, Any]:
        """This node's entry; the mesh may have a better record of it."""
        system = self._system
        record = None if system.record is None else dict(system.record())
        if record is None:
            name = system.node["name"]
            record = {"id": system.node["id"], "epoch": system.epoch, "version": 1}
            record |= {"name": name, "services": [name]} if name else {"services": []}
        draining = self._closing()
        pending = sum(route["in_flight"] for route in self._counted().values())
        return {
            "node": record, "self": True, "state": "draining" if draining else "ok",
            "since_ms": round((time.monotonic() - self._began) * 1000),
            "link": None, "pending": pending, "latency_ms": None, "address": self._address(),
        }  # fmt: skip

    def _with_stats(self, listed: list[dict[str, Any]]) -> list[dict[str, Any]]:
        gathered: Mapping[str, Any] = {}
        if self._system.peer_stats is not None and len(listed) > 1:
            left = current_call().deadline.remaining()
            seconds = PEERS_TIMEOUT if left is None else min(PEERS_TIMEOUT, left * CALL_SHARE)
            gathered = self._system.peer_stats(seconds)
        return [self._counts_of(one, gathered) for one in listed]

    def _counts_of(self, entry: dict[str, Any], gathered: Mapping[str, Any]) -> dict[str, Any]:
        if entry.get("self"):
            return entry | {"stats": self._counts()}
        found = gathered.get(entry["node"].get("id", ""))
        if isinstance(found, dict):
            return entry | {"stats": found}
        return entry | {"error": _error(found)}


def gather_stats(links: Mapping[str, WebSocketConnection], seconds: float) -> dict[str, Any]:
    """`$stats` of each link's other end, or the error that came instead; all of them are asked at once.

    Args:
        links: By node id.
        seconds: For all of it.
    """
    return gather_answers(links, "$stats", None, seconds)


def gather_answers(
    links: Mapping[str, WebSocketConnection], path: str, payload: Any, seconds: float
) -> dict[str, Any]:
    """What each link's other end answers to one question, or the error that came instead."""
    answers: dict[str, Any] = {}

    def ask(node: str, link: WebSocketConnection) -> None:
        try:
            answers[node] = link.call(path, payload, timeout=seconds)
        except WebMeshError as error:
            answers[node] = error

    asking = [gevent.spawn(ask, node, link) for node, link in links.items()]
    try:
        gevent.joinall(asking, seconds)
    finally:
        gevent.killall(asking, block=False)
    late = RequestTimeout(path, seconds)
    return {node: answers.get(node, late) for node in links}


def _error(found: object) -> dict[str, Any]:
    """Why there are no counts, in the form of an error of the protocol."""
    if isinstance(found, RemoteError):
        return {"code": found.code, "message": found.message}
    if isinstance(found, RequestTimeout):
        return {"code": "deadline_exceeded", "message": "no answer in time"}
    return {"code": "unavailable", "message": "there is no link to it" if found is None else str(found)[:200]}
