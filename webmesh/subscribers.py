"""Who subscribes to what on one node.

Decides the ids of subscriptions and which of them a topic reaches. Equal patterns have equal ids, so that thousands
of peers get the same bytes. What is sent to whom, and how, is `pubsub`'s business. Lives in the node's hub.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import TYPE_CHECKING, Any, Protocol

from webmesh.brokers.base import Broker
from webmesh.protocol.topic_trie import TopicTrie

if TYPE_CHECKING:
    from webmesh.peer_subscriber import PeerSubscriber
    from webmesh.protocol.publication import Publication

Segments = tuple[str, ...]


class Taker(Protocol):
    """Who takes publications as objects: a function of this program, or a subscription that has yet to catch up."""

    def take(self, publication: Publication) -> None:
        """A publication; must not switch."""

    def gap(self, reason: str) -> None:
        """Publications may have been missed; must not switch."""


class PatternEntry:
    """One pattern that somebody subscribes to.

    Attributes:
        ids: The ids of its subscriptions: all first ones of a subscriber have the first, and so on.
        peers: The live subscriptions of peers, by the form in which they get publications.
        takers: Who else gets them.
        places: How often it is subscribed to, in any way; with the last it goes.
    """

    __slots__ = ("ids", "peers", "pattern", "places", "takers")

    def __init__(self, pattern: Segments) -> None:
        self.pattern = pattern
        self.ids: list[int] = []
        self.peers: dict[tuple[Any, int], dict[PeerSubscriber, None]] = {}
        self.takers: dict[Taker, None] = {}
        self.places = 0

    @property
    def count(self) -> int:
        """Plain subscriptions that a publication reaches here."""
        return sum(map(len, self.peers.values())) + len(self.takers)


class Subscribers:
    """All plain subscriptions of a node.

    Args:
        broker: Told of patterns that anybody wants.
    """

    def __init__(self, broker: Broker) -> None:
        self._broker = broker
        self._entries: dict[Segments, PatternEntry] = {}
        self._trie: TopicTrie[PatternEntry] = TopicTrie()
        self._next_id = 1

    def __len__(self) -> int:
        return len(self._entries)

    def __iter__(self) -> Iterator[PatternEntry]:
        return iter(tuple(self._entries.values()))

    def match(self, topic: Segments) -> list[PatternEntry]:
        """The patterns that match, the most specific first."""
        return self._trie.match(topic)

    def enter(self, pattern: Segments) -> PatternEntry:
        """One subscription more of this pattern; `leave` ends it. May switch, as the engine is told of a new one.

        Raises:
            BrokerError: The engine cannot.
        """
        entry = self._entries.get(pattern)
        if entry is None:
            entry = self._entries[pattern] = PatternEntry(pattern)
            self._trie.add(pattern, entry)
        entry.places += 1
        wanted = False
        try:
            self._broker.want(pattern)
            wanted = True
        finally:
            if not wanted:
                self._forget(entry)
        return entry

    def leave(self, entry: PatternEntry) -> None:
        """One subscription less."""
        self._forget(entry)
        self._broker.unwant(entry.pattern)

    def _forget(self, entry: PatternEntry) -> None:
        entry.places -= 1
        if not entry.places:
            del self._entries[entry.pattern]
            self._trie.remove(entry.pattern, entry)

    def new_id(self) -> int:
        """An id that no subscription of this node has had."""
        self._next_id += 1
        return self._next_id - 1

    def id_for(self, entry: PatternEntry, taken: Collection[int]) -> int:
        """The first id of this pattern that is not among *taken*, which are its subscriber's own."""
        for number in entry.ids:
            if number not in taken:
                return number
        entry.ids.append(self.new_id())
        return entry.ids[-1]
