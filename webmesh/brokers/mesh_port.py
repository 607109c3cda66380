"""What the engine of a mesh needs of the mesh: who is there, and a way to them."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, Protocol

from webmesh.protocol.leadership import View

Handler = Callable[[str, Any], Any]
"""Answers a message of another node's, given its id and the payload; in the hub. A `RemoteError` is its answer too."""


class MeshPort(Protocol):
    """One node's way to the others; everything in its hub.

    Attributes:
        me: This node's id.
        founded: When it began, in milliseconds since 1970.
        watchers: Called, without waiting, when links or nodes have changed.
    """

    me: str
    founded: int
    watchers: list[Callable[[], None]]

    @property
    def expects(self) -> bool:
        """Whether it has been told of others, and should look for them before it decides anything alone."""

    def linked(self) -> list[str]:
        """The nodes that there is an open link to."""

    def epoch(self, node: str) -> int:
        """When the process at the other end of the link to a node began: another one may have taken its place."""

    def view(self) -> View:
        """Who answers, and who is proven to be gone."""

    def ask(self, node: str, path: str, payload: Any, timeout: float) -> Any:
        """A node's answer within *timeout* seconds.

        Raises:
            ConnectionClosed: There is no link; nothing was sent.
            ReplyLost, RequestTimeout, RemoteError: As `WebSocketConnection.call`.
        """

    def tell(self, node: str, path: str, payload: Any) -> bool:
        """Send what is not answered, in order; whether it is on its way. Who takes too little loses its link."""

    def tell_all(self, nodes: Iterable[str], path: str, payload: Any) -> None:
        """`tell` several nodes the same, which is written once for all of them."""
