"""`NodeWills`: the last wills of the sessions of one node.

Decides which wills a session may set, and what an end of a link or of a session means for them. How they are
published is `will_firing`; those of nodes that have died are `will_watch`'s business. Wire form: docs/PROTOCOL.md
section 6. Lives in the node's hub.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from webmesh.exceptions import (
    BrokerError, FailedPrecondition, Overloaded, RemoteError, Unavailable,
)  # fmt: skip
from webmesh.lanes import Lanes
from webmesh.observer import Observer
from webmesh.options import Limits, Timeouts
from webmesh.protocol.will_request import read_will_change, read_wills, will_to_wire
from webmesh.protocol.wills import GOODBYE, KICKED, LOST, TIMEOUT, FiredWill, Will, Wills
from webmesh.will_firing import WillFiring
from webmesh.will_records import KEPT, WILLS, StoredWills, session_key
from webmesh.will_watch import WillWatch

if TYPE_CHECKING:
    from webmesh.auth import Identity
    from webmesh.node_lease import NodeLease
    from webmesh.pubsub import Topics
    from webmesh.server_session import ServerSession
    from webmesh.sessions import Resume
    from webmesh.websocket.websocket_connection import WebSocketConnection

REASONS = {"goodbye": GOODBYE, "kicked": KICKED, "timeout": TIMEOUT, "too many": TIMEOUT, "too many bytes": TIMEOUT}
"""Why a session ended → what that is for its wills. With another reason its peer is still there, or goes elsewhere as
this node closes; then only those fire whose delay had begun before."""

logger = logging.getLogger("webmesh.topics")


class NodeWills:
    """All wills of one node.

    Args:
        clock: That of the sessions.
    """

    def __init__(
        self,
        topics: Topics,
        lease: NodeLease,
        *,
        limits: Limits,
        timeouts: Timeouts,
        observer: Observer,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.clock = clock
        self.lease = lease
        self._topics = topics
        self._broker = topics.broker
        self._limits = limits
        self._observer = observer
        self._armed: dict[str, SessionWills] = {}
        self._waiting: dict[SessionWills, None] = {}  # those with a delay that has begun
        self._unsaved: dict[SessionWills, None] = {}  # those that the engine could not be told of
        self._lanes = Lanes()
        self.firing = WillFiring(topics, lease.node, observer)
        self._watch = WillWatch(
            topics.broker, lease, self.firing, session=timeouts.session, clock=clock, armed=self._armed
        )
        self._renew_at = clock() + KEPT / 3

    def start(self) -> None:
        """Look for wills that a former run, or another node, has left."""
        self._watch.start()
        self.lease.on_look.append(self._keep_after_lapse)

    def stop(self, seconds: float) -> None:
        """Wait for what is being fired."""
        self.firing.stop(seconds)

    # ----------------------------------------------------------------- what peers set

    def read_greeting(
        self, wire: Any, client: WebSocketConnection, *, again: bool
    ) -> tuple[list[Will], list[str]]:
        """The `wills` of a `$hello`: those that may be set, and the ids of those that may not.

        Args:
            again: Whether the peer goes on with a session: that it has lost a right must not keep it out.

        Raises:
            RemoteError: They may not be set.
        """
        wills, refused = read_wills(wire), []
        self._check_size(wills, client)
        for will in wills:
            try:
                self._check_allowed(will, client)
            except RemoteError:
                if not again:
                    raise
                refused.append(will.id)
        return [will for will in wills if will.id not in refused], refused

    def greet(self, session: ServerSession, wills: list[Will]) -> None:
        """These are the wills of *session* from now on; comes back when the engine has them, if it can be reached."""
        own = self._of(session)
        own.wills.clear()
        for will in wills:
            own.set(will)
        with suppress(Unavailable):  # the next look at it keeps them
            self._save(own)

    def change(self, payload: Any, client: WebSocketConnection) -> None:
        """`$will`: set or revoke one; comes back when the engine has it.

        Raises:
            FailedPrecondition: The peer has no session.
            Unavailable: The engine cannot be reached; the will is set here, and may be set again.
            RemoteError: It may not be set.
        """
        change = read_will_change(payload)
        session = client.session
        if session is None or session.over:
            raise FailedPrecondition("a will belongs to a session: say $hello first")
        if isinstance(change, str):
            if session.wills is None or not session.wills.wills.revoke(change):
                return
        else:
            self._check_allowed(change, client)
            others = [] if session.wills is None else [w for w in session.wills.wills.all() if w.id != change.id]
            self._check_size([*others, change], client)
            self._of(session).set(change)
        self._save(session.wills)

    def look_at(self, session: ServerSession, identity: Identity | None) -> None:
        """The rights of *session* have changed: what may not be published any more is revoked, and the engine learns of
        both. Does not switch."""
        own = session.wills
        if own is None:
            return
        for will in own.wills.all():
            try:
                self._topics.access.check_publish(identity, tuple(will.topic.split("/")))
            except Exception as error:  # the edge around user code: a rule that crashes allows nothing
                self._observer.refused("will", error.code if isinstance(error, RemoteError) else "rule failed")
                own.wills.revoke(will.id)
        self.firing.spawn(self._save_soon, [own])

    def _check_allowed(self, will: Will, client: WebSocketConnection) -> None:
        try:
            self._topics.access.check_publish(client.identity, tuple(will.topic.split("/")))
        except RemoteError as error:
            self._observer.refused("will", error.code)
            raise

    def _check_size(self, wills: list[Will], client: WebSocketConnection) -> None:
        if len(wills) > self._limits.wills:
            raise Overloaded(f"a session has at most {self._limits.wills} wills", retryable=False)
        size = len(client.conversation.serializer.serialize([will_to_wire(will) for will in wills]))
        if size > self._limits.wills_size:
            text = f"the wills of a session have at most {self._limits.wills_size} bytes, not {size}"
            raise Overloaded(text, retryable=False)

    def _of(self, session: ServerSession) -> SessionWills:
        if session.wills is None:
            key = session_key(session.id, session.epoch)
            own = session.wills = self._armed[key] = SessionWills(self, session, key)
            session.on_end.append(own.ended)
        return session.wills

    # ------------------------------------------------------------------ on the engine

    def cancel(self, resume: Resume, identity: Identity | None) -> None:
        """A peer names its former session, which is not here: its wills are for nobody any more."""
        key = session_key(resume.session, resume.epoch)
        self._watch.cancels.cancel(key, None if identity is None else identity.subject)

    def _save(self, own: SessionWills | None) -> None:
        if own is None:
            return
        try:
            with self._lanes.turn(own.key):
                own.save()
        except BrokerError as error:
            self._unsaved[own] = None
            raise Unavailable(f"the engine of the topics cannot be reached: {error}"[:200], retry_after=1.0) from error

    def _save_soon(self, several: list[SessionWills]) -> None:
        for own in several:
            with suppress(Unavailable):
                self._save(own)

    def _keep_after_lapse(self) -> None:
        """The engine has forgotten this node, and maybe its wills: keep them anew, for the peers are here."""
        if self.lease.lapsed:
            self.firing.spawn(self._save_soon, list(self._armed.values()))

    def settle(self, own: SessionWills, fired: list[FiredWill]) -> None:
        """Publish *fired*, and keep what is left, in a greenlet of its own."""
        if own.over and not fired and self._broker.immediate:
            # Whoever sees the close that follows its goodbye is not mourned, even if this node is killed right then.
            with suppress(BrokerError):
                own.forget()
                self._armed.pop(own.key, None)
                return
        self.firing.spawn(self._settle, own, fired)

    def _settle(self, own: SessionWills, fired: list[FiredWill]) -> None:
        with self._lanes.turn(own.key):
            numbers = {one.will.number: one.reason for one in fired}
            due = own.stored([one.will for one in fired], numbers)
            rest = own.wills.all()
            taken = self.firing.fire(own.key, due, own.stored(rest), own.identity, unsaved=not own.saved)
            own.saved = taken and bool(own.wills)
            if not taken:  # another node has, which took this one for dead
                own.drop(rest)
        if own.over:
            self._armed.pop(own.key, None)

    # ---------------------------------------------------------------------- in time

    def wait(self, own: SessionWills) -> None:
        """Look at it when its time comes."""
        self._waiting[own] = None

    def forget(self, own: SessionWills) -> None:
        """No longer."""
        self._waiting.pop(own, None)

    def tick(self, now: float, late: float = 0.0) -> None:
        """Fire those whose delay is over; called about once a second."""
        for own in tuple(self._waiting):
            own.look(now)
        self._watch.tick(now, up=self._topics.up)
        if now >= self._renew_at:
            self._renew_at = now + KEPT / 3
            self._unsaved.update(dict.fromkeys(self._armed.values()))
        if self._unsaved and self._topics.up:
            unsaved, self._unsaved = list(self._unsaved), {}
            self.firing.spawn(self._save_soon, unsaved)


class SessionWills:
    """The wills of one session.

    Attributes:
        key: The session's name on the engine.
        saved: Whether the engine has a record of it.
        over: Whether the session has ended.
    """

    __slots__ = ("_node", "_number", "_session", "key", "over", "saved", "wills")

    def __init__(self, node: NodeWills, session: ServerSession, key: str) -> None:
        self._node = node
        self._session = session
        self._number = 0
        self.key = key
        self.wills = Wills()
        self.saved = False
        self.over = False

    def set(self, will: Will) -> None:
        """Set one, in the place of one with the same id."""
        self._number += 1
        self.wills.set(replace(will, number=self._number))

    def drop(self, wills: list[Will]) -> None:
        """Revoke these, but none that was set since in the place of one of them."""
        numbers = {will.number for will in wills}
        for will in self.wills.all():
            if will.number in numbers:
                self.wills.revoke(will.id)

    @property
    def identity(self) -> Identity | None:
        """Whose rights decide; that its login has expired since says nothing of them."""
        identity = self._session.identity
        return None if identity is None else replace(identity, expires_at=None)

    def stored(self, wills: list[Will], reasons: dict[int, str] | None = None) -> StoredWills:
        """Some of them, as the engine keeps them."""
        identity = self._session.identity
        subject, roles = (None, frozenset()) if identity is None else (identity.subject, identity.roles)
        return StoredWills(self._node.lease.node, wills, subject, roles, reasons or {})

    def save(self) -> None:
        """Let the engine have them; only in this session's turn.

        Raises:
            BrokerError: It cannot be reached.
        """
        broker = self._node.firing.broker
        if self.over:
            return
        if self.wills:
            self.saved = False
            broker.put(WILLS, self.key, self.stored(self.wills.all()).to_record(), KEPT)
            self.saved = True
        else:
            self.forget()

    def forget(self) -> None:
        """Let the engine have none of them.

        Raises:
            BrokerError: It cannot be reached.
        """
        if self.saved:
            self._node.firing.broker.claim(WILLS, self.key)
            self.saved = False

    # ------------------------------------------------------------- what befalls the session

    def lost(self) -> None:
        """Its connection is lost, and it waits for the next one."""
        now = self._node.clock()
        self.wills.leave(LOST, now)
        self._node.wait(self)
        self.look(now)

    def resumed(self) -> None:
        """The peer is back."""
        self.wills.resume()
        self._node.forget(self)

    def ended(self, reason: str) -> None:
        """It is over."""
        self.over = True
        self._node.forget(self)
        meaning = REASONS.get(reason)
        if meaning is None and reason != "closed":  # the peer is there, and has another session
            self.wills.resume()
        if meaning == GOODBYE:
            self.wills.leave(GOODBYE, self._node.clock())
        self._node.settle(self, self.wills.end(meaning or reason))

    def look(self, now: float) -> None:
        """Fire those whose delay is over."""
        fired = self.wills.fire(now)
        if fired:
            self._node.settle(self, fired)
        if self.wills.next_due() is None:
            self._node.forget(self)
