"""What `$will`, and the `wills` of `$hello`, ask for (docs/PROTOCOL.md section 4). Pure: maps in, `Will`s out."""

from __future__ import annotations

from math import isfinite
from typing import Any, Final

from webmesh.exceptions import BadPattern, ConfigurationError, InvalidArgument
from webmesh.protocol.publication import read_publication
from webmesh.protocol.topics import read_topic
from webmesh.protocol.wills import Will, checked_reasons

ID_SIZE: Final = 64
"""Characters of a will's id."""


def read_will_change(payload: object) -> Will | str:
    """The will that is to be set, or the id of the one that is revoked.

    Raises:
        InvalidArgument: It is neither; says what is wrong.
    """
    if isinstance(payload, dict) and payload.get("revoke") is not None:
        if payload["revoke"] is not True:
            raise InvalidArgument("revoke must be true")
        return _id(payload.get("id"))
    return read_will(payload)


def read_wills(wire: object) -> list[Will]:
    """The `wills` of a `$hello`; of several with one id the last holds.

    Raises:
        InvalidArgument: They are none.
    """
    if not isinstance(wire, list):
        raise InvalidArgument("the wills of $hello must be a list")
    return list({will.id: will for will in map(read_will, wire)}.values())


def read_will(wire: object) -> Will:
    """A will from its map.

    Raises:
        InvalidArgument: It is none; says what is wrong.
    """
    if not isinstance(wire, dict):
        raise InvalidArgument("a will is a map of id, topic and data")
    headers = wire.get("headers") or {}
    if not isinstance(headers, dict) or not all(isinstance(text, str) for pair in headers.items() for text in pair):
        raise InvalidArgument("the headers of a will are a map of text to text")
    topic = _topic(wire.get("topic"))
    read_publication(topic, None, headers, publisher=None, now=0.0)  # tells now what would be wrong in the end
    return Will(
        _id(wire.get("id")), topic, wire.get("data"), _reasons(wire.get("on")), _delay(wire.get("delay_ms")), headers
    )


def will_to_wire(will: Will) -> dict[str, Any]:
    """The map that `read_will` reads."""
    return {
        "id": will.id, "topic": will.topic, "data": will.payload, "on": sorted(will.on),
        "delay_ms": round(will.delay * 1000), "headers": dict(will.headers),
    }  # fmt: skip


def _id(will_id: object) -> str:
    if isinstance(will_id, str) and 0 < len(will_id) <= ID_SIZE and will_id.isprintable():
        return will_id
    raise InvalidArgument(f"the id of a will must be 1 to {ID_SIZE} printable characters")


def _topic(topic: object) -> str:
    try:
        return "/".join(read_topic(topic))  # type: ignore[arg-type]  # it says so itself
    except (BadPattern, ConfigurationError) as error:
        raise InvalidArgument(str(error)) from error


def _reasons(on: object) -> frozenset[str]:
    if on is not None and not (isinstance(on, list) and all(isinstance(reason, str) for reason in on)):
        raise InvalidArgument("on must be a list of reasons")
    try:
        return checked_reasons(on)
    except ValueError as error:
        raise InvalidArgument(str(error)) from error


def _delay(delay_ms: object) -> float:
    if delay_ms is None:
        return 0.0
    if isinstance(delay_ms, int | float) and not isinstance(delay_ms, bool) and delay_ms >= 0 and isfinite(delay_ms):
        return delay_ms / 1000
    raise InvalidArgument("delay_ms must be a number of milliseconds, 0 or more")
