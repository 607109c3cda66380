"""`TopicClient`: what a client offers of topics to its program. For users: docs/TOPICS.md."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING, Any, Literal

from webmesh.call import check_callable
from webmesh.client_wills import will_wire
from webmesh.exceptions import ConfigurationError
from webmesh.message_queue import MessageQueue, Overflow
from webmesh.messages import HistoryPage, Position, Published
from webmesh.protocol.publication import option_headers
from webmesh.protocol.subscribe_request import check_group
from webmesh.protocol.topics import is_topic, read_topic, read_topic_pattern

if TYPE_CHECKING:
    from webmesh.client_topics import ClientTopics
    from webmesh.subscription import Callback, Subscription

QUEUE = 1024
"""Messages that wait for a slow subscriber of this program, unless it says another number: some 500 KiB."""

Since = Literal["last"] | float | Position | None
"""From where the past is asked for: the newest one, the last so many seconds, or what came after a position."""


class TopicClient:
    """A base of `WebMeshClient`, which fills it."""

    _topics: ClientTopics

    def subscribe(
        self,
        pattern: str,
        callback: Callback | None = None,
        *,
        group: str | None = None,
        since: Since = None,
        presence: bool = False,
        announce: str | tuple[str, Any] | None = None,
        queue: int = QUEUE,
        overflow: Overflow = "drop_oldest",
        timeout: float | None = None,
    ) -> Subscription:
        """Subscribe to a topic, or to all that match a pattern: `*` stands for one segment, `**` at the end for more.

        Comes back when the node has answered. From then on nothing is missed without a word: after a reconnect the past
        is fetched where the topic has history, and a message with the event "gap" tells of what is lost.

        Args:
            callback: Called with `(payload, topic, message)`, for one message after another, never in the connection's
                own greenlet: it may block. None: iterate over the subscription.
            group: Each message goes to one subscriber of the group of this name only.
            since: Where the past begins; a `Position` needs a topic.
            presence: Tell who is on the topic, in `Subscription.state`, and by messages with the event "presence".
            announce: Be present on the topic by this key; or by a key and what to say of oneself.
            queue: Messages that may wait for the callback or the loop.
            overflow: What happens beyond it: "drop_oldest", "drop_newest", or "close" ends the subscription. Of topics
                with history nothing is dropped: what has no room is fetched later.
            timeout: Seconds for the answer, the connection included; `None` takes `Timeouts.request`.

        Raises:
            BadPattern, ConfigurationError: Something of it makes no sense.
            ConnectFailed, LinkRefused, RequestTimeout: The node could not be reached in time.
            RemoteError: It refuses, as with `permission_denied`.
        """
        if callback is not None:
            check_callable("subscribe", callback)
        pattern = "/".join(read_topic_pattern(pattern))
        if not is_topic(pattern) and (presence or announce is not None or isinstance(since, Position)):
            raise ConfigurationError(f"presence, announce and a position need a topic: {pattern!r} is a pattern")
        request: dict[str, Any] = {"pattern": pattern}
        if group is not None:
            request["group"] = check_group(group)
        if presence:
            request["presence"] = True
        if announce is not None:
            key, meta = (announce, None) if isinstance(announce, str) else announce
            request["announce"] = {"key": key, "meta": meta}
        waiting = MessageQueue(queue, overflow, pattern)
        return self._topics.subscribe(request, _checked_since(since), callback, waiting, timeout)

    def publish(
        self,
        topic: str,
        payload: Any = None,
        *,
        ttl: float | None = None,
        dedupe_id: str | None = None,
        conflate_key: str | None = None,
        key: str | None = None,
        exclude_self: bool = False,
        headers: Mapping[str, str] | None = None,
        confirm: bool = True,
        timeout: float | None = None,
        fail_fast: bool | None = None,
    ) -> Published | None:
        """Publish on a topic. Middleware of this client does not see it: that is for calls.

        Args:
            ttl: Seconds after which nobody gets it any more.
            dedupe_id: At most 256 characters: what was published with the same one before is not published again.
            conflate_key: Of messages with the same one that wait for a slow subscriber only the newest is delivered.
            key: Messages of one key stay in order within a group.
            exclude_self: Not to subscriptions of this client.
            headers: Text to text, for subscribers.
            confirm: Wait until the topic's engine has accepted it; sent again where the answer is lost, and published
                once all the same, or `PublishDoubtful` is raised. False: at most once, and `None` is returned as soon
                as it is on its way.
            timeout: Seconds for all of it, the connection included; `None` takes `Timeouts.request`.
            fail_fast: True raises at once when there is no connection; `None` takes what the client was given.

        Returns:
            Its number, where the topic has history, and how many subscribers it reached on the node.

        Raises:
            BadPattern: It is no topic.
            ReplyLost, RequestTimeout: Nobody knows whether it was published.
            PublishDoubtful: Nobody does, and who might remember it, its node with `memory://`, has gone.
            ConnectFailed, LinkRefused: It was not.
            RemoteError: The node refuses it, or its engine cannot be reached.
            EncodeError: The payload cannot be sent.
        """
        made = option_headers(
            headers, ttl=ttl, dedupe_id=dedupe_id, conflate_key=conflate_key, key=key, exclude_self=exclude_self
        )
        return self._topics.requests.publish(
            "/".join(read_topic(topic)), payload, made,
            own=exclude_self, confirm=confirm, timeout=timeout, fail_fast=fail_fast,
        )  # fmt: skip

    def history(
        self,
        topic: str,
        *,
        limit: int | None = None,
        since: Since = None,
        reverse: bool = False,
        timeout: float | None = None,
    ) -> HistoryPage:
        """What is kept of a topic.

        Args:
            limit: So many at most; a node may give less at a time.
            since: What came after it.
            reverse: The newest first.

        Raises:
            RemoteError: The topic has no history, or is not for this client.
        """
        asked: dict[str, Any] = {} if limit is None else {"limit": limit}
        begin = _checked_since(since)
        if begin is not None:
            asked["since"] = begin._asdict() if isinstance(begin, Position) else begin
        if reverse:
            asked["reverse"] = True
        return self._topics.requests.history("/".join(read_topic(topic)), asked, timeout)

    def presence(self, topic: str, *, timeout: float | None = None) -> dict[str, list[Any]]:
        """Who is present on a topic: keys, with one meta for each connection."""
        return self._topics.requests.presence("/".join(read_topic(topic)), timeout)

    def presence_counts(self, topic: str, *, timeout: float | None = None) -> tuple[int, int]:
        """How many keys are present on a topic, and how many connections."""
        return self._topics.requests.presence_counts("/".join(read_topic(topic)), timeout)

    def set_will(
        self,
        topic: str,
        payload: Any = None,
        *,
        id: str = "will",
        on: Collection[str] | None = ("lost", "timeout", "kicked"),
        delay: float = 0.0,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        """Have the node publish this when it loses this client; not when that closes, unless *on* has "goodbye".

        May be called before there is a connection: each session begins with the wills that are set.

        Args:
            id: Names it; a later one with the same id takes its place.
            on: For which ends: "lost" (without a word), "timeout" (the session is over), "kicked", "goodbye".
            delay: Seconds in which a client that comes back keeps it from being published.
            headers: As of `publish`.

        Raises:
            BadPattern, ConfigurationError: Something of it makes no sense, there are `Limits.wills` others already, or
                the client has no session.
            Unavailable: The node's engine cannot be reached; the will is set, and kept as soon as it can.
            RemoteError: The node refuses it; a former one with the same id stays set.
        """
        self._topics.set_will(will_wire(topic, payload, id, on, delay, headers))

    def revoke_will(self, id: str = "will") -> None:
        """Nothing is published for this one any more; does nothing where there is none."""
        self._topics.revoke_will(id)


def _checked_since(since: Any) -> Position | str | float | None:
    if since is None or since == "last":
        return since  # type: ignore[no-any-return]
    if isinstance(since, tuple) and len(since) == 2:
        offset, epoch = since
        if type(offset) is int and offset >= 0 and isinstance(epoch, str):
            return Position(offset, epoch)
    elif isinstance(since, int | float) and not isinstance(since, bool) and 0 < since < float("inf"):
        return float(since)
    raise ConfigurationError(f'since is a Position, "last", or a number of seconds, not {since!r}')
