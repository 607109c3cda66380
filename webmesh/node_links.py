"""The links of one node: at most one in use to each other node.

Decides which of two links to the same node stays. Everything here runs in the server's hub; who may become a node is
`mesh_joins`', when one is dialled `node_dialler`'s.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

import gevent

from webmesh.deadline import Deadline
from webmesh.exceptions import WebMeshError

if TYPE_CHECKING:
    from webmesh.websocket.websocket_connection import WebSocketConnection

REPLACED = 4505, "replaced by a newer link of the same node"

LOOK_TIMEOUT = 1.0
"""Seconds in which a link must answer that is to stay instead of a newer one."""
RETIRE_TIME = 5.0
"""Seconds that calls may take which are in progress on a link that another one replaces."""
RETIRE_QUIET = 1.0
"""Seconds of these for which it stays in any case: the other side may not know yet, as its answer to `$join` is on its
way, and what it still sends on this link would cross the close and be lost."""
RETIRE_INTERVAL = 0.05
"""Seconds between two looks whether they are over."""


@dataclass(slots=True, eq=False)
class NodeLink:
    """A connection to another node, over which either side may ask."""

    node: str
    """The other one's id."""
    connection: WebSocketConnection
    dialler: str
    """The id of the node that has dialled."""


class NodeLinks:
    """Who is linked.

    Args:
        me: This node's id.
        changed: Called with a node's id when its link has come, gone or changed; must not wait.
    """

    def __init__(self, me: str, changed: Callable[[str], object]) -> None:
        self._me = me
        self._changed = changed
        self._links: dict[str, NodeLink] = {}
        self._nodes: dict[WebSocketConnection, str] = {}
        self._jobs: set[gevent.Greenlet[..., None]] = set()

    def __len__(self) -> int:
        return len(self._links)

    def __iter__(self) -> Iterator[NodeLink]:
        return iter(tuple(self._links.values()))

    def get(self, node: str) -> NodeLink | None:
        """The open link to a node."""
        link = self._links.get(node)
        return link if link is not None and link.connection.open else None

    def node_of(self, connection: WebSocketConnection) -> str | None:
        """Which node is at the other end of *connection*, if it has joined on it."""
        return self._nodes.get(connection)

    def answers(self, node: str) -> bool:
        """Whether the link to a node is alive: waits for its answer, for `LOOK_TIMEOUT` at most."""
        link = self.get(node)
        return link is not None and _answers(link)

    def settle(self, connection: WebSocketConnection, node: str, *, dialled: bool) -> None:
        """A node has joined on *connection*: take it, or the link that there is, or find out which is alive."""
        link = NodeLink(node, connection, self._me if dialled else node)
        self._nodes[connection] = node
        present = self.get(node)
        if present is None:
            self._take(link)
        elif present.connection is connection:
            return
        elif present.dialler == link.dialler:  # whoever dials twice has lost the first one
            self._take(link)
            self._retire(present)
        else:
            self._spawn(self._decide, present, link)

    def ended(self, connection: WebSocketConnection) -> str | None:
        """A connection has ended; the id of the node that has no link any more by that."""
        node = self._nodes.pop(connection, None)
        if node is None:
            return None
        link = self._links.get(node)
        if link is None or link.connection is not connection:
            return None
        del self._links[node]
        self._changed(node)
        return node

    def stop(self) -> None:
        """Decide nothing any more."""
        gevent.killall(list(self._jobs), block=False)

    # ----------------------------------------------------------------- two links

    def _decide(self, present: NodeLink, link: NodeLink) -> None:
        """Both sides have dialled. The link stays that the smaller id has dialled, as both sides see it; unless it is
        half open, which only one of them may know."""
        stays, goes = sorted((present, link), key=lambda one: one.dialler)
        if stays is present and not _answers(present):
            stays, goes = link, present
        if not stays.connection.open:
            stays, goes = goes, stays
        now = self.get(link.node)
        if stays.connection.open and (now is None or now is goes):
            self._take(stays)
        if goes is not self.get(link.node):
            self._retire(goes)

    def _take(self, link: NodeLink) -> None:
        self._links[link.node] = link
        self._changed(link.node)

    def _retire(self, link: NodeLink) -> None:
        self._spawn(_close_when_idle, link.connection)

    def _spawn(self, job: Callable[..., None], *args: object) -> None:
        greenlet = gevent.spawn(job, *args)
        self._jobs.add(greenlet)
        greenlet.rawlink(self._jobs.discard)


def _answers(link: NodeLink) -> bool:
    with suppress(WebMeshError):
        link.connection.call("$info", timeout=LOOK_TIMEOUT)
        return True
    return False


def _close_when_idle(connection: WebSocketConnection) -> None:
    deadline = Deadline(RETIRE_TIME)
    gevent.sleep(RETIRE_QUIET)
    while connection.open and connection.requests[1] and not deadline.expired:
        gevent.sleep(RETIRE_INTERVAL)
    connection.close(*REPLACED, timeout=0)
