"""The protocol's paths for topics, and the publications of peers (docs/PROTOCOL.md sections 2 and 4)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from heapq import nsmallest
from operator import itemgetter
from typing import TYPE_CHECKING, Any

import gevent

from webmesh.brokers.base import Since
from webmesh.call import current_call
from webmesh.deliverable import check_deliverable
from webmesh.exceptions import EncodeError, InvalidArgument, RemoteError
from webmesh.messages import Published
from webmesh.node_presence import wire_counts
from webmesh.protocol import envelope
from webmesh.protocol.msgpack_body import written_size
from webmesh.protocol.publication import Publication, read_publication
from webmesh.protocol.subscribe_request import LAST, SinceOffset, read_since, read_subscribe

from webmesh.pubsub import Topics, topic_segments

if TYPE_CHECKING:
    from webmesh.group_members import PeerMember
    from webmesh.peer_subscriber import PeerSubscriber, PeerSubscription
    from webmesh.protocol.envelope import TopicMessage
    from webmesh.routing import Router
    from webmesh.topic_options import Segments
    from webmesh.websocket.conversation import Conversation
    from webmesh.websocket.websocket_connection import WebSocketConnection

HISTORY_PAGE = 1000
"""Publications in one answer to `$history`, at most; the peer asks on from the last one's offset."""
PAGE_PART = 4
"""The part of a message that they may fill, as msgpack: JSON may take twice as much."""

LISTED = 1000
"""Patterns in the answer to `$subscriptions`, at most; the peer asks on from the last one."""


