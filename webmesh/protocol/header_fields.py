"""Header fields as text: their grammar, reading repeated ones, checking those that callers give.

Decides what a name and a value may be made of (RFC 9110 section 5, narrowed to printable ASCII), and which headers
are nobody's but the handshake's. What a particular header means is decided where it is used.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from http import HTTPStatus

from webmesh.exceptions import ConfigurationError

TOKEN_CHARACTER = r"[-!#$%&'*+.^_`|~0-9A-Za-z]"
TOKEN = f"{TOKEN_CHARACTER}+"
"""Pattern of a token (RFC 9110 section 5.6.2): methods, header names, subprotocols, extension names."""

OWN_HEADERS = frozenset(
    {
        "connection", "content-length", "host", "sec-websocket-accept", "sec-websocket-extensions", "sec-websocket-key",
        "sec-websocket-protocol", "sec-websocket-version", "te", "trailer", "transfer-encoding", "upgrade",
    }
)  # fmt: skip
"""Headers that the handshake writes or leaves out on purpose; callers cannot add them to an upgrade or to a 101."""

_TOKEN = re.compile(TOKEN)
_VALUE = re.compile(r"[\t -~]*")


def is_token(text: str) -> bool:
    """Whether *text* is one token."""
    return _TOKEN.fullmatch(text) is not None


def joined_fields(fields: Iterable[tuple[bytes, bytes]]) -> dict[str, str]:
    """Values of parsed ASCII fields by name; those of a repeated one are joined by a comma and a space.

    So a header that may stand only once, and whose grammar has no comma, needs no check of its own for repetition.
    """
    joined: dict[str, str] = {}
    for raw_name, raw_value in fields:
        name, value = raw_name.decode("ascii"), raw_value.decode("ascii")
        joined[name] = f"{joined[name]}, {value}" if name in joined else value
    return joined


def words(value: str) -> list[str]:
    """The elements of a comma-separated value, in lower case."""
    return [word.strip(" \t") for word in value.lower().split(",")]


def checked_fields(
    fields: Iterable[tuple[str, str]], *, refused: frozenset[str] = OWN_HEADERS
) -> list[tuple[str, str]]:
    """Fields that a caller gave, once they are known to be safe on the wire.

    Args:
        refused: Lower-case names that cannot be given.

    Raises:
        ConfigurationError: A name is no token or refused, or a value has a control character (so no CR, LF or NUL),
            a character outside ASCII, or space at an end. Values may be secret, so the text has the name alone.
    """
    checked = []
    for name, value in fields:
        if not isinstance(name, str) or not is_token(name):
            raise ConfigurationError(f"header name {name!r} is not a token of ASCII characters")
        if name.lower() in refused:
            raise ConfigurationError(f"header {name!r} is written by the handshake itself")
        if not isinstance(value, str) or not _VALUE.fullmatch(value) or value != value.strip(" \t"):
            raise ConfigurationError(f"the value of header {name!r} must be printable ASCII without space at its ends")
        checked.append((name, value))
    return checked


def phrase(status: int) -> str:
    """The standard's words for an HTTP status; empty for one that it does not know."""
    try:
        return HTTPStatus(status).phrase
    except ValueError:
        return ""
