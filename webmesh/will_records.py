"""What the engine keeps of wills, so that they outlive their node.

Decides the form of the records. One session's wills are one record; what is being fired and what is left of it are two
others, so that a node that dies meanwhile loses none. What comes from the engine is read as a stranger's. Pure.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

from webmesh.auth import Identity
from webmesh.exceptions import ConfigurationError, InvalidArgument
from webmesh.protocol.will_request import read_will, will_to_wire
from webmesh.protocol.wills import REASONS, FiredWill, Will

WILLS, FIRING, RESTS = "wills", "wills-firing", "wills-rest"
"""Tables: of sessions; of what is being fired; of what is left of a session, while its record is out of its place."""
KEPT = 3 * 86400.0
"""Seconds for which a record stays without renewal: a node that is restarted within them fires what was left."""
FIRING_KEPT = 100.0
"""Seconds for which others may finish what a dead node was firing: for so long the dedupe id surely holds."""


def session_key(session_id: str, epoch: str) -> str:
    """The name of a session on the engine, by which nobody can resume it."""
    return hashlib.sha256(f"{epoch}/{session_id}".encode(errors="replace")).hexdigest()[:32]


def new_note(key: str) -> str:
    """The name of a further note about a session's wills."""
    return f"{key}.{os.urandom(6).hex()}"


def key_of(note: str) -> str:
    """The session that a note is about."""
    return note.partition(".")[0]


@dataclass(frozen=True, slots=True)
class StoredWills:
    """The wills of one session as the engine has them.

    Attributes:
        node: The one that the session lives on, or that fires them.
        subject, roles: Whose session it is.
        reasons: Why each fires, by its number; for those that are being fired.
    """

    node: str
    wills: Collection[Will]
    subject: str | None = None
    roles: Collection[str] = ()
    reasons: Mapping[int, str] = field(default_factory=dict)

    @property
    def identity(self) -> Identity | None:
        """Whose rights decide."""
        return None if self.subject is None else Identity(self.subject, frozenset(self.roles))

    @property
    def fired(self) -> list[FiredWill]:
        """Those that are being fired."""
        return [FiredWill(will, self.reasons[will.number]) for will in self.wills if will.number in self.reasons]

    def to_record(self) -> dict[str, Any]:
        """The record."""
        return {
            "node": self.node, "subject": self.subject, "roles": sorted(self.roles),
            "wills": [
                will_to_wire(will) | {"number": will.number, "reason": self.reasons.get(will.number)}
                for will in self.wills
            ],
        }  # fmt: skip


def read_record(record: Any) -> StoredWills | None:
    """The wills of a record; `None` for one that no node of this version has written."""
    try:
        found = [(_numbered(wire), wire["reason"]) for wire in record["wills"]]
        subject, roles = record["subject"], record["roles"]
        reasons = {will.number: reason for will, reason in found if reason is not None}
        if not isinstance(record["node"], str) or not isinstance(roles, list):
            return None
        if any(reason not in REASONS for reason in reasons.values()):
            return None
        stored = StoredWills(record["node"], [will for will, _ in found], subject, frozenset(roles), reasons)
        stored.identity  # noqa: B018 - raises unless subject and roles are texts
    except (TypeError, KeyError, InvalidArgument, ConfigurationError):
        return None
    return stored


def node_of(record: Any) -> str | None:
    """The node of a record, which need not be readable otherwise; cheaper than `read_record`."""
    node = record.get("node") if isinstance(record, Mapping) else None
    return node if isinstance(node, str) else None


def rest_record(node: str, rest: StoredWills) -> dict[str, Any]:
    """The note that *node* has a session's record in hand, and what it will be."""
    return {"node": node, "rest": rest.to_record()}


def read_rest(record: Any) -> tuple[str, StoredWills] | None:
    """What such a note says; `None` for one that no node of this version has written."""
    try:
        node, rest = record["node"], read_record(record["rest"])
    except (TypeError, KeyError):
        return None
    return None if rest is None or not isinstance(node, str) else (node, rest)


def _numbered(wire: Any) -> Will:
    will, number = read_will(wire), wire["number"]
    if type(number) is not int:
        raise InvalidArgument("a will's number is a whole number")
    return Will(will.id, will.topic, will.payload, will.on, will.delay, will.headers, number)
