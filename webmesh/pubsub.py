"""`Topics`: publications and subscriptions of one node.

Composes: what engine keeps and carries publications, which options hold for a topic, who subscribes, and how it
reaches them. Nothing is decided here that one of these decides. Lives in the node's hub.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator
from heapq import heappush, heappushpop
from itertools import chain, islice
from typing import TYPE_CHECKING, Any

from webmesh.acknowledged import Desk
from webmesh.acknowledged_subscriber import PeerDeliveries
from webmesh.brokers.base import Broker, GroupName, History, Since, give_way_in
from webmesh.catch_up import MOST_WAITING, CatchUp
from webmesh.dead_letters import DeadLetters
from webmesh.deliverable import own_payload
from webmesh.exceptions import (
    BadPattern, BrokerError, Cancelled, ConfigurationError, InvalidArgument, Overloaded, RemoteError, Unavailable,
)  # fmt: skip
from webmesh.fan_out import FanOut
from webmesh.group_members import PeerMember
from webmesh.group_work import GroupWorks
from webmesh.lanes import Lanes
from webmesh.messages import Published
from webmesh.observer import Observer
from webmesh.options import Limits
from webmesh.peer_subscriber import PeerSubscriber, PeerSubscription, delivered
from webmesh.protocol import messages
from webmesh.protocol.retained import Room
from webmesh.protocol.subscribe_request import LAST, SinceOffset, SubscribeRequest
from webmesh.protocol.topics import read_topic
from webmesh.subscribers import PatternEntry, Subscribers, Taker
from webmesh.topic_access import TopicAccess
from webmesh.topic_options import Segments, TopicTable

if TYPE_CHECKING:
    from webmesh.node_presence import NodePresence
    from webmesh.protocol.publication import Publication
    from webmesh.websocket.websocket_connection import WebSocketConnection

logger = logging.getLogger("webmesh.topics")

MOST_COUNTED = 10_000
"""Of publications that a group has lost at a time: more are in the log."""


class Topics:
    """The topics of one node; its engine's `Sink`.

    Attributes:
        broker: The engine.
        table: Options by pattern.
        subscribers: All plain subscriptions.
        groups: All groups that have members here.
        desk: What deliveries that must be acknowledged need.
        up: Whether the engine can be reached.
        access: Who may do what.
        presence: Who is on which topic.
        on_behalf: What its connections publish by, in the program's handlers.
    """

    presence: NodePresence

    def __init__(
        self, broker: Broker, table: TopicTable, *, limits: Limits, observer: Observer, access: TopicAccess
    ) -> None:
        self.broker = broker
        self.table = table
        self.limits = limits
        self.observer = observer
        self.access = access
        self.subscribers = Subscribers(broker)
        self.up = False
        self._fan_out = FanOut(observer, self.letters)
        self._lanes = Lanes()
        self._dead = DeadLetters(self.publish, observer)
        self.desk = Desk(broker.clock, observer, self._dead.bury)
        self.groups = GroupWorks(broker, table, self.desk)
        self._peers: dict[PeerSubscriber, None] = {}
        self.on_behalf = OnBehalf(self)

    def connect(self) -> None:
        """Connect to the engine.

        Raises:
            BrokerError: It cannot be used.
        """
        self.broker.start(self)
        self.up = True

    def stop(self) -> None:
        """Disconnect from it."""
        self.up = False
        self._dead.stop()
        self.groups.end()
        self.broker.stop()

    # --------------------------------------------------------------- publications

    def publish(self, publication: Publication) -> Published:
        """Publish; comes back when the engine has it.

        Raises:
            InvalidArgument: The topic is none.
            Unavailable: The engine cannot be reached; nothing was published.
            RemoteError: It refuses.
        """
        segments = topic_segments(publication.topic)
        publication.topic = "/".join(segments)  # in the one form that everything compares
        options = self.table.of(segments)
        try:
            if self.broker.immediate:
                accepted = self.broker.publish(publication, options.keep)
            else:  # or one publication could overtake another one of the same publisher
                with self._lanes.turn(publication.publisher):
                    accepted = self.broker.publish(publication, options.keep)
        except BrokerError as error:
            raise unavailable(error) from error
        self._fan_out.wait_room()
        receivers = 0 if accepted.duplicate else self._reach(segments)
        self.observer.published(receivers)
        return Published(accepted.offset, accepted.epoch, receivers, accepted.duplicate)

    def _reach(self, segments: Segments) -> int:
        return sum(entry.count for entry in self.subscribers.match(segments)) + self.groups.count(segments)

    def deliver(self, publication: Publication) -> None:
        """`Sink.deliver`; an engine elsewhere reads on when there is room."""
        segments = tuple(publication.topic.split("/"))
        entries = self.subscribers.match(segments)
        if entries:
            self._fan_out.send(publication, self.table.of(segments), entries)
            if not self.broker.immediate:
                self._fan_out.wait_room()

    def work(self, group: GroupName, publication: Publication, token: Any) -> None:
        """`Sink.work`."""
        self.groups.work(group, publication, token)

    def lost(self, group: GroupName, count: int) -> None:
        """`Sink.lost`: its members here are told."""
        logger.warning("a group has lost publications", extra={"group": group.label, "lost": count})
        for _ in range(min(count, MOST_COUNTED)):
            self.observer.refused("group", "not taken")
        self.groups.lost(group, count)

    def gap(self, reason: str) -> None:
        """`Sink.gap`: every subscriber is told; where there are none, nobody has missed anything."""
        if self.subscribers or self.groups:
            self.observer.refused("engine", "gap")
            logger.warning("publications may have been missed", extra={"reason": reason})
        for entry in self.subscribers:
            for (_, sub), peers in entry.peers.items():
                for peer in tuple(peers):
                    peer.send(messages.pattern_gap(entry.pattern, reason, [sub]))
            for taker in tuple(entry.takers):
                taker.gap(reason)
        self.groups.gap(reason)

    def health(self, up: bool, reason: str) -> None:
        """`Sink.health`."""
        self.up = up
        if up:
            logger.warning("the engine can be reached again", extra={"reason": reason})
        else:
            logger.error("the engine cannot be reached", extra={"reason": reason})

    # -------------------------------------------------------------- subscriptions

    def peer(self, connection: WebSocketConnection) -> PeerSubscriber:
        """Who subscribes by *connection*: its session, or itself where it has none."""
        session = connection.session
        owner: Any = connection if session is None or session.over else session  # after a goodbye: itself, to its end
        if owner.subscriber is None:
            if not connection.open:
                raise Cancelled("the connection has ended")
            room = None if owner is connection else owner.room
            peer = owner.subscriber = PeerSubscriber(connection.conversation, owner, room, self.desk)
            peer.judged = connection.identity
            self._peers[peer] = None
            if owner is not connection:
                owner.on_end.append(lambda reason: self.end(peer))
        subscriber: PeerSubscriber = owner.subscriber
        return subscriber

    def closed(self, connection: WebSocketConnection) -> None:
        """A connection has ended; what its session subscribes to lives on."""
        if connection.subscriber is not None:
            self.end(connection.subscriber)

    def subscribe(self, peer: PeerSubscriber, request: SubscribeRequest) -> tuple[PeerSubscription, CatchUp]:
        """Begin a subscription; what is published from now on waits until the `CatchUp` has run.

        Raises:
            RemoteError: The engine cannot, or the peer has as many as it may.
        """
        self._check_place(peer)
        entry = self._enter(request.pattern)
        if peer.over:  # it has gone while the engine was told
            self.subscribers.leave(entry)
            raise Cancelled("the subscriber has gone")
        subscription = PeerSubscription(entry, self.subscribers.id_for(entry, peer.subscriptions.keys()))
        peer.subscriptions[subscription.id] = subscription
        catch_up = subscription.catching_up = CatchUp(
            peer, subscription, self.observer, now=self.broker.clock, acknowledged=self._send_acknowledged
        )
        entry.takers[catch_up] = None
        return subscription, catch_up

    def letters(self, peer: PeerSubscriber) -> PeerDeliveries:
        """What a peer has to acknowledge."""
        if peer.letters is None:
            common = peer.owner.room.common if peer.kept is not None else None
            room = Room(self.limits.send_queue, common)
            letters = peer.letters = PeerDeliveries(peer, self.desk, room)
            room.cut = letters.cut
            peer.follow(peer.letters)
        return peer.letters

    def _send_acknowledged(self, peer: PeerSubscriber, publication: Publication, subs: list[int]) -> bool:
        options = self.table.of(tuple(publication.topic.split("/")))
        if options.ack:
            letters = self.letters(peer)
            letters.wait_room()
            letters.put(publication, options, subs, len(peer.serializer.serialize(delivered(publication, subs))))
        return options.ack

    def _check_place(self, peer: PeerSubscriber) -> None:
        if len(peer.subscriptions) >= self.limits.subscriptions:
            self.observer.refused("subscription", "too many")
            raise Overloaded(f"{len(peer.subscriptions)} subscriptions, the limit")

    def join(self, peer: PeerSubscriber, request: SubscribeRequest) -> PeerMember:
        """Begin a subscription in a group; it gets work once `PeerMember.begin` is called.

        Raises:
            RemoteError: The engine cannot, or the peer has as many as it may.
        """
        assert request.group is not None
        self._check_place(peer)
        work = self.groups.of(request.pattern, request.group)
        member = PeerMember(peer, work, self.subscribers.new_id())
        peer.subscriptions[member.id] = member
        peer.follow(member)
        work.join(member)
        joined = False
        try:
            self.groups.settle(work)
            joined = True
        except BrokerError as error:
            raise unavailable(error) from error
        finally:
            if not joined:
                self.unsubscribe(peer, member.id)
        return member

    def group_names(self) -> list[GroupName]:
        """The durable groups of all nodes.

        Raises:
            Unavailable: The engine cannot be reached.
        """
        try:
            return self.broker.groups()
        except BrokerError as error:
            raise unavailable(error) from error

    def drop_group(self, name: GroupName) -> int:
        """End a durable group; returns how much it had to do.

        Raises:
            NotFound: There is none.
            FailedPrecondition: It has members.
            Unavailable: The engine cannot be reached.
        """
        try:
            return self.groups.drop(name)
        except BrokerError as error:
            raise unavailable(error) from error

    def attach(self, pattern: Segments, taker: Taker) -> PatternEntry:
        """Let a function of this program have what is published; `detach` ends it."""
        entry = self._enter(pattern)
        entry.takers[taker] = None
        return entry

    def detach(self, entry: PatternEntry, taker: Taker) -> None:
        """No longer."""
        if entry.takers.pop(taker, 0) is None:
            self.subscribers.leave(entry)

    def _enter(self, pattern: Segments) -> PatternEntry:
        try:
            return self.subscribers.enter(pattern)
        except BrokerError as error:
            raise unavailable(error) from error

    def unsubscribe(self, peer: PeerSubscriber, sub: int) -> bool:
        """End a subscription; False when the peer has none of this id."""
        subscription = peer.subscriptions.pop(sub, None)
        if subscription is None:
            return False
        if isinstance(subscription, PeerMember):
            peer.unfollow(subscription)
            subscription.work.leave(subscription)
        else:
            self._end_plain(peer, subscription)
        return True

    def _end_plain(self, peer: PeerSubscriber, subscription: PeerSubscription) -> None:
        if subscription.seat is not None:
            subscription.seat.leave()
        if subscription.catching_up is not None:
            subscription.catching_up.stop()
        if peer.letters is not None:
            peer.letters.unsubscribed(subscription.id)
        form = (peer.serializer, subscription.id)
        live = subscription.entry.peers.get(form)
        if live is not None:
            live.pop(peer, None)
            if not live:
                del subscription.entry.peers[form]
        self.subscribers.leave(subscription.entry)

    def end(self, peer: PeerSubscriber) -> None:
        """A peer has gone for good."""
        if self._peers.pop(peer, 0) is None:
            if peer.letters is not None:
                peer.letters.end()  # first: each subscription's end would look through all that waits
            for sub in tuple(peer.subscriptions):
                self.unsubscribe(peer, sub)
            peer.end()

    def tick(self, now: float, late: float = 0.0) -> None:
        """Called about once a second; see `PeerSubscriber.tick`."""
        for peer in tuple(self._peers):
            peer.tick()
        self.groups.tick()

    # -------------------------------------------------------------------- the past

    def past(self, request: SubscribeRequest) -> tuple[dict[str, Any], Iterable[Publication]]:
        """What a new subscriber is told of the past, and what is replayed to it.

        Raises:
            Unavailable: The engine cannot be reached.
        """
        try:
            return self._past(request)
        except BrokerError as error:
            raise unavailable(error) from error

    def _past(self, request: SubscribeRequest) -> tuple[dict[str, Any], Iterable[Publication]]:
        topic, since = request.topic, request.since
        told: dict[str, Any] = {}
        if topic is None and since is not None:
            return told, self._past_of_pattern(request.pattern, since)
        if topic is None or not self.table.of(request.pattern).keep.numbered:
            if isinstance(since, SinceOffset):
                told["recovered"] = False
            return told, self._retained(request.pattern)
        if isinstance(since, SinceOffset):
            history = self.broker.history(topic, Since(offset=since.offset, epoch=since.epoch))
            told["recovered"] = history.complete
        elif isinstance(since, float):
            history = self.broker.history(topic, Since(seconds=since))
        else:
            history = self.broker.history(topic, Since(), most=1, reverse=True)
        told["offset"], told["epoch"] = history.offset, history.epoch
        if since is not None:
            return told, history.items if since != LAST else history.items[:1]
        return told, self._retained(request.pattern)

    def _retained(self, pattern: Segments) -> Iterator[Publication]:
        """The first is read now: that the engine cannot be reached is told with the answer."""
        values = self.broker.retained(pattern)
        return chain(list(islice(values, 1)), values)

    def _past_of_pattern(self, pattern: Segments, since: Any) -> list[Publication]:
        """The newest of each topic, or all of the last seconds, in the order in which they were published."""
        asked = Since() if since == LAST else Since(seconds=since)
        most, reverse = (1, True) if since == LAST else (None, False)
        topics = dict.fromkeys(self.broker.topics(pattern))
        logs = (self.broker.history(topic, asked, most=most, reverse=reverse).items for topic in give_way_in(topics))
        values = (one for one in self.broker.retained(pattern) if one.topic not in topics)
        return newest_of(chain(chain.from_iterable(logs), values), MOST_WAITING)

    def history(self, topic: str, since: Since, most: int, reverse: bool) -> History:
        """What is kept of a topic.

        Raises:
            InvalidArgument: It is no topic, or nothing is kept of it.
            Unavailable: The engine cannot be reached.
        """
        if not self.table.of(topic_segments(topic)).keep.numbered:
            raise InvalidArgument("this topic is kept without history")
        try:
            return self.broker.history(topic, since, most=most, reverse=reverse)
        except BrokerError as error:
            raise unavailable(error) from error


def newest_of(publications: Iterable[Publication], most: int) -> list[Publication]:
    """At most so many, in the order in which they were published."""
    found: list[tuple[float, int, Publication]] = []
    for number, one in enumerate(publications):
        (heappush if len(found) < most else heappushpop)(found, (one.at, number, one))
    return [one for _, _, one in sorted(found)]


class OnBehalf:
    """Publishes for the program as one of its peers, which is asked no rule; see `TopicConnection.publish`."""

    def __init__(self, topics: Topics) -> None:
        self._topics = topics

    def publish(self, publication: Publication, connection: WebSocketConnection) -> Published:
        """As `Topics.publish`; `exclude_self` leaves out the peer of *connection*."""
        publication.publisher = self._topics.peer(connection).name
        publication.payload = own_payload(publication.payload, publication.headers, self._topics.limits)
        return self._topics.publish(publication)


def topic_segments(topic: str) -> Segments:
    """The segments of a topic that somebody names.

    Raises:
        InvalidArgument: It is none.
    """
    try:
        return read_topic(topic)
    except (BadPattern, ConfigurationError) as error:
        raise InvalidArgument(str(error)) from error


def unavailable(error: BrokerError) -> RemoteError:
    """What a peer is told when the engine cannot: come again."""
    return Unavailable(f"the engine of the topics cannot be reached: {error}"[:200], retry_after=1.0)
