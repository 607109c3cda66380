"""The leader of a mesh of three is cut off for half a minute, by a network of its own: what do the others do, and then?

Both ways, and only from it to the others. Needs root, `ip` and `tc`; is skipped without.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys

from bench_parts.load import LoadFailed
from stress_parts.processes import SCRIPTS, environment
from stress_parts.results import Result, Skipped
from stress_parts.scale import Scale

HEALING = 10.0
"""Seconds in which all must know the same again."""
LONGEST = 180.0


def run(scale: Scale) -> list[Result]:
    """Both kinds."""
    lacking = [name for name in ("ip", "tc") if shutil.which(name) is None]
    if os.geteuid() != 0 or lacking:
        raise Skipped(f"needs root, ip and tc; there is no {lacking[0] if lacking else 'root'}")
    seconds = scale.size(30.0, quick=5.0)
    return [line for how in ("both", "out") for line in _part(how, seconds)]


def _part(how: str, seconds: float) -> list[Result]:
    finished = subprocess.run(
        [sys.executable, "-m", "tests.integration.parted_network", how, str(seconds)],
        cwd=SCRIPTS.parent, env=environment(), stdin=subprocess.DEVNULL, capture_output=True, text=True,
        timeout=LONGEST,
    )  # fmt: skip
    if "Operation not permitted" in finished.stderr:
        raise Skipped("network namespaces are not allowed here")
    if finished.returncode:
        raise LoadFailed(finished.stderr.strip()[-2000:])
    told = json.loads(finished.stdout)
    name = "mesh-partition"
    what = f"the leader of three is cut off, {'both ways' if how == 'both' else 'one way'}, for {seconds:.0f} s"
    healed = "never" if told["healed"] is None else f"{told['healed']:.1f} s"
    calm = told["healed"] is not None and told["healed"] <= HEALING and told["same past"]
    return [
        Result(name, what, f"{len(told['led at once'])} times two led at once", "0", not told["led at once"]),
        Result(name, what, f"{len(told['twice'])} of {told['runs']} calls run twice", "0", not told["twice"]),
        Result(name, what, f"all know the same again after {healed}", f"≤ {HEALING:.0f} s", calm),
        Result(name, what, f"{len(told['missed untold'])} nodes missed something and were not told", "0",
               not told["missed untold"]),
        Result(name, what, f"{told['lost']} of {told['acknowledged']} acknowledged publications lost", "0",
               not told["lost"]),
    ]  # fmt: skip
