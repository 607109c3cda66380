"""`ClientTopics`: what one client subscribes to, and leaves as its wills, over all its connections.

Decides what the node is told after each connection, and which subscription gets what comes. What becomes of it there is
`topic_feed` and `subscription`. Lives in the client's hub; the methods for programs may be called from anywhere. Wire
form: docs/PROTOCOL.md sections 2, 4 and 6.
"""

from __future__ import annotations

import logging
import random
from collections.abc import Callable, Iterable
from contextlib import suppress
from contextvars import Context
from functools import partial
from typing import TYPE_CHECKING, Any

import gevent
from gevent.pool import Pool

from webmesh.client_wills import ClientWills, WillWire
from webmesh.exceptions import (
    ConfigurationError, ConnectionClosed, HandlerFailed, NotFound, RemoteError, ReplyLost, RequestTimeout,
    TransportError, Unavailable, WebMeshError, error_from_wire,
)  # fmt: skip
from webmesh.messages import Position
from webmesh.options import Limits
from webmesh.processes import is_patched
from webmesh.protocol import envelope
from webmesh.retries import retry_delay
from webmesh.subscription import Subscription
from webmesh.topic_feed import TopicFeed
from webmesh.topic_requests import TopicRequests, call_path
from webmesh.websocket.hub import Completion, HubThread

if TYPE_CHECKING:
    from webmesh.message_queue import MessageQueue
    from webmesh.protocol.envelope import RequestId, TopicMessage
    from webmesh.subscription import Callback
    from webmesh.topic_requests import Ask, Link
    from webmesh.websocket.conversation import Conversation
    from webmesh.websocket.websocket_connection import WebSocketConnection

AT_ONCE = 32
"""Subscriptions that are told to a node at once after a reconnect; a node takes 256 requests of one connection."""

logger = logging.getLogger("webmesh.client")


