"""The clock of a NATS server, as far as its answers tell: nodes of one server need not agree on theirs."""

from __future__ import annotations

import time
from datetime import datetime

from webmesh.deadline import Clock


class ServerClock:
    """What a wall clock says, and by how much the server's is ahead of it. Read in any thread, told in one.

    Args:
        own: This node's.
    """

    __slots__ = ("_ahead", "_own")

    def __init__(self, own: Clock = time.time) -> None:
        self._own = own
        self._ahead = 0.0

    def __call__(self) -> float:
        return self._own() + self._ahead

    def own(self) -> float:
        """What this node's says, as `told` wants it."""
        return self._own()

    def told(self, stamp: object, before: float, after: float) -> None:
        """The server has said what time it was, between two readings of this node's clock.

        No more is changed than must be: an answer that took long says little, and where the two agree, nothing.
        """
        try:
            server = datetime.fromisoformat(stamp).timestamp()  # type: ignore[arg-type]
        except (TypeError, ValueError, OverflowError):
            return
        if before <= after:  # otherwise this node's was set back meanwhile
            self._ahead = min(max(self._ahead, server - after), server - before)
