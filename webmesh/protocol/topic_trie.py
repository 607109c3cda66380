"""A trie of topic patterns: which of them match a topic.

Pure. What stands at a pattern is the caller's; what may be a pattern is `topics`' business. A search costs by
the topic's segments and by the wildcards that lie on its way, not by how many patterns there are.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Generic, TypeVar

from webmesh.protocol.topics import ONE, REST

V = TypeVar("V")
Segments = tuple[str, ...]


class _Node(Generic[V]):
    """One segment of one or more patterns.

    Attributes:
        values: What stands at the pattern that ends here, in the order in which it came; a dict as an ordered set.
        rest: The same for the pattern that goes on with `**`.
        below: The next segments; `*` among them.
    """

    __slots__ = ("below", "rest", "values")

    def __init__(self) -> None:
        # Made when needed: of a million patterns most have one value at their end and nothing on their way.
        self.values: dict[V, None] | None = None
        self.rest: dict[V, None] | None = None
        self.below: dict[str, _Node[V]] | None = None

    @property
    def empty(self) -> bool:
        return not (self.values or self.rest or self.below)


class TopicTrie(Generic[V]):
    """Values at topic patterns; each value stands at most once at one pattern."""

    __slots__ = ("_count", "_root")

    def __init__(self) -> None:
        self._root: _Node[V] = _Node()
        self._count = 0

    def __len__(self) -> int:
        """Pairs of a pattern and a value."""
        return self._count

    def add(self, pattern: Segments, value: V) -> bool:
        """Put *value* at *pattern*; False when it stands there already."""
        node = self._root
        last = len(pattern) - 1 if pattern[-1] == REST else len(pattern)
        for segment in pattern[:last]:
            if node.below is None:
                node.below = {}
            following = node.below.get(segment)
            if following is None:
                following = node.below[segment] = _Node()
            node = following
        if last < len(pattern):
            values = node.rest = {} if node.rest is None else node.rest
        else:
            values = node.values = {} if node.values is None else node.values
        if value in values:
            return False
        values[value] = None
        self._count += 1
        return True

    def remove(self, pattern: Segments, value: V) -> bool:
        """Take *value* from *pattern*, and with the last one the way to it; False when it is not there."""
        way = self._way(pattern)
        if way is None:
            return False
        values = way[-1].rest if pattern[-1] == REST else way[-1].values
        if values is None or value not in values:
            return False
        del values[value]
        self._count -= 1
        for parent, segment, node in zip(way[-2::-1], reversed(pattern[: len(way) - 1]), way[:0:-1], strict=True):
            if not node.empty:
                break
            assert parent.below is not None
            del parent.below[segment]
        return True

    def _way(self, pattern: Segments) -> list[_Node[V]] | None:
        """The nodes from the root to where the pattern's values stand."""
        way = [self._root]
        for segment in pattern[:-1] if pattern[-1] == REST else pattern:
            node = None if way[-1].below is None else way[-1].below.get(segment)
            if node is None:
                return None
            way.append(node)
        return way

    def at(self, pattern: Segments) -> tuple[V, ...]:
        """The values at exactly this pattern."""
        way = self._way(pattern)
        if way is None:
            return ()
        return tuple((way[-1].rest if pattern[-1] == REST else way[-1].values) or ())

    def match(self, topic: Segments) -> list[V]:
        """The values at all patterns that match *topic*; one that stands at several of them comes several times.

        The most specific pattern's come first: fixed segments win over `*`, that over `**`, from left to right.
        """
        found: list[V] = []
        last = len(topic)
        # Alternatives that were passed on the way, the nearest on top: they are less specific than what follows here.
        open_ends: list[tuple[_Node[V] | None, dict[V, None] | None, int]] = [(self._root, None, 0)]
        while open_ends:
            node, rest, depth = open_ends.pop()
            if node is None:
                found.extend(rest or ())
                continue
            if depth == last:
                found.extend(node.values or ())
                continue
            if node.rest:
                open_ends.append((None, node.rest, depth))
            if node.below is not None:
                star, fixed = node.below.get(ONE), node.below.get(topic[depth])
                if star is not None:
                    open_ends.append((star, None, depth + 1))
                if fixed is not None:
                    open_ends.append((fixed, None, depth + 1))
        return found

    def __iter__(self) -> Iterator[tuple[Segments, V]]:
        """All pairs of a pattern and a value."""
        ways: list[tuple[Segments, _Node[V]]] = [((), self._root)]
        while ways:
            pattern, node = ways.pop()
            yield from ((pattern, value) for value in node.values or ())
            yield from (((*pattern, REST), value) for value in node.rest or ())
            ways.extend(((*pattern, segment), below) for segment, below in (node.below or {}).items())
