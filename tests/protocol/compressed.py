"""Compressed messages for tests, as senders make them and as attackers do."""

from __future__ import annotations

import zlib

MEGABYTE = 1 << 20


def deflated(message: bytes, *, level: int = 9, window_bits: int = 15) -> bytes:
    """*message* as RFC 7692 section 7.2.1 has it: flushed, without the last four bytes."""
    compressor = zlib.compressobj(level, zlib.DEFLATED, -window_bits)
    return (compressor.compress(message) + compressor.flush(zlib.Z_SYNC_FLUSH))[:-4]


def finished(message: bytes) -> bytes:
    """*message* as a stream that ends with a final block."""
    compressor = zlib.compressobj(9, zlib.DEFLATED, -15)
    return compressor.compress(message) + compressor.flush(zlib.Z_FINISH)


def bomb_of(size: int) -> bytes:
    """*size* zero bytes, a multiple of a mebibyte, in about a thousandth of it."""
    compressor = zlib.compressobj(9, zlib.DEFLATED, -15)
    # A full flush starts anew, so its bytes can be repeated.
    return (compressor.compress(bytes(MEGABYTE)) + compressor.flush(zlib.Z_FULL_FLUSH)) * (size // MEGABYTE)
