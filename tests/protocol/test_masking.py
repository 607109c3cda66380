"""Masking: both implementations do what RFC 6455 section 5.3 says, at every size and alignment."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.protocol.raw_frames import KEY, xor
from tests.protocol.speedups import IMPLEMENTATIONS, c_module, loops
from webmesh.protocol.masking import TRANSLATE_FROM, mask_in_python, unmask_in_python

SIZES = [*range(70), 125, 126, TRANSLATE_FROM - 1, TRANSLATE_FROM, TRANSLATE_FROM + 1, 4099, 65535, 65536]
"""Around every place where an implementation goes another way."""


@pytest.fixture(params=IMPLEMENTATIONS)
def implementation(request: pytest.FixtureRequest) -> Any:
    """`mask` and `unmask` in Python, then in C."""
    return loops(request.param)


def test_masks_the_example_of_the_standard(implementation: Any) -> None:
    """RFC 6455 section 5.7: "Hello" under the key 37 fa 21 3d is 7f 9f 4d 51 58."""
    assert bytes.fromhex("7f9f4d5158") == implementation.mask(b"Hello", KEY)


@pytest.mark.parametrize("size", SIZES)
def test_masks_octet_by_octet_at_every_size(implementation: Any, size: int) -> None:
    """The result is the plain XOR, whatever shortcut a size takes."""
    payload = os.urandom(size)

    assert xor(payload, KEY) == implementation.mask(payload, KEY)


@pytest.mark.parametrize("size", [0, 1, 7, 8, 31, 32, 33, 100, TRANSLATE_FROM + 5])
@pytest.mark.parametrize("start", range(9))
def test_unmasks_inside_a_frame_at_every_alignment(implementation: Any, start: int, size: int) -> None:
    """Key and payload may start at any address, and what stands around them is not touched."""
    payload = os.urandom(size)
    frame = b"h" * start + KEY + xor(payload, KEY) + b"next"

    assert payload == implementation.unmask(frame, start, start + 4 + size)


def test_masking_twice_gives_the_payload_back(implementation: Any) -> None:
    """Masking is its own inverse, so one function serves both directions."""
    payload = os.urandom(1000)

    assert payload == implementation.mask(implementation.mask(payload, KEY), KEY)


@pytest.mark.parametrize("key", [b"", b"abc", b"abcde"])
def test_refuses_a_key_of_another_size(implementation: Any, key: bytes) -> None:
    """A key has four bytes; anything else is a fault of the caller, not a silent wrong result."""
    with pytest.raises(ValueError, match="4 bytes"):
        implementation.mask(b"payload", key)


@pytest.mark.parametrize("start, stop", [(-1, 5), (0, 3), (5, 8), (0, 11), (8, 12), (6, 2), (10, 10), (-4, 4)])
def test_refuses_to_unmask_outside_the_frame(implementation: Any, start: int, stop: int) -> None:
    """Neither the key nor the payload may lie outside the ten bytes that there are."""
    with pytest.raises(ValueError, match="no key and payload"):
        implementation.unmask(b"0123456789", start, stop)


@given(payload=st.binary(max_size=300), key=st.binary(min_size=4, max_size=4), start=st.integers(0, 20))
def test_both_implementations_agree(payload: bytes, key: bytes, start: int) -> None:
    """C and Python give the same bytes for the same payload, key and place."""
    module = c_module()
    frame = bytes(start) + key + payload

    assert mask_in_python(payload, key) == module.mask(payload, key)
    assert unmask_in_python(frame, start, len(frame)) == module.unmask(frame, start, len(frame))


@pytest.mark.parametrize("call", [
    lambda module: module.mask(b"payload"),
    lambda module: module.mask(b"payload", KEY, 1),
    lambda module: module.mask("text", KEY),
    lambda module: module.mask(b"payload", "abcd"),
    lambda module: module.mask(None, None),
    lambda module: module.mask(memoryview(b"spread out")[::2], KEY),
    lambda module: module.unmask(b"0123456789", 0),
    lambda module: module.unmask(b"0123456789", "0", 10),
    lambda module: module.unmask(b"0123456789", 0, None),
    lambda module: module.unmask(b"0123456789", 0, 1 << 80),
    lambda module: module.unmask("0123456789", 0, 10),
])  # fmt: skip
def test_c_refuses_wrong_arguments(call: Callable[[object], object]) -> None:
    """Every misuse of the C functions is an exception."""
    module = c_module()

    with pytest.raises((TypeError, OverflowError, BufferError)):
        call(module)


def test_c_takes_any_buffer() -> None:
    """bytearray and memoryview are read in place, and are free again afterwards."""
    payload = bytearray(b"payload")

    masked = c_module().mask(memoryview(payload)[1:], bytearray(KEY))
    payload.append(0)  # would raise while the buffer is held

    assert xor(b"ayload", KEY) == masked


def test_c_lets_other_threads_run_on_large_payloads() -> None:
    """Threads that mask megabytes at once, which is done without the interpreter's lock, do not disturb each other."""
    mask = c_module().mask
    payloads = [os.urandom((1 << 20) + number) for number in range(4)]
    masked = [b""] * 4

    def work(number: int) -> None:
        for _ in range(5):
            masked[number] = mask(payloads[number], KEY)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert payloads == [mask(each, KEY) for each in masked]
