"""Data frames: whole messages as bytes; more of it, through `Frames`, is in test_frames."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.protocol.raw_frames import BINARY, KEY, PING, TEXT, raw_frame
from tests.protocol.speedups import IMPLEMENTATIONS, IN_PYTHON, c_module, loops
from webmesh.exceptions import LocalProtocolError
from webmesh.protocol.data_frames import KEYS_AT_ONCE, ClientFrames, first_and_payload, server_frame
from webmesh.protocol.frame_head import MASKED

MESSAGES = [(TEXT, ""), (TEXT, "żółw"), (BINARY, b""), *((BINARY, bytes(size)) for size in (125, 126, 65535, 65536))]


@pytest.mark.parametrize("opcode, message", MESSAGES)
def test_frames_of_either_side(opcode: int, message: str | bytes) -> None:
    """A server's frame is plain, a client's masked; lengths take as few bytes as they can."""
    payload = message.encode() if isinstance(message, str) else message

    assert raw_frame(opcode, payload, key=None) == server_frame(message)
    assert raw_frame(opcode, payload) == ClientFrames(lambda size: KEY * (size // 4)).frame(message)


def test_keys_are_drawn_in_bulk_and_used_once() -> None:
    """One call gives many keys, and none serves twice."""
    calls: list[int] = []

    def draw(size: int) -> bytes:
        calls.append(size)
        return b"".join((len(calls) << 16 | number).to_bytes(4, "big") for number in range(size // 4))

    frames = ClientFrames(draw)
    keys = {frames.frame(b"x")[2:6] for _ in range(2 * KEYS_AT_ONCE)}

    assert [4 * KEYS_AT_ONCE] * 2 == calls
    assert 2 * KEYS_AT_ONCE == len(keys)


def test_nothing_is_drawn_before_the_first_frame() -> None:
    """Making the object costs no system call."""
    ClientFrames(lambda size: pytest.fail("drawn too early"))


@pytest.mark.parametrize("message, expected", [
    ("ż", (0x81, "ż".encode())), (b"a", (0x82, b"a")), (bytearray(b"a"), (0x82, b"a")),
    (memoryview(b"a"), (0x82, b"a")),
])  # fmt: skip
def test_first_byte_and_payload(message: object, expected: tuple[int, bytes]) -> None:
    """Text is UTF-8, any buffer is binary."""
    assert expected == first_and_payload(message)


@pytest.mark.parametrize("message", [None, 1, ["a"], "\ud800"])
def test_what_is_no_message_is_refused(message: object) -> None:
    """An error of our own says so."""
    with pytest.raises(LocalProtocolError):
        first_and_payload(message)


@pytest.fixture(params=IMPLEMENTATIONS)
def implementation(request: pytest.FixtureRequest) -> Any:
    """`read_run` and `whole_frame` in Python, then in C."""
    return loops(request.param)


@pytest.mark.parametrize("size", [0, 1, 125, 126, 255, 256, 65535, 65536])
def test_whole_frames_at_every_size_of_the_length(implementation: Any, size: int) -> None:
    """The length takes as few bytes as it can."""
    assert raw_frame(TEXT, bytes(size), key=None) == implementation.whole_frame(0x81, bytes(size))


@pytest.mark.parametrize("key", [KEY, None])
def test_a_run_ends_where_something_else_begins(implementation: Any, key: bytes | None) -> None:
    """What is read are the messages before it, and the place is told."""
    run = raw_frame(BINARY, b"abcdef", key=key) + raw_frame(TEXT, "żółw".encode() * 40, key=key)
    received: list[str | bytes] = []

    stop = implementation.read_run(run + raw_frame(PING, b"ping", key=key), 0, MASKED if key else 0, 1000, 9, received)

    assert ([b"abcdef", "żółw" * 40], len(run)) == (received, stop)


def test_a_run_begins_anywhere_and_takes_no_more_than_asked(implementation: Any) -> None:
    """The place and the number of frames are the caller's."""
    frame = raw_frame(BINARY, b"abcdef")
    received: list[str | bytes] = []

    assert 3 * len(frame) == implementation.read_run(frame * 5, len(frame), MASKED, 1000, 2, received)
    assert [b"abcdef"] * 2 == received


@pytest.mark.parametrize("frame", [
    raw_frame(BINARY, b"x" * 101), raw_frame(BINARY, b""), raw_frame(BINARY, b"abcdef")[:-1],
    raw_frame(BINARY, b"abcdef", key=None), b"\x82\xfe\x00\x05" + KEY + b"abcde", b"\xc2\x86" + KEY + b"abcdef",
    b"\x02\x86" + KEY + b"abcdef", b"\x82\xff" + bytes(7) + b"\x06" + KEY + b"abcdef",
])  # fmt: skip
def test_what_is_not_plain_is_left(implementation: Any, frame: bytes) -> None:
    """Too large, empty, not whole, not masked, oddly long, compressed, a fragment, with a long length: none is read."""
    received: list[str | bytes] = []

    assert 0 == implementation.read_run(frame, 0, MASKED, 100, 9, received)
    assert [] == received


def test_text_that_is_none_is_an_error_behind_what_came_before(implementation: Any) -> None:
    """The messages before it have been received."""
    received: list[str | bytes] = []

    with pytest.raises(UnicodeDecodeError):
        implementation.read_run(
            raw_frame(BINARY, b"abcdef") + raw_frame(TEXT, b"abcde\xff"), 0, MASKED, 100, 9, received
        )

    assert [b"abcdef"] == received


_frames = st.builds(
    raw_frame, st.sampled_from([TEXT, BINARY, PING]), st.binary(max_size=8) | st.binary(min_size=120, max_size=140),
    key=st.sampled_from([KEY, None]),
)  # fmt: skip


@given(st.lists(_frames | st.binary(max_size=12)).map(b"".join), st.integers(0, 20), st.sampled_from([0, MASKED]))
def test_both_implementations_read_alike(data: bytes, position: int, mask_bit: int) -> None:
    """C and Python read the same messages of any bytes, and stop at the same place."""
    outcomes = []
    for one in (IN_PYTHON, c_module()):
        received: list[str | bytes] = []
        try:
            stop = one.read_run(data, position, mask_bit, 130, 3, received)
        except UnicodeDecodeError as error:
            stop = str(error)
        outcomes.append((received, stop))

    assert outcomes[0] == outcomes[1]
