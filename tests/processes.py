"""Programs that tests run in processes of their own, from whichever folder, with the package of this clone."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent

ENVIRONMENT = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]).rstrip(":")}
"""The environment of such a process: `import webmesh` works there whether it is installed or not."""

LONGEST = 50
"""Seconds that such a process may take: less than a test's own limit, so that its output is shown."""


def run_python(*arguments: str, folder: Path = ROOT, stdin: str = "") -> subprocess.CompletedProcess[str]:
    """Run this interpreter with *arguments* in *folder*, to its end."""
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=folder, env=ENVIRONMENT, input=stdin, capture_output=True, text=True, timeout=LONGEST, check=False,
    )  # fmt: skip


def run_program(source: str, folder: Path = ROOT) -> str:
    """Run the Python program *source*, which must succeed; its standard output."""
    finished = run_python("-c", source, folder=folder)
    assert 0 == finished.returncode, finished.stderr
    return finished.stdout
