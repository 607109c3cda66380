"""Strict msgpack and the zlib stream around it, both ways."""

from __future__ import annotations

import math
import os
import struct
import tracemalloc
import zlib
from collections.abc import Callable
from typing import Any

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.protocol.speedups import IN_PYTHON, c_module
from webmesh.exceptions import DecodeError, EncodeError, MessageTooBig
from webmesh.options import Limits
from webmesh.protocol import msgpack_body
from webmesh.protocol.msgpack_body import compress, copied, inflate, read_msgpack, write_msgpack
from webmesh.protocol.values import INTEGER_MAX, INTEGER_MIN

LIMITS = Limits()
SMALL = Limits(depth=5, items=30)
MEBIBYTE = 1024 * 1024

plain = st.recursive(
    st.none() | st.booleans() | st.integers(INTEGER_MIN, INTEGER_MAX) | st.text() | st.binary()
    | st.floats(allow_nan=False, allow_infinity=False),
    lambda below: st.lists(below, max_size=4) | st.dictionaries(st.text(), below, max_size=4),
    max_leaves=20,
)  # fmt: skip


def read(data: bytes, limits: Limits = LIMITS) -> Any:
    return read_msgpack(data, limits)


def refusal(data: bytes, limits: Limits = LIMITS) -> str:
    with pytest.raises(DecodeError) as caught:
        read(data, limits)
    return str(caught.value)


def padded(value: bytes) -> bytes:
    """The packed value in a list behind so many bytes that the message is read as a large one."""
    return b"\x92" + msgpack.packb("x" * 5000) + value


def short_and_long(value: bytes) -> list[bytes]:
    return [b"\x91" + value, padded(value), b"\x81\xa4data" + value]


@given(st.binary(max_size=600))
def test_both_implementations_find_the_same_marks(data: bytes) -> None:
    """C and Python mean the same bytes."""
    everything = bytes(range(256))

    assert IN_PYTHON.msgpack_marks(data) == c_module().msgpack_marks(data)
    assert IN_PYTHON.msgpack_marks(everything) == c_module().msgpack_marks(everything)


