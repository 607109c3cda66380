"""The messages of docs/PROTOCOL.md section 2, as objects and as maps for the wire.

The classes are what arrived; the functions make what is sent, without the optional keys that are not
needed. Nothing is checked here: what arrives is checked by `envelope`, which is the file to import from.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

RequestId = int | str
Wire = dict[str, Any]
"""A map that is ready for a serializer."""


@dataclass(slots=True)
class Request:
    """Asks for an answer."""

    path: str
    id: RequestId
    data: Any = field(default=None, repr=False)
    timeout_ms: float | None = None
    headers: dict[str, str] | None = field(default=None, repr=False)
    credit: int | None = None
    stream: bool = False


@dataclass(slots=True)
class Notification:
    """Is never answered with an error. *kept* is its number among those that the sender's session keeps, from 1.

    It has what asks for an answer as constants, so that one can be served as a request without being told apart first.
    """

    id: ClassVar[None] = None
    timeout_ms: ClassVar[None] = None
    credit: ClassVar[None] = None
    stream: ClassVar[bool] = False
    path: str
    data: Any = field(default=None, repr=False)
    headers: dict[str, str] | None = field(default=None, repr=False)
    kept: int | None = None


@dataclass(slots=True)
class Reply:
    """Ends a request well."""

    id: RequestId
    data: Any = field(repr=False)


@dataclass(slots=True)
class ErrorReply:
    """Ends a request badly; *error* has a text `code` and a text `message`. Without id it concerns no request."""

    id: RequestId | None
    error: dict[str, Any] = field(repr=False)


@dataclass(slots=True)
class Item:
    """One element of a stream, numbered from 0."""

    id: RequestId
    item: Any = field(repr=False)
    seq: int


@dataclass(slots=True)
class EndOfItems:
    """The asking side has no more items."""

    id: RequestId


@dataclass(slots=True)
class Cancel:
    """The asking side no longer wants the answer."""

    id: RequestId


@dataclass(slots=True)
class Credit:
    """The receiver of items takes *credit* more of them."""

    id: RequestId
    credit: int


@dataclass(slots=True)
class TopicMessage:
    """Something happened on a topic."""

    topic: str
    data: Any = field(default=None, repr=False)
    id: RequestId | None = None
    headers: dict[str, str] | None = field(default=None, repr=False)
    offset: int | None = None
    epoch: RequestId | None = None
    subs: list[RequestId] | None = field(default=None, repr=False)
    event: str | None = None
    attempt: int | None = None
    retained: bool = False
    kept: int | None = None
    loose: bool = False


Message = Request | Notification | Reply | ErrorReply | Item | EndOfItems | Cancel | Credit | TopicMessage


def request(
    path: str,
    id: RequestId,
    data: object = None,
    *,
    timeout_ms: float | None = None,
    headers: dict[str, str] | None = None,
    credit: int | None = None,
    stream: bool = False,
) -> Wire:
    """A request on the wire."""
    wire: Wire = {"path": path, "id": id}
    if data is not None:
        wire["data"] = data
    if timeout_ms is not None:
        wire["timeout_ms"] = timeout_ms
    if headers:
        wire["headers"] = headers
    if credit is not None:
        wire["credit"] = credit
    if stream:
        wire["stream"] = True
    return wire


def notification(path: str, data: object = None, headers: dict[str, str] | None = None) -> Wire:
    """A notification on the wire."""
    wire: Wire = {"path": path}
    if data is not None:
        wire["data"] = data
    if headers:
        wire["headers"] = headers
    return wire


def reply(id: RequestId, data: object) -> Wire:
    """A reply on the wire; `data` is there even when it is None, for it makes the reply."""
    return {"id": id, "data": data}


def error(id: RequestId | None, wire: Wire) -> Wire:
    """An error on the wire, from `RemoteError.to_wire()`."""
    return {"error": wire} if id is None else {"id": id, "error": wire}


def item(id: RequestId, item: object, seq: int) -> Wire:
    """An item on the wire."""
    return {"id": id, "item": item, "seq": seq}


def end(id: RequestId) -> Wire:
    """An end of items on the wire."""
    return {"id": id, "end": True}


def cancel(id: RequestId) -> Wire:
    """A cancel on the wire."""
    return {"id": id, "cancel": True}


def credit(id: RequestId, n: int) -> Wire:
    """A grant of *n* more items on the wire."""
    return {"id": id, "credit": n}


def publication(topic: str, data: object, headers: Mapping[str, str] | None, id: RequestId | None = None) -> Wire:
    """A publication on its way to a node; answered where it has an id."""
    wire: Wire = {"topic": topic, "data": data}
    if id is not None:
        wire["id"] = id
    if headers:
        wire["headers"] = dict(headers)
    return wire


def delivery(
    topic: str,
    data: object,
    subs: list[int],
    *,
    headers: Mapping[str, str] | None = None,
    offset: int | None = None,
    epoch: RequestId | None = None,
    retained: bool = False,
    loose: bool = False,
    id: RequestId | None = None,
    attempt: int = 1,
) -> Wire:
    """A publication on its way to a subscriber; *loose* if it may be left out where that one is slow, with an *id* if
    it must be acknowledged."""
    wire: Wire = {"topic": topic, "data": data, "subs": subs}
    if id is not None:
        wire["id"] = id
    if attempt > 1:
        wire["attempt"] = attempt
    if headers:
        wire["headers"] = dict(headers)
    if offset is not None:
        wire["offset"], wire["epoch"] = offset, epoch
    if retained:
        wire["retained"] = True
    if loose:
        wire["loose"] = True
    return wire


def event(topic: str, name: str, data: object, subs: list[int]) -> Wire:
    """What is no publication."""
    return {"topic": topic, "event": name, "data": data, "subs": subs}


def gap(topic: str, reason: str, subs: list[int], offset: int | None = None, epoch: RequestId | None = None) -> Wire:
    """Publications are lost to the subscriber: up to *offset*, where the topic is numbered."""
    wire = event(topic, "gap", {"reason": reason}, subs)
    if offset is not None:
        wire["offset"], wire["epoch"] = offset, epoch
    return wire


def ended(pattern: Sequence[str], reason: str, sub: int) -> Wire:
    """The node has ended a subscription; who does not know that sees a gap."""
    wire = pattern_gap(pattern, reason, [sub])
    wire["data"]["ended"] = True
    return wire


def pattern_gap(pattern: Sequence[str], reason: str, subs: list[int], lost: int | None = None) -> Wire:
    """Publications may be lost to a subscription on any of its topics; *lost* of them, where that is known."""
    data: dict[str, object] = {"reason": reason, "pattern": True}
    if lost is not None:
        data["lost"] = lost
    return event("/".join(pattern), "gap", data, subs)
