"""The sessions of one server: who may resume one, and how long it waits for its peer.

Lives in the server's hub. What a session keeps is `server_session`. Wire form: docs/PROTOCOL.md section 6.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from webmesh.exceptions import ConnectionClosed, InvalidArgument
from webmesh.options import Limits, Timeouts
from webmesh.observer import Observer
from webmesh.protocol.envelope import MAX_ID, RequestId
from webmesh.protocol.kept_streams import Position
from webmesh.protocol.retained import CommonRoom
from webmesh.server_session import ServerSession
from webmesh.shares import Shares

if TYPE_CHECKING:
    from webmesh.websocket.hub import HubThread
    from webmesh.websocket.websocket_connection import WebSocketConnection

__all__ = ["Resume", "ServerSession", "Sessions"]

ID_SIZE = 16
"""Bytes of randomness in a session's id: 128 bits cannot be guessed."""
REPLACED = 4505


@dataclass(slots=True)
class Resume:
    """What a peer says of the session that it wants to go on with."""

    session: str
    epoch: str
    received: int | None = None
    messages: int | None = None
    streams: list[Position] = field(default_factory=list)

    @classmethod
    def read(cls, wire: object, limit: int) -> Resume:
        """The `resume` of a `$hello`.

        Raises:
            InvalidArgument: It is none.
        """
        if not isinstance(wire, dict):
            raise InvalidArgument("the resume of $hello must be a map")
        session, epoch, received = wire.get("session"), wire.get("epoch"), wire.get("received")
        if not (isinstance(session, str) and isinstance(epoch, str | int)):
            raise InvalidArgument("the resume of $hello needs session and epoch")
        messages = wire.get("messages")
        for name, count in (("received", received), ("messages", messages)):
            if count is not None and not _is_count(count):
                raise InvalidArgument(f"{name} must be a whole number")
        streams = wire.get("streams") or []
        if not isinstance(streams, list) or len(streams) > limit or not all(map(_is_position, streams)):
            raise InvalidArgument(f"streams must be at most {limit} lists of id, seq and credit")
        return cls(session, str(epoch), received, messages, [(id, seq, credit) for id, seq, credit in streams])


def _is_count(value: object) -> bool:
    return type(value) is int and 0 <= value <= MAX_ID


def _is_position(value: object) -> bool:
    if not isinstance(value, list) or len(value) != 3:
        return False
    return (_is_count(value[0]) or isinstance(value[0], str)) and _is_count(value[1]) and _is_count(value[2])