class TestReading:
    """What is taken, what is refused."""

    @given(plain)
    def test_what_any_encoder_writes_is_read(self, value: object) -> None:
        """Plain values of another program's msgpack come out as they are."""
        assert repr(value) == repr(read(msgpack.packb(value)))

    def test_floats_of_32_bits_are_read(self) -> None:
        """Other programs send them; we do not."""
        assert {"a": 1.5} == read(b"\x81\xa1a" + msgpack.packb(1.5, use_single_float=True))

    @pytest.mark.row(43)
    @pytest.mark.parametrize(
        "extension",
        [
            b"\xd4\x01a", b"\xd5\x01aa", b"\xd6\x01aaaa", b"\xd7\x01" + b"a" * 8, b"\xd8\x01" + b"a" * 16,
            b"\xc7\x00\x01", b"\xc7\x03\x01abc", b"\xc8\x00\x01\x01a", b"\xc9\x00\x00\x00\x01\x01a",
            b"\xc9\xff\xff\xff\xff\x01",
        ],
        ids=bytes.hex,
    )  # fmt: skip
    def test_extension_types_are_refused(self, extension: bytes) -> None:
        """Of every length, in messages of every length."""
        texts = [refusal(data) for data in short_and_long(extension)]

        assert all("extension type" in text for text in texts)

    @pytest.mark.row(43)
    @pytest.mark.parametrize(
        "timestamp",
        [
            b"\xd6\xff\x00\x00\x00\x00", b"\xd7\xff" + b"\xff" * 8, b"\xc7\x0c\xff" + b"\x00" * 12,
            b"\xc7\x0c\xff\xff\xff\xff\xff" + b"\x7f" * 8, b"\xc7\x00\xff", b"\xc7\x05\xff12345",
        ],
        ids=bytes.hex,
    )  # fmt: skip
    def test_timestamps_are_refused(self, timestamp: bytes) -> None:
        """In range or beyond datetime, well-formed or not: they are extension types like others."""
        for data in short_and_long(timestamp):
            refusal(data)

    @pytest.mark.row(43)
    @pytest.mark.parametrize(
        "key",
        [
            b"\x01", b"\xc0", b"\xc3", b"\xcb" + bytes(8), b"\xc4\x01a", b"\xc5\x00\x01a", b"\xc6\x00\x00\x00\x01a",
            b"\x90", b"\x80",
        ],
        ids=bytes.hex,
    )  # fmt: skip
    def test_keys_that_are_no_text_are_refused(self, key: bytes) -> None:
        """Integers, bytes and all the rest; bytes as values stay welcome."""
        for data in short_and_long(b"\x81" + key + b"\x01"):
            refusal(data)
        assert [b"a"] == read(b"\x91\xc4\x01a")

    @pytest.mark.row(43)
    @pytest.mark.parametrize(
        "data",
        [
            b"", b"\xc1", b"\x81", b"\x81\xa1a", b"\x92\x01", b"\xa5abc", b"\xdd\xff\xff\xff\xff", b"\xcb\x00",
            b"\xdf\xff\xff\xff\xff", b"\xdb\xff\xff\xff\xff", b"\xc6\xff\xff\xff\xff", b"\xdc\xff\xff\x01",
            b"\x91\xdd\x00\xff\xff\xff",
        ],
        ids=bytes.hex,
    )  # fmt: skip
    def test_bytes_that_end_too_early_are_refused(self, data: bytes) -> None:
        """Whatever length they declare, nothing is made of it."""
        assert "msgpack" in refusal(data)

    @pytest.mark.row(43)
    @pytest.mark.parametrize("more", [b"\x01", b"\x80", b"\x00" * 100, b"x"])
    def test_bytes_behind_the_value_are_refused(self, more: bytes) -> None:
        """A message is one value and nothing else."""
        assert "extra" in refusal(b"\x81\xa1a\x01" + more)
        refusal(padded(b"\x01") + more)

    @pytest.mark.row(41)
    @pytest.mark.parametrize(
        "text",
        [b"\xff", b"\xed\xa0\x80", b"\xc0\x80", b"\xf5\x80\x80\x80", b"\xf0\x9f\x98", b"\xfe\xff\x00a"],
        ids=bytes.hex,
    )
    def test_text_that_is_no_utf_8_is_refused(self, text: bytes) -> None:
        """Surrogates, overlong forms, UTF-16, as value and as key."""
        packed = bytes([0xA0 + len(text)]) + text

        for data in short_and_long(packed):
            refusal(data)
        refusal(b"\x81" + packed + b"\x01")

    @pytest.mark.row(39)
    @pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf, -math.nan])
    @pytest.mark.parametrize("form", [">Bd", ">Bf"])
    def test_numbers_that_are_not_finite_are_refused(self, number: float, form: str) -> None:
        """In 64 bits or 32, in messages of every length; the text says where."""
        packed = struct.pack(form, 0xCB if form == ">Bd" else 0xCA, number)

        texts = [refusal(data) for data in short_and_long(packed)]

        assert all("finite" in text for text in texts)
        assert texts[2].startswith("payload: ")

    @pytest.mark.row(39)
    @pytest.mark.parametrize("bits", [0x7FF0000000000001, 0xFFFFFFFFFFFFFFFF, 0x7FF8000000000000, 0xFFF0000000000000])
    def test_every_form_of_nan_is_refused(self, bits: int) -> None:
        """Signalling ones, with payload, of either sign."""
        assert "finite" in refusal(b"\x91\xcb" + bits.to_bytes(8, "big"))

    @pytest.mark.parametrize(
        "value",
        [1.7976931348623157e308, -1.7976931348623157e308, 5e-324, "\u02ff\x7f", b"\xcb\x7f\xff", [b"\xca\x7f\x80"] * 5],
    )  # fmt: skip
    def test_what_only_looks_like_nan_is_read(self, value: object) -> None:
        """The largest numbers, and text or bytes with the same bytes in them."""
        for pad in ("", "x" * 5000):
            assert [pad, value] == read(msgpack.packb([pad, value]))

    @pytest.mark.row(40)
    @pytest.mark.parametrize("integer", [INTEGER_MAX, INTEGER_MIN])
    def test_integers_of_64_bits_are_exact(self, integer: int) -> None:
        """Both ends of the range; there is no form for more."""
        assert [integer] == read(msgpack.packb([integer]))

    @pytest.mark.row(42)
    @pytest.mark.parametrize(
        "head", [b"\x82", b"\xde\x00\x02", b"\xdf\x00\x00\x00\x02"], ids=["fixmap", "map 16", "map 32"]
    )
    def test_a_key_that_stands_twice_in_the_envelope_is_refused(self, head: bytes) -> None:
        """In every form of a map and in messages of every length."""
        assert "twice" in refusal(head + b"\xa2id\x01\xa2id\x02")
        assert "twice" in refusal(head + b"\xa2id\x01\xa2id" + msgpack.packb("x" * 5000))
        assert {"id": 1, "ib": 2} == read(head + b"\xa2id\x01\xa2ib\x02")

    @pytest.mark.row(42)
    def test_further_in_the_last_of_equal_keys_wins(self) -> None:
        """Nothing of ours looks into payloads, so nothing of ours can be misled."""
        assert {"data": {"a": 2}} == read(b"\x81\xa4data\x82\xa1a\x01\xa1a\x02")

    @pytest.mark.row(42)
    @pytest.mark.parametrize("key", ["__class__", "__proto__", "__dict__", "__reduce__"])
    def test_names_of_internals_are_plain_keys(self, key: str) -> None:
        """Nothing but a dict comes out, with the key in it."""
        result = read(msgpack.packb({key: {key: "x"}}))

        assert type(result) is dict and type(result[key]) is dict
        assert {key: {key: "x"}} == result


