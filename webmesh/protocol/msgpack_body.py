"""Strict msgpack: plain values to bytes and back, and the zlib stream that may be around them.

Decides what is taken: one value without extension types (timestamps are one), with text keys and
finite numbers, nothing behind it, and nothing that declares more than it holds. What can be switched on
in `msgpack` is; the rest is looked for in the bytes at the speed of C, and only a message in which
something suspicious stands is walked through. Every message gets a decoder and an encoder of its
own: one that has failed is never used again (msgpack's own advice). Wire form: docs/PROTOCOL.md section 1.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Callable
from typing import Final, NoReturn

from msgpack import Packer, Unpacker, unpackb  # type: ignore[import-untyped]
from msgpack.exceptions import UnpackException  # type: ignore[import-untyped]

from webmesh.exceptions import DecodeError, EncodeError, MessageTooBig
from webmesh.options import Limits
from webmesh.protocol.speedups import NATIVE
from webmesh.protocol.values import BINARY_SCALARS, Misfit, few_items, numbers_fit, plain_copy, spare_items

ZLIB_FIRST_BYTE = 0x78
"""RFC 1950: deflate with a 32 KiB window. As msgpack it would be the number 120, never a map."""

_HEADERS = bytes((*range(0x80, 0xA0), *range(0xDC, 0xE0)))
_HEADERS_AND_FLOATS = _HEADERS + b"\xca\xcb"
_BINARY = bytes(range(0xC4, 0xC7))
_QUIET = bytes(c for c in range(256) if c not in _HEADERS_AND_FLOATS + _BINARY)
"""Bytes that begin no map, list, bytes or float, wherever they stand."""


def marks_in_python(data: bytes) -> bytes:
    """Those bytes of *data* that may begin a map, list, bytes or float."""
    return data.translate(None, _QUIET)


msgpack_marks: Callable[[bytes], bytes] = marks_in_python if NATIVE is None else NATIVE.msgpack_marks

_NOT_FINITE_64 = re.compile(rb"\xcb[\x7f\xff][\xf0-\xff]").search
_NOT_FINITE_32 = re.compile(rb"\xca[\x7f\xff][\x80-\xff]").search
"""Find every NaN and infinity, whose exponent bits are all set (IEEE 754), and rarely something else."""

_SCREENED_SIZE = 4096
"""Bytes up to which looking at each byte is cheaper than looking at each value."""

_BUFFER_SIZE = 512
"""Bytes that an encoder starts with; it doubles them as needed. The default, 256 KiB, costs 0.1 us more."""

_SAMPLE_SIZE = 4096
_SAMPLE_FROM = 4 * _SAMPLE_SIZE
"""Bytes from which a sample decides whether to compress: on 64 KiB of noise zlib spends 800 us for nothing."""

_PIECE: Final = 64 * 1024
"""Bytes of a compressed message up to which it is inflated in one go, and in larger ones of one step."""

_PACKING_FAILURES = (ValueError, OverflowError, TypeError, BufferError, RecursionError)
"""What `msgpack` raises on values that are no plain ones; a lone surrogate is a ValueError too."""

_REFUSALS = (ValueError, OverflowError, TypeError, RecursionError, UnpackException)
"""What `msgpack` raises on bad bytes (seen: FormatError, StackError, ExtraData, OutOfData, UnicodeDecodeError)."""


def write_msgpack(value: object, limits: Limits) -> bytes:
    """msgpack for *value*, a plain one or one that `plain_copy` makes plain; never compressed.

    Raises:
        EncodeError: It is not plain, or too large; the text says where.
    """
    spare = 0
    try:
        spare = spare_items(value, BINARY_SCALARS, limits.depth, limits.items)
        if spare < 0:
            value = _plain(value, limits)
        packed: bytes = Packer(buf_size=_BUFFER_SIZE).pack(value)
    except _PACKING_FAILURES:
        packed = _packed_copy(value, limits)
    if 0xCB in packed and (few_items(limits.items - spare, packed) or _NOT_FINITE_64(packed)):
        if not numbers_fit(value):
            _plain(value, limits)
    if len(packed) > limits.message_size:
        raise EncodeError(f"message of {len(packed)} bytes is over the limit of {limits.message_size}")
    return packed


def read_msgpack(data: bytes, limits: Limits) -> object:
    """The one value that *data* holds.

    A key that stands twice in the outermost map is refused; further in, the last one wins.

    Raises:
        DecodeError: Not msgpack, a value outside of what is plain, or beyond *limits*.
    """
    marks = msgpack_marks(data) if len(data) <= _SCREENED_SIZE else data
    try:
        if len(marks) <= limits.depth and len(data) <= limits.items:
            value = unpackb(data, ext_hook=_refuse_extension, max_ext_len=0)
            # No more containers than levels, no more bytes than elements: what remains is to be looked at.
            if marks.strip(_HEADERS):
                _check_suspects(value, data, marks, limits)
        else:
            value = _read_large(data, limits)
    except Misfit as misfit:
        raise DecodeError(str(misfit)) from misfit
    except _REFUSALS as error:
        raise DecodeError(_why(error)) from error
    if type(value) is dict and len(value) != (data[0] & 0x0F if data[0] <= 0x8F else _declared_pairs(data)):
        raise DecodeError("a key stands twice in the outermost map")
    return value


def copied(value: object) -> object:
    """A copy of a value that was read or written before, so that whoever gets it may change it."""
    copy: object = unpackb(Packer(buf_size=_BUFFER_SIZE).pack(value))
    return copy


def written_size(value: object) -> int:
    """Bytes that a value takes which was read or written before."""
    return len(Packer(buf_size=_BUFFER_SIZE).pack(value))


def compress(body: bytes, level: int) -> bytes:
    """A zlib stream of *body*, or *body* itself where that is no longer."""
    if len(body) >= _SAMPLE_FROM:
        middle = len(body) // 2  # the beginning is keys and file headers, which always compress
        sample = zlib.compress(body[middle : middle + _SAMPLE_SIZE], level)
        if len(sample) > _SAMPLE_SIZE * 0.95:
            return body
    compressed = zlib.compress(body, level)
    return compressed if len(compressed) < len(body) else body


def inflate(data: bytes, limit: int) -> bytes:
    """What the zlib stream *data* holds.

    Raises:
        MessageTooBig: It holds more than *limit* bytes; no more than one byte beyond was inflated.
        DecodeError: It is damaged, cut short, or something follows it.
    """
    inflater = zlib.decompressobj()
    try:
        if len(data) <= _PIECE:
            body, left = inflater.decompress(data, limit + 1), len(inflater.unused_data)
        else:
            body, left = _inflate_pieces(inflater, memoryview(data), limit)
    except zlib.error as error:
        raise DecodeError(f"not a zlib stream: {error}") from error
    if len(body) > limit:
        raise MessageTooBig(len(body), limit)
    if not inflater.eof:
        raise DecodeError("zlib stream that stops before its end")
    if left:
        raise DecodeError(f"{left} bytes after the end of the zlib stream")
    return body


def _inflate_pieces(inflater: zlib._Decompress, data: memoryview, limit: int) -> tuple[bytes, int]:
    """What is inflated, and how many bytes follow the stream; `MessageTooBig` beyond *limit*.

    In one go zlib would copy what it has not read of a bomb, and gather its output twice: seen to take 4 MiB for 1. So
    would one buffer that grows.
    """
    pieces: list[bytes] = []
    size = 0
    for start in range(0, len(data), _PIECE):
        piece: bytes | memoryview = data[start : start + _PIECE]
        full = True  # with all of the piece taken, zlib may still hold what it gives
        while (piece or full) and not inflater.eof:
            step = min(_PIECE, limit + 1 - size)
            inflated = inflater.decompress(piece, step)
            pieces.append(inflated)
            size += len(inflated)
            if size > limit:
                raise MessageTooBig(size, limit)
            piece, full = inflater.unconsumed_tail, len(inflated) == step
        if inflater.eof:
            return b"".join(pieces), len(inflater.unused_data) + len(data) - min(len(data), start + _PIECE)
    return b"".join(pieces), 0


def _plain(value: object, limits: Limits) -> object:
    try:
        return plain_copy(value, BINARY_SCALARS, limits.depth, limits.items)
    except ValueError as misfit:
        raise EncodeError(str(misfit)) from misfit


def _packed_copy(value: object, limits: Limits) -> bytes:
    """Say what is wrong with *value*, or mend it (a memoryview with gaps)."""
    copy = _plain(value, limits)
    try:
        packed: bytes = Packer(buf_size=_BUFFER_SIZE).pack(copy)
    except _PACKING_FAILURES as error:
        raise EncodeError(f"msgpack cannot carry this: {error}") from error
    return packed


def _refuse_extension(code: int, data: bytes) -> NoReturn:
    raise Misfit(f"extension type {code} is not accepted")


def _check_suspects(value: object, data: bytes, marks: bytes, limits: Limits) -> None:
    """Find bytes that are keys, and numbers that are not finite, where *marks* has what may begin them."""
    if marks.strip(_HEADERS_AND_FLOATS) and spare_items(value, BINARY_SCALARS, limits.depth, limits.items) < 0:
        plain_copy(value, BINARY_SCALARS, limits.depth, limits.items)
    if _may_not_be_finite(data) and not numbers_fit(value):
        plain_copy(value, BINARY_SCALARS, limits.depth, limits.items)


def _may_not_be_finite(data: bytes) -> bool:
    return (0xCB in data and _NOT_FINITE_64(data) is not None) or (0xCA in data and _NOT_FINITE_32(data) is not None)


def _read_large(data: bytes, limits: Limits) -> object:
    """As `read_msgpack` for a message with many bytes or many containers: bounds its memory, then walks through it."""
    if 0xDC in data or 0xDD in data:
        _check_lengths(data)
    longest = min(len(data), limits.items)
    count = _Count(limits.items) if len(data) > limits.items else None
    value: object = unpackb(
        data,
        ext_hook=_refuse_extension,
        max_ext_len=0,
        max_array_len=longest,
        max_map_len=longest,
        list_hook=count and count.take_list,
        object_hook=count and count.take_map,
    )
    spare = spare_items(value, BINARY_SCALARS, limits.depth, limits.items)
    if spare < 0:
        plain_copy(value, BINARY_SCALARS, limits.depth, limits.items)
    if (few_items(limits.items - spare, data) or _may_not_be_finite(data)) and not numbers_fit(value):
        plain_copy(value, BINARY_SCALARS, limits.depth, limits.items)
    return value


def _check_lengths(data: bytes) -> None:
    """Pass over the whole message without making objects: what declares more than it holds ends here.

    `msgpack` makes room for a list when it reads its header, so a thousand nested headers that each declare
    the most would take 8,000 times the message in memory.
    """
    unpacker = Unpacker(max_buffer_size=len(data))
    unpacker.feed(data)
    unpacker.skip()


class _Count:
    """Counts elements while they are decoded, so that too many end the work early."""

    __slots__ = ("_items", "_left")

    def __init__(self, items: int) -> None:
        self._items = items
        self._left = items

    def take_list(self, value: list[object]) -> list[object]:
        """Hook for every list that is whole."""
        self._take(len(value))
        return value

    def take_map(self, value: dict[str, object]) -> dict[str, object]:
        """Hook for every map that is whole."""
        self._take(len(value))
        return value

    def _take(self, elements: int) -> None:
        self._left -= elements
        if self._left < 0:
            raise Misfit(f"more than {self._items} elements in all maps and lists together")


def _declared_pairs(data: bytes) -> int:
    """Pairs of the map 16 or map 32 that *data* is known to begin with."""
    return int.from_bytes(data[1:3] if data[0] == 0xDE else data[1:5], "big")


def _why(error: BaseException) -> str:
    if "max_ext_len" in str(error):
        return "extension types, timestamps included, are not accepted"
    return f"not msgpack: {error or type(error).__name__}"
