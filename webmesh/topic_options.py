"""What a program says of its topics: how each is kept, and how it is delivered.

Decides which options hold for a topic: those of the most specific pattern that matches it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

from webmesh.brokers.base import Keep
from webmesh.exceptions import BadPattern, ConfigurationError
from webmesh.protocol.deliveries import Redelivery
from webmesh.protocol.topic_trie import TopicTrie
from webmesh.protocol.topics import read_topic, read_topic_pattern
from webmesh.topic_access import check_rule
from webmesh.websocket.outgoing import Policy, checked_policy

Segments = tuple[str, ...]


HISTORY_BYTES = 64 * 1024 * 1024
"""Bytes that are kept of a topic's history unless the program says otherwise."""


@dataclass(frozen=True, slots=True)
class TopicOptions:
    """How the topics of one pattern are kept and delivered.

    Attributes:
        history: Publications that stay readable, each with an offset; 0 for none.
        history_bytes: Bytes of payloads and headers that stay readable of each topic, the oldest going first, and the
            newest never; `None` for no bound. 64 MiB are 64 publications of the largest size (`Limits.message_size`).
            Without effect on NATS, which counts no bytes of a topic: see docs/BROKERS.md.
        ttl: Seconds that they stay; `None` for as long as there is room. A publication's own ttl holds besides.
        retain: Whether new subscribers get the newest publication at once.
        ack: Whether each delivery is repeated until its subscriber has acknowledged it.
        presence: Whether subscribers may announce themselves, and others see them.
        slow_peer: What happens to a subscriber whose queue is full: "close" cuts it off with 4008, after which it may
            come back and recover; "drop_oldest" and "drop_newest" leave publications out, and tell it so.
        redelivery: When what nobody acknowledges comes again, and how often.
        dead_letter: The topic that gets what was tried often enough; `None` only counts and logs it.
        window: Deliveries that one subscriber may have without having acknowledged them.
        groups: Durable groups that may get publications of these topics; subscribers may name as many as they like.
        group_ttl: Seconds that such a group lasts without members; `None` for ever.
        publish, subscribe: Who may; as `RouteOptions.requires`. `None` takes the server's default.
    """

    history: int = 0
    history_bytes: int | None = HISTORY_BYTES
    ttl: float | None = None
    retain: bool = False
    ack: bool = False
    presence: bool = False
    slow_peer: Policy = "close"
    redelivery: Redelivery = Redelivery()
    dead_letter: str | None = None
    window: int = 64
    groups: int = 100
    group_ttl: float | None = 86400.0
    publish: Any = None
    subscribe: Any = None
    keep: Keep = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if type(self.history) is not int or self.history < 0:
            raise ConfigurationError(f"history must be a number of publications, not {self.history!r}")
        if self.history_bytes is not None and (type(self.history_bytes) is not int or self.history_bytes < 1):
            raise ConfigurationError(f"history_bytes must be a number of bytes or None, not {self.history_bytes!r}")
        if self.ttl is not None and not self.ttl > 0:
            raise ConfigurationError(f"ttl must be more than 0 seconds, not {self.ttl!r}")
        if type(self.window) is not int or self.window < 1:
            raise ConfigurationError(f"window must be at least 1 delivery, not {self.window!r}")
        if type(self.groups) is not int or self.groups < 0:
            raise ConfigurationError(f"groups must be a number of groups, not {self.groups!r}")
        if self.group_ttl is not None and not (type(self.group_ttl) in (int, float) and 0 < self.group_ttl < math.inf):
            raise ConfigurationError(f"group_ttl must be a finite time of more than 0 seconds, not {self.group_ttl!r}")
        if type(self.ack) is not bool:
            raise ConfigurationError(f"ack must be True or False, not {self.ack!r}")
        if not isinstance(self.redelivery, Redelivery):
            raise ConfigurationError(f"redelivery must be a Redelivery, not {self.redelivery!r}")
        if checked_policy(self.slow_peer) == "wait":
            raise ConfigurationError("publications wait for nobody: slow_peer is close, drop_oldest or drop_newest")
        check_rule("publish", self.publish)
        check_rule("subscribe", self.subscribe)
        if self.dead_letter is not None:
            _check_topic(self.dead_letter)
        if self.dead_letter is not None and not self.ack:
            raise ConfigurationError("dead_letter is for topics with ack=True")
        keep = Keep(
            history=self.history, ttl=self.ttl, retain=self.retain, ack=self.ack, history_bytes=self.history_bytes
        )
        object.__setattr__(self, "keep", keep)


DEFAULT = TopicOptions()
"""For topics of which nobody has said anything: live only."""


class TopicTable:
    """The options of all topics of a node."""

    def __init__(self) -> None:
        self._options: dict[Segments, TopicOptions] = {}
        self._patterns: TopicTrie[Segments] = TopicTrie()

    def add(self, pattern: str, options: TopicOptions) -> None:
        """Say how the topics of *pattern* are kept.

        Raises:
            ConfigurationError: It is no pattern, or was said before.
        """
        try:
            segments = read_topic_pattern(pattern)
        except BadPattern as error:
            raise ConfigurationError(str(error)) from error
        if segments in self._options:
            raise ConfigurationError(f"topic({pattern!r}) was said before")
        self._options[segments] = options
        self._patterns.add(segments, segments)

    def of(self, topic: Segments) -> TopicOptions:
        """Those that hold for a topic."""
        found = self._patterns.match(topic)
        return self._options[found[0]] if found else DEFAULT

    def pattern_of(self, topic: Segments) -> Segments | None:
        """The pattern whose options hold for a topic; `None` where nothing was said."""
        found = self._patterns.match(topic)
        return found[0] if found else None

    def all(self) -> list[tuple[Segments, TopicOptions]]:
        """Every pattern with its options."""
        return list(self._options.items())


def _check_topic(topic: str) -> None:
    try:
        read_topic(topic)
    except BadPattern as error:
        raise ConfigurationError(f"dead_letter must be a topic: {error}") from error