class ClientTopics:
    """The topics of one client; the `TopicReceiver` of its connections.

    Args:
        link: The client's.
        ask: For what programs want of the node.
        seconds: For what nobody waits for.
        sessions: Whether the client has any.
        most_wills: See `ClientWills`.

    Attributes:
        counted: Deliveries of the present session that both sides count.
        wills: What `$hello` says of them.
        requests: What programs ask of the node besides.
    """

    def __init__(
        self,
        link: Link,
        ask: Ask,
        *,
        seconds: float,
        sessions: bool = True,
        most_wills: int = Limits.wills,
    ) -> None:
        self.home = link.home
        self.context = Context()
        self.executor = None if is_patched() else link.subscribers
        self.counted = 0
        self.wills = ClientWills(most_wills)
        self.requests = TopicRequests(link, ask, seconds)
        self._ask = ask
        self._connected = link.present
        self._seconds = seconds
        self._sessions = sessions
        self._conversation: Conversation | None = None
        self._subscriptions: dict[Subscription, None] = {}
        self._by_id: dict[RequestId, Subscription] = {}
        self._leaving: set[RequestId] = set()
        self._subscribing: set[_Subscribing] = set()
        self._jobs = Pool()

    # --------------------------------------------------------------- for programs

    def subscribe(
        self,
        request: dict[str, Any],
        since: Any,
        callback: Callback | None,
        queue: MessageQueue,
        timeout: float | None,
    ) -> Subscription:
        """Subscribe, and wait for the node's answer. *request* is what `$subscribe` says, but for *since*."""
        feed = partial(TopicFeed, fetch=self.requests.fetch, own=self.requests.own)
        subscription = Subscription(self, request, since, callback, queue, feed)
        self._ask(partial(self._say_subscribe, subscription), "$subscribe", timeout)
        return subscription

    def unsubscribe(self, subscription: Subscription) -> None:
        """End a subscription, here and, where it can be reached, at the node."""
        try:
            told = self.home.run(self._forget, subscription)
        except WebMeshError:  # the client was never used, or has ended
            return
        if told is None:
            return
        try:
            if self._connected() is not None:  # otherwise its first delivery in a session that goes on ends it
                with suppress(TransportError, RequestTimeout, ReplyLost, RemoteError):
                    self._ask(partial(call_path, "$unsubscribe", {"sub": told}), "$unsubscribe", None, True)
        finally:
            self._leaving.discard(told)

    def set_will(self, will: WillWire) -> None:
        """Set a will: now, where there is a connection, and with each session that begins."""
        if not self._sessions:
            raise ConfigurationError("a will belongs to a session: this client was made with session=False")
        self.wills.set(will)
        self._tell_will(will)

    def revoke_will(self, will_id: str) -> None:
        """Remove one."""
        self._tell_will(self.wills.revoke(will_id))

    def _tell_will(self, will: WillWire) -> None:
        if self._connected() is None:
            return  # `$hello` says it, or `opened` does
        try:
            self._ask(partial(call_path, "$will", will), "$will", None, True)
        except (TransportError, RequestTimeout, ReplyLost):
            return  # likewise
        except Unavailable:
            raise  # its engine is away: it has it, and is told again by the next `$hello`
        except RemoteError:
            self.wills.refused(will)
            raise
        self.wills.told(will)

    # ------------------------------------------------------------- what has come

    def topic(self, message: TopicMessage, conversation: Conversation) -> None:
        """`TopicReceiver.topic`: a delivery."""
        if conversation is not self._conversation:
            return  # of a connection that was left; what is to be answered is delivered again
        if message.id is None and not message.loose:
            self.counted += 1
        found = [self._by_id[sub] for sub in message.subs or () if sub in self._by_id]
        if len(found) < len(message.subs or ()):
            self._leave_unknown(message.subs or ())
        acknowledge = None
        if message.id is not None:
            acknowledge = _Answer(self.home, conversation, message.id, len(found))
            if not found:
                acknowledge(NotFound("no such subscription"))
        own = message.event is None and self.requests.own.marks(message.headers)
        if own and message.offset is not None:
            self.requests.own.add(message.topic, str(message.epoch), message.offset)
        for subscription in found:
            if own and "group" not in subscription.request:  # of a group another member may have it
                if acknowledge is not None:
                    acknowledge(None)
                continue
            if message.event == "presence":
                subscription.change_presence(message.data)
            if message.event == "gap" and isinstance(message.data, dict) and message.data.get("ended") is True:
                self._ended(subscription, str(message.data.get("reason")))
                continue
            subscription.feed.take(message, acknowledge)

    def _ended(self, subscription: Subscription, code: str) -> None:
        """The node has ended it."""
        self._subscriptions.pop(subscription, None)
        self._by_id.pop(subscription.id, None)  # type: ignore[arg-type]  # it was found by that
        subscription.id = None
        subscription.end(error_from_wire({"code": code, "message": "the node has ended the subscription"}))

    def _leave_unknown(self, subs: Iterable[RequestId]) -> None:
        """The node knows of subscriptions that were given up before its answer came: end them."""
        if self._subscribing:
            return  # one of these may be meant; there will be further deliveries
        for sub in subs:
            if sub not in self._by_id and sub not in self._leaving:
                self._leaving.add(sub)
                self._jobs.spawn(self._end_unknown, sub)

    def _end_unknown(self, sub: RequestId) -> None:
        connection = self._connected()
        with suppress(WebMeshError):
            if connection is not None:
                connection.call("$unsubscribe", {"sub": sub}, timeout=self._seconds)
        self._leaving.discard(sub)

    # ------------------------------------------------------------- its connections

    def entered(self, conversation: Conversation, *, resumed: bool, epoch: str = "") -> None:
        """In the hub, before anything else is read: the node has greeted, or there is no greeting. *epoch*: of its
        topics, where they end with it."""
        self._conversation = conversation
        self.requests.memory = (conversation, epoch)
        self.wills.accepted(resumed=resumed)
        if not resumed:
            self.counted = 0
            self._by_id.clear()
            self._leaving.clear()
            for subscription in self._subscriptions:
                subscription.id = None

    def opened(self, connection: WebSocketConnection) -> None:
        """In the hub: the connection may be used."""
        if connection.conversation is not self._conversation:
            self.entered(connection.conversation, resumed=False)
        renewed = []
        for subscription in self._subscriptions:
            subscription.trouble(None)
            if subscription.id is None:
                renewed.append(subscription)
            else:
                subscription.feed.resumed()
        if renewed:
            self._jobs.spawn(self._renew, renewed, connection)
        if self.wills.untold():
            self._jobs.spawn(self._tell_wills)

    def gave_up(self, error: Callable[[], BaseException]) -> None:
        """In the hub: there will be no connection."""
        for subscription in self._subscriptions:
            subscription.trouble(error())

    def close(self, closer: object = None) -> None:
        """In the hub: the client ends. The callback that asked for it, in the greenlet *closer*, goes on."""
        self._jobs.kill(block=False)
        for subscription in tuple(self._subscriptions):
            subscription.end()
            subscription.kill(closer)
        self._subscriptions.clear()
        self._by_id.clear()

    def leave(self) -> None:
        """In a forked child: nothing goes on there."""
        self._jobs.kill(block=False)
        for subscription in self._subscriptions:
            subscription.feed.stop()
            subscription.kill()

    def _tell_wills(self) -> None:
        for will in self.wills.untold():
            try:
                self._tell_will(will)
            except RemoteError as error:
                logger.warning("will refused", extra={"will": will["id"], "error": str(error)})

    # ------------------------------------------------------- in the hub: subscribing

    def _renew(self, subscriptions: list[Subscription], connection: WebSocketConnection) -> None:
        pool = Pool(AT_ONCE)
        try:
            for subscription in subscriptions:
                pool.spawn(self._renew_one, subscription, connection)
            pool.join()
        finally:
            pool.kill(block=False)

    def _renew_one(self, subscription: Subscription, connection: WebSocketConnection) -> None:
        attempt = 0
        while connection.open and subscription.id is None and not subscription.over:
            attempt += 1
            asked = None
            try:
                self._say_subscribe(subscription, connection, self._seconds)
            except (TransportError, ReplyLost):
                return  # the next connection is told
            except RequestTimeout:
                pass
            except RemoteError as error:
                if not error.retryable:
                    self._subscriptions.pop(subscription, None)
                    subscription.end(error)
                    return
                asked = error.retry_after
            else:
                return
            gevent.sleep(retry_delay(asked, attempt, random.random))

    def _say_subscribe(self, subscription: Subscription, connection: WebSocketConnection, seconds: float) -> None:
        since = subscription.feed.position if subscription.begun else subscription.since
        payload = dict(subscription.request)
        if since is not None:
            payload["since"] = since._asdict() if isinstance(since, Position) else since
        answered = _Subscribing(self, subscription, since, connection.conversation)
        self._subscribing.add(answered)
        try:
            connection.start_call("$subscribe", payload, seconds, None, answered).result()
        finally:
            self._subscribing.discard(answered)

    def subscribed(
        self, subscription: Subscription, since: Any, conversation: Conversation, answer: dict[str, Any]
    ) -> None:
        """In the hub: the node has answered, and deliveries follow."""
        if subscription.over:
            return  # they end it
        self._subscriptions[subscription] = None
        if conversation is not self._conversation:
            connection = self._connected()
            if connection is not None:  # the client has moved on meanwhile
                self._jobs.spawn(self._renew_one, subscription, connection)
            return
        sub = answer.get("sub")
        if isinstance(sub, int | str):
            subscription.id = sub
            self._by_id[sub] = subscription
        first, subscription.begun = not subscription.begun, True
        if first:
            subscription.feed.began(answer, since)
        else:
            subscription.feed.began_anew(answer, since if isinstance(since, Position) else None)
        if "presence" in subscription.request:
            subscription.be_present(answer.get("presence"), tell=not first)

    def _forget(self, subscription: Subscription) -> RequestId | None:
        """Returns the id by which the node knows it."""
        self._subscriptions.pop(subscription, None)
        subscription.end()
        told, subscription.id = subscription.id, None
        if told is not None and self._by_id.pop(told, None) is not None:
            self._leaving.add(told)
            return told
        return None


