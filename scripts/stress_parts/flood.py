"""One peer does its worst, again and again: tiny frames as quick as they go, and bombs; what do the others notice?"""

from __future__ import annotations

from stress_parts.processes import Node, Worker
from stress_parts.results import Result, mebibytes, milliseconds, percentile
from stress_parts.scale import Scale

ATTACKS = {
    "fragments": "one-byte fragments",
    "pings": "pings",
    "empty": "empty messages",
    "calls": "calls of nothing",
    "zlib": "msgpack bombs",
    "deflate": "deflate bombs",
    "nested": "fragmented bombs",
}
QUICK = ("pings", "zlib", "nested")
BOMB = 1024
"""MiB to which a bomb inflates."""
P99 = 0.05
"""Seconds for a call of anybody else."""
MESSAGE_SIZE = 1 << 20
ROOM = 2 << 20
"""Bytes of memory beyond the message limit that the worst peer may cost."""


def run(scale: Scale) -> list[Result]:
    """Each attack by one peer, which comes back as soon as it is thrown out, while another one calls."""
    seconds = scale.size(8.0, quick=0.5)
    size = int(scale.size(BOMB, quick=64))
    results = []
    with Node(server={"compression": True}) as node:
        quiet = _measured(node, seconds)
        with Worker("attacker", node.port, 0.5, "pings", size) as first:  # what is made once is there after it
            first.result(60)
        for attack, what in ATTACKS.items():
            if scale.quick and attack not in QUICK:
                continue
            node.forget_peak()
            before = node.peak()
            with Worker("attacker", node.port, seconds, attack, size) as attacker:
                latencies = _measured(node, seconds)
                told = attacker.result(60)
            grown = node.peak() - before
            p99 = percentile(latencies, 0.99)
            met = f"{len(latencies)} calls, p99 {milliseconds(p99)}, longest {milliseconds(max(latencies))}"
            done = f"{what}: {told['sent']:,} in {told['connections']:,} connections"
            costs = f"memory at its peak {mebibytes(grown)} more"
            small = grown <= MESSAGE_SIZE + ROOM
            results += [
                Result("flood", done, met, "p99 < 50 ms", p99 < P99, timing=True),
                Result("flood", what, costs, f"≤ {mebibytes(MESSAGE_SIZE + ROOM)}", small, timing=True),
            ]
            if attack != "calls":  # those are allowed
                codes = told["codes"]
                known = bool(codes) and set(codes) <= {"1007", "1008", "1009"}
                results.append(Result("flood", what, f"thrown out with {codes}", "1007, 1008 or 1009", known))
        served = node.ask("/echo", "x") == "x"
    unloaded = f"p99 {milliseconds(percentile(quiet, 0.99))} without a flood"
    after = "serves afterwards" if served else "does not serve afterwards"
    results.append(Result("flood", unloaded, after, "serves", served))
    return results


def _measured(node: Node, seconds: float) -> list[float]:
    with Worker("probe", node.port, seconds, "call", 0.002) as honest:
        latencies: list[float] = honest.result(seconds + 60)
    return latencies
