"""`NodeRecord`: what a node says of itself, and what of such a record from elsewhere is believed.

Pure. Only the node itself makes and changes its record; others compare two of one id by `newer` and pass them on.
Who is alive is `membership`'s to say. Wire form: docs/PROTOCOL.md, "Between nodes".
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from math import isfinite
from types import MappingProxyType
from typing import Any, Final

from webmesh.exceptions import ConfigurationError, InvalidArgument
from webmesh.protocol.values import escaped

Scalar = str | int | float | bool | None

STATES: Final = ("ok", "draining", "left")
"""What a node may claim of its own state."""

NAME_SIZE: Final = 64
"""Bytes of an id, and of the name of a service or a zone."""

ADDRESS_SIZE: Final = 512
"""Bytes of one URL."""

MOST_SERVICES, MOST_ADDRESSES, MOST_METADATA = 64, 16, 64
"""Entries of each kind in one record."""

METADATA_SIZE: Final = 4 * 1024
"""Bytes of the metadata, encoded as JSON."""

RECORD_SIZE: Final = 8 * 1024
"""Bytes of the whole record, encoded as JSON: 256 nodes of such a size still fit in a few messages."""

HIGHEST: Final = 2**52
"""Of epochs and versions; every serializer carries it. The year 144683 as an epoch: only a liar gets there."""

_ENCODER = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"))
_ADDRESS = re.compile(r"wss?(?:\+unix)?://[!-~]+")


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeRecord:
    """What a node says of itself.

    Raises:
        ConfigurationError: A part of it is malformed or too big; the text says which.
    """

    id: str
    """1 to 64 printable ASCII characters. One process has it at a time."""
    epoch: int
    """Milliseconds since 1970 at the node's start: a later incarnation of an id wins."""
    version: int = 1
    """Counts the changes within the epoch: a higher one wins."""
    name: str | None = None
    """The service that it is first of all."""
    services: tuple[str, ...] = ()
    """Services that it serves, `name` included."""
    addresses: tuple[str, ...] = ()
    """URLs (`ws`, `wss`, `ws+unix`) at which it can be dialled. Without any it has to dial, as behind NAT."""
    zone: str | None = None
    """Where it runs; calls may prefer their own zone."""
    release: str | None = None
    """Version of its program."""
    metadata: Mapping[str, Scalar] = field(default_factory=dict, hash=False)
    """Whatever else others are to know: text to text, numbers, booleans."""
    state: str = "ok"
    """What it claims itself: `ok`, `draining`, `left`."""
    load: float | None = None
    """Handlers in progress, as far as it tells."""

    def __post_init__(self) -> None:
        fault = _fault(self)
        if fault is not None:
            raise ConfigurationError(f"the record of node {escaped(str(self.id))}: {fault}")
        if self.name is not None and self.name not in self.services:
            object.__setattr__(self, "services", (self.name, *self.services))
            if len(self.services) > MOST_SERVICES:
                raise ConfigurationError(f"a node has at most {MOST_SERVICES} services")
        object.__setattr__(self, "metadata", MappingProxyType(dict(self.metadata)))
        if len(_encoded(self.to_wire())) > RECORD_SIZE:
            raise ConfigurationError(f"the record of node {self.id} is over {RECORD_SIZE} bytes: say less in it")

    def to_wire(self) -> dict[str, Any]:
        """The map that `read_record` reads; what is empty is left out."""
        wire: dict[str, Any] = {"id": self.id, "epoch": self.epoch, "version": self.version}
        for name in ("name", "zone", "release", "load"):
            if getattr(self, name) is not None:
                wire[name] = getattr(self, name)
        if self.services:
            wire["services"] = list(self.services)
        if self.addresses:
            wire["addresses"] = list(self.addresses)
        if self.metadata:
            wire["metadata"] = dict(self.metadata)
        if self.state != "ok":
            wire["state"] = self.state
        return wire

    def changed(self, **changes: Any) -> NodeRecord:
        """A later one: with *changes*, and the next version.

        Raises:
            ConfigurationError: They make no sense, or name what cannot change.
        """
        fixed = {"id", "epoch", "version"} & changes.keys()
        if fixed or not changes.keys() <= _NAMES:
            raise ConfigurationError(f"of a node's record these cannot change: {', '.join(fixed or changes)}")
        return replace(self, version=self.version + 1, **changes)

    def outbidding(self, epoch: int, version: int) -> NodeRecord:
        """The same with the least epoch and version that win over these and over its own."""
        if epoch > self.epoch or max(version, self.version) >= HIGHEST:
            return replace(self, epoch=min(max(epoch, self.epoch) + 1, HIGHEST), version=1)
        return replace(self, version=max(version if epoch == self.epoch else 0, self.version) + 1)


