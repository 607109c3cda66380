"""Topics, or other names, in their order: those that a pattern matches, from any of them on.

Pure. The names are cut into blocks, so that one that comes or goes moves few others. A search leaps over what cannot
match: it costs by what matches, and by the topics that agree with the pattern in some first segments.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterator

from webmesh.protocol.topics import ONE, REST

BLOCK = 512
"""Names in a block; with twice as many it is cut in two."""
LOOK = 64
"""Names that are looked at between two steps of a search."""


class TopicOrder:
    """See above."""

    __slots__ = ("_blocks", "_firsts")

    def __init__(self) -> None:
        self._blocks: list[list[str]] = []
        self._firsts: list[str] = []

    def __len__(self) -> int:
        return sum(map(len, self._blocks))

    def add(self, topic: str) -> None:
        """Have *topic*, once."""
        if not self._blocks:
            self._blocks.append([topic])
            self._firsts.append(topic)
            return
        number = self._block_of(topic)
        block = self._blocks[number]
        place = bisect_left(block, topic)
        if place < len(block) and block[place] == topic:
            return
        block.insert(place, topic)
        self._firsts[number] = block[0]
        if len(block) >= 2 * BLOCK:
            self._blocks[number : number + 1] = block[:BLOCK], block[BLOCK:]
            self._firsts[number : number + 1] = block[0], block[BLOCK]

    def remove(self, topic: str) -> None:
        """Have it no longer."""
        number = self._block_of(topic)
        block = self._blocks[number] if self._blocks else []
        place = bisect_left(block, topic)
        if place == len(block) or block[place] != topic:
            return
        del block[place]
        if block:
            self._firsts[number] = block[0]
        else:
            del self._blocks[number], self._firsts[number]

    def _block_of(self, topic: str) -> int:
        return max(0, bisect_right(self._firsts, topic) - 1)

    def _some(self, start: str) -> list[str]:
        """Some names from *start* on; none at the end."""
        number = self._block_of(start)
        for block in self._blocks[number : number + 2]:
            place = bisect_left(block, start)
            if place < len(block):
                return block[place : place + LOOK]
        return []

    def select(self, pattern: tuple[str, ...], after: str | None = None) -> Iterator[list[str]]:
        """The topics behind *after* that *pattern* matches, in parts. Some parts are empty: each step looks at a few
        names only. The order may change between two steps: what stays is found once, of what comes or goes nothing is
        said.
        """
        start, end, whole = _bounds(pattern)
        if after is not None and after >= start:
            start = _next(after)
        while some := self._some(start):
            if end is not None and some[-1] >= end:
                some = some[: bisect_left(some, end)]
            if not some:
                return
            start = _next(some[-1])
            if not whole:
                some, leap = _matching(pattern, some)
                start = max(start, leap)
            yield some


def _matching(pattern: tuple[str, ...], some: list[str]) -> tuple[list[str], str]:
    """Those of some names in their order that *pattern* matches, and a name before which no other one is matched."""
    found, leap = [], ""
    for topic in some:
        if topic >= leap:
            leap = _leap(pattern, topic)
            if leap == topic:
                found.append(topic)
    return found, leap


def _bounds(pattern: tuple[str, ...]) -> tuple[str, str | None, bool]:
    """The first name that *pattern* may match, one behind the last, and whether it matches all between them."""
    fixed = next((number for number, segment in enumerate(pattern) if segment in (ONE, REST)), len(pattern))
    same = "/".join(pattern[:fixed])
    whole = fixed == len(pattern) - 1 and pattern[-1] == REST
    if not fixed:
        return "", None, whole
    return (same, _next(same), True) if fixed == len(pattern) else (f"{same}/", _behind(same), whole)


def _next(name: str) -> str:
    """The first text behind *name*."""
    return f"{name}\0"


def _behind(name: str) -> str:
    """The first text behind all that begins with *name* and a `/`."""
    return f"{name}0"


def _leap(pattern: tuple[str, ...], topic: str) -> str:
    """*topic* itself where *pattern* matches it, else a name behind it before which none matches; both begin alike as
    far as the pattern's first wildcard."""
    segments = topic.split("/")
    for number, (wanted, segment) in enumerate(zip(pattern, segments)):  # noqa: B905 - the shorter one ends it
        if wanted == REST:
            return topic
        if wanted not in (ONE, segment):
            above = "/".join(segments[:number])
            target = f"{above}/{wanted}" if number == len(pattern) - 1 else f"{above}/{wanted}/"
            return target if target > topic else _behind(above)
    if len(segments) > len(pattern):
        return _behind("/".join(segments[: len(pattern)]))
    return topic if len(segments) == len(pattern) else _next(topic)
