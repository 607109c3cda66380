"""`NodeLease`: how the nodes of one engine know of each other that they live.

Each renews a record of its own, with facts that others may want; who has not for `LEASE` seconds counts as dead. A
node that leaves on purpose says so. Lives in the node's hub.
"""

from __future__ import annotations

import logging
import math
import os
import time
from collections.abc import Callable, Mapping
from typing import Any

import gevent

from webmesh.brokers.base import Broker
from webmesh.deadline import Clock
from webmesh.exceptions import BrokerError

TABLE = "nodes"
BEAT = 1.0
"""Seconds between two renewals, and looks at the others."""
LEASE = 6.0
"""Seconds after which a node that does not renew counts as dead: longer than a hub is held by mistake, and shorter than
its peers need to give it up."""
SLOW = 2 * BEAT
"""Seconds between two renewals that went well from which the engine, or this node, counts as having been away: about
what it takes until another node waits so long between two attempts that its lease may end meanwhile."""
WAIT = LEASE + 5.0
"""Seconds for which a node judges nobody after it was away itself: the others were too, and come back by a back-off
of at most 5 s, each at its own time."""
LEFT_FOR = 600.0
"""Seconds for which the others can know that a node left on purpose."""

logger = logging.getLogger("webmesh.topics")


class NodeLease:
    """The lease of one node, and those of the others as it last saw them.

    An engine that no other node can use gets no lease, and there are no others.

    Args:
        clock: Monotonic; says how long this node was away.

    Attributes:
        node: This node's name among them, new with each run.
        facts: What the others are told with the next renewal.
        others: Name → facts of those that live.
        left: Names of those that left on purpose, a while ago.
        on_look: Called after each look at the others; may switch, and raise `BrokerError`.
        lapsed: Whether the engine had no lease of this node when it was last renewed: the others may take it for dead.
    """

    def __init__(self, broker: Broker, clock: Clock = time.monotonic) -> None:
        self.node = os.urandom(8).hex()
        self.facts: dict[str, Any] = {}
        self.others: dict[str, Mapping[str, Any]] = {}
        self.left: set[str] = set()
        self.on_look: list[Callable[[], object]] = []
        self.lapsed = False
        self._broker = broker
        self._clock = clock
        self._begun = False
        self._renewed_at = math.inf
        self._away_at = -math.inf
        self._beating: gevent.Greenlet[[], None] | None = None

    @property
    def certain(self) -> bool:
        """Whether who is not among the others is dead: not soon after this node was away from the engine, or began."""
        now = self._clock()
        return now - self._away_at >= WAIT and now - self._renewed_at <= SLOW

    def start(self) -> None:
        """Take the lease and look at the others, once before this returns."""
        if self._broker.shared:
            self._away_at = self._clock()
        self.beat()
        if self._broker.shared:
            self._beating = gevent.spawn(self._go_on)

    def stop(self) -> None:
        """This node leaves on purpose."""
        beating, self._beating = self._beating, None
        if beating is None:
            return
        beating.kill()  # until it is dead: what it was about to write would say that this node lives
        try:
            self._broker.put(TABLE, self.node, {"left": True}, LEFT_FOR)
        except BrokerError as error:
            logger.warning("the other nodes could not be told of the end", extra={"reason": str(error)})

    def renew(self) -> None:
        """Tell the others of new facts now.

        Raises:
            BrokerError: They cannot be told; the next renewal does it.
        """
        if self._broker.shared:
            self._broker.put(TABLE, self.node, self.facts, LEASE)

    def _go_on(self) -> None:
        while self._beating is not None:  # it may have been stopped in something that took the kill for a failure
            gevent.sleep(BEAT)
            self.beat()

    def beat(self) -> None:
        """Renew it and look at the others, once; `start` sees to it that this is done again and again."""
        try:
            if self._broker.shared:
                self._look()
            for function in self.on_look:
                function()
        except BrokerError as error:
            logger.debug("the other nodes cannot be looked at", extra={"reason": str(error)})
        except Exception as error:  # a supervisor's edge: without its lease this node counts as dead
            logger.error("looking at the other nodes failed", exc_info=error)

    def _look(self) -> None:
        try:
            found = self._broker.records(TABLE)
            self.lapsed = self._begun and self.node not in found
            self.renew()
        except BrokerError:
            self._away_at = self._clock()
            raise
        now = self._clock()
        if self.lapsed or now - self._renewed_at > SLOW:
            self._away_at = now
        self._begun, self._renewed_at = True, now
        read = {name: facts for name, facts in found.items() if isinstance(facts, Mapping) and name != self.node}
        self.left = {name for name, facts in read.items() if facts.get("left") is True}
        self.others = {name: facts for name, facts in read.items() if name not in self.left}
