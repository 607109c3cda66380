"""Connections made and closed, and handshakes that fail, by the hundred thousand: what stays behind?"""

from __future__ import annotations

import time

from stress_parts.processes import Node, Worker
from stress_parts.results import Result, mebibytes
from stress_parts.scale import Scale

SHARE = 0.05
"""By which resident memory may differ from what it was after the first twentieth of the cycles."""
SETTLE = 30.0
"""Seconds for the last connections to be gone."""


def run(scale: Scale) -> list[Result]:
    """Each kind on a server of its own."""
    return [
        result
        for kind, what in (("connect", "connections made, used and closed"), ("fail", "handshakes that fail"))
        for result in _cycles(scale.of(100_000, quick=600), kind, what)
    ]


def _cycles(count: int, kind: str, what: str) -> list[Result]:
    with Node(limits={"handshakes": 4096}) as node:
        _go(node, max(400, count // 20), kind)  # what is made once is there, and the allocator has its pages
        before = _settled(node, None)
        started = time.monotonic()
        done = _go(node, count, kind)
        seconds = time.monotonic() - started
        after = _settled(node, before)
    grown = after["resident"] / before["resident"] - 1
    memory = f"{mebibytes(before['resident'])} before, {mebibytes(after['resident'])} after: {grown:+.1%}"
    left = {name: after[name] - before[name] for name in ("descriptors", "greenlets", "connections")}
    more = ", ".join(f"{name} {number:+}" for name, number in left.items())
    rate = f"{done:,} {what}, {done / seconds:,.0f} a second"
    return [
        Result("cycles", rate, memory, "± 5 %", abs(grown) <= SHARE, timing=True),
        Result("cycles", f"{done:,} {what}", more, "none more", not any(number > 0 for number in left.values())),
        Result("cycles", f"{done:,} {what}", f"{done:,} as expected", f"{count:,}", done == count),
    ]


def _go(node: Node, count: int, kind: str) -> int:
    with Worker("cycler", node.port, count, kind) as worker:
        return int(worker.result(3600.0)["done"])


def _settled(node: Node, wanted: dict[str, int] | None) -> dict[str, int]:
    """The census, once it is no higher than *wanted*, or the time is up."""
    end = time.monotonic() + (SETTLE if wanted else 1.0)
    while True:
        found: dict[str, int] = node.ask("/census")
        names = ("descriptors", "greenlets", "connections")
        if time.monotonic() > end or wanted and all(found[name] <= wanted[name] for name in names):
            return found
        time.sleep(0.2)
