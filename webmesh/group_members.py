"""Who shares the work of a group on one node: subscriptions of peers, and functions of the program.

Knows how each is reached and whether it takes more. Which of them gets what is `group_work`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from webmesh.acknowledged import Answer, Letter, Member
from webmesh.protocol.messages import pattern_gap

if TYPE_CHECKING:
    from webmesh.group_work import GroupWork
    from webmesh.local_subscriber import LocalSubscriber
    from webmesh.peer_subscriber import PeerSubscriber


class GroupMember(Member, Protocol):
    """A subscription in a group.

    Attributes:
        bounded: Whether there may be too many groups for it; not for the program's own.
    """

    bounded: bool

    @property
    def name(self) -> str | None:
        """Whose publications are its own, for `exclude_self`."""

    @property
    def here(self) -> bool:
        """Whether it counts: a peer that is away does not."""

    @property
    def begun(self) -> bool:
        """Whether it may be told anything yet."""

    def ready(self, in_hand: int, window: int) -> bool:
        """Whether it takes more work now."""

    def load(self, in_hand: int) -> int:
        """What it has to do: *in_hand*, which it has not acknowledged, and what else is known."""

    def gap(self, reason: str, lost: int | None = None) -> None:
        """Publications may have been missed; *lost* of them, where that is known."""


class PeerMember:
    """A peer's subscription in a group; begins to get work once the answer to its `$subscribe` is on its way.

    Attributes:
        id: What deliveries name it by.
    """

    patient = False
    bounded = True

    def __init__(self, peer: PeerSubscriber, work: GroupWork, sub: int) -> None:
        self.peer = peer
        self.work = work
        self.id = sub
        self.begun = False

    @property
    def name(self) -> str | None:
        """`GroupMember.name`."""
        return self.peer.name

    @property
    def pattern(self) -> tuple[str, ...]:
        """What it subscribes to."""
        return self.work.name.pattern

    @property
    def here(self) -> bool:
        """`GroupMember.here`."""
        return self.peer.conversation is not None

    def begin(self) -> None:
        """It may have work from now on."""
        self.begun = True
        self.work.tell_lost()
        self.work.pump()

    def ready(self, in_hand: int, window: int) -> bool:
        """`GroupMember.ready`."""
        return self.begun and in_hand < window and self.peer.takes_work

    def load(self, in_hand: int) -> int:
        """`GroupMember.load`."""
        return in_hand

    def hand(self, letter: Letter, attempt: int, answer: Answer | None, *, now: float) -> None:
        """`Member.hand`."""
        self.peer.hand(letter, [self.id], attempt, answer, now=now)

    def gap(self, reason: str, lost: int | None = None) -> None:
        """`GroupMember.gap`."""
        self.peer.send(pattern_gap(self.pattern, reason, [self.id], lost))

    def left(self) -> None:
        """`peer_subscriber.Follower.left`: what the peer has is for others now."""
        self.work.away(self)

    def back(self) -> None:
        """`peer_subscriber.Follower.back`."""
        self.begun = True
        self.work.changed()
        self.work.tell_lost()

    def tick(self) -> None:
        """`peer_subscriber.Follower.tick`."""
        if self.peer.stalled:
            self.work.hand_on(self)
        self.work.pump()


class LocalMember:
    """A function of this program in a group."""

    patient = True
    bounded = False
    name = None
    here = begun = True

    def __init__(self, subscriber: LocalSubscriber, work: GroupWork) -> None:
        self._subscriber = subscriber
        subscriber.on_handled = work.pump

    def ready(self, in_hand: int, window: int) -> bool:
        """`GroupMember.ready`: what would wait for it another one may have."""
        return in_hand < window and self._subscriber.takes_work

    def load(self, in_hand: int) -> int:
        """`GroupMember.load`."""
        return self._subscriber.pending

    def hand(self, letter: Letter, attempt: int, answer: Answer | None, *, now: float) -> None:
        """`Member.hand`."""
        self._subscriber.hand(letter.publication, attempt, answer)

    def gap(self, reason: str, lost: int | None = None) -> None:
        """`GroupMember.gap`."""
        self._subscriber.gap(reason, lost)
