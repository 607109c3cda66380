"""docs/CLIENT.md shows programs that run, and print what it says."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.processes import run_program

PAGE = (Path(__file__).parents[2] / "docs" / "CLIENT.md").read_text(encoding="utf-8")
BLOCKS: list[tuple[str, str]] = re.findall(r"^```(\w+)\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
PROGRAMS = [text for kind, text in BLOCKS if kind == "python"]


@pytest.mark.plain
def test_the_first_program_shows_its_states() -> None:
    """In the order in which they came, and the answer among them."""
    printed = run_program(PROGRAMS[0]).splitlines()
    assert "3" in printed
    assert ["connecting", "connected", "closed"] == [line.partition(" - ")[0] for line in printed if " - " in line]


@pytest.mark.plain
def test_the_second_program_pays_once() -> None:
    """Although the first reply is lost."""
    (expected,) = [text for kind, text in BLOCKS if kind == "text"]
    assert expected == run_program(PROGRAMS[1])


@pytest.mark.plain
def test_the_third_program_goes_on_after_the_loss() -> None:
    """With its stream, and with what was kept."""
    printed = run_program(PROGRAMS[2]).splitlines()
    assert ["[1, 2, 3, 4, 5]", "kept while you were away"] == sorted(printed)
