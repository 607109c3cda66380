"""Plain subscribers of topics that must be acknowledged: a peer, or a function of this program.

Decides how much waits for one of them, and what becomes of what finds no room: it is told of a gap, never nothing.
Lives in the node's hub.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from gevent.hub import get_hub

from webmesh.acknowledged import MOST_OPEN, Acknowledged, Answer, Desk, Letter
from webmesh.losses import Losses
from webmesh.websocket.hub import Completion

if TYPE_CHECKING:
    from webmesh.local_subscriber import LocalSubscriber
    from webmesh.peer_subscriber import PeerSubscriber
    from webmesh.protocol.deliveries import Delivery
    from webmesh.protocol.publication import Publication
    from webmesh.protocol.retained import Room
    from webmesh.topic_options import TopicOptions, TopicTable

HALF = MOST_OPEN // 2
"""Deliveries up to which a subscription that catches up goes on at once; the rest is for what is published."""


class PeerDeliveries(Acknowledged):
    """What one peer has to acknowledge, for all its plain subscriptions. A `Member`, and a `Follower` of its peer.

    Args:
        room: Bytes that what waits may take.
    """

    patient = False

    def __init__(self, peer: PeerSubscriber, desk: Desk, room: Room) -> None:
        super().__init__(desk)
        self._peer = peer
        self._room = room
        self._costs: dict[Letter, int] = {}
        self._newest: dict[tuple[str, str], Delivery[Letter, Any]] = {}  # that waits, by topic and conflation key
        self._waiters: list[Completion[None]] = []
        self._lost: Losses | None = None  # since when there was no room

    def put(self, publication: Publication, options: TopicOptions, subs: list[int], size: int) -> None:
        """Deliver when there is room in the window. Where too much waits the peer is cut off, and told of a gap.

        Args:
            size: Bytes that it counts for.
        """
        if self.over:
            return
        if self._lost is not None:  # it is told of all that is missing at once, where that is missing
            self._lost.add(publication, subs, "slow")
            return
        if publication.conflate_key is not None and self._replace(publication, subs, size):
            return
        if len(self.deliveries) >= MOST_OPEN or not self._room.take(size):
            self._lost = self._overflow(publication, subs)
            return
        letter = Letter(publication, options, subs)
        self._costs[letter] = size
        delivery = self.add(letter)
        if publication.conflate_key is not None and delivery.to is None and letter in self._costs:
            self._newest[publication.topic, publication.conflate_key] = delivery

    def _replace(self, publication: Publication, subs: list[int], size: int) -> bool:
        """Put it, with all that is known of it, in the place of one that waits, has never been sent, and has the same
        key; False where there is none, or no room."""
        delivery = self._newest.get((publication.topic, publication.conflate_key or ""))
        if delivery is None or delivery.attempt or delivery.message not in self._costs:
            return False
        letter = delivery.message
        before = self._costs[letter]
        if size > before and not self._room.take(size - before):
            return False
        if size < before:
            self._room.give_back(before - size)
        self._costs[letter] = size
        letter.publication, letter.token = publication, subs
        return True

    def cut(self) -> None:
        """All sessions together keep too much, and this one most: nothing of it waits any more, and its peer is told of
        the gaps when it is back."""
        lost = self._lost
        for delivery in tuple(self.deliveries):
            if lost is None:
                lost = self._overflow(delivery.message.publication, delivery.message.token)
            lost.add(delivery.message.publication, delivery.message.token, "slow")
            self.settle(delivery)
        self._lost = lost

    def _overflow(self, publication: Publication, subs: list[int]) -> Losses:
        self.desk.observer.refused("delivery", "not acknowledged")
        lost = Losses()
        lost.add(publication, subs, "slow")
        conversation = self._peer.conversation
        if conversation is not None:
            conversation.stream.cut_off(4008, f"too slow: {len(self.deliveries)} deliveries are not acknowledged")
        return lost

    def pump(self) -> None:
        """`Acknowledged.pump`; when all that waited has been acknowledged it is told what did not find room."""
        super().pump()
        if self._lost is not None and not len(self.deliveries) and self._peer.has_room:
            lost, self._lost = self._lost, None
            self._peer.tell(lost)

    def wait_room(self) -> None:
        """Wait until there is room for what is replayed."""
        while len(self.deliveries) >= HALF and not self.over:
            waiter: Completion[None] = Completion(get_hub())
            self._waiters.append(waiter)
            waiter.wait()

    def unsubscribed(self, sub: int) -> None:
        """A subscription has ended: what is for it alone is not delivered again."""
        if self._lost is not None:
            self._lost.forget(sub)
        for delivery in self.deliveries:
            letter = delivery.message
            if sub in letter.token:
                letter.token = [one for one in letter.token if one != sub]
                if not letter.token:
                    self.settle(delivery)
        self.pump()

    def choose(self, letter: Letter) -> PeerDeliveries | None:
        """`Acknowledged.choose`: itself, within its window."""
        free = self._peer.has_room and self.deliveries.pending(self) < letter.options.window
        return self if free else None

    def hand(self, letter: Letter, attempt: int, answer: Answer | None, *, now: float) -> None:
        """`Member.hand`."""
        publication = letter.publication
        if publication.conflate_key is not None:
            self._newest.pop((publication.topic, publication.conflate_key), None)
        self._peer.hand(letter, letter.token, attempt, answer, now=now)

    def settled(self, letter: Letter) -> None:
        """`Acknowledged.settled`; a letter that is given up had been settled before."""
        self._room.give_back(self._costs.pop(letter, 0))
        publication = letter.publication
        if publication.conflate_key is not None:
            place = publication.topic, publication.conflate_key
            newest = self._newest.get(place)
            if newest is not None and newest.message is letter:
                del self._newest[place]
        if self._waiters and len(self.deliveries) < HALF:
            self._wake()

    def _wake(self) -> None:
        waiters, self._waiters = self._waiters, []
        for waiter in waiters:
            waiter.succeed(None)

    def left(self) -> None:
        """`Follower.left`: what it has not acknowledged it gets again when it is back."""
        self.deliveries.leave(self)

    def back(self) -> None:
        """`Follower.back`."""
        self.pump()

    def tick(self) -> None:
        """`Follower.tick`: it may have room again."""
        self.pump()

    def end(self) -> None:
        """`Acknowledged.end`."""
        super().end()
        self._costs.clear()
        self._newest.clear()
        self._room.give_back(self._room.taken)
        self._room.close()
        self._wake()


class LocalDeliveries(Acknowledged):
    """A function of this program, as a `Taker`: it acknowledges by returning, where that is asked for."""

    patient = True

    def __init__(self, subscriber: LocalSubscriber, table: TopicTable, desk: Desk) -> None:
        super().__init__(desk)
        self._subscriber = subscriber
        self._table = table

    def take(self, publication: Publication) -> None:
        """`Taker.take`."""
        options = self._table.of(tuple(publication.topic.split("/")))
        if not options.ack:
            self._subscriber.take(publication)
        elif len(self.deliveries) >= MOST_OPEN:
            self._subscriber.lose()
        else:
            self.add(Letter(publication, options))

    def gap(self, reason: str) -> None:
        """`Taker.gap`."""
        self._subscriber.gap(reason)

    def choose(self, letter: Letter) -> LocalDeliveries | None:
        """`Acknowledged.choose`: one after another, but for those that wait for another attempt."""
        busy = any(delivery.due == float("inf") for delivery in self.deliveries.held(self))
        return None if busy or self._subscriber.over else self

    def hand(self, letter: Letter, attempt: int, answer: Answer | None, *, now: float) -> None:
        """`Member.hand`."""
        self._subscriber.hand(letter.publication, attempt, answer)

    def settled(self, letter: Letter) -> None:
        """`Acknowledged.settled`: nobody else has to know."""