class _Subscribing(Completion[Any]):
    """The answer to a `$subscribe`, acted on before anything that came behind it is read."""

    __slots__ = ("_conversation", "_since", "_subscription", "_topics")

    def __init__(
        self, topics: ClientTopics, subscription: Subscription, since: Any, conversation: Conversation
    ) -> None:
        super().__init__(topics.home.hub)
        self._topics = topics
        self._subscription = subscription
        self._since = since
        self._conversation = conversation

    def succeed(self, value: Any) -> None:
        """The reply."""
        if not self.done:
            answer = value if isinstance(value, dict) else {}
            self._topics.subscribed(self._subscription, self._since, self._conversation, answer)
        super().succeed(value)


class _Answer:
    """Acknowledges one delivery, when all subscriptions that it was for have handled it."""

    __slots__ = ("_conversation", "_error", "_home", "_id", "_left")

    def __init__(self, home: HubThread, conversation: Conversation, request_id: RequestId, subscriptions: int) -> None:
        self._home = home
        self._conversation = conversation
        self._id = request_id
        self._left = subscriptions
        self._error: Exception | None = None

    def __call__(self, error: Exception | None) -> None:
        with suppress(ConnectionClosed):  # the client has ended
            self._home.post(self._count, error)

    def _count(self, error: Exception | None) -> None:
        """In the hub."""
        self._left -= 1
        self._error = self._error or error
        if self._left > 0:
            return
        if self._error is None:
            self._conversation.say(envelope.reply(self._id, None))
            return
        told = self._error if isinstance(self._error, RemoteError) else HandlerFailed("the subscriber rejected it")
        self._conversation.say(envelope.error(self._id, told.to_wire()))
