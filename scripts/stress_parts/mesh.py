"""Two instances of each of three services, as processes: killed at random under load, then restarted one by one.

What happens, and what is counted, is examples/flights/chaos.py; this holds it against what is promised.
"""

from __future__ import annotations

import json
import subprocess
import sys

from bench_parts.load import LoadFailed
from stress_parts.processes import SCRIPTS, environment
from stress_parts.results import Result
from stress_parts.scale import Scale

LONGEST = 240.0
"""Seconds for all but the killing."""


def run(scale: Scale) -> list[Result]:
    """Ten minutes of it."""
    seconds = scale.seconds or scale.size(600.0, quick=6.0)
    every = scale.size(3.0, quick=0.5)
    finished = subprocess.run(
        [sys.executable, "-m", "examples.flights.chaos", "--json", "--seconds", str(seconds), "--every", str(every)],
        cwd=SCRIPTS.parent, env=environment(), stdin=subprocess.DEVNULL, capture_output=True, text=True,
        timeout=seconds + LONGEST,
    )  # fmt: skip
    if not finished.stdout:
        raise LoadFailed(finished.stderr.strip()[-2000:])
    said = [line for line in finished.stderr.splitlines() if not line.startswith("killed")]
    print(*said, sep="\n", file=sys.stderr)
    whats = {"killed": f"killed for {seconds:.0f} s", "restarted": "restarted one by one"}
    return [
        Result("mesh", f"{whats[row['part']]}: {row['what']}", row["measured"], row["bound"], row["kept"])
        for row in json.loads(finished.stdout)
    ]
