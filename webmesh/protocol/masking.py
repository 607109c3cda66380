"""Masking of payloads: the XOR with a four-byte key that RFC 6455 section 5.3 asks of clients.

Knows no frames. In C, where `speedups` has it, or in Python: both give the same bytes, and masking twice with one key
gives the payload back.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

from webmesh.protocol.speedups import NATIVE

TRANSLATE_FROM = 1024
"""Bytes from which four table look-ups of a quarter each beat one XOR of two long integers."""

_ALL_BYTES = int.from_bytes(bytes(range(256)), "little")


@cache
def _xor_table(key_byte: int) -> bytes:
    """The `bytes.translate` table that XORs with *key_byte*; 256 of them exist."""
    return (_ALL_BYTES ^ int.from_bytes(bytes((key_byte,)) * 256, "little")).to_bytes(256, "little")


def mask_in_python(data: bytes, key: bytes) -> bytes:
    """XOR *data* with the four bytes of *key*, repeated.

    Raises:
        ValueError: *key* is not four bytes long.
    """
    if len(key) != 4:
        raise ValueError(f"a masking key has 4 bytes, not {len(key)}")
    size = len(data)
    if size < TRANSLATE_FROM:
        pattern = int.from_bytes((key * ((size + 3) >> 2))[:size], "little")
        return (int.from_bytes(data, "little") ^ pattern).to_bytes(size, "little")
    masked = bytearray(size)
    for offset in range(4):
        masked[offset::4] = data[offset::4].translate(_xor_table(key[offset]))
    return bytes(masked)


def unmask_in_python(frame: bytes, start: int, stop: int) -> bytes:
    """The payload of a masked frame whose key stands at *start*, followed by the payload up to *stop*.

    Raises:
        ValueError: The key and the payload do not lie within *frame*.
    """
    if not 0 <= start <= stop - 4 <= len(frame) - 4:
        raise ValueError(f"no key and payload from {start} to {stop} in {len(frame)} bytes")
    return mask_in_python(frame[start + 4 : stop], frame[start : start + 4])


mask: Callable[[bytes, bytes], bytes] = mask_in_python if NATIVE is None else NATIVE.mask
unmask: Callable[[bytes, int, int], bytes] = unmask_in_python if NATIVE is None else NATIVE.unmask