class TestBoundsOfReading:
    """Depth, elements, and the memory on the way."""

    @pytest.mark.row(37)
    @pytest.mark.parametrize(
        "start", [b"\x91", b"\x81\xa1a", b"\xdc\x00\x01", b"\xdf\x00\x00\x00\x01\xa1a"], ids=bytes.hex
    )
    def test_the_depth_is_exact(self, start: bytes) -> None:
        """64 levels are read, 65 are not, in every form of list and map."""
        read(start * 64 + b"\x01")
        assert "deeper than 64" in refusal(start * 65 + b"\x01")

    @pytest.mark.row(37)
    @pytest.mark.parametrize("levels", [990, 1024, 100_000, 300_000])
    @pytest.mark.parametrize("start", [b"\x91", b"\x81\xa1a"], ids=bytes.hex)
    def test_deep_nesting_is_refused(self, start: bytes, levels: int) -> None:
        """Where msgpack itself still reads (1,023) and where it does not."""
        refusal(start * levels + b"\x01")

    @pytest.mark.row(38)
    @pytest.mark.parametrize(
        ("value", "fits"),
        [
            ([0] * 30, True),
            ([0] * 31, False),
            ([[]] * 30, True),
            ([[0] * 10, [0] * 10, [[0] * 7]], False),
            ([[0] * 10, [0] * 10, [[0] * 6]], True),
            ({str(n): n for n in range(30)}, True),
            ({str(n): n for n in range(31)}, False),
            (["x" * 200, b"\xdc" * 200], True),
        ],
    )
    def test_the_number_of_elements_is_exact(self, value: object, fits: bool) -> None:
        """Elements of all lists and maps together, however many bytes they take."""
        if fits:
            assert value == read(msgpack.packb(value), SMALL)
        else:
            refusal(msgpack.packb(value), SMALL)

    @pytest.mark.row(38)
    @pytest.mark.parametrize(
        "body",
        [
            b"\xdd" + (MEBIBYTE - 5).to_bytes(4, "big") + b"\x90" * (MEBIBYTE - 5),
            b"\x9f" + (b"\xdc\xff\xff" + b"\x90" * 0xFFFF) * 15,
            b"\x9f" + (b"\xdc\xff\xff" + b"\x00" * 0xFFFF) * 15,
            b"\xdc\x40\x00" + (b"\x9f" + b"\x80" * 15) * 0x4000,
        ],
        ids=["one list", "fifteen lists", "integers", "many lists"],
    )
    def test_a_mebibyte_of_small_values_ends_early(self, body: bytes) -> None:
        """1 MiB of empty lists would become 72 MiB of objects; the allowance ends it at some 6 MiB."""
        tracemalloc.start()
        try:
            assert "65536" in refusal(body)
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

        assert peak < 12 * MEBIBYTE

    @pytest.mark.row(42)
    def test_a_hundred_thousand_keys_are_refused(self) -> None:
        """Maps count like lists."""
        refusal(msgpack.packb({str(number): 0 for number in range(100_000)}))

    @pytest.mark.row(43)
    @pytest.mark.parametrize("padding", [2000, 6000, 500_000])
    def test_lists_that_declare_more_than_they_hold_take_no_memory(self, padding: int) -> None:
        """A thousand nested headers, each declaring all the rest: msgpack would make room for every one of them."""
        size = min(padding, 65536)
        body = (b"\xdd" + size.to_bytes(4, "big")) * 1000 + b"\x01" * padding
        tracemalloc.start()
        try:
            refusal(body)
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

        assert peak < 4 * MEBIBYTE

    @pytest.mark.row(44)
    @given(st.lists(st.binary(max_size=40) | plain.map(msgpack.packb), max_size=6), plain)
    def test_a_failure_leaves_nothing_behind(self, noise: list[bytes], value: object) -> None:
        """After any bad bytes the next message is read as if it were the first."""
        for data in noise:
            try:
                read(data)
            except DecodeError:
                pass

        assert repr(value) == repr(read(msgpack.packb(value)))


