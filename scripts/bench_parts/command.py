"""The command line of `scripts/bench`: what to measure, how long, where to put it."""

from __future__ import annotations

import argparse
import os
import resource
import sys
from collections.abc import Sequence
from pathlib import Path

from bench_parts.balancing import BalancingCost
from bench_parts.brokers import Engines
from bench_parts.contestants import CONTESTANTS, FLOOR, SIZES, Contestant
from bench_parts.fan_out import CONTESTANTS as AUDITIONERS
from bench_parts.fan_out import FanOut
from bench_parts.gossip import GossipCost
from bench_parts.matching import MatchingCost
from bench_parts.mesh import MeshCost
from bench_parts.workers import Workers
from bench_parts.report import MachineUse, Report, Section
from bench_parts.rounds import Bench, Outcome, Settings

IDLE, HANDSHAKES, ROUTES = "idle", "handshakes", "routes"
SECTIONS = ("fan-out", "matching", "brokers", "gossip", "balancing", "mesh", "workers")
"""What is measured in a way of its own. Named alone, they need no floor of messages."""
DESCRIPTION = """Measure WebMesh beside plain gevent, WebSocket libraries, gRPC and zerorpc: server CPU per message,
messages a second, latency, memory of idle connections, handshakes. Prints one report in markdown.
The first run makes .venv-bench and installs the peers there."""


def names(text: str) -> tuple[str, ...]:
    """A comma-separated list."""
    return tuple(part.strip() for part in text.split(",") if part.strip())


def sizes(text: str) -> tuple[int, ...]:
    """A comma-separated list of numbers."""
    return tuple(int(part) for part in names(text))


def parser() -> argparse.ArgumentParser:
    """What the command line understands."""
    known = ", ".join(contestant.name for contestant in CONTESTANTS if not contestant.name.startswith(f"{ROUTES}-"))
    made = argparse.ArgumentParser(prog="scripts/bench", description=DESCRIPTION, epilog=f"NAME is one of: {known}")
    made.add_argument("--quick", action="store_true", help="3 rounds of 0.5 s, 128 B only, few idle connections")
    special = ", ".join((IDLE, HANDSHAKES, ROUTES, *SECTIONS))
    made.add_argument("--only", type=names, metavar="NAME,…", help=f"these, and of {special} what is named")
    made.add_argument("--rounds", type=int, metavar="N", help="default 5")
    made.add_argument("--seconds", type=float, metavar="S", help="of one measurement, default 1")
    made.add_argument("--sizes", type=sizes, metavar="BYTES,…", help=f"default {','.join(map(str, SIZES))}")
    made.add_argument("--in-flight", type=sizes, default=(1, 10), metavar="N,…", help="default 1,10")
    made.add_argument("--connections", type=int, default=50, metavar="N", help="default 50")
    made.add_argument("--idle-connections", type=int, metavar="N", help="default 5000")
    made.add_argument("--receivers", type=sizes, metavar="N,…", help="of a fan-out, default 1000,10000")
    made.add_argument("--json", type=Path, metavar="FILE", help="write every sample there")
    made.add_argument("--here", action="store_true", help="use this Python as it is; make no environment")
    return made


def settings(options: argparse.Namespace) -> Settings:
    """Numbers from the options; what is not named depends on --quick."""
    quick = options.quick
    seconds = options.seconds or (0.5 if quick else 1.0)
    return Settings(
        rounds=options.rounds or (3 if quick else 5),
        seconds=seconds,
        warm_up=min(0.3, seconds / 2),
        connections=options.connections,
        idle_connections=options.idle_connections or (300 if quick else 5000),
        sizes=options.sizes or (SIZES[:1] if quick else SIZES),
        windows=options.in_flight,
    )


def chosen(only: tuple[str, ...] | None) -> list[Contestant]:
    """Those that were named, and the floor, which every ratio needs."""
    if only is None:
        return list(CONTESTANTS)
    known = {contestant.name for contestant in CONTESTANTS} | {IDLE, HANDSHAKES, ROUTES, *SECTIONS}
    unknown = sorted(set(only) - known)
    if unknown:
        raise SystemExit(f"scripts/bench: no such contestant: {', '.join(unknown)} (known: {', '.join(sorted(known))})")
    only = tuple(name for name in only if name not in SECTIONS)
    if not only:
        return []
    whole = not {name for name in only if name not in (IDLE, HANDSHAKES, ROUTES)} and ROUTES not in only
    return [
        contestant
        for contestant in CONTESTANTS
        if contestant.name in (*only, FLOOR)
        or (ROUTES in only and contestant.name.startswith(f"{ROUTES}-"))
        or (whole and (contestant.idle or contestant.handshakes))
    ]


def sections(options: argparse.Namespace) -> list[Section]:
    """Those that were named, or all."""
    wanted = options.only or SECTIONS
    rounds = options.rounds or (1 if options.quick else 3)
    made: list[Section] = []
    if "fan-out" in wanted:
        made.append(FanOut(AUDITIONERS, rounds, options.receivers or ((100,) if options.quick else None)))
    if "matching" in wanted:
        made.append(MatchingCost(rounds=rounds, **({"counts": (10, 1_000)} if options.quick else {})))
    if "brokers" in wanted:
        made.append(Engines(rounds=rounds, seconds=options.seconds or (0.3 if options.quick else 2.0)))
    if "gossip" in wanted:
        made.append(GossipCost(rounds=rounds, **({"counts": (10, 50)} if options.quick else {})))
    if "balancing" in wanted:
        made.append(BalancingCost(rounds=rounds))
    if "mesh" in wanted:
        made.append(MeshCost(rounds=rounds))
    if "workers" in wanted:
        made.append(Workers(rounds=rounds))
    return made


def refuse_real_time() -> None:
    """End unless this process has an ordinary priority.

    Under a real-time policy the load never leaves its core. Seen: the kernel, which was to reap a server, spun at
    that priority for the sake of an ordinary process that could no longer run, and the core was lost.
    """
    if os.sched_getscheduler(0) in (os.SCHED_FIFO, os.SCHED_RR):
        raise SystemExit("scripts/bench: not under a real-time priority: it can hang a core")


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and print; always 0, because a slow machine is no error."""
    options = parser().parse_args(arguments)
    refuse_real_time()
    only = options.only
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    wanted, contestants, use = settings(options), chosen(only), MachineUse()
    bench = Bench(
        contestants,
        wanted,
        idle=only is None or IDLE in only,
        handshakes=only is None or HANDSHAKES in only,
    )
    outcome = bench.run() if contestants else Outcome()
    more = sections(options)
    for section in more:
        section.run()
    report = Report(contestants, wanted, outcome, use, more)
    sys.stdout.write(report.markdown())
    if options.json:
        report.save(options.json)
    return 0
