"""Inflation: compressed messages come out whole or fail, and never run away."""

from __future__ import annotations

import os
import tracemalloc
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.protocol.compressed import MEGABYTE, bomb_of, deflated, finished
from tests.protocol.raw_frames import cut
from webmesh.exceptions import MessageTooBig, RemoteProtocolError
from webmesh.protocol.inflation import FINAL_BLOCKS, STEP, Inflation


def inflate(*pieces: bytes, limit: int = MEGABYTE, text: bool = False) -> str | bytes:
    inflation = Inflation(text=text, limit=limit)
    for piece in pieces:
        inflation.feed(piece)
    return inflation.finish()


def failure(*pieces: bytes, limit: int = MEGABYTE, text: bool = False) -> RemoteProtocolError:
    with pytest.raises(RemoteProtocolError) as caught:
        inflate(*pieces, limit=limit, text=text)
    return caught.value


@pytest.mark.parametrize("example", [
    "f248cdc9c90700",  # 7.2.3.1: one block
    "000500faff48656c6c6f00",  # 7.2.3.3: stored
    "f348cdc9c9070000",  # 7.2.3.4: a final block
    "f248050000 00ffffcac9c90700",  # 7.2.3.5: two blocks
])  # fmt: skip
def test_examples_of_the_standard(example: str) -> None:
    """RFC 7692 section 7.2.3 compresses "Hello" in several ways."""
    assert b"Hello" == inflate(bytes.fromhex(example))


def test_a_window_is_shared_where_that_was_agreed() -> None:
    """RFC 7692 section 7.2.3.2: the second "Hello" refers to the first."""
    first = Inflation(text=True, limit=100)
    first.feed(bytes.fromhex("f248cdc9c90700"))
    first.finish()
    second = Inflation(text=True, limit=100, window=first.window())
    second.feed(bytes.fromhex("f200110000"))

    assert "Hello" == second.finish()
    assert b"HelloHello" == second.window()


@given(
    message=st.binary(max_size=500) | st.binary(max_size=20).map(lambda part: part * 200),
    level=st.sampled_from([0, 1, 9]),
    window_bits=st.integers(9, 15),
    step=st.integers(1, 100),
)
def test_messages_cut_anywhere_come_out_whole(message: bytes, level: int, window_bits: int, step: int) -> None:
    """Whatever a sender's level and window, and wherever frames and reads end."""
    compressed = deflated(message, level=level, window_bits=window_bits)

    assert message == inflate(*cut(compressed, step))


