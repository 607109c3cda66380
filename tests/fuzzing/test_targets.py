"""What `scripts/fuzz` feeds for minutes under atheris is fed here for a second: bytes near what is right.

The rule of each target stands in scripts/fuzz_parts/targets.py; a target that raises anything has found something.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

SCRIPTS = Path(__file__).resolve().parents[2] / "scripts"
sys.path.insert(0, str(SCRIPTS))

from fuzz_parts.pieces import Bytes, cut  # noqa: E402
from fuzz_parts.targets import Target, targets  # noqa: E402

TARGETS = targets()
EXAMPLES = max(150, settings.default.max_examples if settings.default else 0)
"""For each target: all together take a few seconds."""


@st.composite
def nearly(draw: st.DrawFn, seeds: tuple[bytes, ...]) -> bytes:
    """A seed with a few edits, two of them joined, or anything."""
    data = bytearray(draw(st.sampled_from(seeds)))
    if draw(st.booleans()):
        data += draw(st.sampled_from(seeds))[1:]
    for _ in range(draw(st.integers(0, 4))):
        start = draw(st.integers(0, len(data)))
        stop = min(len(data), start + draw(st.sampled_from([0, 1, 1, 2, 8])))
        data[start:stop] = draw(st.binary(max_size=4) | st.sampled_from([bytes(data[start : start + 16]), b"\xff" * 8]))
    return bytes(data)


@pytest.mark.row(4, 7, 11, 14, 17, 25, 32, 36, 43, 59, 72)
@pytest.mark.parametrize("target", TARGETS.values(), ids=list(TARGETS))
def test_nothing_foreign_is_raised(target: Target) -> None:
    """Whatever arrives, only the exceptions that a function names come of it, and what it gives is consistent."""

    @settings(max_examples=EXAMPLES)
    @given(nearly(target.seeds) | st.binary(max_size=200))
    def holds(data: bytes) -> None:
        target.run(data)

    for seed in target.seeds:
        target.run(seed)
    holds()


@given(st.binary(max_size=300), st.integers(0, 255))
def test_pieces_are_the_stream(stream: bytes, how: int) -> None:
    """Cutting loses nothing, so that outcomes can be compared."""
    assert stream == b"".join(cut(stream, how))


def test_bytes_that_are_used_up_are_zeros() -> None:
    """A short input is a whole one."""
    source = Bytes(b"\x07ab")

    assert (7, b"ab", False, 0, b"") == (source.byte(), source.take(9), bool(source), source.byte(), source.rest())


@pytest.mark.plain  # a process of its own: once is enough
def test_the_command_runs_a_target_or_says_what_is_missing(tmp_path: Path) -> None:
    """Exit status 0 and a line of the table, or 3 and how to get atheris."""
    finished = subprocess.run(
        [sys.executable, str(SCRIPTS / "fuzz"), "--here", "--seconds", "1", "urls"],
        env=os.environ | {"WEBMESH_FUZZ_REPORTS": str(tmp_path)}, capture_output=True, text=True, timeout=50,
    )  # fmt: skip

    if finished.returncode == 3:
        assert "pip install atheris" in finished.stderr
    else:
        assert 0 == finished.returncode, finished.stdout + finished.stderr
        assert "| urls |" in finished.stdout and "nothing found" in finished.stdout
