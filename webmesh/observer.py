"""The hooks through which lower layers tell what happened.

A no-op base: metrics, logs and tests override what they need. Hooks run inside the hub, between two
steps of a connection: they must not block, switch or raise (one that raises is logged and forgotten).
"""

from __future__ import annotations


class Observer:
    """Receives what happens; the base ignores it all."""

    def connection_opened(self, connection: object) -> None:
        """A WebSocket handshake was completed, on either side."""

    def connection_closed(self, connection: object, code: int, reason: str) -> None:
        """A connection has ended; *code* is 1006 when there was no close handshake."""

    def handshake_refused(self, address: str, status: int, reason: str) -> None:
        """A connection was turned away before it was a WebSocket; *status* is 0 where no HTTP was spoken."""

    def request_finished(self, path: str, code: str, seconds: float) -> None:
        """A request was answered; *code* is `ok` or the wire code of the error."""

    def handler_failed(self, path: str, incident: str, error: BaseException) -> None:
        """User code raised something that is no answer; *incident* is the id that the peer was given."""

    def refused(self, kind: str, reason: str) -> None:
        """Something of a peer's was turned away or dropped: counters with a reason label are made of this."""


NO_OBSERVER = Observer()
"""Shared instance of the no-op base."""
