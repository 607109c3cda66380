"""The head of a frame: what its first bytes say (RFC 6455 section 5.2).

Decides alone where a frame ends. It judges a head only so far as that needs: a frame that cannot be right has no
end here, and wsproto, which gets all bytes of it, says what is wrong.
"""

from __future__ import annotations

from typing import Final, NamedTuple

TEXT: Final = 0x81
"""First byte of a whole text message in one frame."""
BINARY: Final = 0x82
"""First byte of a whole binary message in one frame."""
CLOSE: Final = 0x88
"""First byte of a close frame."""
FINAL: Final = 0x80
"""Bit of the first byte that the last frame of a message has."""
RSV1: Final = 0x40
"""Bit of the first byte that permessage-deflate uses (RFC 7692 section 6)."""
CONTROL: Final = 0x08
"""Bit of the first byte that pings, pongs and close frames have."""
MASKED: Final = 0x80
"""Bit of the second byte that tells a masking key; all frames of a client have it, none of a server."""
KEY_SIZE: Final = 4
"""Bytes of a masking key."""
ENDLESS: Final = 1 << 64
"""Size of a frame that cannot be right: more than any length says."""

_PLAIN: Final = frozenset((0x00, 0x01, 0x02, 0x80, 0x81, 0x82, 0x88, 0x89, 0x8A))
_COMPRESSED: Final = frozenset((0x41, 0x42, 0xC1, 0xC2))
_LENGTHS: Final = {126: (2, 126), 127: (8, 1 << 16)}
"""Bytes of an extended length, and the least that needs so many."""


class Head(NamedTuple):
    """What a head says."""

    first: int
    """The first byte: final, reserved bits and opcode."""
    size: int
    """Bytes of payload; `ENDLESS` where the frame cannot be right."""
    start: int
    """Where its masking key starts, else its payload; where the frame starts, if that cannot be right."""

    @property
    def wrong(self) -> bool:
        """Whether no frame can begin so."""
        return self.size == ENDLESS

    @property
    def final(self) -> bool:
        """Whether the message, or control frame, ends with this frame."""
        return self.first & FINAL != 0

    @property
    def control(self) -> bool:
        """Whether it is a ping, pong or close frame."""
        return self.first & CONTROL != 0

    @property
    def whole_message(self) -> bool:
        """Whether the frame is a message by itself, compressed or not."""
        return self.first & ~RSV1 in (TEXT, BINARY)


def read_head(data: bytes, position: int, *, mask_bit: int, compression: bool) -> Head | None:
    """The head of the frame at *position*; `None` while its length is not there. Its masking key may be missing yet.

    Args:
        mask_bit: `MASKED` where the peer is a client, else 0.
        compression: Whether data frames may begin a compressed message.
    """
    available = len(data) - position
    if available < 2:
        return None
    first, size = data[position], data[position + 1] ^ mask_bit
    most = 125 if first & CONTROL else 127
    if size > most or not (first in _PLAIN or compression and first in _COMPRESSED):
        return Head(first, ENDLESS, position)
    start = position + 2
    if size > 125:
        length_size, least = _LENGTHS[size]
        if available < 2 + length_size:
            return None
        size = int.from_bytes(data[start : start + length_size], "big")
        start += length_size
        if size < least:
            return Head(first, ENDLESS, position)
    return Head(first, size, start)
