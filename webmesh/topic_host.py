"""`TopicHost`: what a server offers of topics to its program."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, TypeVar

from webmesh.brokers.base import Broker, GroupName
from webmesh.brokers.opening import open_broker
from webmesh.call import check_callable
from webmesh.deliverable import own_payload
from webmesh.exceptions import BadPattern, ConfigurationError, InvalidArgument
from webmesh.local_subscriber import LocalSubscription
from webmesh.messages import Published
from webmesh.protocol.deliveries import Redelivery
from webmesh.protocol.publication import option_headers, read_publication
from webmesh.protocol.subscribe_request import check_group
from webmesh.protocol.topics import read_topic_pattern
from webmesh.pubsub import topic_segments
from webmesh.topic_options import HISTORY_BYTES, TopicOptions, TopicTable
from webmesh.topic_routes import TopicRoutes
from webmesh.websocket.outgoing import Policy

if TYPE_CHECKING:
    from webmesh.routing import Router
    from webmesh.server_parts import ServerParts
    from webmesh.serving import Serving

S = TypeVar("S", bound=Callable[..., object])


class TopicHost(ABC):
    """A node with topics.

    Attributes:
        topic_table: What was said of them.
        local_subscriptions: The program's own.
        broker: The engine.
    """

    def __init__(self, router: Router, broker: str | Broker) -> None:
        self.broker = open_broker(broker) if isinstance(broker, str) else broker
        self._topic_routes = TopicRoutes(router)
        self._topic_routes.register()
        self.topic_table = TopicTable()
        self.local_subscriptions: list[LocalSubscription] = []

    @abstractmethod
    def _check_registering(self, what: str) -> None:
        """Raise `ConfigurationError` when registration is over."""

    @property
    @abstractmethod
    def _begun(self) -> Serving:
        """The run; raises `LocalProtocolError` before it."""

    def _serve_topics(self, parts: ServerParts) -> None:
        """Answer for the topics of a run that begins."""
        self._topic_routes.topics = parts.topics
        parts.dispatcher.topics = self._topic_routes

    def topic(
        self,
        pattern: str,
        *,
        history: int = 0,
        history_bytes: int | None = HISTORY_BYTES,
        ttl: float | None = None,
        retain: bool = False,
        ack: bool = False,
        presence: bool = False,
        slow_peer: Policy = "close",
        redelivery: Redelivery = Redelivery(),
        dead_letter: str | None = None,
        window: int = 64,
        groups: int = 100,
        group_ttl: float | None = 86400.0,
        publish: Any = None,
        subscribe: Any = None,
    ) -> None:
        """Say how the topics of *pattern* are kept and delivered; of several patterns the most specific holds.

        Topics of which nothing is said are live only: whoever subscribes gets what is published from then on.

        Args:
            pattern: Segments; `*` stands for one, `**` as the last for one or more.

        The others are those of `TopicOptions`.

        Raises:
            ConfigurationError: It is no pattern, was said before, or the options make no sense; or serving has begun.
        """
        self._check_registering(f"topic({pattern!r})")
        options = TopicOptions(
            history=history, history_bytes=history_bytes, ttl=ttl, retain=retain, ack=ack, presence=presence,
            slow_peer=slow_peer, redelivery=redelivery, dead_letter=dead_letter, window=window, groups=groups,
            group_ttl=group_ttl, publish=publish, subscribe=subscribe,
        )  # fmt: skip
        self.topic_table.add(pattern, options)

    def subscribe(
        self, pattern: str, *, group: str | None = None, blocking: bool | None = None, queue: int = 1024
    ) -> Callable[[S], S]:
        """Register a function `(payload, topic, message)` for what is published on topics that match.

        It is called with one publication after another, in their order.

        Args:
            group: Each publication goes to one member of the group of this name only, wherever that is.
            blocking: As in `RouteOptions`.
            queue: Publications that may wait for it; beyond it the oldest are lost to it, and it is told by a message
                with the event "gap". What it must acknowledge, and what its group has to do, waits elsewhere.

        Raises:
            ConfigurationError: It is no pattern, no name of a group or no function, or serving has begun.
        """
        self._check_registering(f"subscribe({pattern!r})")
        try:
            read_topic_pattern(pattern)
        except BadPattern as error:
            raise ConfigurationError(str(error)) from error
        if group is not None:
            check_group(group)
        if type(queue) is not int or queue < 1:
            raise ConfigurationError(f"queue must be at least 1 publication, not {queue!r}")

        def register(handler: S) -> S:
            check_callable("subscribe", handler)
            self.local_subscriptions.append(LocalSubscription(pattern, handler, group, blocking, queue))
            return handler

        return register

    def presence(self, topic: str) -> dict[str, list[Any]]:
        """Who is on *topic*: key → one meta for each subscriber that has announced it. From any greenlet and thread.

        Raises:
            InvalidArgument: The topic is none, or is kept without presence.
            Unavailable: The engine cannot be reached.
            LocalProtocolError: The server has not started.
        """
        parts = self._begun.parts
        return parts.home.run(parts.topics.presence.state, topic_segments(topic))

    def presence_counts(self, topic: str) -> tuple[int, int]:
        """How many keys are on *topic*, and how many subscribers with them; cheap. Raises as `presence`."""
        parts = self._begun.parts
        return parts.home.run(parts.topics.presence.counts, topic_segments(topic))

    def groups(self) -> list[tuple[str, str]]:
        """Pattern and name of each durable group: those of topics with `ack`. From any greenlet and thread.

        Raises:
            Unavailable: The engine cannot be reached.
            LocalProtocolError: The server has not started.
        """
        parts = self._begun.parts
        return [("/".join(name.pattern), name.name) for name in parts.home.run(parts.topics.group_names)]

    def drop_group(self, pattern: str, group: str) -> int:
        """End a durable group without members, with what it has to do; returns how many publications that were.

        From any greenlet and thread.

        Raises:
            InvalidArgument: *pattern* is none.
            NotFound: There is no such group.
            FailedPrecondition: It has members.
            Unavailable: The engine cannot be reached.
            LocalProtocolError: The server has not started.
        """
        try:
            segments = read_topic_pattern(pattern)
        except (BadPattern, ConfigurationError) as error:
            raise InvalidArgument(str(error)) from error
        parts = self._begun.parts
        dropped: int = parts.home.run(parts.topics.drop_group, GroupName(segments, group))
        return dropped

    def publish(
        self,
        topic: str,
        payload: Any = None,
        *,
        ttl: float | None = None,
        dedupe_id: str | None = None,
        conflate_key: str | None = None,
        key: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Published:
        """Publish to all who subscribe to *topic*; comes back when the engine has it. From any greenlet and thread.

        Args:
            ttl: Seconds after which it is worthless: what still waits somewhere is dropped then.
            dedupe_id: At most 256 characters; another publication on the topic with the same one, within two minutes,
                is not published.
            conflate_key: While it waits for a slow subscriber, a newer one with the same key takes its place.
            key: For who subscribes: what the publication is about.
            headers: Text to text.

        Raises:
            InvalidArgument: The topic is none, or an option makes no sense.
            EncodeError: No message can carry the payload, or it is too large.
            Unavailable: The engine cannot be reached; nothing was published.
            Overloaded: A group that must acknowledge has too much to do already, or too many topics are kept.
            LocalProtocolError: The server has not started.
        """
        parts = self._begun.parts
        options = option_headers(headers, ttl=ttl, dedupe_id=dedupe_id, conflate_key=conflate_key, key=key)
        own = own_payload(payload, options, parts.limits)
        publication = read_publication(topic, own, options, publisher=None, now=0.0)
        return parts.home.run(parts.topics.publish, publication)
