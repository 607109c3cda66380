"""Heads of frames: where a frame ends, and which bytes cannot begin one."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.protocol.raw_frames import BINARY, CLOSE, CONTINUATION, KEY, PING, PONG, TEXT, raw_frame
from webmesh.protocol.frame_head import MASKED, Head, read_head

SIZES = [0, 1, 125, 126, 127, 65535, 65536, 1 << 20, 1 << 63, (1 << 64) - 1]


def server_reads(data: bytes, position: int = 0, *, compression: bool = False) -> Head | None:
    return read_head(data, position, mask_bit=MASKED, compression=compression)


def client_reads(data: bytes) -> Head | None:
    return read_head(data, 0, mask_bit=0, compression=False)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("opcode", [CONTINUATION, TEXT, BINARY])
def test_tells_size_and_start(opcode: int, size: int) -> None:
    """The payload's size, and the place of the key on the one side, of the payload on the other."""
    length_size = 0 if size < 126 else 2 if size < 65536 else 8
    masked, plain = (raw_frame(opcode, declared=size, key=key) for key in (KEY, None))

    assert Head(0x80 | opcode, size, 2 + length_size) == server_reads(masked)
    assert Head(0x80 | opcode, size, 2 + length_size) == client_reads(plain)


def test_reads_at_a_position() -> None:
    """Frames stand one after the other; places are counted from the start of the data."""
    assert Head(0x82, 200, 7) == server_reads(b"xyz" + raw_frame(BINARY, declared=200), 3)


@pytest.mark.parametrize("size", SIZES)
def test_waits_for_the_whole_length_and_for_no_more(size: int) -> None:
    """Nothing is known before the length is there; the key is not waited for."""
    head = raw_frame(BINARY, declared=size)[: -len(KEY)]

    assert all(server_reads(head[:stop]) is None for stop in range(len(head)))
    assert server_reads(head) is not None


@pytest.mark.row(17)
@pytest.mark.parametrize("wrong", [
    raw_frame(TEXT, b"x", key=None),
    raw_frame(TEXT, b"x", rsv=1), raw_frame(TEXT, b"x", rsv=2), raw_frame(TEXT, b"x", rsv=4),
    *(raw_frame(opcode) for opcode in (3, 4, 5, 6, 7, 11, 12, 13, 14, 15)),
    raw_frame(PING, fin=False), raw_frame(PONG, fin=False), raw_frame(CLOSE, fin=False),
    raw_frame(PING, declared=126), raw_frame(CLOSE, declared=65536), raw_frame(PING, rsv=4),
])  # fmt: skip
def test_two_bytes_suffice_to_doubt_a_frame(wrong: bytes) -> None:
    """Missing mask, reserved bits, unknown opcodes, fragmented or long control frames cannot be right."""
    head = server_reads(wrong[:2])

    assert head is not None and head.wrong
    assert 0 == head.start


@pytest.mark.row(17)
def test_a_masked_frame_of_a_server_is_wrong() -> None:
    """RFC 6455 section 5.1: a client must not take one."""
    head = client_reads(raw_frame(TEXT, b"x"))

    assert head is not None and head.wrong


@pytest.mark.row(17)
@pytest.mark.parametrize("length, length_size", [(0, 2), (125, 2), (0, 8), (125, 8), (126, 8), (65535, 8)])
def test_a_length_in_more_bytes_than_needed_is_wrong(length: int, length_size: int) -> None:
    """RFC 6455 section 5.2: the minimal number of bytes must be used."""
    head = server_reads(raw_frame(BINARY, declared=length, length_size=length_size))

    assert head is not None and head.wrong


@pytest.mark.row(31)
@pytest.mark.parametrize("opcode, wrong", [(TEXT, False), (BINARY, False), (CONTINUATION, True), (PING, True)])
def test_rsv1_is_for_the_first_frame_of_a_compressed_message(opcode: int, wrong: bool) -> None:
    """With permessage-deflate agreed, RSV1 is right there and nowhere else (RFC 7692 section 6.1)."""
    head = server_reads(raw_frame(opcode, b"x", rsv=4), compression=True)

    assert head is not None and wrong == head.wrong


@pytest.mark.parametrize("frame, control, final, whole", [
    (raw_frame(TEXT), False, True, True), (raw_frame(BINARY, rsv=4), False, True, True),
    (raw_frame(TEXT, fin=False), False, False, False), (raw_frame(CONTINUATION), False, True, False),
    (raw_frame(CONTINUATION, fin=False), False, False, False),
    (raw_frame(PING), True, True, False), (raw_frame(CLOSE), True, True, False),
])  # fmt: skip
def test_tells_control_frames_and_whole_messages(frame: bytes, control: bool, final: bool, whole: bool) -> None:
    """What kind of frame it is follows from the first byte."""
    head = server_reads(frame, compression=True)

    assert head is not None
    assert (control, final, whole) == (head.control, head.final, head.whole_message)


@given(data=st.binary(max_size=16))
def test_no_bytes_raise(data: bytes) -> None:
    """Whatever a peer sends is a head, half a head or a wrong one."""
    head = server_reads(data)

    assert head is None or head.wrong or 0 <= head.size < 1 << 64 and 2 <= head.start <= 10
