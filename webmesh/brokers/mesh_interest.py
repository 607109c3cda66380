"""Which nodes of a mesh want what is published where.

Each node tells all others which patterns it wants, and at which patterns there are groups: what is published there goes
by way of the leader.
"""

from __future__ import annotations

from collections.abc import Iterable

from webmesh.protocol.topic_trie import TopicTrie


MOST_PATTERNS = 100_000
"""Patterns of one node that are looked at: some 60 MB. One that wants more counts as wanting everything."""


class MeshInterest:
    """What other nodes want, as they have told it."""

    def __init__(self) -> None:
        self._trie: TopicTrie[str] = TopicTrie()
        self._patterns: dict[str, set[tuple[str, ...]]] = {}
        self._group_trie: TopicTrie[str] = TopicTrie()
        self._group_patterns: dict[str, set[tuple[str, ...]]] = {}
        self._silent: set[str] = set()

    def expect(self, node: str) -> None:
        """There is a link to it, and it has yet to say what it wants: until then it may want everything."""
        if node not in self._patterns:
            self._silent.add(node)

    def told(
        self, node: str, add: Iterable[tuple[str, ...]], remove: Iterable[tuple[str, ...]], *, all: bool
    ) -> None:
        """A node wants more, or less.

        Args:
            all: Whether it wants nothing else than what it says now.
        """
        self._silent.discard(node)
        if all:
            for pattern in self._patterns.pop(node, ()):
                self._trie.remove(pattern, node)
        known = self._patterns.setdefault(node, set())
        for pattern in set(remove) & known:
            known.discard(pattern)
            self._trie.remove(pattern, node)
        for pattern in set(add) - known:
            known.add(pattern)
            self._trie.add(pattern, node)
        if len(known) > MOST_PATTERNS:
            for pattern in known:
                self._trie.remove(pattern, node)
            known.clear()
            self._silent.add(node)

    def told_groups(self, node: str, patterns: Iterable[tuple[str, ...]]) -> None:
        """A node knows of groups at these patterns, and of no others."""
        for pattern in self._group_patterns.pop(node, ()):
            self._group_trie.remove(pattern, node)
        self._group_patterns[node] = set(patterns)
        for pattern in self._group_patterns[node]:
            self._group_trie.add(pattern, node)

    def grouped(self, segments: tuple[str, ...]) -> bool:
        """Whether some group may have to do what is published on a topic."""
        return bool(self._silent) or bool(self._group_trie.match(segments))

    def forget(self, node: str) -> None:
        """There is no link to it any more."""
        self._silent.discard(node)
        for pattern in self._patterns.pop(node, ()):
            self._trie.remove(pattern, node)
        self.told_groups(node, ())
        del self._group_patterns[node]

    def nodes(self, segments: tuple[str, ...]) -> set[str]:
        """Those that want what is published on a topic, or may."""
        return self._silent | set(self._trie.match(segments))
