"""What a program may learn of one connection's way out, at a moment."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from webmesh.websocket.stream import MessageStream


@dataclass(frozen=True, slots=True)
class ConnectionStats:
    """A snapshot. Only what costs a connection that keeps up nothing to count.

    Attributes:
        queued: Bytes of memory that wait for the peer's socket.
        dropped: Messages that were left out since the connection began, as the peer did not keep up.
        conflated: Messages that a newer one with the same key has replaced.
        stalled: Whether the peer hangs; see `WebSocketConnection.stalled`.
    """

    queued: int
    dropped: int
    conflated: int
    stalled: bool


def connection_stats(stream: MessageStream) -> ConnectionStats:
    """How *stream* is doing now."""
    queue = stream.queue
    if queue is None:
        return ConnectionStats(stream.queued, 0, 0, stream.stalled)
    return ConnectionStats(stream.queued, queue.dropped, queue.conflated, stream.stalled)
