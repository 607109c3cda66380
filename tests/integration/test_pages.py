"""The pages of docs that show programs: they run, in a plain and in a patched process, and print what is said."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.processes import ROOT, run_python

FENCE = re.compile(r"^```python\n((?:(?!```).*\n)*)```\n\n?```text\n((?:(?!```).*\n)*)```$", re.MULTILINE)
PROGRAMS = [
    pytest.param(program, printed, id=f"{page}-{number}")
    for page in ("TESTING", "OPERATIONS", "TOPICS")
    for number, (program, printed) in enumerate(
        FENCE.findall((ROOT / "docs" / f"{page}.md").read_text(encoding="utf-8"))
    )
]


@pytest.mark.parametrize("before", [(), ("-m", "gevent.monkey")], ids=["plain", "patched"])
@pytest.mark.parametrize(("program", "printed"), PROGRAMS)
def test_a_program_of_a_page_runs(program: str, printed: str, before: tuple[str, ...], tmp_path: Path) -> None:
    """A reader who copies it gets what the page says."""
    if "prometheus_client" in program:
        pytest.importorskip("prometheus_client", reason="the extra metrics is not installed")
    script = tmp_path / "program.py"
    script.write_text(program, encoding="utf-8")

    done = run_python(*before, str(script))

    assert (0, printed) == (done.returncode, done.stdout), done.stderr