class TestWriting:
    """What is sent is what is taken."""

    @given(plain)
    def test_plain_values_come_back_as_they_were(self, value: object) -> None:
        """Writing and reading is the identity, bytes and the type of every number included."""
        assert repr(value) == repr(read(write_msgpack(value, LIMITS)))

    @given(plain)
    def test_other_decoders_read_the_same(self, value: object) -> None:
        """It is msgpack for everyone."""
        assert repr(value) == repr(msgpack.unpackb(write_msgpack(value, LIMITS)))

    @pytest.mark.parametrize(
        ("value", "expected"),
        [
            ((1, (2,)), [1, [2]]),
            (bytearray(b"ab"), b"ab"),
            (memoryview(b"ab"), b"ab"),
            (memoryview(b"abcd")[::2], b"ac"),
        ],
    )
    def test_tuples_arrive_as_lists_and_buffers_as_bytes(self, value: object, expected: object) -> None:
        """Also a memoryview with gaps, which msgpack itself refuses."""
        assert {"data": expected} == read(write_msgpack({"data": value}, LIMITS))

    def test_a_released_memoryview_is_refused(self) -> None:
        """Its bytes are gone."""
        view = memoryview(b"ab")
        view.release()

        with pytest.raises(EncodeError, match="released"):
            write_msgpack([view], LIMITS)

    @pytest.mark.row(39)
    @pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf])
    @pytest.mark.parametrize("padding", ["", "x" * 20_000])
    def test_numbers_that_are_not_finite_are_refused_by_place(self, number: float, padding: str) -> None:
        """In short messages and in long ones, which are looked at in another way."""
        with pytest.raises(EncodeError, match=r"payload\.prices\[1\]: .*finite"):
            write_msgpack({"data": {"prices": [padding, number]}}, LIMITS)

    @pytest.mark.row(40)
    @pytest.mark.parametrize("integer", [INTEGER_MAX + 1, INTEGER_MIN - 1, pytest.param(10**5000, id="5000 digits")])
    def test_integers_beyond_64_bits_are_refused_by_place(self, integer: int) -> None:
        """msgpack has no form for them, and no float is made of them."""
        with pytest.raises(EncodeError, match=r"payload\[0\]: .*64-bit"):
            write_msgpack({"data": [integer]}, LIMITS)

    @pytest.mark.row(41)
    def test_lone_surrogates_are_refused_by_place(self) -> None:
        """UTF-8 has no form for them."""
        with pytest.raises(EncodeError, match=r"payload\.a: .*surrogate"):
            write_msgpack({"data": {"a": "\ud800"}}, LIMITS)

    @pytest.mark.row(43)
    def test_extension_types_are_not_written(self) -> None:
        """A timestamp is refused; an `ExtType` is a named tuple and goes out as one, so no receiver meets either."""
        with pytest.raises(EncodeError, match="Timestamp"):
            write_msgpack({"data": msgpack.Timestamp(1, 2)}, LIMITS)
        assert {"data": [1, b"a"]} == read(write_msgpack({"data": msgpack.ExtType(1, b"a")}, LIMITS))

    @pytest.mark.parametrize("value", [{1: 2}, {None: 1}, {b"a": 1}, {(1, 2): 3}])
    def test_keys_that_are_no_text_are_refused(self, value: object) -> None:
        """The sender learns it; a receiver would close the connection."""
        with pytest.raises(EncodeError, match="payload: keys of maps must be text"):
            write_msgpack({"data": value}, LIMITS)

    @pytest.mark.row(37)
    def test_what_the_peer_would_refuse_as_too_deep_is_not_sent(self) -> None:
        """64 levels go out, 65 do not."""
        value: object = 1
        for _ in range(64):
            value = [value]

        assert value == read(write_msgpack(value, LIMITS))
        with pytest.raises(EncodeError, match="deeper than 64"):
            write_msgpack([value], LIMITS)

    @pytest.mark.parametrize("levels", [1_100, 20_000])
    def test_more_levels_than_the_encoder_follows_are_refused(self, levels: int) -> None:
        """A generous limit does not turn into a crash or a foreign exception (msgpack follows 1,024)."""
        value: object = 1
        for _ in range(levels):
            value = [value]

        with pytest.raises(EncodeError):
            write_msgpack(value, Limits(depth=100_000))

    @pytest.mark.row(38)
    def test_what_the_peer_would_refuse_as_too_many_is_not_sent(self) -> None:
        """The bound on elements holds for the sender too."""
        with pytest.raises(EncodeError, match="more than 65536 elements"):
            write_msgpack([0] * 65_537, LIMITS)

    def test_a_message_over_the_limit_is_refused_with_both_sizes(self) -> None:
        """The limit is that of the peer, which measures what it has inflated."""
        assert write_msgpack(b"x" * 98, Limits(message_size=100))
        with pytest.raises(EncodeError, match="101 bytes is over the limit of 100"):
            write_msgpack(b"x" * 99, Limits(message_size=100))


