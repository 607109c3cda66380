"""`GroupShares`: which node of a group gets what the group has to do.

Pure. The engine gives out what is to be done, as much at a time as all nodes together take; this shares it among them
by who has least to do for its window, and takes it back from those that are gone.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, field
from typing import Any


@dataclass(slots=True)
class _Share:
    """What one node has: its window, and what it has not done, oldest first."""

    window: int
    given: OrderedDict[int, Any] = field(default_factory=OrderedDict)


class GroupShares:
    """The nodes of one group.

    A piece of work is a token and whatever belongs to it.
    """

    def __init__(self) -> None:
        self._nodes: dict[str, _Share] = {}
        self._waiting: OrderedDict[int, Any] = OrderedDict()

    def __len__(self) -> int:
        """Nodes that have members."""
        return len(self._nodes)

    def __contains__(self, node: str) -> bool:
        return node in self._nodes

    def any(self) -> str:
        """One of them."""
        return next(iter(self._nodes))

    @property
    def window(self) -> int:
        """How much all of them together take at a time."""
        return sum(share.window for share in self._nodes.values())

    def join(self, node: str, window: int) -> None:
        """A node has members, or another window than before."""
        share = self._nodes.get(node)
        if share is None:
            self._nodes[node] = _Share(window)
        else:
            share.window = window

    def leave(self, node: str) -> None:
        """A node has none any more: what it has not done is given to others, before what is newer."""
        share = self._nodes.pop(node, None)
        if share is not None:
            taken = [*share.given.items(), *self._waiting.items()]
            self._waiting = OrderedDict(sorted(taken, key=lambda one: one[0]))

    def add(self, token: int, work: Any) -> None:
        """There is more to do; `give` says by whom."""
        self._waiting[token] = work

    def give(self) -> list[tuple[str, int, Any]]:
        """What is to be sent now: node, token and what belongs to it."""
        given = []
        while self._waiting:
            free = [one for one in self._nodes.items() if len(one[1].given) < one[1].window]
            if not free:
                break
            node, share = min(free, key=lambda one: len(one[1].given) / one[1].window)
            token, work = self._waiting.popitem(last=False)
            share.given[token] = work
            given.append((node, token, work))
        return given

    def done(self, node: str, token: int) -> bool:
        """Whether it was that node that had it to do; then it is done."""
        share = self._nodes.get(node)
        return share is not None and share.given.pop(token, None) is not None
