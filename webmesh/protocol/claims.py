"""`Claim`: what one node says of another, or of itself, and which of two claims is the stronger.

Pure. A claim is full, with the record, or lean, for those who have the record. Claims of one node have a total order,
so that whoever has heard the same ones, in whatever order and how often, believes the same. Wire form:
docs/PROTOCOL.md, "Between nodes".
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

from webmesh.exceptions import InvalidArgument
from webmesh.protocol.node_record import HIGHEST, NAME_SIZE, NodeRecord, read_record

OK, SUSPECT, LOST, DEAD = "ok", "suspect", "lost", "dead"

STRENGTHS: Final = {OK: 0, SUSPECT: 1, LOST: 2, DEAD: 3}
"""What others have seen of a node → its rank among claims of one version. `dead` is `lost` with a proof: its address
refuses connections, so there is no process."""

LONGEST_AGE: Final = 10.0 * 365 * 86400
"""Seconds. Ages beyond it are those of liars."""

Weight = tuple[int, int, int]
"""Epoch, version and strength: the greater claim holds."""


@dataclass(frozen=True, slots=True)
class Claim:
    """See above.

    Attributes:
        record: `None` in a lean one.
        age: Seconds since it was seen; of no meaning where all is well.
    """

    id: str
    epoch: int
    version: int
    seen: str = OK
    age: float = 0.0
    record: NodeRecord | None = None

    @property
    def weight(self) -> Weight:
        """Orders the claims of one node."""
        return self.epoch, self.version, STRENGTHS[self.seen]

    def to_wire(self) -> dict[str, Any]:
        """The map that `read_claim` reads."""
        if self.record is None:
            wire: dict[str, Any] = {"id": self.id, "epoch": self.epoch, "version": self.version}
        else:
            wire = {"node": self.record.to_wire()}
        if self.seen != OK:
            wire["seen"] = self.seen
        if self.age:
            wire["age_ms"] = round(self.age * 1000)
        return wire


def claim_of(record: NodeRecord, seen: str = OK, age: float = 0.0, *, lean: bool = False) -> Claim:
    """A claim of the node that *record* is of."""
    return Claim(record.id, record.epoch, record.version, seen, max(0.0, age), None if lean else record)


def read_claim(wire: object) -> Claim:
    """A claim from its map.

    Raises:
        InvalidArgument: It is none; says what is wrong.
    """
    if not isinstance(wire, dict):
        raise InvalidArgument("a claim is a map")
    seen, age_ms = wire.get("seen", OK), wire.get("age_ms", 0)
    if not isinstance(seen, str) or seen not in STRENGTHS:
        raise InvalidArgument(f"seen must be one of {', '.join(STRENGTHS)}")
    if isinstance(age_ms, bool) or not isinstance(age_ms, int | float) or not 0 <= age_ms <= LONGEST_AGE * 1000:
        raise InvalidArgument("age_ms must be milliseconds, 0 or more")
    if "node" in wire:
        return claim_of(read_record(wire["node"]), seen, age_ms / 1000)
    node, epoch, version = read_identity(wire)
    return Claim(node, epoch, version, seen, age_ms / 1000)


def read_identity(wire: object) -> tuple[str, int, int]:
    """The `id`, `epoch` and `version` of a map; of one without a version 0.

    Raises:
        InvalidArgument: They are none.
    """
    if not isinstance(wire, dict):
        raise InvalidArgument("a node is named by a map of id and epoch")
    node, epoch, version = wire.get("id"), wire.get("epoch"), wire.get("version", 0)
    if not isinstance(node, str) or not 0 < len(node) <= NAME_SIZE:
        raise InvalidArgument(f"the id of a node has 1 to {NAME_SIZE} characters")
    if not (_counts(epoch) and _counts(version)):
        raise InvalidArgument("epoch and version are integers from 0 to 2^52")
    return node, epoch, version  # type: ignore[return-value]  # just seen


def _counts(number: object) -> bool:
    return type(number) is int and 0 <= number <= HIGHEST
