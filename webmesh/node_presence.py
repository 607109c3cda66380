"""`NodePresence`: who is present on the topics of a node.

Decides who may announce what, and gives each subscriber its seat. When others are told is `topic_presence`'s business,
who is present on other nodes `presence_exchange`'s. Wire form: docs/PROTOCOL.md sections 2 and 4. Lives in the node's
hub.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from webmesh.exceptions import BrokerError, EncodeError, InvalidArgument, Overloaded, Unavailable
from webmesh.message_serializers import MessagePackSerializer, StandardJsonSerializer
from webmesh.node_lease import NodeLease
from webmesh.observer import Observer
from webmesh.options import Limits
from webmesh.presence_exchange import PresenceExchange
from webmesh.topic_options import Segments, TopicTable
from webmesh.topic_presence import Seat, TopicPresence

if TYPE_CHECKING:
    from webmesh.brokers.base import Broker
    from webmesh.peer_subscriber import PeerSubscriber, PeerSubscription
    from webmesh.protocol.presence import State
    from webmesh.protocol.subscribe_request import Announced, SubscribeRequest

ENTRY_SIZE = 16
"""Bytes that a member counts for besides its key and its meta."""


class NodePresence:
    """All presence of one node."""

    def __init__(
        self, broker: Broker, table: TopicTable, lease: NodeLease, *, limits: Limits, observer: Observer
    ) -> None:
        self._table = table
        self._limits = limits
        self._observer = observer
        self._node = lease.node
        self._topics: dict[str, TopicPresence] = {}
        self._announced: dict[PeerSubscriber, int] = {}
        self._exchange = PresenceExchange(broker, lease, self._topics)
        self._serializers = StandardJsonSerializer(limits), MessagePackSerializer(limits)

    def __len__(self) -> int:
        return len(self._topics)

    def check(self, peer: PeerSubscriber, request: SubscribeRequest) -> int:
        """Whether a subscriber may have what it asks for; the bytes that it takes.

        Raises:
            InvalidArgument: There is no presence on this topic, or the announcement is none.
            Overloaded: Too much is announced already.
        """
        if not request.presence and request.announce is None:
            return 0
        self._check_kept(request.pattern)
        if request.announce is None:
            return 0
        if self._announced.get(peer, 0) >= self._limits.announcements:
            raise self._full(f"this peer is present on {self._limits.announcements} topics, the limit")
        size = ENTRY_SIZE + len(request.announce.key.encode()) + self._meta_size(request.announce)
        self._check_room(request.topic, size)
        return size

    def _check_kept(self, topic: Segments) -> None:
        if not self._table.of(topic).presence:
            raise InvalidArgument("nobody is told who is on this topic: it is kept without presence")

    def _check_room(self, topic: str | None, size: int) -> None:
        known = self._topics.get(topic or "")
        if known is not None and known.size + size > self._limits.presence_size:
            raise self._full(f"{topic} has as many present as it may")

    def _full(self, text: str) -> Overloaded:
        self._observer.refused("presence", "too many")
        return Overloaded(text)

    def _meta_size(self, announce: Announced) -> int:
        """As JSON; it must be possible to tell it to subscribers who speak anything that is built in."""
        try:
            size = max(len(serializer.serialize(announce.meta)) for serializer in self._serializers)
        except EncodeError as error:
            raise InvalidArgument(f"the meta of announce cannot be told to everybody: {error}"[:200]) from error
        if size > self._limits.presence_meta:
            raise InvalidArgument(f"the meta of announce has at most {self._limits.presence_meta} bytes, not {size}")
        return size

    def sit(
        self, peer: PeerSubscriber, subscription: PeerSubscription, request: SubscribeRequest, size: int
    ) -> State | None:
        """Give a subscriber its seat; the state, where it asked for it. `Seat.begin` lets it have what comes after.

        Args:
            size: What `check` has returned.

        Raises:
            RemoteError: It was too much after all, or the engine cannot be reached.
        """
        topic = request.topic
        if topic is None or not (request.presence or request.announce is not None):
            return None
        if request.presence:
            self._refresh(topic)
        self._check_room(topic, size)
        if subscription.id not in peer.subscriptions:  # it has ended meanwhile
            return None
        known = self._of(topic)
        seat = subscription.seat = Seat(known, peer, subscription.id, self._leave)
        if request.announce is not None:
            self._announced[peer] = self._announced.get(peer, 0) + 1
            seat.member, seat.size = (self._node, f"{peer.name}.{subscription.id}"), size
            known.size += size
            known.come(seat.member, request.announce.key, request.announce.meta, local=True)
        return known.watch(seat) if request.presence else None

    def _leave(self, seat: Seat) -> None:
        known = seat.topic
        known.watchers.pop(seat, None)
        if seat.member is not None:
            left = self._announced.pop(seat.peer) - 1
            if left:
                self._announced[seat.peer] = left
            known.size -= seat.size
            known.go(seat.member, local=True)
        if known.idle:
            self._topics.pop(known.topic, None)

    def state(self, segments: Segments) -> State:
        """Who is present.

        Raises:
            InvalidArgument: There is no presence on this topic.
            Unavailable: The engine cannot be reached.
        """
        return self._asked(segments).members.state()

    def counts(self, segments: Segments) -> tuple[int, int]:
        """How many keys are present, and how many subscribers with them; raises as `state`."""
        members = self._asked(segments).members
        return members.keys, members.connections

    def _asked(self, segments: Segments) -> TopicPresence:
        self._check_kept(segments)
        topic = "/".join(segments)
        self._refresh(topic)
        known = self._of(topic)
        if known.idle:
            del self._topics[topic]
        return known

    def _of(self, topic: str) -> TopicPresence:
        known = self._topics.get(topic)
        if known is None:
            known = self._topics[topic] = TopicPresence(topic, self._observer, self._exchange.changed)
            self._exchange.fill(known)
        return known

    def _refresh(self, topic: str) -> None:
        try:
            self._exchange.refresh(topic)
        except BrokerError as error:
            raise Unavailable(f"the engine of the topics cannot be reached: {error}"[:200], retry_after=1.0) from error


def wire_counts(counts: tuple[int, int]) -> dict[str, Any]:
    """The answer to `$presence` with `counts`."""
    return {"keys": counts[0], "connections": counts[1]}
