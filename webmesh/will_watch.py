"""`WillWatch`: the wills that dead nodes have left on the engine, those of a former run of this one included.

Decides whose they are and when their time has come. All nodes watch; who claims a session's record fires it. Lives in
the node's hub.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Container
from contextlib import suppress
from typing import TYPE_CHECKING

import gevent

from webmesh.brokers.base import Broker
from webmesh.exceptions import BrokerError
from webmesh.protocol.wills import LOST, TIMEOUT, FiredWill, Wills
from webmesh.will_cancels import WillCancels
from webmesh.will_records import FIRING, RESTS, WILLS, StoredWills, key_of, node_of, read_record, read_rest

if TYPE_CHECKING:
    from webmesh.node_lease import NodeLease
    from webmesh.will_firing import WillFiring

LOOKS = 30
"""Looks at the other nodes after which everything is looked through, even if none seems to have died."""

logger = logging.getLogger("webmesh.topics")


class Orphans:
    """The wills of one session whose node has died.

    Attributes:
        stored: As the engine had them.
        wills: Those that have not fired.
        ends: The clock's reading at which the session counts as over.
    """

    __slots__ = ("ends", "starts", "stored", "wills")

    def __init__(self, stored: StoredWills, now: float, session: float, *, patient: bool) -> None:
        self.stored = stored
        self.ends = now + session
        self.starts = self.ends if patient else now
        self.wills = Wills()
        for will in stored.wills:
            self.wills.set(will)
        self.wills.leave(LOST, now)

    def due(self, now: float) -> list[FiredWill]:
        """Those whose time has come."""
        if now >= self.ends:
            return self.wills.end(TIMEOUT)
        return self.wills.fire(now) if now >= self.starts else []


class WillWatch:
    """Watches over what others have left.

    Args:
        session: Seconds for which a session waits for its peer.
        armed: Sessions that live here.

    Attributes:
        cancels: What peers that came here have left elsewhere.
    """

    def __init__(
        self,
        broker: Broker,
        lease: NodeLease,
        firing: WillFiring,
        *,
        session: float,
        clock: Callable[[], float],
        armed: Container[str],
    ) -> None:
        self._broker = broker
        self._lease = lease
        self._firing = firing
        self._session = session
        self._clock = clock
        self._armed = armed
        self.cancels = WillCancels(broker, armed, self._forget)
        self._orphans: dict[str, Orphans] = {}
        self._known: set[str] = set()
        self._looks = 0
        self._suspicious = self._searching = False

    def start(self) -> None:
        """Look through what there is. Whose node has just been started again gets the time of a session to come back:
        it was not the peer that was lost."""
        try:
            self._sweep(patient=True)
        except BrokerError as error:
            logger.warning("wills of a former run cannot be looked for", extra={"reason": str(error)})
        self._suspicious = not self._lease.certain
        self._lease.on_look.append(self._look)

    def _forget(self, key: str) -> None:
        self._orphans.pop(key, None)

    def tick(self, now: float, *, up: bool = True) -> None:
        """Fire those whose time has come, when it is certain whose they are.

        Args:
            up: Whether the engine can be reached, as far as is known.
        """
        if up and len(self.cancels) and not self.cancels.busy:
            self._firing.spawn(self._cancel)
        if not self._lease.certain:
            return
        for key, orphans in tuple(self._orphans.items()):
            if orphans.stored.node in self._lease.others:
                del self._orphans[key]  # it was not dead
                continue
            fired = orphans.due(now)
            over = now >= orphans.ends
            if over or not orphans.wills:
                del self._orphans[key]
            if fired or over:
                self._firing.spawn(self._fire, key, orphans, fired)

    def _cancel(self) -> None:
        with suppress(BrokerError):  # the next tick tries again
            self.cancels.settle()

    def _fire(self, key: str, orphans: Orphans, fired: list[FiredWill]) -> None:
        stored = orphans.stored
        due = self._part(stored, fired)
        rest = StoredWills(stored.node, orphans.wills.all(), stored.subject, stored.roles)
        if not self._firing.fire(key, due, rest, stored.identity):
            self._orphans.pop(key, None)

    def _part(self, stored: StoredWills, fired: list[FiredWill]) -> StoredWills:
        reasons = {one.will.number: one.reason for one in fired}
        return StoredWills(self._lease.node, [one.will for one in fired], stored.subject, stored.roles, reasons)

    # ---------------------------------------------------------------------- looking

    def _look(self) -> None:
        """After each look at the other nodes: has one of them gone?

        An engine that was away has kept all nodes from renewing their leases. Who was there before stays known until
        each has had the time to come back.
        """
        if not self._lease.certain:
            return
        living = {*self._lease.others, *self._lease.left}
        self._looks += 1
        self._suspicious |= bool(self._known - living) or self._looks % LOOKS == 0
        self._known = living
        if self._suspicious and not self._searching:
            self._searching, self._suspicious = True, False
            self._firing.spawn(self._search)

    def _search(self) -> None:
        """Apart from the looks, which must go on: it may take longer than a lease."""
        try:
            self._sweep(patient=False)
        except BrokerError as error:
            self._suspicious = True
            logger.debug("wills of dead nodes cannot be looked for", extra={"reason": str(error)})
        finally:
            self._searching = False

    def _sweep(self, *, patient: bool) -> None:
        """Look for what dead nodes have left.

        Notes are read before the records: what stands in one is in its place by then, or its node died before.
        """
        self.cancels.settle()
        firing, rests = (self._fired(), self._rests()) if self._lease.certain else ({}, {})
        noted = {key_of(note) for note in (*firing, *rests)}
        left: dict[str, StoredWills] = {}
        for page in self._broker.pages(WILLS):
            gevent.sleep(0)  # reading one takes milliseconds, and there may be a million records
            if not (patient or self._lease.certain):
                self._suspicious = True
                return
            for key, record in page.items():
                orphan = self._is_orphan(key, node := node_of(record))
                if not orphan and key not in noted and node is not None:
                    continue  # most are of nodes that live
                stored = read_record(record)
                if stored is None:
                    logger.warning("a record of wills cannot be read")
                elif orphan:
                    self._adopt(key, stored, patient=patient)
                if stored is not None and key in noted:
                    left[key] = stored
        for note, rest in rests.items():
            if key_of(note) in left:
                self._broker.claim(RESTS, note)
            elif self._firing.restore(note, rest) and self._is_orphan(key_of(note), rest.node):
                self._adopt(key_of(note), rest, patient=patient)
        for note, stored in firing.items():
            self._firing.spawn(self._finish, note, stored, left.get(key_of(note)))

    def _fired(self) -> dict[str, StoredWills]:
        """What nodes were firing when they died, by the note of it."""
        found = {note: read_record(record) for note, record in self._broker.records(FIRING).items()}
        return {note: stored for note, stored in found.items() if stored is not None and self._has_died(stored.node)}

    def _rests(self) -> dict[str, StoredWills]:
        """What nodes had in hand when they died, by the note of it; but what another one has in hand just now."""
        rests, held = {}, set()
        for note, record in self._broker.records(RESTS).items():
            found = read_rest(record)
            if found is None:
                continue
            if self._is_abandoned(note, found[0]):
                rests[note] = found[1]
            else:
                held.add(key_of(note))
        return {note: rest for note, rest in rests.items() if key_of(note) not in held}

    def _is_abandoned(self, note: str, node: str) -> bool:
        """Whether nobody goes on with it; a failure may have kept this node from it."""
        return note not in self._firing.holding if node == self._lease.node else self._has_died(node)

    def _is_orphan(self, key: str, node: str | None) -> bool:
        return node is not None and self._has_died(node) and key not in self._orphans and key not in self._armed

    def _has_died(self, node: str) -> bool:
        return node != self._lease.node and node not in self._lease.others

    def _adopt(self, key: str, stored: StoredWills, *, patient: bool) -> None:
        if stored.node in self._lease.left:  # its peers were told to go elsewhere
            self._broker.claim(WILLS, key)
            return
        self._orphans[key] = Orphans(stored, self._clock(), self._session, patient=patient)
        logger.info("a node has left wills", extra={"node": stored.node, "wills": len(stored.wills)})

    def _finish(self, note: str, stored: StoredWills, left: StoredWills | None) -> None:
        """Go on where a node has died while it published."""
        unclaimed = () if left is None else {will.number for will in left.wills}
        self._firing.publish(
            key_of(note), [one for one in stored.fired if one.will.number not in unclaimed], stored.identity
        )
        with suppress(BrokerError):  # it may stay: what is published again has the same dedupe id
            self._broker.claim(FIRING, note)
