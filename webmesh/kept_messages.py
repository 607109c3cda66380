"""Encoded deliveries that a session keeps, made anew for what has changed while its peer was away.

Each is decoded only if that is so. What is kept, and for how long, is `kept_deliveries`.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING, Any

from webmesh.exceptions import DecodeError
from webmesh.protocol.publication import TTL

if TYPE_CHECKING:
    from webmesh.message_serializers import AbstractMessageSerializer
    from webmesh.protocol.kept_deliveries import Shared


def without(serializer: AbstractMessageSerializer, ended: Collection[int], message: Shared) -> Shared | None:
    """A kept delivery for those of its subscriptions that have not ended; `None` when there is none of them.

    Only one for both is decoded. It counts for what it did: that it is shared no longer is found when it is counted
    again, and until then nothing that stays has to go for it.
    """
    wire: Any = None
    try:
        subs = message[3]
        if subs is None:
            wire = serializer.deserialize(message[0])
            subs = wire.get("subs") or ()
        left = [sub for sub in subs if sub not in ended]
        if len(left) == len(subs):
            return message
        if not left:
            return None
        wire = wire or serializer.deserialize(message[0])
    except DecodeError:  # whom it is for cannot be said
        return None
    due = message[2]
    expiry = None if due is None else (due[0], {**due[1], "subs": left})
    return serializer.serialize({**wire, "subs": left}), message[1], expiry, left


def with_time_left(serializer: AbstractMessageSerializer, message: str | bytes, seconds: float) -> str | bytes:
    """A kept delivery with a time to live, of which so much is left."""
    try:
        wire: Any = serializer.deserialize(message)
    except DecodeError:
        return message
    left = str(max(1, round(seconds * 1000)))
    return serializer.serialize({**wire, "headers": {**wire.get("headers", {}), TTL: left}})
