"""`SessionMoves`: sessions whose peers have come to another node of the same engine.

Such a peer cannot go on with its session, and has a new one there. The node that has it says so with its lease, by a
name that nobody could resume the session by; the former node ends it, instead of keeping for its whole time what is for
nobody any more: presence, places in groups, streams, memory. Lives in the node's hub.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING

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
_EPOCH = re.compile("[0-9a-f]{8}")
"""As `Sessions.epoch` is."""

IN_A_ROW = 1_000
"""Sessions that are looked at before the hub turns; each takes a few microseconds."""


class SessionMoves:
    """One node's part in it; with an engine of its own there is none."""

    def __init__(self, broker: Broker, lease: NodeLease, sessions: Sessions) -> None:
        self._broker = broker
        self._lease = lease
        self._sessions = sessions
        self._told: dict[tuple[str, str], float] = {}  # by epoch and name: until when
        self._seen: set[str] = set()
        lease.on_look.append(self._look)

    def came(self, asked: Resume, identity: Identity | None) -> None:
        """A peer has come here that names a session of another node."""
        if not self._broker.shared:
            return
        if _EPOCH.fullmatch(asked.epoch) is None:  # no node's: nobody is to carry whatever a peer says
            return
        self._told[asked.epoch, name_of(asked.session, asked.epoch, identity)] = self._sessions.clock() + TOLD
        if len(self._told) > MOST:
            del self._told[next(iter(self._told))]

    def _look(self) -> None:
        """After each look at the other nodes."""
        now = self._sessions.clock()
        self._told = {move: until for move, until in self._told.items() if until > now}
        facts: dict[str, list[str]] = {}
        for epoch, name in self._told:
            facts.setdefault(epoch, []).append(name)
        self._lease.facts[FACT] = facts
        gone = self._gone()
        news, self._seen = gone - self._seen, gone
        if news:
            self._end(news)

    def _gone(self) -> set[str]:
        """Names of sessions of this node whose peers are elsewhere, as the others say."""
        gone: set[str] = set()
        for facts in self._lease.others.values():
            moved = facts.get(FACT)
            mine = moved.get(self._sessions.epoch) if isinstance(moved, Mapping) else None
            if isinstance(mine, list):
                gone.update(name for name in mine[:MOST] if isinstance(name, str))
        return gone

    def _end(self, gone: Collection[str]) -> None:
        for number, session in enumerate(self._sessions.all()):
            if number % IN_A_ROW == IN_A_ROW - 1:
                gevent.sleep(0)
            if name_of(session.id, session.epoch, session.identity) in gone:
                self._sessions.moved(session)


def name_of(session: str, epoch: str, identity: Identity | None) -> str:
    """What a session is called where all nodes can read it: nobody could resume it by that, and it is another one for
    another subject."""
    subject = "" if identity is None else f"/{identity.subject}"
    return session_key(session + subject, epoch)
