"""Assembly: pieces of a message become the message, within its limit and in valid UTF-8."""

from __future__ import annotations

import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.protocol.raw_frames import cut
from webmesh.exceptions import MessageTooBig, RemoteProtocolError
from webmesh.protocol.assembly import Assembly


@given(text=st.text(max_size=50), step=st.integers(1, 7))
def test_text_cut_anywhere_comes_out_whole(text: str, step: int) -> None:
    """Pieces may end within a character."""
    assembly = Assembly(text=True, limit=1000)

    for piece in cut(text.encode(), step):
        assembly.add(piece)

    assert text == assembly.finish()


@given(pieces=st.lists(st.binary(max_size=20), max_size=20))
def test_bytes_come_out_joined(pieces: list[bytes]) -> None:
    """A binary message is its pieces, in order, as `bytes`."""
    assembly = Assembly(text=False, limit=1000)

    for piece in pieces:
        assembly.add(piece)

    assert b"".join(pieces) == assembly.finish()
    assert bytes is type(assembly.finish())


def test_length_is_that_of_the_pieces() -> None:
    """`len` counts bytes, of text as well."""
    assembly = Assembly(text=True, limit=10)
    assembly.add("é".encode())

    assert 2 == len(assembly)


@pytest.mark.row(25)
@pytest.mark.parametrize("bad, first", [
    (b"ab\xffcd", 3), (b"\xc0\xaf", 1), (b"\xf4\x90\x80\x80", 2), (b"\xe2\x28\xa1", 2),
    (b"\xf8\x88\x80\x80\x80", 1), (b"\x80", 1), ("κόσμε".encode() + b"\xfe", 11),
    # Python's incremental decoder tells half a surrogate from half a character only at the third byte (bpo-24214).
    (b"\xed\xa0\x80", 3), ("κόσμε".encode() + b"\xed\xbf\xbf", 13),
])  # fmt: skip
def test_text_fails_at_its_first_bad_byte(bad: bytes, first: int) -> None:
    """The byte that no valid text could have there fails at once, with 1007, however the text goes on."""
    assembly = Assembly(text=True, limit=100)

    for octet in bad[: first - 1]:
        assembly.add(bytes((octet,)))
    with pytest.raises(RemoteProtocolError) as caught:
        assembly.add(bad[first - 1 : first])

    assert 1007 == caught.value.close_code


@pytest.mark.row(25)
def test_text_that_ends_within_a_character_fails() -> None:
    """A message is complete text: half a character at its end is 1007."""
    assembly = Assembly(text=True, limit=100)
    assembly.add("ab€".encode()[:-1])

    with pytest.raises(RemoteProtocolError) as caught:
        assembly.finish()

    assert 1007 == caught.value.close_code


def test_bytes_need_not_be_text() -> None:
    """Binary messages are not judged."""
    assembly = Assembly(text=False, limit=10)
    assembly.add(b"\xff\xfe")

    assert b"\xff\xfe" == assembly.finish()


@pytest.mark.row(19)
def test_the_piece_that_crosses_the_limit_is_refused() -> None:
    """A message of exactly the limit passes; one byte more is 1009 and is not kept."""
    assembly = Assembly(text=False, limit=10)
    assembly.add(b"0123456789")

    with pytest.raises(MessageTooBig) as caught:
        assembly.add(b"x")

    assert (1009, 11, 10) == (caught.value.close_code, caught.value.size, caught.value.limit)
    assert b"0123456789" == assembly.finish()


@pytest.mark.row(20, 21)
def test_memory_follows_bytes_not_pieces() -> None:
    """Ten thousand pieces of one byte take one buffer, not ten thousand objects."""
    assembly = Assembly(text=False, limit=1 << 20)

    for _ in range(10_000):
        assembly.add(b"x")

    assert sum(map(sys.getsizeof, assembly._chunks)) < 12_000


@pytest.mark.parametrize("size, expected", [(3, b"789"), (10, b"0123456789"), (50, b"0123456789")])
def test_tail_is_the_end_of_what_has_come(size: int, expected: bytes) -> None:
    """`tail` gives as much of the end as there is."""
    assembly = Assembly(text=False, limit=100)
    assembly.add(b"0123456789")

    assert expected == assembly.tail(size)


@pytest.mark.row(21, 30)
@pytest.mark.parametrize("size", [997, 70_000, 200_000])
def test_a_large_message_is_never_copied_as_it_grows(size: int) -> None:
    """It is held in buffers of bounded size, whatever its pieces are; its end and the whole are as they came."""
    message = bytes(range(256)) * 1200
    assembly = Assembly(text=False, limit=len(message))

    for start in range(0, len(message), size):
        assembly.add(message[start : start + size])
        assert message[: start + size][-40_000:] == assembly.tail(40_000)

    assert max(map(len, assembly._chunks)) < 64 * 1024 + size
    assert message == assembly.finish()
