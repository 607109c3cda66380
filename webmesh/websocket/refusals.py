"""What is said about peers that are turned away: one counter and at most one log line each.

Every refusal of the transport is told here. How many lines are written in all is `log_limit`'s business; whether to
refuse is decided by the callers.
"""

from __future__ import annotations

import logging
import math
import time

from webmesh.deadline import Clock
from webmesh.exceptions import ConnectionClosed
from webmesh.observer import Observer

FIELD_SIZE = 200
"""Characters of one value in a line about a refusal; the rest is cut off."""

logger = logging.getLogger("webmesh.server")


def printable(value: object) -> str:
    """*value* for a log line: cut, and in printable ASCII, so that no peer writes lines of its own."""
    text = str(value)[:FIELD_SIZE]
    if text.isascii() and text.isprintable():
        return text
    return text.encode("unicode_escape").decode("ascii")[:FIELD_SIZE]


FAULTS = frozenset({1002, 1003, 1007, 1008, 1009, 4008, 4010, 4012, 4501, 4504})
"""Close codes that say that somebody broke a rule, did not keep up, or was lost."""


def tell_end(connection: object, address: str, why: ConnectionClosed, dropped: int, invalid: int) -> None:
    """Write down that an accepted connection has ended, if not all was well with it.

    Args:
        dropped: Messages that its peer was too slow for.
        invalid: Messages of its peer that were none.
    """
    if why.code not in FAULTS and not dropped and not invalid or not logger.isEnabledFor(logging.WARNING):
        return
    extra = {"address": address, "connection": connection, "code": why.code, "reason": printable(why.reason)}
    counts = {name: count for name, count in (("dropped", dropped), ("invalid", invalid)) if count}
    logger.warning("connection ended badly", extra=extra | counts)


def tell_stall(connection: object, address: str) -> None:
    """Write down that a peer takes what is sent and answers nothing."""
    logger.warning("peer stalled", extra={"address": address, "connection": connection})


class Refusals:
    """Counts refusals and writes them down.

    One instance serves all connections of one listener; it is used inside one hub.
    """

    def __init__(self, observer: Observer, *, clock: Clock = time.monotonic) -> None:
        self._observer = observer
        self._clock = clock
        self._next: dict[str, float] = {}

    def handshake(self, address: str, status: int, reason: str, detail: object = "", *, quiet: bool = False) -> None:
        """A connection was turned away before it was a WebSocket.

        Args:
            status: HTTP status of the answer, 0 where none was given.
            reason: Short fixed text: it becomes the label of a counter.
            detail: More about this one, from the peer perhaps: it only goes to the log.
            quiet: For what is no offence, as a health check that connects and leaves: level DEBUG.
        """
        self._observer.handshake_refused(address, status, reason)
        fields = {"address": address, "status": status, "reason": reason}
        self._log("handshake refused", fields, detail, logging.DEBUG if quiet else logging.WARNING)

    def refused(self, kind: str, reason: str, address: str = "", detail: object = "") -> None:
        """Something of a peer's was turned away or dropped; arguments as for `handshake`."""
        self._observer.refused(kind, reason)
        self._log("refused", {"address": address, "kind": kind, "reason": reason}, detail, logging.WARNING)

    def shortage(self, reason: str, address: str | None = None, *, status: int = 0, every: float = 1.0) -> None:
        """The process lacks something, so that connections are turned away or kept waiting.

        Args:
            address: The peer that was turned away, if one was.
            every: Seconds between two log lines for the same *reason*: it is one fault, and ours,
                however many peers meet it. All of them are counted.
        """
        if address is None:
            self._observer.refused("accept", reason)
        else:
            self._observer.handshake_refused(address, status, reason)
        now = self._clock()
        if now >= self._next.get(reason, -math.inf):  # reasons are the code's own words: few
            self._next[reason] = now + every
            self._log("connections cannot be accepted", {"reason": reason}, "", logging.ERROR)

    def _log(self, event: str, fields: dict[str, object], detail: object, level: int) -> None:
        if not logger.isEnabledFor(level):
            return
        extra = {key: printable(value) if isinstance(value, str) else value for key, value in fields.items()}
        if detail != "":
            extra["detail"] = printable(detail)
        logger.log(level, event, extra=extra)