_NAMES = frozenset(entry.name for entry in fields(NodeRecord))


def newer(one: NodeRecord, other: NodeRecord) -> bool:
    """Whether *one* is the later word of the same node: by epoch, then by version."""
    return (one.epoch, one.version) > (other.epoch, other.version)


def read_record(wire: object) -> NodeRecord:
    """A record from its map; keys that are not known are ignored.

    Raises:
        InvalidArgument: It is none; says what is wrong.
    """
    if not isinstance(wire, dict):
        raise InvalidArgument("a node's record is a map")
    given = {name: wire[name] for name in _NAMES if wire.get(name) is not None}
    for name in ("services", "addresses"):
        if not isinstance(given.get(name, []), list):
            raise InvalidArgument(f"the {name} of a node are a list of text")
        given[name] = tuple(given.get(name, ()))
    if "id" not in given or "epoch" not in given:
        raise InvalidArgument("a node's record has an id and an epoch")
    try:
        return NodeRecord(**given)
    except ConfigurationError as error:
        raise InvalidArgument(str(error)) from error


# ------------------------------------------------------------------------------- what is wrong


def _fault(record: NodeRecord) -> str | None:
    """What is malformed, or `None`; the record's types are not trusted."""
    if not (_is_name(record.id) and record.id.isascii()):
        return f"its id must be 1 to {NAME_SIZE} printable ASCII characters"
    for what in ("epoch", "version"):
        number = getattr(record, what)
        if type(number) is not int or not 0 <= number <= HIGHEST:
            return f"its {what} must be an integer from 0 to 2^52"
    for what in ("name", "zone", "release"):
        if getattr(record, what) is not None and not _is_name(getattr(record, what)):
            return f"its {what} must be 1 to {NAME_SIZE} bytes of printable text"
    if record.state not in STATES:
        return f"its state must be one of {', '.join(STATES)}"
    load = record.load
    if load is not None and not (_is_number(load) and load >= 0):
        return "its load must be a number, 0 or more"
    return _fault_of_lists(record) or _fault_of_metadata(record.metadata)


def _fault_of_lists(record: NodeRecord) -> str | None:
    services, addresses = record.services, record.addresses
    if not isinstance(services, tuple) or len(services) > MOST_SERVICES or not all(map(_is_name, services)):
        return f"its services must be a tuple of at most {MOST_SERVICES} names of 1 to {NAME_SIZE} bytes"
    if not isinstance(addresses, tuple) or len(addresses) > MOST_ADDRESSES or not all(map(_is_address, addresses)):
        return f"its addresses must be a tuple of at most {MOST_ADDRESSES} ws://, wss:// or ws+unix:// URLs"
    return None


def _fault_of_metadata(metadata: object) -> str | None:
    if not isinstance(metadata, Mapping) or len(metadata) > MOST_METADATA:
        return f"its metadata must be a map of at most {MOST_METADATA} entries"
    for key, value in metadata.items():
        if not _is_name(key) or not (value is None or isinstance(value, str | bool) or _is_number(value)):
            return "its metadata must map text to text, numbers, booleans and None"
    try:
        size = len(_encoded(dict(metadata)))
    except UnicodeEncodeError:
        return "its metadata has a lone surrogate in it"
    return f"its metadata is over {METADATA_SIZE} bytes" if size > METADATA_SIZE else None


def _is_name(text: object) -> bool:
    if not isinstance(text, str) or not 0 < len(text) <= NAME_SIZE or not text.isprintable():
        return False
    return len(text.encode()) <= NAME_SIZE  # printable text has no lone surrogates


def _is_address(text: object) -> bool:
    return isinstance(text, str) and len(text) <= ADDRESS_SIZE and _ADDRESS.fullmatch(text) is not None


def _is_number(value: object) -> bool:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    return abs(value) <= 2**53 if isinstance(value, int) else isfinite(value)


def _encoded(value: dict[str, Any]) -> bytes:
    return _ENCODER.encode(value).encode()
