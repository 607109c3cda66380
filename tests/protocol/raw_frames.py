"""Frames written by hand for tests, right and wrong ones: nothing here checks anything."""

from __future__ import annotations

from itertools import cycle

CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG = 0x0, 0x1, 0x2, 0x8, 0x9, 0xA
KEY = b"\x37\xfa\x21\x3d"
"""A masking key; RFC 6455 section 5.7 uses it in its examples."""


def raw_frame(
    opcode: int,
    payload: bytes = b"",
    *,
    fin: bool = True,
    rsv: int = 0,
    key: bytes | None = KEY,
    declared: int | None = None,
    length_size: int | None = None,
) -> bytes:
    """One frame.

    Args:
        rsv: The three reserved bits, 4 for RSV1.
        key: Masking key of a client's frame; `None` for a server's, which is not masked.
        declared: Length that the head says, where it is to differ from the payload's.
        length_size: Bytes of the length, 1, 2 or 8, where it is to differ from the least that do.
    """
    length = len(payload) if declared is None else declared
    if length_size is None:
        length_size = 1 if length < 126 else 2 if length < 65536 else 8
    head = bytes((fin << 7 | rsv << 4 | opcode,))
    short = {1: length, 2: 126, 8: 127}[length_size]
    head += bytes(((key is not None) << 7 | short,))
    if length_size > 1:
        head += length.to_bytes(length_size, "big")
    return head + payload if key is None else head + key + xor(payload, key)


def xor(payload: bytes, key: bytes) -> bytes:
    """Masking, as the standard words it: octet by octet."""
    return bytes(octet ^ mask for octet, mask in zip(payload, cycle(key)))


def cut(data: bytes, *sizes: int) -> list[bytes]:
    """*data* in pieces of these sizes, the last size over and over."""
    pieces = []
    for size in sizes[:-1]:
        pieces.append(data[:size])
        data = data[size:]
    return pieces + [data[start : start + sizes[-1]] for start in range(0, len(data), sizes[-1])]
