"""What the engine of a mesh gets to see of its node; see `brokers.mesh_port`."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

from webmesh.exceptions import ConnectionClosed, EncodeError
from webmesh.protocol import envelope
from webmesh.protocol.data_frames import server_frame
from webmesh.protocol.leadership import View

logger = logging.getLogger("webmesh.mesh")

if TYPE_CHECKING:
    from webmesh.brokers.mesh_port import Handler
    from webmesh.mesh_node import MeshNode
    from webmesh.message_serializers import AbstractMessageSerializer
    from webmesh.routing import Router
    from webmesh.websocket.conversation import Conversation
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

    def epoch(self, node: str) -> int:
        """`MeshPort.epoch`."""
        link = self._node.links.get(node)
        epoch: int = 0 if link is None else link.connection.metadata["node"]["epoch"]
        return epoch

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
        return self._tell(node, path, _Told(path, payload))

    def tell_all(self, nodes: Iterable[str], path: str, payload: Any) -> None:
        """`MeshPort.tell_all`."""
        told = _Told(path, payload)
        for node in nodes:
            self._tell(node, path, told)

    def _tell(self, node: str, path: str, told: _Told) -> bool:
        link = self._node.links.get(node)
        if link is None:
            return False
        try:
            return told.offer(link.connection.conversation)
        except ConnectionClosed:
            return False
        except EncodeError as error:  # as one that is too large with what is sent along
            said = {"node": node, "path": path, "error": type(error).__name__}  # its text names the value
            logger.error("a message cannot be sent to a node", extra=said)
            return False


class _Told:
    """A notification for any number of links, written once for each serializer, and framed once for all those to nodes
    that have dialled. One that dials masks each of its frames with a key of its own."""

    __slots__ = ("_frames", "_message", "_written")

    def __init__(self, path: str, payload: Any) -> None:
        self._message = envelope.notification(path, payload, None)
        self._written: dict[AbstractMessageSerializer, str | bytes] = {}
        self._frames: dict[AbstractMessageSerializer, bytes] = {}

    def offer(self, conversation: Conversation) -> bool:
        """Send it there; whether it was taken.

        Raises:
            EncodeError: It cannot be sent with that serializer.
            ConnectionClosed: As `MessageWriter.take`.
        """
        serializer, stream = conversation.serializer, conversation.stream
        written = self._written.get(serializer)
        if written is None:
            written = self._written[serializer] = serializer.serialize(self._message)
        if not stream.shares_frames:
            return stream.take(written, "close", None)
        frame = self._frames.get(serializer)
        if frame is None:
            frame = self._frames[serializer] = server_frame(written)
        return stream.offer_frame(frame, "close")
