"""`TopicPresence`: who is present on one topic, and the subscribers that are told of it.

Decides when they are told: at once where nothing has changed for a while, and else together with what else changes
within `BATCH`. Lives in the node's hub.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import gevent

from webmesh.exceptions import EncodeError
from webmesh.observer import Observer
from webmesh.protocol import messages
from webmesh.protocol.data_frames import server_frame
from webmesh.protocol.kept_deliveries import shared
from webmesh.protocol.presence import Presence, PresenceDiff, State

if TYPE_CHECKING:
    from webmesh.peer_subscriber import PeerSubscriber

BATCH = 0.2
"""Seconds between two messages of who came and went, so that a crowd that comes costs the others a few."""
SLICE = 64
"""Subscribers that are told before others are served."""

Member = tuple[str, str]
"""A node, and what it calls the member."""


class Seat:
    """One subscriber's part: present, told of the others, or both.

    Attributes:
        member: As whom it is present; `None` if it is not.
        size: Bytes that this takes.
    """

    __slots__ = ("_held", "_on_leave", "member", "peer", "size", "sub", "topic")

    def __init__(
        self, topic: TopicPresence, peer: PeerSubscriber, sub: int, on_leave: Callable[[Seat], object]
    ) -> None:
        self.topic = topic
        self.peer = peer
        self.sub = sub
        self.member: Member | None = None
        self.size = 0
        self._on_leave = on_leave
        self._held: list[PresenceDiff] | None = []  # until the state is on its way

    def begin(self) -> None:
        """The state is on its way: what has changed since follows."""
        held, self._held = self._held, None
        for diff in held or ():
            self.topic.tell(diff, self)

    def hold(self, diff: PresenceDiff) -> bool:
        """Whether it is not to be told yet; then it is later."""
        if self._held is not None:
            self._held.append(diff)
        return self._held is not None

    def leave(self) -> None:
        """The subscription is over."""
        self._held = None
        self._on_leave(self)


class TopicPresence:
    """One topic.

    Attributes:
        members: All of them, those of other nodes included.
        local: Key and meta of those of this node.
        size: Bytes that these take.
        remote: The same of other nodes, as they have told it.
        watchers: Who is told.
        on_change: Called when one of this node's came or went.
    """

    def __init__(self, topic: str, observer: Observer, on_change: Callable[[TopicPresence], object]) -> None:
        self.topic = topic
        self.members: Presence[Member] = Presence()
        self.local: dict[str, tuple[str, Any]] = {}
        self.size = 0
        self.remote: dict[str, dict[str, tuple[str, Any]]] = {}
        self.watchers: dict[Seat, None] = {}
        self._observer = observer
        self._on_change = on_change
        self._jobs: deque[tuple[PresenceDiff, tuple[Seat, ...]]] = deque()
        self._busy = False

    @property
    def idle(self) -> bool:
        """Whether nobody of this node has to do with it."""
        return not self.local and not self.watchers

    def come(self, member: Member, key: str, meta: Any, *, local: bool = False) -> None:
        """Somebody is present."""
        if local:
            self.local[member[1]] = (key, meta)
        self.members.join(member, key, meta)
        self._changed(local)

    def go(self, member: Member, *, local: bool = False) -> None:
        """Somebody is no longer."""
        if local:
            self.local.pop(member[1], None)
        self.members.leave(member)
        self._changed(local)

    def watch(self, seat: Seat) -> State:
        """Tell *seat* of what changes from now on, after it has got the state that this returns."""
        self.watchers[seat] = None
        return self.members.told_state()

    # ---------------------------------------------------------------------- telling

    def _changed(self, local: bool) -> None:
        if local:
            self._on_change(self)
        if not self._busy and not self.watchers:
            self.members.take_diff()
        elif not self._busy:
            self._busy = True
            self._gather()
            gevent.spawn(self._work)

    def _gather(self) -> None:
        """What has changed is for those who watch now."""
        diff = self.members.take_diff()
        if diff:
            self._jobs.append((diff, tuple(self.watchers)))

    def _work(self) -> None:
        try:
            changed = True
            while changed:
                self._send()
                gevent.sleep(BATCH)
                changed = self.members.changed
                self._gather()
        finally:
            self._busy = False

    def _send(self) -> None:
        while self._jobs:
            for _ in self._deliver(*self._jobs.popleft()):
                gevent.sleep(0)

    def tell(self, diff: PresenceDiff, seat: Seat) -> None:
        """Tell one."""
        for _ in self._deliver(diff, (seat,)):
            pass

    def _deliver(self, diff: PresenceDiff, seats: tuple[Seat, ...]) -> Iterator[None]:
        """Tell them; equal bytes are made once. Yields now and then."""
        made: dict[tuple[Any, int], tuple[str | bytes, bytes] | None] = {}
        for number, seat in enumerate(seats, 1):
            if not number % SLICE:
                yield
            if seat not in self.watchers or seat.hold(diff):
                continue
            form = (seat.peer.serializer, seat.sub)
            if form not in made:
                made[form] = self._made(diff, *form)
            message = made[form]
            if message is not None:
                # Whoever does not keep up would have a wrong picture of who is here; it comes back to a right one.
                seat.peer.deliver(shared(message[0], len(seats)), message[1], "close")

    def _made(self, diff: PresenceDiff, serializer: Any, sub: int) -> tuple[str | bytes, bytes] | None:
        data = {"joined": diff.joined, "left": diff.left}
        try:
            message = serializer.serialize(messages.event(self.topic, "presence", data, [sub]))
        except EncodeError:
            self._observer.refused("delivery", "not encodable")
            return None
        return message, server_frame(message)
