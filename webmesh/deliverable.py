"""Whether a publication can be delivered, seen before it is accepted: to subscribers one that cannot would be a loss.

A delivery says more than a publication did, so what fits into one message may not fit into the other.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from webmesh.exceptions import EncodeError
from webmesh.message_serializers import StandardJsonSerializer
from webmesh.protocol.json_text import write_json
from webmesh.protocol.msgpack_body import read_msgpack, write_msgpack, written_size

if TYPE_CHECKING:
    from webmesh.message_serializers import AbstractMessageSerializer
    from webmesh.options import Limits
    from webmesh.protocol.publication import Publication

ROOM = 512
"""Bytes of a message that a delivery needs for numbers, the ids of some twenty subscriptions, and names of keys."""

JSON_FACTOR = 6
"""How many times as long as in msgpack a value may be in JSON: a control character is written as six."""


def own_payload(payload: Any, headers: Mapping[str, str], limits: Limits) -> Any:
    """A copy of a program's object, which it may go on to change while this one waits or is kept.

    Raises:
        EncodeError: No message, or no delivery, can carry it.
    """
    packed = write_msgpack([payload], limits)
    _check(len(packed) + (written_size(dict(headers)) if headers else 0), limits)
    return read_msgpack(packed, limits)[0]  # type: ignore[index]  # it is that list


def check_deliverable(publication: Publication, serializer: AbstractMessageSerializer, limits: Limits) -> None:
    """See whether those who speak as its publisher does can get it.

    Raises:
        EncodeError: It leaves no room for what a delivery says besides.
    """
    kept = [publication.payload, dict(publication.headers)]
    size = written_size(kept)
    if isinstance(serializer, StandardJsonSerializer) and size * JSON_FACTOR + ROOM > limits.message_size:
        size = len(write_json(kept, limits).encode())
    _check(size, limits)


def _check(size: int, limits: Limits) -> None:
    most = limits.message_size - ROOM
    if size > most:
        raise EncodeError(f"a publication of {size} bytes cannot be delivered: {most} at most, its headers included")
