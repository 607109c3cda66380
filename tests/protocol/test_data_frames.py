"""Data frames: whole messages as bytes; more of it, through `Frames`, is in test_frames."""

from __future__ import annotations

import pytest

from tests.protocol.raw_frames import BINARY, KEY, TEXT, raw_frame
from webmesh.exceptions import LocalProtocolError
from webmesh.protocol.data_frames import KEYS_AT_ONCE, ClientFrames, first_and_payload, server_frame

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
