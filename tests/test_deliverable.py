"""Publications that no delivery can carry are refused when they are published."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest

from webmesh.deliverable import ROOM, check_deliverable, own_payload
from webmesh.exceptions import EncodeError
from webmesh.message_serializers import AbstractMessageSerializer, MessagePackSerializer, StandardJsonSerializer
from webmesh.options import Limits
from webmesh.peer_subscriber import delivered
from webmesh.protocol.publication import Publication

LIMITS = Limits(message_size=4096)
HEADERS = {"dedupe-id": "d" * 30, "a": "b" * 100}


def fits(payload: Any, serializer: AbstractMessageSerializer) -> bool:
    try:
        check_deliverable(Publication("a/b", payload, HEADERS), serializer, LIMITS)
    except EncodeError:
        return False
    return True


@pytest.mark.parametrize("form", [StandardJsonSerializer, partial(MessagePackSerializer, compress_threshold=100_000)])
@pytest.mark.parametrize("character", ["x", "\u00fc", "\x01", '"', "\U0001f600"])
def test_the_largest_that_is_taken_is_delivered(form: Callable[[Limits], AbstractMessageSerializer], character: str):
    """With its number, and to twenty subscriptions; what is refused would have come close."""
    serializer, plain = form(LIMITS), form(Limits(message_size=100_000))
    size = next(size for size in range(5000, 0, -1) if fits(character * size, serializer))
    publication = Publication("a/b", character * size, HEADERS, offset=2**40, epoch="e" * 12, retained=True)
    message = plain.serialize(delivered(publication, list(range(10**6, 10**6 + 20)), loose=True, id=10**6))
    written = len(message.encode() if isinstance(message, str) else message)
    assert LIMITS.message_size - ROOM < written <= LIMITS.message_size


def test_a_programs_own_is_copied_or_refused():
    """The text says what there is room for."""
    payload = {"items": [1]}
    assert payload == own_payload(payload, {}, LIMITS)
    assert payload is not own_payload(payload, {}, LIMITS)
    with pytest.raises(EncodeError, match=f"{4096 - ROOM} at most"):
        own_payload("x" * 3500, HEADERS, LIMITS)
