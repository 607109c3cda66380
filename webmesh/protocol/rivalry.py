"""`Rivalry`: whether another process has the id of this node.

Pure. Claims of a later epoch of one's own id come of a clock that went back between two runs, and are outbid; but two
processes with one id would outbid each other without end.
"""

from __future__ import annotations

from typing import Final

from webmesh.protocol.claims import Claim
from webmesh.protocol.node_record import NodeRecord

MOST: Final = 3
"""Later epochs of its own id that a node outbids. After that it is another process with the same id, and one of them
has to give way."""


class Rivalry:
    """See above.

    Args:
        rest: Seconds after which it is tried again: the other one may have ended, or there was none but a liar.

    Attributes:
        rival: What the other one says, while it is certain that there is one.
    """

    def __init__(self, rest: float) -> None:
        self.rival: NodeRecord | None = None
        self._rest = rest
        self._count = 0
        self._since = 0.0

    def outbids(self, claim: Claim, now: float) -> bool:
        """Whether to outbid a *claim* of a later epoch."""
        if now - self._since > self._rest:
            self.rival, self._count, self._since = None, 0, now
        if self.rival is None:
            self._count += 1
            if self._count > MOST and claim.record is not None:
                self.rival = claim.record
        return self.rival is None
