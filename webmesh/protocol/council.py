"""`Council`: the nodes that decide who leads, and those that hold a copy of what the leader keeps.

Pure values, and which of two counts. A council is one of a line: each changes the one before in a small way, so that a
majority of one always meets a majority of the next. Who leads is `leadership`. Wire form: docs/PROTOCOL.md, "Between
nodes".
"""

from __future__ import annotations

from collections.abc import Collection, Set
from dataclasses import dataclass, replace
from typing import Any

from webmesh.exceptions import InvalidArgument
from webmesh.protocol.node_record import HIGHEST, NAME_SIZE

MOST_VOTERS = 1024
"""Entries of a council that is read: more than a mesh has nodes."""


@dataclass(frozen=True, slots=True)
class Council:
    """See above.

    Attributes:
        founded: When its first node began, in milliseconds since 1970.
        founder: That node's id.
        term: Of the leader who made it.
        version: Counts the changes.
        voters: The nodes that decide.
        keepers: Those of them that have a copy of all that was acknowledged; the leader is among them.
    """

    founded: int
    founder: str
    term: int
    version: int
    voters: tuple[str, ...]
    keepers: tuple[str, ...]

    @classmethod
    def of_one(cls, node: str, founded: int) -> Council:
        """That of a node that knows nobody yet."""
        return cls(founded, node, 1, 1, (node,), (node,))

    def same_line(self, other: Council) -> bool:
        """Whether one of them has come of the other."""
        return (self.founded, self.founder) == (other.founded, other.founder)

    @property
    def stamp(self) -> tuple[int, int]:
        """Orders the councils of one line."""
        return self.term, self.version

    def gives_way(self, other: Council) -> bool:
        """Whether who has this one takes the *other*: it is later in the line; or of another line, which has more than
        one voter, or else is the older one."""
        if self.same_line(other):
            return other.stamp > self.stamp
        return _rank(other) < _rank(self)

    def decides(self, votes: Set[str], dead: Collection[str]) -> bool:
        """Whether *votes* are a majority of all who may live."""
        living = [voter for voter in self.voters if voter not in dead]
        return 2 * sum(voter in votes for voter in living) > len(living)

    def following(
        self, term: int, *, voters: Collection[str] | None = None, keepers: Collection[str] | None = None
    ) -> Council:
        """The next one, of the leader of *term*, with other voters or keepers. A keeper is a voter."""
        of = self.voters if voters is None else tuple(voters)
        kept = tuple(one for one in dict.fromkeys(self.keepers if keepers is None else keepers) if one in of)
        return replace(self, term=term, version=self.version + 1, voters=of, keepers=kept)

    def to_wire(self) -> dict[str, Any]:
        """The map that `read_council` reads."""
        return {
            "founded": self.founded, "founder": self.founder, "term": self.term, "version": self.version,
            "voters": list(self.voters), "keepers": list(self.keepers),
        }  # fmt: skip


def read_council(wire: object) -> Council:
    """A council from its map.

    Raises:
        InvalidArgument: It is none.
    """
    if not isinstance(wire, dict):
        raise InvalidArgument("a council is a map")
    numbers = [wire.get(name) for name in ("founded", "term", "version")]
    for number in numbers:
        if type(number) is not int or not 0 <= number <= HIGHEST:
            raise InvalidArgument("a council has the integers founded, term and version")
    voters, keepers = _ids(wire.get("voters")), _ids(wire.get("keepers"))
    (founder,) = _ids([wire.get("founder")])
    if not voters or not set(keepers) <= set(voters):
        raise InvalidArgument("a council has voters, and its keepers are among them")
    founded, term, version = numbers
    return Council(founded, founder, term, version, voters, keepers)  # type: ignore[arg-type]  # looked at above


def _ids(value: object) -> tuple[str, ...]:
    if not isinstance(value, list) or len(value) > MOST_VOTERS or len(set(map(str, value))) != len(value):
        raise InvalidArgument("the nodes of a council are a list of ids, each once")
    if not all(isinstance(one, str) and 0 < len(one) <= NAME_SIZE for one in value):
        raise InvalidArgument("the nodes of a council are ids")
    return tuple(value)


def _rank(council: Council) -> tuple[bool, int, str]:
    return len(council.voters) == 1, council.founded, council.founder
