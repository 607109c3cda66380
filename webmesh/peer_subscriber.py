"""`PeerSubscriber`: a peer that subscribes, over as many connections as its session has.

Decides whether a delivery is sent now, kept for later, or left out, and tells the peer what it has lost. Which
publications it gets is `pubsub`'s business. Lives in the node's hub.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol

from webmesh.exceptions import EncodeError, PermissionDenied
from webmesh.kept_messages import with_time_left, without
from webmesh.losses import Losses
from webmesh.protocol import messages
from webmesh.protocol.kept_deliveries import Expiry, KeptDeliveries, Shared, shared
from webmesh.protocol.publication import TTL

if TYPE_CHECKING:
    from webmesh.acknowledged import Answer, Desk, Letter
    from webmesh.acknowledged_subscriber import PeerDeliveries
    from webmesh.catch_up import CatchUp
    from webmesh.group_members import PeerMember
    from webmesh.protocol.publication import Publication
    from webmesh.protocol.retained import Room
    from webmesh.subscribers import PatternEntry
    from webmesh.topic_options import TopicOptions
    from webmesh.topic_presence import Seat
    from webmesh.websocket.conversation import Conversation
    from webmesh.websocket.outgoing import Policy
    from webmesh.websocket.stream import MessageStream


class Follower(Protocol):
    """Who has to know of a peer's comings and goings."""

    def left(self) -> None:
        """It is away; must not switch, as all of these."""

    def back(self) -> None:
        """It is back, and has what was kept for it."""

    def tick(self) -> None:
        """About once a second."""


class Receipt:
    """Waits for the acknowledgement of one delivery; a `roles.Waiter`."""

    __slots__ = ("_answer",)

    def __init__(self, answer: Answer) -> None:
        self._answer = answer

    def succeed(self, value: Any) -> None:
        """`Waiter.succeed`."""
        self._answer(None)

    def fail(self, error: BaseException) -> None:
        """`Waiter.fail`."""
        self._answer(error)


class PeerSubscription:
    """One plain subscription of a peer.

    Attributes:
        id: What deliveries name it by.
        catching_up: What it has yet to get before it is live; `None` once it is.
        seat: Its part in the presence of its topic; `None` where it has none.
    """

    __slots__ = ("catching_up", "entry", "id", "seat")

    def __init__(self, entry: PatternEntry, sub: int) -> None:
        self.entry = entry
        self.id = sub
        self.catching_up: CatchUp | None = None
        self.seat: Seat | None = None

    @property
    def pattern(self) -> tuple[str, ...]:
        """What it subscribes to."""
        return self.entry.pattern


