"""Whole messages in single frames: written, and read in runs (RFC 6455 section 5.2).

Decides alone how an uncompressed message is written, plain by a server, masked by a client, and which frames can
be read without remembering anything. Whether a message may be sent, and what other frames mean, is for `frames`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from struct import Struct, iter_unpack
from typing import Any, Final

from webmesh.exceptions import LocalProtocolError
from webmesh.protocol.frame_head import BINARY, ENDLESS, KEY_SIZE, MASKED, TEXT
from webmesh.protocol.masking import mask, unmask
from webmesh.protocol.speedups import NATIVE

KEYS_AT_ONCE: Final = 256
"""Masking keys that are drawn together: one system call costs as much as the masking of several frames."""

_LONGEST_HEAD: Final = 8  # bytes of a masked frame's head with a 16-bit length; longer ones are seldom whole anyway

_head_16 = Struct("!BBH").pack
_head_64 = Struct("!BBQ").pack


def read_run_in_python(
    data: bytes, position: int, mask_bit: int, limit: int, most: int, received: list[Any]
) -> int:
    """Read whole plain frames that follow one another: final, no extension, not empty, all of it there.

    Args:
        mask_bit: `MASKED` where the peer is a client, else 0.
        limit: Bytes that a message may have.
        most: Frames to read.
        received: Gets their messages.

    Returns:
        Where the first frame begins that was not read.

    Raises:
        UnicodeDecodeError: A text message is no UTF-8; *received* has those before it.
    """
    end, key_size = len(data), KEY_SIZE if mask_bit else 0
    while most > 0 and end - position >= _LONGEST_HEAD:
        first = data[position]
        size = data[position + 1] ^ mask_bit
        start = position + 2
        if size > 125:  # 126: the length stands in the next two bytes; other frames are not for here
            wide = data[start] << 8 | data[start + 1]
            size = wide if size == 126 and wide > 125 else ENDLESS
            start += 2
        stop = start + size + key_size
        if not size or stop > end or size > limit or first != BINARY and first != TEXT:
            break
        payload = unmask(data, start, stop) if mask_bit else data[start:stop]
        received.append(payload if first == BINARY else payload.decode())
        position = stop
        most -= 1
    return position


def whole_frame_in_python(first: int, payload: bytes) -> bytes:
    """*payload* in one frame that is not masked, with that first byte."""
    size = len(payload)
    if size < 126:
        return bytes((first, size)) + payload
    if size < 65536:
        return _head_16(first, 126, size) + payload
    return _head_64(first, 127, size) + payload


read_run: Callable[[bytes, int, int, int, int, list[Any]], int] = (
    read_run_in_python if NATIVE is None else NATIVE.read_run
)
whole_frame: Callable[[int, bytes], bytes] = whole_frame_in_python if NATIVE is None else NATIVE.whole_frame


def server_frame(message: str | bytes) -> bytes:
    """A whole message as a server's frame: the same bytes for any number of receivers.

    Receivers with permessage-deflate take it, too, as no message need be compressed (RFC 7692 section 6): so a
    message to thousands is compressed for none of them. Whether a connection may still be written to is
    for the caller to know.

    Raises:
        LocalProtocolError: *message* is neither text that UTF-8 can say, nor bytes.
    """
    return whole_frame(BINARY, message) if isinstance(message, bytes) else whole_frame(*first_and_payload(message))


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
        return self.whole(first, payload)

    def whole(self, first: int, payload: bytes) -> bytes:
        """*payload* in one masked frame with that first byte."""
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
