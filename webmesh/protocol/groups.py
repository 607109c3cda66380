"""Which member of a group gets a message: the one that has the fewest in hand.

Pure. Members with equally few take turns, so that an idle group shares its work evenly.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterator
from typing import Generic, TypeVar

T = TypeVar("T", bound=Hashable)


class Group(Generic[T]):
    """The members of one group, and whose turn it is.

    Args:
        pending: How many messages a member has in hand.
    """

    __slots__ = ("_members", "_pending")

    def __init__(self, pending: Callable[[T], int]) -> None:
        self._members: OrderedDict[T, None] = OrderedDict()
        self._pending = pending

    def __len__(self) -> int:
        """Members."""
        return len(self._members)

    def __iter__(self) -> Iterator[T]:
        """The members; who was chosen longest ago first."""
        return iter(tuple(self._members))

    def join(self, member: T) -> None:
        """Add a member; it is the next one to be chosen among equals."""
        if member not in self._members:
            self._members[member] = None
            self._members.move_to_end(member, last=False)

    def leave(self, member: T) -> None:
        """Remove a member; does nothing for one that is not there."""
        self._members.pop(member, None)

    def choose(self, *, without: T | None = None, ready: Callable[[T], bool] = lambda member: True) -> T | None:
        """The member with the fewest messages in hand; `None` when there is nobody.

        Args:
            without: Not this one, as when the publisher is a member and wants no echo.
            ready: Whether a member takes any now.
        """
        chosen, fewest = None, 0
        for member in self._members:  # the first among equals is who was chosen longest ago
            if member == without or not ready(member):
                continue
            pending = self._pending(member)
            if chosen is None or pending < fewest:
                chosen, fewest = member, pending
                if not pending:  # nobody can have fewer, so that a large group costs no more than a small one
                    break
        if chosen is not None:
            self._members.move_to_end(chosen)
        return chosen
