"""Which nodes of a mesh want what is published where.

Each node tells all others which patterns it wants, and at which patterns there are groups: what is published there goes
by way of the leader. What they say has a bound: one that says more counts as wanting everything.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable

from webmesh.protocol.topic_trie import TopicTrie

NODE_SIZE = 64 * 2**20
"""Bytes, about, that the patterns of one node may take: some 100,000 of them. One that wants more counts as wanting
everything."""
WHOLE_SIZE = 256 * 2**20
"""The same for all nodes together."""
_SEGMENT_SIZE = 200
"""Bytes, about, that a segment takes, besides its text: a place in a trie."""

Pattern = tuple[str, ...]

logger = logging.getLogger("webmesh.broker")


class _Patterns:
    """Patterns by node, and what they take."""

    def __init__(self) -> None:
        self.trie: TopicTrie[str] = TopicTrie()
        self.of: dict[str, set[Pattern]] = {}
        self._sizes: dict[str, int] = {}
        self._whole = 0

    def change(self, node: str, add: Iterable[Pattern], remove: Iterable[Pattern] = ()) -> bool:
        """Whether there is room for that; without, there is nothing of the node here any more."""
        known = self.of.setdefault(node, set())
        for pattern in set(remove) & known:
            known.discard(pattern)
            self._count(node, -_size(pattern))
            self.trie.remove(pattern, node)
        for pattern in set(add) - known:
            known.add(pattern)
            self._count(node, _size(pattern))
            self.trie.add(pattern, node)
            if self._sizes[node] > NODE_SIZE or self._whole > WHOLE_SIZE:
                self.clear(node)
                return False
        return True

    def clear(self, node: str) -> None:
        for pattern in self.of.pop(node, ()):
            self.trie.remove(pattern, node)
        self._whole -= self._sizes.pop(node, 0)

    def _count(self, node: str, size: int) -> None:
        self._sizes[node] = self._sizes.get(node, 0) + size
        self._whole += size


class MeshInterest:
    """What other nodes want, as they have told it."""

    def __init__(self) -> None:
        self._wanted, self._grouped = _Patterns(), _Patterns()
        self._silent: set[str] = set()
        self._told_all: set[str] = set()
        self._greedy: set[str] = set()
        self._grouped_everywhere: set[str] = set()

    def expect(self, node: str) -> None:
        """There is a link to it, and it has yet to say all that it wants: until then it may want everything."""
        if node not in self._told_all:
            self._silent.add(node)

    def told(
        self, node: str, add: Iterable[Pattern], remove: Iterable[Pattern], *, all: bool, more: bool = False
    ) -> None:
        """A node wants more, or less.

        Args:
            all: Whether it wants nothing else than what it says now.
            more: Whether further patterns follow, of all that it wants: until then it may want everything.
        """
        if all:
            self._wanted.clear(node)
            self._greedy.discard(node)
            self._told_all.add(node)
        if more:
            self._silent.add(node)
        elif node in self._told_all:
            self._silent.discard(node)
        if node not in self._greedy and not self._wanted.change(node, add, remove):
            self._greedy.add(node)
            _warn(node, "patterns")

    def told_groups(self, node: str, patterns: Iterable[Pattern]) -> None:
        """A node knows of groups at these patterns, and of no others."""
        self._grouped.clear(node)
        self._grouped_everywhere.discard(node)
        if not self._grouped.change(node, patterns):
            self._grouped_everywhere.add(node)
            _warn(node, "patterns of groups")

    def grouped(self, segments: Pattern) -> bool:
        """Whether some group may have to do what is published on a topic."""
        return bool(self._silent or self._grouped_everywhere or self._grouped.trie.match(segments))

    def forget(self, node: str) -> None:
        """There is no link to it any more."""
        for nodes in (self._silent, self._told_all, self._greedy, self._grouped_everywhere):
            nodes.discard(node)
        self._wanted.clear(node)
        self._grouped.clear(node)

    def nodes(self, segments: Pattern) -> set[str]:
        """Those that want what is published on a topic, or may."""
        return self._silent | self._greedy | set(self._wanted.trie.match(segments))


def _size(pattern: Pattern) -> int:
    return _SEGMENT_SIZE * len(pattern) + sum(map(len, pattern))


def _warn(node: str, what: str) -> None:
    told = {"node": node, "of_it": NODE_SIZE, "in_sum": WHOLE_SIZE}
    logger.warning("there is no room for the %s of a node: it counts as wanting everything", what, extra=told)