class TopicRoutes:
    """What peers may ask of the topics of this node; a `roles.TopicReceiver`.

    Attributes:
        topics: Those of the run; set before it begins.
    """

    topics: Topics

    def __init__(self, router: Router) -> None:
        self._router = router

    def register(self) -> None:
        """Put them into the router; an engine that lets them wait lets others go on."""
        table = {
            "$subscribe": self.subscribe, "$unsubscribe": self.unsubscribe, "$history": self.history,
            "$subscriptions": self.subscriptions, "$presence": self.presence,
        }  # fmt: skip
        for path, handler in table.items():
            self._router.add(path, handler, reserved=True, blocking=False)

    def subscribe(self, payload: Any, path: str, client: WebSocketConnection) -> dict[str, Any]:
        """Begin a subscription: first the answer, then what is replayed, then what is live."""
        request = read_subscribe(payload)
        self._check(self.topics.access.check_subscribe, client, request.pattern)
        peer, identity = self.topics.peer(client), client.identity
        if request.group is not None:
            member = self.topics.join(peer, request)
            self._check_again(client, identity, peer, member)
            self._after_answer(client, member.begin)
            return {"sub": member.id}
        size = self.topics.presence.check(peer, request)
        subscription, catch_up = self.topics.subscribe(peer, request)
        ready = False
        try:
            told, replay = self.topics.past(request)
            catch_up.replay(replay, values=request.since is None or request.since == LAST)
            self._check_again(client, identity, peer, subscription)
            present = self.topics.presence.sit(peer, subscription, request, size)
            if present is not None:
                told["presence"] = present
            self._after_answer(client, catch_up.begin)
            ready = True
        finally:
            if not ready:
                self.topics.unsubscribe(peer, subscription.id)
        return {"sub": subscription.id} | told

    def _check_again(
        self, client: WebSocketConnection, before: Any, peer: PeerSubscriber, new: PeerSubscription | PeerMember
    ) -> None:
        """Its rights may have changed while the engine was told: then *new* was not there yet to be looked at."""
        if client.identity is before:
            return
        try:
            self._check(self.topics.access.check_subscribe, client, new.pattern)
        except RemoteError:
            self.topics.unsubscribe(peer, new.id)
            raise

    def _after_answer(self, client: WebSocketConnection, act: Callable[[], object]) -> None:
        request_id = current_call().request_id
        if request_id is None:
            act()
        else:
            client.conversation.after_answer(request_id, act)

    def unsubscribe(self, payload: Any, path: str, client: WebSocketConnection) -> None:
        """End one; an id that there is not is no error, for it may have ended by itself."""
        sub = payload.get("sub") if isinstance(payload, dict) else None
        if type(sub) is not int:
            raise InvalidArgument("the data of $unsubscribe must be a map with the id of a subscription, sub")
        self.topics.unsubscribe(self.topics.peer(client), sub)

    def presence(self, payload: Any, path: str, client: WebSocketConnection) -> dict[str, Any]:
        """Who is on a topic, or only how many."""
        asked = payload if isinstance(payload, dict) else {}
        topic, counts = asked.get("topic"), asked.get("counts")
        if not isinstance(topic, str):
            raise InvalidArgument("the data of $presence must be a map with a topic")
        if counts is not None and type(counts) is not bool:
            raise InvalidArgument("counts must be a boolean")
        segments = topic_segments(topic)
        self._check(self.topics.access.check_subscribe, client, segments)
        if counts:
            return wire_counts(self.topics.presence.counts(segments))
        return self.topics.presence.state(segments)

    def history(self, payload: Any, path: str, client: WebSocketConnection) -> dict[str, Any]:
        """What is kept of a topic: the newest publications, or those after an offset."""
        asked = payload if isinstance(payload, dict) else {}
        topic, limit, reverse = asked.get("topic"), asked.get("limit"), asked.get("reverse")
        if not isinstance(topic, str):
            raise InvalidArgument("the data of $history must be a map with a topic")
        if limit is not None and (type(limit) is not int or limit < 0):
            raise InvalidArgument("limit must be a number of publications")
        if reverse is not None and type(reverse) is not bool:
            raise InvalidArgument("reverse must be a boolean")
        self._check(self.topics.access.check_subscribe, client, topic_segments(topic))
        most = HISTORY_PAGE if limit is None else min(limit, HISTORY_PAGE)
        since, reverse = read_since(asked.get("since")), reverse is True
        if since == LAST:
            since, most, reverse = None, min(most, 1), True
        history = self.topics.history(topic, _since(since), most, reverse)
        return {
            "items": _page(history.items, self.topics.limits.message_size // PAGE_PART),
            "offset": history.offset, "epoch": history.epoch, "complete": history.complete,
        }  # fmt: skip

    def subscriptions(self, payload: Any, path: str, client: WebSocketConnection) -> dict[str, Any]:
        """Which patterns are subscribed to on this node, and how often: those that the caller may subscribe to.

        They are in the order of pattern and group, so that the next page goes on where this one ended.
        """
        after, limit = _page_asked(payload)
        rows = (row for row in self._subscribed() if row[0] > after and self._allowed(client, row[1]))
        page = nsmallest(limit + 1, rows, key=itemgetter(0))
        more = len(page) > limit
        listed = [{"pattern": key[0], **row} for key, _, row in page[:limit]]
        answer: dict[str, Any] = {"patterns": listed, "more": more}
        if more:
            answer["next"] = list(page[limit - 1][0])
        return answer

    def _subscribed(self) -> Iterator[tuple[tuple[str, str], Segments, dict[str, Any]]]:
        """All of them, with what they are sorted by; lets others go on now and then."""
        for number, entry in enumerate(self.topics.subscribers):
            if number % LISTED == LISTED - 1:
                gevent.sleep(0)
            yield ("/".join(entry.pattern), ""), entry.pattern, {"subscriptions": entry.places}
        for work in self.topics.groups:
            pattern, name = work.name.pattern, work.name.name
            row = {"group": name, "subscriptions": len(work.members), "open": len(work.deliveries)}
            yield ("/".join(pattern), name), pattern, row

    def _allowed(self, client: WebSocketConnection, pattern: Segments) -> bool:
        try:
            self.topics.access.check_subscribe(client.identity, pattern)
        except RemoteError:
            return False
        return True

    def _check(
        self, check: Callable[[Any, Segments], None], client: WebSocketConnection, segments: Segments
    ) -> None:
        try:
            check(client.identity, segments)
        except RemoteError as error:
            self.topics.observer.refused("topic", error.code)
            raise

    # --------------------------------------------------------------- publications

    def topic(self, message: TopicMessage, conversation: Conversation) -> None:
        """`TopicReceiver.topic`: a peer publishes."""
        try:
            published = self.publish(message, conversation.connection)
        except RemoteError as error:
            self.topics.observer.refused("publication", error.code)
            if message.id is not None:
                conversation.say(envelope.error(message.id, error.to_wire()))
            return
        if message.id is not None:
            conversation.say(envelope.reply(message.id, wire_published(published)))

    def publish(self, message: TopicMessage, connection: WebSocketConnection) -> Published:
        """Publish what a peer has sent.

        Raises:
            RemoteError: What it is told of it.
        """
        if message.event is not None:
            raise InvalidArgument("an event is a node's to send")
        self._check(self.topics.access.check_publish, connection, topic_segments(message.topic))
        publisher = self.topics.peer(connection).name
        publication = read_publication(message.topic, message.data, message.headers, publisher=publisher, now=0.0)
        try:
            check_deliverable(publication, connection.conversation.serializer, self.topics.limits)
        except EncodeError as error:
            raise InvalidArgument(str(error)) from error
        return self.topics.publish(publication)


def wire_published(published: Published) -> dict[str, Any]:
    """What a publisher is told."""
    told: dict[str, Any] = {"receivers": published.receivers}
    if published.offset is not None:
        told["offset"], told["epoch"] = published.offset, published.epoch
    if published.duplicate:
        told["duplicate"] = True
    return told


def _since(since: SinceOffset | str | float | None) -> Since:
    if isinstance(since, SinceOffset):
        return Since(offset=since.offset, epoch=since.epoch)
    return Since() if since is None else Since(seconds=float(since))


def _page(publications: list[Publication], size: int) -> list[dict[str, Any]]:
    """As many as go into so many bytes, and one in any case."""
    items: list[dict[str, Any]] = []
    for publication in publications:
        item = _item(publication)
        size -= written_size(item)
        if size < 0 and items:
            break
        items.append(item)
    return items


def _item(publication: Publication) -> dict[str, Any]:
    item: dict[str, Any] = {"data": publication.payload, "offset": publication.offset}
    if publication.headers:
        item["headers"] = dict(publication.headers)
    return item


def _page_asked(payload: object) -> tuple[tuple[str, str], int]:
    """After which pattern and group the page begins, and how many it may have."""
    asked = payload if isinstance(payload, dict) else {}
    limit, after = asked.get("limit", LISTED), asked.get("after", ["", ""])
    if type(limit) is not int or limit < 1:
        raise InvalidArgument("limit must be a number of patterns")
    if not isinstance(after, list | tuple) or len(after) != 2 or not all(isinstance(text, str) for text in after):
        raise InvalidArgument("after must be a list of a pattern and a group, as next was")
    return (after[0], after[1]), min(limit, LISTED)