class TestZlib:
    """Compression where it pays; inflation within bounds."""

    @given(st.binary(max_size=3000))
    def test_what_was_compressed_is_inflated(self, body: bytes) -> None:
        """Whether or not it was shorter."""
        compressed = compress(body, 1)

        assert body == (inflate(compressed, MEBIBYTE) if compressed != body else compressed)

    def test_what_repeats_gets_shorter(self) -> None:
        """And begins with the byte that tells a zlib stream from a map, at every level."""
        streams = [compress(b"row of a table, " * 200, level) for level in range(1, 10)]

        assert all(len(stream) < 100 and stream[0] == msgpack_body.ZLIB_FIRST_BYTE for stream in streams)

    @pytest.mark.parametrize("size", [100, 10_000, 100_000])
    def test_what_does_not_get_shorter_stays_as_it_was(self, size: int) -> None:
        """Noise is sent plain."""
        body = os.urandom(size)

        assert body is compress(body, 1)

    def test_a_sample_decides_for_large_bodies(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Of noise only some kilobytes are compressed, not all of it."""
        compressed: list[int] = []
        original = zlib.compress
        monkeypatch.setattr(zlib, "compress", lambda body, level: compressed.append(len(body)) or original(body, level))

        compress(os.urandom(MEBIBYTE), 1)

        assert sum(compressed) < 10_000

    @pytest.mark.row(30)
    @pytest.mark.parametrize("surplus", [1, 2, MEBIBYTE, 100 * MEBIBYTE])
    def test_inflation_stops_one_byte_beyond_the_limit(self, surplus: int) -> None:
        """A bomb costs no more memory than the largest message that is allowed."""
        bomb = zlib.compress(bytes(MEBIBYTE + surplus), 9)
        tracemalloc.start()
        try:
            with pytest.raises(MessageTooBig) as caught:
                inflate(bomb, MEBIBYTE)
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

        assert (MEBIBYTE + 1, MEBIBYTE, 1009) == (caught.value.size, caught.value.limit, caught.value.close_code)
        assert peak < 3 * MEBIBYTE

    @pytest.mark.row(30)
    @pytest.mark.parametrize("size", [65_536, 65_537, 300_000])
    @pytest.mark.parametrize("make", [os.urandom, lambda size: (b"abcdefgh%d" % size) * (size // 10)])
    def test_long_streams_are_inflated_in_pieces_as_in_one(self, size: int, make: Callable[[int], bytes]) -> None:
        """Wherever a piece ends, the body is the same, and so is what is wrong with it."""
        body = make(size)
        for level in (0, 1, 9):
            stream = zlib.compress(body, level)
            assert body == inflate(stream, len(body))
            with pytest.raises(MessageTooBig) as told:
                inflate(stream, len(body) - 1)
            assert len(body) == told.value.size
            with pytest.raises(DecodeError, match="before its end"):
                inflate(stream[:-1], len(body))
            with pytest.raises(DecodeError, match="70001 bytes after"):
                inflate(stream + bytes(70_001), len(body))

    def test_a_body_of_just_the_limit_is_inflated(self) -> None:
        """The limit itself is allowed."""
        assert MEBIBYTE == len(inflate(zlib.compress(bytes(MEBIBYTE)), MEBIBYTE))

    @pytest.mark.row(32)
    @pytest.mark.parametrize("cut", [1, 2, 4, 5, 20])
    def test_a_stream_that_is_cut_short_is_refused(self, cut: int) -> None:
        """Without its check sum nothing of it is taken."""
        with pytest.raises(DecodeError, match="stops before its end"):
            inflate(zlib.compress(os.urandom(100))[:-cut], MEBIBYTE)

    @pytest.mark.row(32)
    @pytest.mark.parametrize(
        "stream",
        [
            b"x", b"x\x9c", b"x\x9cgarbage", b"x\x00", zlib.compress(b"a")[:-1] + b"\x00", zlib.compress(b"a")[2:],
            b"x\xbb" + b"\x00" * 8,
        ],
        ids=bytes.hex,
    )  # fmt: skip
    def test_damaged_streams_are_refused(self, stream: bytes) -> None:
        """A wrong header, check sum or block, one that needs a preset dictionary, and a raw stream."""
        with pytest.raises(DecodeError):
            inflate(stream, MEBIBYTE)

    @pytest.mark.row(32)
    @pytest.mark.parametrize("more", [b"\x00", b"more", zlib.compress(b"second")], ids=["nul", "text", "stream"])
    def test_bytes_behind_the_stream_are_refused(self, more: bytes) -> None:
        """A message is one stream and nothing else."""
        with pytest.raises(DecodeError, match="after the end"):
            inflate(zlib.compress(b"first") + more, MEBIBYTE)


def spoilt(body: bytes, place: int, noise: bytes, removed: int) -> bytes:
    place %= len(body) + 1
    return body[:place] + noise + body[place + removed :]


heads = st.sampled_from([*range(0x80, 0x84), *range(0x90, 0x94), *range(0xC0, 0xE0), 0xFF, 0x7F, 0xA1, 0x61])
noise = st.lists(heads, max_size=3).map(bytes)
nearly_msgpack = st.builds(spoilt, plain.map(msgpack.packb), st.integers(0, 500), noise, st.integers(0, 3))


@pytest.mark.row(36, 37, 39, 40, 41, 42, 43)
@given(st.binary(max_size=60) | nearly_msgpack)
def test_only_strict_msgpack_is_taken_and_read_the_same(body: bytes) -> None:
    """The screens for speed change nothing: a slow reader that looks at everything agrees on every body."""
    expected = judge(body, SMALL)
    try:
        result: object = repr(read(body, SMALL))
    except DecodeError:
        result = None

    assert expected == result


def judge(body: bytes, limits: Limits) -> str | None:
    """What a reader without any shortcut makes of *body*: the repr of the value, or None for a refusal."""
    repeating: list[dict[str, object]] = []
    count = 0

    def build(pairs: list[tuple[str, object]]) -> dict[str, object]:
        nonlocal count
        count += len(dict(pairs))
        if len(dict(pairs)) != len(pairs):
            repeating.append(value := dict(pairs))
            return value
        return dict(pairs)

    def take(elements: list[object]) -> list[object]:
        nonlocal count
        count += len(elements)
        return elements

    try:
        value = msgpack.unpackb(body, object_pairs_hook=build, list_hook=take, ext_hook=refuse)
    except (ValueError, msgpack.exceptions.UnpackException):
        return None
    if count > limits.items or any(value is one for one in repeating) or not strict(value, limits.depth):
        return None
    return repr(value)


def refuse(code: int, data: bytes) -> None:
    raise ValueError


def strict(value: object, depth: int) -> bool:
    if isinstance(value, list):
        return depth > 0 and all(strict(one, depth - 1) for one in value)
    if isinstance(value, dict):
        return depth > 0 and all(type(key) is str and strict(one, depth - 1) for key, one in value.items())
    if isinstance(value, float):
        return math.isfinite(value)
    return isinstance(value, (str, int, bytes, type(None)))  # and no Timestamp


def test_a_copy_shares_nothing():
    """Whoever gets it may change it."""
    value = {"a": [1, {"b": b"c"}], "d": None}
    copy: Any = copied(value)
    assert value == copy
    copy["a"][1]["b"] = 2
    assert {"a": [1, {"b": b"c"}], "d": None} == value