class Sessions:
    """All sessions of one server.

    Args:
        home: The hub that they live in.

    Attributes:
        epoch: Tells this run of the server from others.
        unsettled: Sessions with something that their peers may not have; `tick` asks for receipts.
    """

    def __init__(
        self,
        home: HubThread,
        *,
        limits: Limits,
        timeouts: Timeouts,
        observer: Observer,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.home = home
        self.limits = limits
        self.timeouts = timeouts
        self.observer = observer
        self.clock = clock
        self.epoch = secrets.token_hex(4)
        self.unsettled: set[ServerSession] = set()
        self._sessions: dict[str, ServerSession] = {}
        self._away: dict[ServerSession, float] = {}  # the longest away first, as all wait equally long
        self._shares = Shares()
        self.room = CommonRoom(limits.sessions_size)
        self._closed = False

    def __len__(self) -> int:
        return len(self._sessions)

    @property
    def away(self) -> int:
        """Sessions whose peers are not there."""
        return len(self._away)

    # --------------------------------------------------------- in the server's hub

    def open(self, connection: WebSocketConnection) -> ServerSession:
        """A new session for *connection*."""
        session = ServerSession(secrets.token_hex(ID_SIZE), self.epoch, self)
        session.identity = session.judged = connection.identity
        session.metadata = connection.metadata
        self._sessions[session.id] = session
        session.attach(connection, None, [])
        self.observer.session_changed("opened", "")
        return session

    def resume(
        self, asked: Resume, connection: WebSocketConnection
    ) -> tuple[ServerSession, list[RequestId]] | None:
        """The session that *connection* goes on with, and its streams that go on; `None` when it must open a new one.

        Why not, the peer is not told: it could ask for others' sessions.
        """
        session = self._sessions.get(asked.session)
        refusal = self._refusal(session, asked, connection)
        if refusal or session is None:
            self.observer.session_changed("refused", refusal)
            return None
        if session.connection is not None:
            replaced = ConnectionClosed(REPLACED, "replaced by a newer link of the same session")
            session.connection.conversation.stream.abort(replaced, say=True)
        if not self._come(session):  # its end came with that of the old link
            self.observer.session_changed("refused", "ended")
            return None
        going = session.attach(connection, asked.received, asked.streams, asked.messages)
        if going is None:
            self._end(session, "position lost")
            self.observer.session_changed("refused", "position lost")
            return None
        session.identity = connection.identity
        session.resumed = True
        if session.wills is not None:
            session.wills.resumed()
        self.observer.session_changed("resumed", "")
        return session, going

    def _refusal(self, session: ServerSession | None, asked: Resume, connection: WebSocketConnection) -> str:
        if session is None or asked.epoch != self.epoch:
            return "unknown"
        if _subject(session.identity) != _subject(connection.identity):
            return "identity"
        return "" if session.speaks(connection) else "serializer"

    def lost(self, session: ServerSession, why: ConnectionClosed) -> bool:
        """The connection of *session* has ended; whether the session waits for another one."""
        self.unsettled.discard(session)
        if session.over:
            return False
        if self._closed or 4500 <= why.code < 5000 and why.code != REPLACED:
            self._end(session, "closed" if self._closed else "kicked")
            return False
        self._away[session] = self.clock() + self.timeouts.session
        self.observer.session_changed("lost", "")
        if session.wills is not None and why.code != REPLACED:  # then it has come back already
            session.wills.lost()
        self._shares.add(_subject(session.identity))
        if len(self._away) > self.limits.away_sessions:
            self._end(self._first_to_go(), "too many")
        return not session.over

    def _first_to_go(self) -> ServerSession:
        """The longest away; of one subject's alone while that one has more than half of those that are away."""
        if self._shares.greedy:
            return next(one for one in self._away if self._shares.is_greedy(_subject(one.identity)))
        return next(iter(self._away))

    def cut(self, session: ServerSession) -> None:
        """All sessions together retain too much, and this one most. It ends while its peer is away; a peer that is
        there cannot resume what it has not acknowledged."""
        if session.connection is None:
            self._end(session, "too many bytes")
        else:
            self.observer.refused("session", "too many bytes")
            session.let_go()

    def _come(self, session: ServerSession) -> bool:
        """It is not away any more; whether it was."""
        if self._away.pop(session, None) is None:
            return False
        self._shares.remove(_subject(session.identity))
        return True

    def all(self) -> tuple[ServerSession, ...]:
        """Those that there are now."""
        return tuple(self._sessions.values())

    def moved(self, session: ServerSession) -> None:
        """Its peer has another session at another node: this one, and its link if that has not ended yet, are for
        nobody."""
        if session.over:
            return
        connection = session.connection
        self._end(session, "moved")
        if connection is not None:
            replaced = ConnectionClosed(REPLACED, "replaced by a link to another node")
            connection.conversation.stream.abort(replaced, say=True)

    def goodbye(self, session: ServerSession) -> None:
        """The peer leaves on purpose: nothing is kept for it."""
        self._end(session, "goodbye")

    def expel(self, who: str | Callable[[Any], bool]) -> None:
        """End those that are away of a subject, or for which a function returns true: they are not gone on with.

        What it asks of a session that only connections have is a no. From any thread.
        """
        for session in tuple(self._away):
            if _is_meant(session, who):
                self.home.run(self._end, session, "kicked")

    def _end(self, session: ServerSession, reason: str) -> None:
        self._sessions.pop(session.id, None)
        self._come(session)
        self.unsettled.discard(session)
        if not session.over:
            session.end(reason)
            self.observer.session_changed("ended", reason)

    def tick(self, now: float, late: float = 0.0) -> None:
        """End those whose time is up, and ask for receipts; called about once a second."""
        while self._away:
            session, until = next(iter(self._away.items()))
            if now < until:
                break
            self._end(session, "timeout")
        for session in tuple(self.unsettled):
            session.settle(now, self.timeouts.ping_interval / 4)

    def end_away(self) -> None:
        """The server closes: peers that are away cannot come back, and none that is lost from now on."""
        self._closed = True
        for session in tuple(self._away):
            self._end(session, "closed")

    def close(self) -> None:
        """End them all."""
        self._closed = True
        for session in tuple(self._sessions.values()):
            self._end(session, "closed")


def _subject(identity: Any) -> str | None:
    return None if identity is None else identity.subject


def _is_meant(session: ServerSession, who: str | Callable[[Any], bool]) -> bool:
    if not callable(who):
        return _subject(session.identity) == who
    try:
        return bool(who(session))
    except AttributeError:
        return False
