"""The protocol's own paths that every node answers: who it is, and what it serves.

Wire form: docs/PROTOCOL.md section 4. Sessions that outlive their connection, topics and wills come with
later modules; `$hello` says `resumed: false` until then.
"""

from __future__ import annotations

import inspect
import os
from typing import Any

from webmesh.exceptions import InvalidArgument
from webmesh.options import Limits, Timeouts
from webmesh.route_options import read_options
from webmesh.routing import Route, Router
from webmesh.websocket.websocket_connection import WebSocketConnection


class SystemRoutes:
    """Identity and listing of one node.

    Args:
        name: The service's name; `None` when it was given none.
        version: Of WebMesh.
    """

    def __init__(self, router: Router, name: str | None, version: str, *, limits: Limits, timeouts: Timeouts) -> None:
        self._router = router
        self.node = {"id": os.urandom(8).hex(), "name": name or "", "version": version}
        self._epoch = os.urandom(4).hex()
        self._listed: list[dict[str, Any]] | None = None
        self.limits = limits
        self.timeouts = timeouts

    def register(self) -> None:
        """Put them into the router; handlers that only compute, so they never need a thread."""
        table = {"$hello": self.hello, "$goodbye": self.goodbye, "$info": self.info, "$routes": self.routes}
        for path, handler in table.items():
            self._router.add(path, handler, reserved=True, blocking=False)

    def hello(self, payload: Any, path: str, client: WebSocketConnection) -> dict[str, Any]:
        """Tell the peer who this is; remember who it says it is in `metadata["node"]`."""
        if payload is not None and not isinstance(payload, dict):
            raise InvalidArgument("$hello takes a map")
        node = (payload or {}).get("node")
        if node is not None and not isinstance(node, dict):
            raise InvalidArgument("the node of $hello must be a map")
        client.metadata["node"] = node or {}
        return {
            "node": self.node,
            "session": client.id,
            "epoch": self._epoch,
            "resumed": False,
            "limits": {
                "message_size": self.limits.message_size,
                "in_flight": self.limits.in_flight,
                "stream_credit": self.limits.stream_credit,
            },
            "ping_ms": round(self.timeouts.ping_interval * 1000),
        }

    def goodbye(self, payload: Any, path: str, client: WebSocketConnection) -> None:
        """Note that the peer leaves on purpose."""
        client.metadata["goodbye"] = payload

    def info(self, payload: Any, path: str, client: WebSocketConnection) -> dict[str, Any]:
        """Who this is."""
        return self.node

    def routes(self, payload: Any, path: str, client: WebSocketConnection) -> list[dict[str, Any]]:
        """What may be called here: pattern, signature, the first line of the documentation, retry advice."""
        if self._listed is None:  # once: the routes are frozen, and a thousand of them take the hub some 15 ms
            routes = self._router.routes()
            self._listed = [_described(route) for route in routes if not route.pattern.startswith("$")]
        return self._listed


def _described(route: Route) -> dict[str, Any]:
    handler = inspect.unwrap(route.handler)
    documentation = inspect.getdoc(handler) or ""
    try:
        signature = str(inspect.signature(handler))
    except Exception:  # the edge around user code: the repr of a default value. Or it is C and tells none
        signature = "(...)"
    return {
        "path": route.pattern,
        "signature": signature,
        "doc": documentation.split("\n", 1)[0],
        "idempotent": read_options(route.options).idempotent,
    }
