"""The command line of `scripts/stress`: which scenarios, how much of them, and the table."""

from __future__ import annotations

import argparse
import importlib
import os
import platform
import resource
import sys
import time
import traceback
from collections.abc import Sequence

from stress_parts.results import HEAD, Result, Skipped
from stress_parts.scale import Scale

SCENARIOS = (
    "idle", "silent", "flood", "slow", "answers", "kills", "shutdown", "herd", "cycles", "topics", "wills",
    "mesh", "mesh-partition",
)  # fmt: skip
KEPT, BROKEN = 0, 1


def parser() -> argparse.ArgumentParser:
    """What the command line understands."""
    made = argparse.ArgumentParser(
        prog="scripts/stress",
        description="Put a server and its clients, in processes of their own, under what a bad day brings, and hold "
        "what comes of it against what is promised. Exit status: 0 all was kept, 1 something was not.",
    )
    made.add_argument("scenarios", nargs="*", metavar="SCENARIO", help=f"of {', '.join(SCENARIOS)}; default: all")
    made.add_argument("--quick", action="store_true", help="little of each; figures of time and memory are not judged")
    made.add_argument("--count", type=int, metavar="N", help="of connections, calls, kills or cycles")
    made.add_argument("--seconds", type=float, metavar="N", help="for which instances are killed, in `mesh`")
    made.add_argument("--here", action="store_true", help="use this Python as it is; install nothing")
    return made


def describe_machine() -> str:
    """Where the figures come from."""
    with open("/proc/cpuinfo") as file:
        names = [line.split(":")[1].strip() for line in file if line.startswith("model name")]
    others = os.getloadavg()[0]
    return (
        f"{len(names)} cores of {names[0] if names else platform.machine()}, {platform.system()} {platform.release()}, "
        f"{platform.python_implementation()} {platform.python_version()}; load average at the start {others:.1f}"
    )


def run(name: str, scale: Scale) -> list[Result]:
    """One scenario; one that breaks down is a result too."""
    try:
        results: list[Result] = importlib.import_module(f"stress_parts.{name.replace('-', '_')}").run(scale)
        return results
    except Skipped as why:
        return [Result(name, "nothing", str(why), "–", True, skipped=True)]
    except Exception as error:
        traceback.print_exc()
        return [Result(name, "broke down", f"{type(error).__name__}: {error}"[:200].replace("|", "/"), "runs", False)]


def main(arguments: Sequence[str] | None = None) -> int:
    """Stress, and print the table."""
    options = parser().parse_args(arguments)
    unknown = sorted(set(options.scenarios) - set(SCENARIOS))
    if unknown:
        raise SystemExit(f"scripts/stress: no such scenario: {', '.join(unknown)} (known: {', '.join(SCENARIOS)})")
    if os.sched_getscheduler(0) in (os.SCHED_FIFO, os.SCHED_RR):
        raise SystemExit("scripts/stress: not under a real-time priority: it can hang a core")
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    scale = Scale(quick=options.quick, count=options.count, seconds=options.seconds)
    print(describe_machine(), f"\n\n{HEAD}", sep="", flush=True)
    failed = False
    for name in options.scenarios or SCENARIOS:
        begun = time.monotonic()
        results = run(name, scale)
        for result in results:
            print(result.row(quick=scale.quick), flush=True)
        failed |= any(result.fails(quick=scale.quick) for result in results)
        print(f"scripts/stress: {name} took {time.monotonic() - begun:.0f} s", file=sys.stderr)
    return BROKEN if failed else KEPT