class PeerSubscriber:
    """One peer.

    Attributes:
        name: What its publications bear, for `exclude_self`; no secret.
        conversation: The one that its deliveries go by; `None` while it is away.
        serializer: What they are written with.
        subscriptions: By id.
        letters: What it has to acknowledge; `None` while that is nothing.
        followers: Who has to know when it comes and goes; `None` while that is nobody.
        kept: What its session keeps of deliveries; `None` without a session.
        judged: The identity by whose rights its subscriptions were looked at last, where it has no session.
    """

    __slots__ = (
        "_desk", "_direct", "_loose_subs", "_lost", "_next_id", "_owed", "_stream", "_ticked", "conversation",
        "followers", "judged", "kept", "letters", "name", "over", "owner", "serializer", "subscriptions",
    )  # fmt: skip

    def __init__(
        self, conversation: Conversation, owner: Any, room: Room | None = None, desk: Desk | None = None
    ) -> None:
        self._desk = desk
        self.name = os.urandom(6).hex()
        self.owner = owner
        self.conversation: Conversation | None = conversation
        self.judged: Any = None
        self._stream: MessageStream | None = None
        self._direct: MessageStream | None = None  # that stream, if it takes frames made for many
        self.serializer = conversation.serializer
        self.subscriptions: dict[int, PeerSubscription | PeerMember] = {}
        self.followers: dict[Follower, None] | None = None
        self.kept = None if room is None else KeptDeliveries(room)
        self.letters: PeerDeliveries | None = None
        self._next_id = 0
        self.over = False
        self._ticked = 0
        self._speak_by(conversation.stream)
        self._lost: Losses | None = None
        self._owed: list[messages.Wire] | None = None  # once it is back: for these, nothing kept goes
        self._loose_subs: set[int] | None = None  # that may miss what was left out while it was away

    # ------------------------------------------------------------------ deliveries

    def deliver(self, message: Shared, frame: bytes | None, policy: Policy) -> bool:
        """Send a counted delivery, or keep it; whether either was done.

        Args:
            frame: *message* as a server's frame, made once for all who take it.
        """
        kept = self.kept
        due = kept is not None and kept.add(message)
        stream = self._stream
        if stream is None:
            return kept is not None
        if frame is not None and stream.shares_frames:
            taken = stream.offer_frame(frame, policy)
        else:
            taken = stream.offer(message[0], policy)
        if due:  # behind it, for the receipt tells of it too
            self.owner.ask_receipt()
        return taken

    @staticmethod
    def deliver_to_all(peers: Iterable[PeerSubscriber], message: Shared, frame: bytes, policy: Policy) -> None:
        """`deliver` to so many that each one's is written by itself: one loop, with as few steps as can be."""
        for peer in peers:
            stream = peer._direct
            if stream is None:
                peer.deliver(message, frame, policy)
                continue
            kept = peer.kept
            due = kept is not None and kept.add(message)
            stream.push_frame(frame, policy)
            if due:
                peer.owner.ask_receipt()

    def deliver_loose(
        self, message: Shared, frame: bytes | None, options: TopicOptions, publication: Publication, subs: list[int]
    ) -> bool:
        """Send a delivery that may be left out; what is, the peer is told of when there is room."""
        stream, key = self._stream, publication.conflate_key
        if stream is None:
            if self.kept is not None:
                if self._loose_subs is None:
                    self._loose_subs = set()
                self._loose_subs.update(subs)
                self.kept.add_loose(message, None if key is None else (publication.topic, key))
            return self.kept is not None
        if self._lost is not None and not stream.full:
            self._tell_lost()
        place = None if key is None else (publication.topic, key)
        if frame is not None and stream.shares_frames:
            taken = stream.offer_frame(frame, options.slow_peer, place)
        else:
            taken = stream.offer(message[0], options.slow_peer, place)
        if not taken and options.slow_peer != "close":
            self.lose(publication, subs, "slow")
        return taken

    def lose(self, publication: Publication, subs: list[int], reason: str) -> None:
        """It does not get this one; it is told so when there is room."""
        if self._lost is None:
            self._lost = Losses()
        self._lost.add(publication, subs, reason)

    def _tell_lost(self) -> None:
        lost, self._lost = self._lost, None
        if lost is not None:
            self.tell(lost)

    def tell(self, lost: Losses) -> None:
        """Tell it of what it did not get."""
        for event in lost.events(self._pattern_of):
            self.send(event)

    def _pattern_of(self, sub: int) -> tuple[str, ...] | None:
        subscription = self.subscriptions.get(sub)
        return None if subscription is None else subscription.pattern

    def withdraw(self, ended: Mapping[int, Sequence[str]]) -> None:
        """These subscriptions, with their patterns, were ended here: what is kept for them does not go out, and it is
        told of their end."""
        reason = PermissionDenied.code
        if self._lost is not None:
            for sub in ended:
                self._lost.forget(sub)
        told = [messages.ended(pattern, reason, sub) for sub, pattern in ended.items()]
        if self.kept is not None:
            filler = shared(self.serializer.serialize(told[0]), 1, None, told[0]["subs"])  # for what is counted
            self.kept.rewrite(partial(without, self.serializer, ended), filler)
        if self._stream is None:
            self._owed = [*(self._owed or ()), *told]
            return
        for event in told:
            self.send(event)

    def tick(self) -> None:
        """Ask for a receipt of what was sent last, and tell what it has lost if there is room by now; called about once
        a second."""
        if self.kept and self._stream is not None and self._ticked == self.kept.next:
            self.owner.ask_receipt()
        self._ticked = self.delivered
        if self.kept is not None:
            self.kept.tick()
        if self._lost is not None and self.has_room:
            self._tell_lost()
        for follower in tuple(self.followers or ()):
            follower.tick()

    def send(self, message: dict[str, Any], expiry: Expiry | None = None) -> None:
        """Send, or keep, a counted message of its own: a replay, an event."""
        subs = tuple(message.get("subs") or ())  # no list: of thousands that are kept the collector would look at each
        self.deliver(shared(self.serializer.serialize(message), 1, expiry, subs), None, "wait")

    # ------------------------------------------------------- acknowledged deliveries

    @property
    def has_room(self) -> bool:
        """Whether it is there, and what was sent to it is on its way."""
        stream = self._stream
        return stream is not None and not stream.full and stream.state == "open"

    @property
    def takes_work(self) -> bool:
        """Whether it is there and keeps up."""
        return self.has_room and not self.stalled

    @property
    def stalled(self) -> bool:
        """Whether it is there and hangs."""
        return self._stream is not None and self._stream.stalled

    def hand(self, letter: Letter, subs: list[int], attempt: int, answer: Answer | None, *, now: float) -> None:
        """Send one delivery of its own, to be acknowledged where there is an *answer*.

        Raises:
            EncodeError: It cannot be written for this peer.
        """
        publication, options = letter.publication, letter.options
        if answer is None:
            loose = options.slow_peer != "close" or publication.conflate_key is not None
            data = self.serializer.serialize(delivered(publication, subs, now=now, loose=loose))
            message = shared(data, 1, None if publication.ttl is None else expiry(publication, subs), subs)
            if loose:
                self.deliver_loose(message, None, options, publication, subs)
            else:
                self.deliver(message, None, options.slow_peer)
        elif self.conversation is not None:
            session = self.conversation.session
            request = session.deliver(publication.topic, Receipt(answer))
            try:
                wire = delivered(publication, subs, now=now, id=request.id, attempt=attempt)
                data = self.serializer.serialize(wire)
            except EncodeError:
                session.forget(request)
                raise
            letter.forget.append(partial(session.forget, request))
            self.conversation.stream.offer(data, "wait")

    def follow(self, follower: Follower) -> None:
        """Tell *follower* from now on."""
        if self.followers is None:
            self.followers = {}
        self.followers[follower] = None

    def unfollow(self, follower: Follower) -> None:
        """No longer."""
        if self.followers is not None:
            self.followers.pop(follower, None)

    # --------------------------------------------------------- its session's business

    @property
    def delivered(self) -> int:
        """Counted deliveries so far."""
        return 0 if self.kept is None else self.kept.next

    @property
    def unsettled(self) -> bool:
        """Whether there are such that the peer may not have."""
        return bool(self.kept)

    def acknowledge(self, delivered: int) -> None:
        """The peer has had so many of them."""
        if self.kept is not None:
            self.kept.acknowledge(delivered)

    def _speak_by(self, stream: MessageStream | None) -> None:
        self._stream = stream
        self._direct = stream if stream is not None and stream.shares_frames else None

    def leave(self) -> None:
        """Its connection is lost, and its session waits for the next one."""
        if self.conversation is not None:
            self._next_id = self.conversation.session.next_id
        self.conversation = None
        self._speak_by(None)
        if self.kept is not None:
            self.kept.leave()
        for follower in tuple(self.followers or ()):
            follower.left()

    @property
    def behind(self) -> bool:
        """Whether something had to go that came for it while it was away."""
        return self.kept is not None and self.kept.broken

    def can_resume(self, received: int | None) -> bool:
        """Whether it can go on after *received* counted deliveries."""
        return self.kept is None or self.kept.resume(received)

    def come_back(self, conversation: Conversation) -> None:
        """The answer to `$hello` is on its way: what was kept follows it, and then what is live."""
        told = [] if self.kept is None else self._send_missed(self.kept, conversation.stream)
        self.conversation = conversation
        self._speak_by(conversation.stream)
        for event in told:
            self.send(event)
        # Acknowledgements of what went by the old connection may yet come, and must not pass for others.
        conversation.session.count_from(max(self._next_id, conversation.session.next_id))
        for follower in tuple(self.followers or ()):
            follower.back()
        for subscription in tuple(self.subscriptions.values()):
            if isinstance(subscription, PeerSubscription) and subscription.catching_up is not None:
                subscription.catching_up.begin()  # its answer was lost with the old connection

    def _send_missed(self, kept: KeptDeliveries, stream: MessageStream) -> list[messages.Wire]:
        """What it has to be told behind that."""
        told, self._owed = self._owed or [], None
        gaps: dict[tuple[str, ...], list[int]] = {}
        for sub in (self._loose_subs or ()) if kept.left_out else ():
            pattern = self._pattern_of(sub)
            if pattern is not None:
                gaps.setdefault(pattern, []).append(sub)
        told.extend(messages.pattern_gap(pattern, "slow", subs) for pattern, subs in gaps.items())
        self._loose_subs, kept.left_out = None, False
        desk, before = self._desk, kept.expired
        serializer = self.serializer
        if desk is None:
            missed = kept.take_missed()
        else:
            missed = kept.take_missed(desk.now(), serializer.serialize, partial(with_time_left, serializer))
        for data in missed:
            stream.offer(data, "wait")
        if desk is not None:
            for _ in range(kept.expired - before):
                desk.observer.refused("delivery", "expired")
        return told

    def end(self) -> None:
        """It is over."""
        self.over = True
        self.conversation = None
        self._speak_by(None)
        if self.kept is not None:
            self.kept.clear()
            self.kept = None
        if self.letters is not None:
            self.letters.end()

    def __repr__(self) -> str:
        return f"<PeerSubscriber {self.name} subscriptions={len(self.subscriptions)}>"


def delivered(
    publication: Publication,
    subs: list[int],
    *,
    now: float | None = None,
    loose: bool = False,
    id: int | str | None = None,
    attempt: int = 1,
) -> messages.Wire:
    """A publication as the subscriptions *subs* get it.

    Args:
        now: The reading of the clock of `Publication.at`, where some of its time may be over.
        loose, id, attempt: As `messages.delivery`.
    """
    headers = publication.headers
    if now is not None and publication.ttl is not None:
        headers = {**headers, TTL: str(publication.left_ms(now))}
    return messages.delivery(
        publication.topic, publication.payload, subs,
        headers=headers, offset=publication.offset, epoch=publication.epoch, retained=publication.retained,
        loose=loose, id=id, attempt=attempt,
    )  # fmt: skip


def expiry(publication: Publication, subs: list[int]) -> Expiry:
    """When a publication with a time to live is worthless, and what a peer is told that was away until then."""
    assert publication.ttl is not None
    gap = messages.gap(publication.topic, "expired", subs, publication.offset, publication.epoch)
    return publication.at + publication.ttl, gap
