"""The protocol's own paths that every node answers: who it is, and what it serves.

What a session is and who may resume one is `sessions`. Wire form: docs/PROTOCOL.md section 4.
"""

from __future__ import annotations

import inspect
import os
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from webmesh.call import current_call
from webmesh.exceptions import Cancelled, FailedPrecondition, InvalidArgument
from webmesh.login import Login
from webmesh.node_wills import NodeWills
from webmesh.options import Limits, Timeouts
from webmesh.rights import Rights
from webmesh.route_options import read_options
from webmesh.routing import Route, Router
from webmesh.session_moves import SessionMoves
from webmesh.sessions import Resume, Sessions
from webmesh.websocket.websocket_connection import WebSocketConnection


class SystemRoutes:
    """Identity and listing of one node.

    Args:
        name: The service's name; `None` when it was given none.
        version: Of WebMesh.

    Attributes:
        sessions: Those of the run; set before it begins.
        wills: Theirs; likewise.
        rights: Looked at again when they change; likewise.
        moves: Told of peers whose sessions are elsewhere; likewise.
        topics_epoch: `Broker.run`; likewise.
        epoch: Milliseconds since 1970 at which this node began: a later one of the same id is a later life of it.
        peers: Tells what the mesh knows of other nodes, as entries of `$peers`; `None` where there is no mesh. Like the
            next two it is set before serving.
        peer_stats: Tells the `$stats` of other nodes by their ids, or an exception instead, within so many seconds;
            see `node_status.gather_stats`.
        record: Tells what this node says of itself, as `NodeRecord.to_wire`.
    """

    def __init__(self, router: Router, name: str | None, version: str, *, limits: Limits, timeouts: Timeouts) -> None:
        self._router = router
        self.node = {"id": os.urandom(8).hex(), "name": name or "", "version": version}
        self.epoch = round(time.time() * 1000)
        self.peers: Callable[[], Iterable[dict[str, Any]]] | None = None
        self.peer_stats: Callable[[float], Mapping[str, Any]] | None = None
        self.record: Callable[[], Mapping[str, Any]] | None = None
        self.sessions: Sessions | None = None
        self.wills: NodeWills | None = None
        self.rights: Rights | None = None
        self.moves: SessionMoves | None = None
        self.topics_epoch: str | None = None
        self._listed: list[dict[str, Any]] | None = None
        self.limits = limits
        self.timeouts = timeouts
        self.login: Login | None = None
        """Says who peers are; set when serving begins, `None` where nobody asks."""

    def name_node(self, node: str | None, name: str | None) -> None:
        """Be known by another id, or name, than so far; before serving begins."""
        self.node["id"] = node or self.node["id"]
        self.node["name"] = name or self.node["name"]

    def register(self) -> None:
        """Put them into the router; handlers that only compute, so they never need a thread."""
        table = {"$hello": self.hello, "$goodbye": self.goodbye, "$info": self.info, "$routes": self.routes}
        table["$will"] = self.will
        for path, handler in table.items():
            self._router.add(path, handler, reserved=True, blocking=False)

    def hello(self, payload: Any, path: str, client: WebSocketConnection) -> dict[str, Any]:
        """Tell the peer who this is, and open its session or go on with it; said again it only tells news of the peer.

        What the peer says it is stands in `metadata["node"]`.
        """
        said = _map("$hello", {} if payload is None else payload)
        node = _map("the node of $hello", {} if said.get("node") is None else said["node"])
        self._log_in(client, said.get("token"))
        if not client.open:  # it has ended while its login was looked at
            raise Cancelled("the connection has ended")
        sessions = self.sessions
        assert sessions is not None
        asked = None
        if said.get("resume") is not None:
            asked = Resume.read(said["resume"], self.limits.open_requests)
        answer: dict[str, Any] = {"node": self.node}
        wills = None
        if self.wills is not None and said.get("wills") is not None:
            wills, refused = self.wills.read_greeting(said["wills"], client, again=asked is not None)
            if refused:
                answer["refused_wills"] = refused
        session = client.session
        if session is None or session.over:
            found = None if asked is None else sessions.resume(asked, client)
            session, going = found if found is not None else (sessions.open(client), [])
            if asked is not None and found is None:
                self._came_from_elsewhere(asked, client)
            if going:
                answer["streams"] = going
            self._after_answer(client, lambda: session.release(going))
        if self.rights is not None and session.judged is not client.identity:
            self.rights.look_at(client)
        if self.wills is not None and wills is not None:
            self.wills.greet(session, wills)
        client.metadata["node"] = node
        left = None if client.identity is None else client.identity.expires_in()
        if left is not None:
            answer["expires_ms"] = max(0, round(left * 1000))
        if self.topics_epoch is not None:
            answer["topics_epoch"] = self.topics_epoch
        return answer | {
            "session": session.id,
            "epoch": session.epoch,
            "resumed": session.resumed,
            "limits": {
                "message_size": self.limits.message_size,
                "in_flight": self.limits.in_flight,
                "stream_credit": self.limits.stream_credit,
                "session_backlog": self.limits.session_backlog,
                "session_ms": round(self.timeouts.session * 1000),
            },
            "ping_ms": round(self.timeouts.ping_interval * 1000),
        }

    def _came_from_elsewhere(self, asked: Resume, client: WebSocketConnection) -> None:
        if self.wills is not None:
            self.wills.cancel(asked, client.identity)
        if self.moves is not None:
            self.moves.came(asked, client.identity)

    def _log_in(self, client: WebSocketConnection, token: object) -> None:
        if token is not None and not isinstance(token, str):
            raise InvalidArgument("the token of $hello must be a text")
        if self.login is not None and (token is not None or client.identity is None):
            self.login.authenticate(client, token)

    def _after_answer(self, client: WebSocketConnection, act: Callable[[], object]) -> None:
        """First comes the answer, then what was kept, then what is live."""
        request_id = current_call().request_id
        if request_id is None:
            client.conversation.hub.loop.run_callback(act)
        else:
            client.conversation.after_answer(request_id, act)

    def goodbye(self, payload: Any, path: str, client: WebSocketConnection) -> None:
        """The peer leaves on purpose: its session is over."""
        client.metadata["goodbye"] = payload
        if client.session is not None and self.sessions is not None:
            self.sessions.goodbye(client.session)

    def will(self, payload: Any, path: str, client: WebSocketConnection) -> None:
        """Set a last will, or revoke one."""
        if self.wills is None:
            raise FailedPrecondition("this node keeps no wills")
        self.wills.change(payload, client)

    def info(self, payload: Any, path: str, client: WebSocketConnection) -> dict[str, Any]:
        """Who this is."""
        return self.node

    def routes(self, payload: Any, path: str, client: WebSocketConnection) -> list[dict[str, Any]]:
        """What may be called here: pattern, signature, the first line of the documentation, retry advice."""
        if self._listed is None:  # once: the routes are frozen, and a thousand of them take the hub some 15 ms
            routes = self._router.routes()
            self._listed = [_described(route) for route in routes if not route.pattern.startswith("$")]
        return self._listed


def _map(what: str, value: object) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise InvalidArgument(f"{what} must be a map")
    return value


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
