"""What the nodes of a mesh send each other of publications, and how it is read.

Pure. Other nodes are trusted with what is published, as they are with calls, but not to be of this version: what makes
no sense is an `InvalidArgument`. No two nodes share a clock, so ages are sent.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeGuard

from webmesh.brokers.base import Accepted, GroupName, History, Keep, Places, Since
from webmesh.exceptions import InvalidArgument
from webmesh.protocol.msgpack_body import written_size
from webmesh.protocol.publication import Publication, read_stored
from webmesh.protocol.topics import MOST_BYTES, MOST_SEGMENTS

PART_SIZE = 256 * 1024
"""Bytes of one answer, or of one message of operations, as far as single publications are not larger."""

MOST_PATTERNS = 20_000
"""Patterns in one list that are looked at: a hub is held by them for some 50 ms."""

_NAME_SIZE = 1024
_MOST = 2**53
"""Of any number here: every serializer carries it, and so does a float."""


def publication_to_wire(publication: Publication, now: float) -> dict[str, Any]:
    """The map that `read_wire` reads; what is absent is left out."""
    wire: dict[str, Any] = {"topic": publication.topic, "age": round(max(0.0, now - publication.at), 6)}
    for name in ("publisher", "offset", "epoch"):
        if getattr(publication, name) is not None:
            wire[name] = getattr(publication, name)
    if publication.payload is not None:
        wire["data"] = publication.payload
    if publication.headers:
        wire["headers"] = dict(publication.headers)
    if publication.retained:
        wire["retained"] = True
    return wire


def read_wire(wire: object, now: float) -> Publication:
    """A publication of another node's.

    Raises:
        InvalidArgument: It is none.
    """
    said = _map(wire)
    topic, headers, publisher = said.get("topic"), said.get("headers", {}), said.get("publisher")
    if not _is_path(topic):
        raise InvalidArgument("a publication has a topic")
    if not isinstance(headers, dict) or not all(isinstance(text, str) for pair in headers.items() for text in pair):
        raise InvalidArgument("headers are a map of text to text")
    if publisher is not None and not (isinstance(publisher, str) and len(publisher) <= _NAME_SIZE):
        raise InvalidArgument("a publisher is a text")
    at = now - read_number(said.get("age"), "age")
    made = read_stored(topic, said.get("data"), headers, at=at, publisher=publisher)
    if said.get("offset") is not None:
        made.offset, made.epoch = read_integer(said.get("offset"), "offset"), read_text(said.get("epoch"), "epoch")
    made.retained = said.get("retained") is True
    return made


def keep_to_wire(keep: Keep) -> dict[str, Any]:
    """The map that `read_keep` reads."""
    return {
        "history": keep.history, "ttl": keep.ttl, "retain": keep.retain, "ack": keep.ack,
        "history_bytes": keep.history_bytes,
    }  # fmt: skip


def read_keep(wire: object) -> Keep:
    """How a topic is kept.

    Raises:
        InvalidArgument: It says no such thing.
    """
    said = _map(wire)
    history, ttl = read_integer(said.get("history"), "history"), read_seconds(said.get("ttl"), "ttl")
    most_bytes = None if said.get("history_bytes") is None else read_integer(said["history_bytes"], "history_bytes")
    return Keep(history, ttl, said.get("retain") is True, said.get("ack") is True, most_bytes)


def group_to_wire(group: GroupName) -> list[str]:
    """The list that `read_group` reads."""
    return ["/".join(group.pattern), group.name]


def read_group(wire: object) -> GroupName:
    """A group's name.

    Raises:
        InvalidArgument: It is none.
    """
    if not isinstance(wire, list) or len(wire) != 2 or not _is_path(wire[0]) or not _is_name(wire[1]):
        raise InvalidArgument("a group is a pattern and a name")
    return GroupName(tuple(wire[0].split("/")), wire[1])


def places_to_wire(places: Sequence[Places]) -> list[list[Any]]:
    """The list that `read_places` reads."""
    return [["/".join(one.pattern), one.most] for one in places]


def read_places(wire: object) -> list[Places]:
    """What a new group needs room in.

    Raises:
        InvalidArgument: It says no such thing.
    """
    found = read_list(wire)
    if not all(isinstance(one, list) and len(one) == 2 and type(one[1]) is int and _is_size(one[1]) for one in found):
        raise InvalidArgument("places are patterns and numbers")
    patterns = read_patterns([one[0] for one in found])
    return [Places(pattern, one[1]) for pattern, one in zip(patterns, found, strict=True)]


def accepted_to_wire(accepted: Accepted) -> list[Any]:
    """The list that `read_accepted` reads."""
    return list(accepted)


def read_accepted(wire: object) -> Accepted:
    """What the leader says of a publication.

    Raises:
        InvalidArgument: It says no such thing.
    """
    if not isinstance(wire, list) or len(wire) != 3:
        raise InvalidArgument("what became of a publication is a list of three")
    offset, epoch, duplicate = wire
    if not _is_size(offset) or not isinstance(epoch, str | None) or not isinstance(duplicate, bool):
        raise InvalidArgument("what became of a publication is its number, an epoch, and whether it was there before")
    return Accepted(offset, epoch, duplicate)


def history_to_wire(history: History, now: float) -> dict[str, Any]:
    """The map that `read_history` reads."""
    return {
        "items": [publication_to_wire(one, now) for one in history.items], "offset": history.offset,
        "epoch": history.epoch, "complete": history.complete,
    }  # fmt: skip


def read_history(wire: object, now: float) -> History:
    """Part of a topic's past.

    Raises:
        InvalidArgument: It is none.
    """
    said = _map(wire)
    items = [read_wire(one, now) for one in read_list(said.get("items"))]
    offset, epoch = read_integer(said.get("offset"), "offset"), read_text(said.get("epoch"), "epoch")
    return History(items, offset, epoch, said.get("complete") is True)


def since_to_wire(since: Since) -> list[Any]:
    """The list that `read_since` reads."""
    return [since.offset, since.epoch, since.seconds]


def read_since(wire: object) -> Since:
    """From where to read.

    Raises:
        InvalidArgument: It says no such thing.
    """
    if not isinstance(wire, list) or len(wire) != 3:
        raise InvalidArgument("from where to read is a list of three")
    offset, epoch, seconds = wire
    if seconds is not None:
        read_number(seconds, "seconds")
    if not _is_size(offset) or not isinstance(epoch, str | None):
        raise InvalidArgument("from where to read is a number, an epoch and seconds")
    return Since(offset, epoch, seconds)


def read_patterns(wire: object) -> list[tuple[str, ...]]:
    """A list of patterns.

    Raises:
        InvalidArgument: It is none.
    """
    patterns = read_list(wire)
    if len(patterns) > MOST_PATTERNS:
        raise InvalidArgument(f"a list has at most {MOST_PATTERNS} patterns: send them in several messages")
    if not all(map(_is_path, patterns)):
        raise InvalidArgument(f"a pattern is a text of at most {MOST_BYTES} characters in {MOST_SEGMENTS} segments")
    return [tuple(one.split("/")) for one in patterns]


def fitting(items: Iterable[Any]) -> list[Any]:
    """As many of the first ones as one message holds; at least one."""
    size = 0
    found: list[Any] = []
    for item in items:
        size += written_size(item)
        if size > PART_SIZE and found:
            break
        found.append(item)
    return found


def part_to_wire(pairs: Iterable[tuple[str, Any]]) -> dict[str, Any]:
    """What one message holds of the first of *pairs*, which come in the order of their keys. No more of them are taken
    than that, and one."""
    size = 0
    items: list[Any] = []
    for key, value in pairs:
        item = [key, value]
        size += written_size(item)
        if items and size > PART_SIZE:
            return {"items": items, "more": True}
        items.append(item)
    return {"items": items, "more": False}


def _map(wire: object) -> Mapping[str, Any]:
    if not isinstance(wire, dict):
        raise InvalidArgument("a map is wanted")
    return wire


def read_list(wire: object) -> list[Any]:
    """A list of anything.

    Raises:
        InvalidArgument: It is none.
    """
    if not isinstance(wire, list):
        raise InvalidArgument("a list is wanted")
    return wire


def read_number(value: object, name: str, least: float = 0.0) -> float:
    """A number that is not below *least*.

    Raises:
        InvalidArgument: It is none.
    """
    if type(value) not in (int, float) or not least <= value <= _MOST:  # type: ignore[operator]
        raise InvalidArgument(f"{name} is a number, {least:g} or more")
    return float(value)  # type: ignore[arg-type]


def read_seconds(value: object, name: str) -> float | None:
    """How long something holds; `None` for ever.

    Raises:
        InvalidArgument: It is no time.
    """
    return None if value is None else read_number(value, name)


def read_integer(value: object, name: str, least: int = 0) -> int:
    """An integer that is not below *least*.

    Raises:
        InvalidArgument: It is none.
    """
    if type(value) is not int or not least <= value <= _MOST:
        raise InvalidArgument(f"{name} is an integer, {least} or more")
    return value


def read_text(value: object, name: str) -> str:
    """A text.

    Raises:
        InvalidArgument: It is none.
    """
    if not isinstance(value, str):
        raise InvalidArgument(f"{name} is a text")
    return value


def _is_name(value: object) -> bool:
    return isinstance(value, str) and 0 < len(value) <= _NAME_SIZE


def _is_path(value: object) -> TypeGuard[str]:
    """Whether it may be a topic or a pattern, as far as its size goes."""
    return isinstance(value, str) and 0 < len(value) <= MOST_BYTES and value.count("/") < MOST_SEGMENTS


def _is_size(value: object) -> bool:
    """Whether it is a number of something, or none."""
    return value is None or (type(value) is int and 0 <= value <= _MOST)
