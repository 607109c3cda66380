"""The choice between C and Python, and that the C functions take nothing but what they should."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest

from tests.protocol.speedups import IN_PYTHON, c_module
from webmesh.protocol import data_frames, envelope, masking, msgpack_body, speedups, values
from webmesh.protocol.speedups import REVISION, load


def test_the_source_is_of_the_revision_that_is_asked_for() -> None:
    """The extension that is built from this tree is used by this tree."""
    assert REVISION == c_module().REVISION


def test_all_that_is_in_c_is_in_python() -> None:
    """The twins are complete, so nothing is missing where there is no compiler."""
    in_c = {name for name, value in vars(c_module()).items() if callable(value) and not name.startswith("_")}

    assert in_c == set(vars(IN_PYTHON))


def test_all_or_nothing_is_in_c() -> None:
    """Whether C is used is decided once, for all functions."""
    used = (
        masking.mask, masking.unmask, data_frames.read_run, data_frames.whole_frame, msgpack_body.msgpack_marks,
        values.spare_items, envelope.plain_request,
    )  # fmt: skip
    twins = set(vars(IN_PYTHON).values())

    assert {speedups.NATIVE is None} == {function in twins for function in used}


def test_environment_forces_python(monkeypatch: pytest.MonkeyPatch) -> None:
    """WEBMESH_NO_SPEEDUPS=1 keeps the C code out of a process, even where it is built."""
    monkeypatch.setenv("WEBMESH_NO_SPEEDUPS", "1")

    assert load() is None


def test_a_process_without_it_works(monkeypatch: pytest.MonkeyPatch) -> None:
    """The modules load and frame with nothing but Python."""
    program = (
        "from webmesh.protocol import masking as m, data_frames as d, speedups as s;"
        "print(s.NATIVE, m.mask is m.mask_in_python, d.server_frame(b'a'))"
    )
    ran = subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, "WEBMESH_NO_SPEEDUPS": "1", "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        capture_output=True, text=True, timeout=30, check=True,
    )  # fmt: skip

    assert r"None True b'\x82\x01a'" == ran.stdout.strip()


def test_a_build_of_another_revision_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    """What an older version has left behind lacks functions, or has others of the same name."""
    monkeypatch.delenv("WEBMESH_NO_SPEEDUPS", raising=False)
    monkeypatch.setattr(speedups, "REVISION", REVISION + 1)

    assert load() is None


@pytest.mark.parametrize("call", [
    lambda module: module.read_run(b"", 0, 0, 0, 0),
    lambda module: module.read_run("text", 0, 0, 0, 0, []),
    lambda module: module.read_run(b"", None, 0, 0, 0, []),
    lambda module: module.read_run(b"", 0, 0, 1 << 80, 0, []),
    lambda module: module.read_run(b"\x82\x06abcdef", 0, 0, 10, 1, ()),
    lambda module: module.whole_frame(0x82),
    lambda module: module.whole_frame("a", b""),
    lambda module: module.whole_frame(0x82, "text"),
    lambda module: module.msgpack_marks(),
    lambda module: module.msgpack_marks("text"),
    lambda module: module.plain_request({}),
    lambda module: module.plain_request([], 1, 1),
    lambda module: module.plain_request({}, 1, "1"),
    lambda module: module.spare_items({}, frozenset(), 1),
    lambda module: module.spare_items({}, {int}, 1, 1),
    lambda module: module.spare_items({}, frozenset(), "1", 1),
    lambda module: module.spare_items({}, frozenset(), 1, 1 << 80),
])  # fmt: skip
def test_c_refuses_wrong_arguments(call: Callable[[Any], object]) -> None:
    """Every misuse of the C functions is an exception."""
    module = c_module()

    with pytest.raises((TypeError, OverflowError, SystemError)):
        call(module)