def test_large_messages_come_out_whole() -> None:
    """Many steps, of data that shrinks and data that does not, up to exactly the limit."""
    message = os.urandom(MEGABYTE // 2) + bytes(MEGABYTE // 2)

    assert message == inflate(*cut(deflated(message), 65536))


def test_text_is_text() -> None:
    """A text message is inflated to `str`."""
    assert "żółw" == inflate(deflated("żółw".encode()), text=True)


@pytest.mark.row(25)
def test_bad_text_fails_before_the_message_ends() -> None:
    """Compressed text is judged as it comes: 1007 at the first bad byte that is inflated."""
    inflation = Inflation(text=True, limit=100)

    with pytest.raises(RemoteProtocolError) as caught:
        inflation.feed(deflated(b"ab\xff"))

    assert 1007 == caught.value.close_code


@pytest.mark.row(25)
def test_text_that_ends_within_a_character_fails() -> None:
    """Half a character at the end is 1007, compressed or not."""
    assert 1007 == failure(deflated("€".encode()[:2]), text=True).close_code


@pytest.mark.row(30)
@pytest.mark.parametrize("limit", [1, 1000, STEP - 1, STEP, STEP + 1, MEGABYTE])
def test_a_message_may_have_the_limit_and_no_byte_more(limit: int) -> None:
    """1009 at limit + 1, whether that is within a step or at its end."""
    assert bytes(limit) == inflate(deflated(bytes(limit)), limit=limit)

    error = failure(deflated(bytes(limit + 1)), limit=limit)

    assert isinstance(error, MessageTooBig)
    assert (1009, limit + 1, limit) == (error.close_code, error.size, error.limit)


@pytest.mark.row(30)
@pytest.mark.parametrize("size", [512, 65536, MEGABYTE])
def test_a_bomb_takes_no_more_than_the_limit_and_a_megabyte(size: int) -> None:
    """A megabyte that would inflate to a gigabyte is stopped at the limit, whatever the size of reads."""
    pieces = cut(bomb_of(1 << 30), size)
    inflation = Inflation(text=False, limit=MEGABYTE)

    tracemalloc.start()
    try:
        with pytest.raises(MessageTooBig):
            for piece in pieces:
                inflation.feed(piece)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()

    # zlib's unconsumed tail is a copy of what was given, and while it makes the next one there are two.
    assert peak - 2 * size <= 2 * MEGABYTE


@pytest.mark.row(30)
def test_a_bomb_of_text_is_held_as_bytes() -> None:
    """Text of wide characters takes no more than its bytes until it is whole."""
    bomb = deflated("\U0001f600".encode() + b"a" * (4 * MEGABYTE))
    inflation = Inflation(text=True, limit=2 * MEGABYTE)

    tracemalloc.start()
    try:
        with pytest.raises(MessageTooBig):
            inflation.feed(bomb)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()

    assert peak <= 3 * MEGABYTE


@pytest.mark.row(30)
def test_a_nested_bomb_is_inflated_once() -> None:
    """A compressed message within a compressed message is just bytes."""
    inner = deflated(bytes(MEGABYTE))

    assert inner == inflate(deflated(inner), limit=len(inner))


@pytest.mark.row(32)
@pytest.mark.parametrize("garbage", [
    b"\xff\xff\xff\xff", b"\x07", b"\x00\x05\x00\x00\x00Hello", zlib.compress(b"Hello"), b"Hello", b"{}",
])  # fmt: skip
def test_garbage_fails(garbage: bytes) -> None:
    """What is no deflate data, zlib's own wrapping included, is 1007."""
    assert 1007 == failure(garbage).close_code


@pytest.mark.row(32)
@pytest.mark.parametrize("level", [1, 9])
def test_a_truncated_stream_fails(level: int) -> None:
    """A stream that stops anywhere before its end is 1007, not a shorter message."""
    compressed = deflated(b"the quick brown fox jumps over the lazy dog" * 3, level=level)

    assert {1007} == {failure(compressed[:stop]).close_code for stop in range(1, len(compressed))}


@pytest.mark.row(32)
@pytest.mark.parametrize("message", [b"", b"Hello", b"the quick brown fox jumps over the lazy dog" * 3])
def test_a_truncated_final_block_fails(message: bytes) -> None:
    """The zeros that the standard wants appended may look like the end of a block; they are not the sender's."""
    compressed = finished(message)

    assert {1007} == {failure(compressed[:stop]).close_code for stop in range(1, len(compressed))}


@pytest.mark.row(32)
def test_a_truncated_stored_block_fails() -> None:
    """Bytes that a stored block promises and that do not come are not made up from the standard's own tail."""
    compressed = bytes.fromhex("000500faff48656c6c6f00")

    assert {1007} == {failure(compressed[:stop]).close_code for stop in range(2, len(compressed))}


@pytest.mark.row(32)
def test_a_reference_before_the_message_fails() -> None:
    """Nothing stands before a message, so the example that refers to an earlier one is damaged."""
    assert 1007 == failure(bytes.fromhex("f200110000")).close_code


@pytest.mark.row(32)
def test_preset_dictionary_bytes_fail() -> None:
    """zlib's header with a preset dictionary is no raw deflate data."""
    compressor = zlib.compressobj(9, zlib.DEFLATED, 15, zdict=b"Hello")

    assert 1007 == failure(compressor.compress(b"Hello") + compressor.flush()).close_code


@pytest.mark.row(32)
def test_blocks_behind_a_final_block_are_not_lost() -> None:
    """The standard lets a sender go on after a final block; what follows belongs to the message."""
    assert b"Hello, world" == inflate(finished(b"Hello") + deflated(b", world"))


@pytest.mark.row(32)
@pytest.mark.parametrize("step", [1, 2, 3, 1000])
def test_a_final_block_may_end_the_message(step: int) -> None:
    """With the empty octet that the standard wants behind it, or without."""
    assert b"Hello" == inflate(*cut(finished(b"Hello") + b"\x00", step))
    assert b"Hello" == inflate(*cut(finished(b"Hello"), step))


@pytest.mark.row(32)
def test_garbage_behind_a_final_block_fails() -> None:
    """Bytes behind a final block are deflate data or 1007, never dropped in silence."""
    assert 1007 == failure(finished(b"Hello") + b"\xff\xff").close_code


@pytest.mark.row(32)
def test_final_blocks_behind_each_other_are_bounded() -> None:
    """Two bytes make a final block, and each costs a decompressor: a handful is taken, thousands are 1007."""
    few = finished(b"") * FINAL_BLOCKS + deflated(b"x")

    assert b"x" == inflate(few)
    assert 1007 == failure(finished(b"") * (FINAL_BLOCKS + 2)).close_code


def test_a_final_block_keeps_the_shared_window() -> None:
    """Where a window is shared, blocks behind a final block may refer to what came before it."""
    inflation = Inflation(text=False, limit=100, window=b"Hello")
    inflation.feed(finished(b"---"))
    compressor = zlib.compressobj(9, zlib.DEFLATED, -15, zdict=b"Hello---")
    inflation.feed(compressor.compress(b"Hello---") + compressor.flush(zlib.Z_SYNC_FLUSH)[:-4])

    assert b"---Hello---" == inflation.finish()


def test_nothing_is_an_empty_message() -> None:
    """A sender that keeps its window may flush nothing at all for an empty message."""
    assert b"" == inflate()
    assert b"" == inflate(b"", deflated(b""))


@given(data=st.binary(max_size=60), text=st.booleans())
def test_no_bytes_raise_anything_else(data: bytes, text: bool) -> None:
    """Whatever comes gives a message or one of our own errors."""
    try:
        inflate(data, limit=50, text=text)
    except RemoteProtocolError as error:
        assert error.close_code in (1007, 1009)
