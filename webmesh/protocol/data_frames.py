"""Whole messages as single frames, ready to send (RFC 6455 section 5.2).

Decides alone how an uncompressed message is written: as it is by a server, masked by a client. Whether it may be
sent at all is for `frames` to know.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from struct import Struct, iter_unpack
from typing import Final

from webmesh.exceptions import LocalProtocolError
from webmesh.protocol.frame_head import BINARY, MASKED, TEXT
from webmesh.protocol.masking import mask

KEYS_AT_ONCE: Final = 256
"""Masking keys that are drawn together: one system call costs as much as the masking of several frames."""

_head_16 = Struct("!BBH").pack
_head_64 = Struct("!BBQ").pack


def server_frame(message: str | bytes) -> bytes:
    """A whole message as a server's frame: the same bytes for any number of receivers.

    Receivers with permessage-deflate take it, too, as no message need be compressed (RFC 7692 section 6): so a
    message to thousands is compressed for none of them. Whether a connection may still be written to is
    for the caller to know.

    Raises:
        LocalProtocolError: *message* is neither text that UTF-8 can say, nor bytes.
    """
    first, payload = (BINARY, message) if isinstance(message, bytes) else first_and_payload(message)
    size = len(payload)
    if size < 126:
        return bytes((first, size)) + payload
    if size < 65536:
        return _head_16(first, 126, size) + payload
    return _head_64(first, 127, size) + payload


class ClientFrames:
    """Writes a client's frames, each masked with a key of its own."""

    __slots__ = ("_draw", "_keys")

    def __init__(self, draw: Callable[[int], bytes]) -> None:
        """Take keys from *draw*, which gives so many bytes that nobody can predict (RFC 6455 section 5.3)."""
        self._draw = draw
        self._keys: Iterator[tuple[bytes, ...]] = iter(())

    def frame(self, message: str | bytes) -> bytes:
        """A whole message as one masked frame.

        Raises:
            LocalProtocolError: *message* is neither text that UTF-8 can say, nor bytes.
        """
        first, payload = (BINARY, message) if isinstance(message, bytes) else first_and_payload(message)
        try:
            (key,) = next(self._keys)
        except StopIteration:
            self._keys = iter_unpack("4s", self._draw(4 * KEYS_AT_ONCE))
            (key,) = next(self._keys)
        size = len(payload)
        if size < 126:
            head = bytes((first, MASKED | size))
        elif size < 65536:
            head = _head_16(first, MASKED | 126, size)
        else:
            head = _head_64(first, MASKED | 127, size)
        return head + key + mask(payload, key)


def first_and_payload(message: object) -> tuple[int, bytes]:
    """First byte and payload of a message that is not, or not known to be, `bytes`.

    Raises:
        LocalProtocolError: It is neither text that UTF-8 can say, nor bytes.
    """
    if isinstance(message, str):
        try:
            return TEXT, message.encode()
        except UnicodeEncodeError as error:
            raise LocalProtocolError(f"text cannot be sent as UTF-8: {error.reason}") from error
    if isinstance(message, (bytes, bytearray, memoryview)):
        return BINARY, bytes(message)
    raise LocalProtocolError(f"a message is str or bytes, not {type(message).__name__}")
