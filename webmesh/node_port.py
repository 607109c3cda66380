"""What the engine of a mesh gets to see of its node; see `brokers.mesh_port`."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from webmesh.exceptions import ConnectionClosed, EncodeError
from webmesh.protocol import envelope
from webmesh.protocol.leadership import View

logger = logging.getLogger("webmesh.mesh")

if TYPE_CHECKING:
    from webmesh.brokers.mesh_port import Handler
    from webmesh.mesh_node import MeshNode
    from webmesh.routing import Router
    from webmesh.websocket.websocket_connection import WebSocketConnection


class NodePort:
    """A `MeshPort`."""

    def __init__(self, node: MeshNode) -> None:
        self._node = node
        self.me = node.settings.id
        self.founded = node.me.epoch
        self.watchers: list[Callable[[], None]] = node.watchers

    @property
    def expects(self) -> bool:
        """`MeshPort.expects`."""
        return self._node.expects

    def answer(self, router: Router, handlers: dict[str, Handler]) -> None:
        """Have these paths answered, for nodes that have joined."""

        def answering(handler: Handler) -> Callable[[Any, str, WebSocketConnection], Any]:
            return lambda payload, path, client: handler(self._node.node_of(client), payload)

        for path, handler in handlers.items():
            router.add(path, answering(handler), reserved=True, blocking=False)

    def linked(self) -> list[str]:
        """`MeshPort.linked`."""
        return [link.node for link in self._node.links if link.connection.open]

    def view(self) -> View:
        """`MeshPort.view`."""
        if not self._node.started:
            return View()
        members = self._node.membership.members
        reachable = (node for node in self.linked() if node in members and members[node].state == "ok")
        dead = (node for node, member in members.items() if member.proven or member.state == "left")
        return View(frozenset(reachable), frozenset(dead))

    def ask(self, node: str, path: str, payload: Any, timeout: float) -> Any:
        """`MeshPort.ask`."""
        link = self._node.links.get(node)
        if link is None:
            raise ConnectionClosed(1006, "there is no link to that node")
        return link.connection.call(path, payload, timeout=timeout)

    def tell(self, node: str, path: str, payload: Any) -> bool:
        """`MeshPort.tell`."""
        link = self._node.links.get(node)
        if link is None:
            return False
        try:
            return link.connection.conversation.offer(envelope.notification(path, payload, None), "close", None)
        except ConnectionClosed:
            return False
        except EncodeError as error:  # as one that is too large with what is sent along
            told = {"node": node, "path": path, "error": type(error).__name__}  # its text names the value
            logger.error("a message cannot be sent to a node", extra=told)
            return False
