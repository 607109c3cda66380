"""Measuring in a process of its own, so that what one section leaves behind costs no other one."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

from bench_parts.load import LoadFailed
from bench_parts.processes import environment


def run_apart(section: str, *arguments: object, seconds: float) -> Any:
    """What the module of a section prints as JSON when it is run with these arguments.

    Args:
        seconds: For all of it.

    Raises:
        LoadFailed: It has ended otherwise; the text is its last line.
    """
    finished = subprocess.run(
        [sys.executable, "-m", f"bench_parts.{section}", *map(str, arguments)],
        stdin=subprocess.DEVNULL, capture_output=True, env=environment(), text=True, timeout=seconds,
    )  # fmt: skip
    if finished.returncode:
        reason = (finished.stderr.strip().splitlines() or ["silently"])[-1]
        raise LoadFailed(f"{' '.join(map(str, (section, *arguments)))}: {reason}")
    return json.loads(finished.stdout)
