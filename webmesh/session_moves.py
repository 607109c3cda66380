"""`SessionMoves`: sessions whose peers have come to another node of the same engine.

Such a peer cannot go on with its session, and has a new one there. The node that has it says so with its lease, by a
name that nobody could resume the session by; the former node ends it, instead of keeping for its whole time what is for
nobody any more: presence, places in groups, streams, memory. Lives in the node's hub.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import gevent

from webmesh.brokers.base import Broker
from webmesh.node_lease import NodeLease
from webmesh.sessions import Resume, Sessions
from webmesh.will_records import session_key

if TYPE_CHECKING:
    from webmesh.auth import Identity

FACT = "moved"
TOLD = 15.0
"""Seconds for which a move is told: longer than a lease, so that each node that lives has read it."""
MOST = 512
"""Moves that are told at a time, the newest: the crowd that comes from a node that has died is told to nobody."""
IN_A_ROW = 1_000
"""Sessions that are looked at before the hub turns; each takes a few microseconds."""


class SessionMoves:
    """One node's part in it; with an engine of its own there is none."""

    def __init__(self, broker: Broker, lease: NodeLease, sessions: Sessions) -> None:
        self._broker = broker
        self._lease = lease
        self._sessions = sessions
        self._told: dict[tuple[str, str], tuple[str | None, float]] = {}  # by epoch and name: whose, and until when
        self._seen: set[str] = set()
        lease.on_look.append(self._look)

    def came(self, asked: Resume, identity: Identity | None) -> None:
        """A peer has come here that names a session of another node."""
        if not self._broker.shared:
            return
        subject = None if identity is None else identity.subject
        key = session_key(asked.session, asked.epoch)
        self._told[str(asked.epoch), key] = (subject, self._sessions.clock() + TOLD)
        if len(self._told) > MOST:
            del self._told[next(iter(self._told))]

    def _look(self) -> None:
        """After each look at the other nodes."""
        now = self._sessions.clock()
        self._told = {move: said for move, said in self._told.items() if said[1] > now}
        facts: dict[str, dict[str, str | None]] = {}
        for (epoch, key), (subject, _) in self._told.items():
            facts.setdefault(epoch, {})[key] = subject
        self._lease.facts[FACT] = facts
        gone = self._gone()
        news, self._seen = gone.keys() - self._seen, set(gone)
        if news:
            self._end({key: gone[key] for key in news})

    def _gone(self) -> dict[str, Any]:
        """Names of sessions of this node whose peers are elsewhere, as the others say, and whose they are."""
        gone: dict[str, Any] = {}
        for facts in self._lease.others.values():
            moved = facts.get(FACT)
            mine = moved.get(self._sessions.epoch) if isinstance(moved, Mapping) else None
            if isinstance(mine, Mapping):
                gone.update(mine)
        return gone

    def _end(self, gone: Mapping[str, Any]) -> None:
        for number, session in enumerate(self._sessions.all()):
            if number % IN_A_ROW == IN_A_ROW - 1:
                gevent.sleep(0)
            key = session_key(session.id, session.epoch)
            if key in gone:
                self._sessions.moved(session, gone[key])
