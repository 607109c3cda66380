"""How two nodes show each other that they know the mesh's secret, without telling it.

Pure: random texts are handed in. Each side chooses a nonce, and proves with an HMAC over both nonces, both nodes' ids
and its own part in it; so nobody can answer with what it was asked, or use a proof on another link. It keeps strangers
out of the mesh; what is said on a link only TLS hides. Wire form: docs/PROTOCOL.md, "Between nodes".
"""

from __future__ import annotations

import hashlib
import hmac
from typing import NamedTuple

from webmesh.exceptions import ConfigurationError, InvalidArgument

SHORTEST_SECRET = 16
"""Bytes that a secret must have at least: 128 random bits cannot be tried out."""

NONCE_SIZE = 16
"""Random bytes of a nonce."""


class Handshake(NamedTuple):
    """What both sides know when a link is made."""

    dialling: str
    """The id of the node that has dialled."""
    accepting: str
    dialling_nonce: str
    accepting_nonce: str


def checked_secret(secret: str | bytes) -> bytes:
    """A mesh's secret as bytes.

    Raises:
        ConfigurationError: It is too short, or no text.
    """
    if not isinstance(secret, str | bytes):
        raise ConfigurationError("the secret of a mesh must be a text or bytes")
    value = secret.encode() if isinstance(secret, str) else secret
    if len(value) < SHORTEST_SECRET:
        raise ConfigurationError(f"the secret of a mesh must have at least {SHORTEST_SECRET} bytes")
    return value


def dialler_proof(secret: bytes, handshake: Handshake) -> str:
    """What the node that has dialled shows."""
    return _proof(secret, "dialling", handshake)


def acceptor_proof(secret: bytes, handshake: Handshake) -> str:
    """What the node that was dialled shows."""
    return _proof(secret, "accepting", handshake)


def is_proof(shown: object, expected: str) -> bool:
    """Whether *shown*, which may be anything, is the proof that was expected; takes as long for each wrong one."""
    return isinstance(shown, str) and shown.isascii() and hmac.compare_digest(shown, expected)


def read_nonce(value: object) -> str:
    """A nonce of the peer's.

    Raises:
        InvalidArgument: It is none, or too short to be random.
    """
    if not isinstance(value, str) or not 2 * NONCE_SIZE <= len(value) <= 128 or not value.isascii():
        raise InvalidArgument(f"a nonce is a text of {2 * NONCE_SIZE} to 128 ASCII characters")
    return value


def _proof(secret: bytes, part: str, handshake: Handshake) -> str:
    # Lengths stand before the texts: no two handshakes give the same bytes.
    said = b"".join(b"%d:%s" % (len(text.encode()), text.encode()) for text in ("webmesh", part, *handshake))
    return hmac.new(secret, said, hashlib.sha256).hexdigest()
