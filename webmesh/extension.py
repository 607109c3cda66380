"""What may live in a server's hub for as long as the server runs: the mesh does.

Decides only what it is told, and when.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from webmesh.serving import Serving
    from webmesh.websocket.websocket_connection import WebSocketConnection


class Extension(Protocol):
    """Everything is called in the server's hub. What it raises from `start` keeps the server from starting."""

    def start(self, serving: Serving) -> None:
        """Connections are accepted from now on."""

    def ended(self, connection: WebSocketConnection) -> None:
        """A connection has ended, whoever dialled it; must not wait."""

    def drain(self) -> None:
        """The end begins: nothing new is welcome, what is in progress goes on. May wait a moment."""

    def keeps(self, connection: WebSocketConnection) -> bool:
        """Whether a connection is needed until `stop`, while all others are closed."""

    def stop(self) -> None:
        """Calls and sessions are over; what is kept is closed next. May wait a moment. Without `start` too."""
