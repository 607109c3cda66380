"""Ten thousand clients lose their server in the same moment: how soon are they back, and what does that cost?"""

from __future__ import annotations

import time

from stress_parts.processes import Node, Worker, free_port
from stress_parts.results import Result
from stress_parts.scale import Scale

BACK = 30.0
"""Seconds from the kill until the last one is back."""
HERDS = 2
"""Processes with so many clients each as they have descriptors for."""


def run(scale: Scale) -> list[Result]:
    """Each client has an address of its own, so that the server's rates hold for all of them as they would outside."""
    count = scale.of(10_000, quick=100)
    each = count // HERDS
    port = free_port()
    options = {
        "limits": {"connections": count + 1_000},
        "server": {"exempt_addresses": []},
    }
    node = Node(port=port, **options)
    herds = [Worker("returning", port, each, number, BACK + 30) for number in range(HERDS)]
    try:
        for herd in herds:
            assert herd.process.stdout is not None
            assert herd.process.stdout.readline() == "all there\n"
        node.kill()
        killed = time.monotonic()
        node.__exit__(None, None, None)
        node = Node(port=port, **options)
        up = time.monotonic()
        told = [herd.result(BACK + 90) for herd in herds]
        served = node.ask("/echo", "x") == "x"
    finally:
        for herd in herds:
            if herd.process.poll() is None:
                herd.kill()
        node.__exit__(None, None, None)
    # CLOCK_MONOTONIC is one clock for all processes.
    back = [at - killed for each_told in told for at in each_told["back"]]
    turned_away = sum(each_told["turned_away"] for each_told in told)
    again = sum(each_told["turned_away_again"] for each_told in told)
    dropped = sum(each_told["dropped"] for each_told in told)
    most = max((sum(1 for at in back if second <= at < second + 1) for second in range(60)), default=0)
    what = f"{count:,} clients, server killed, up again after {up - killed:.1f} s"
    last = max(back, default=99.0)
    soon = f"the last after {last:.1f} s, {most:,} in the busiest second"
    return [
        Result("herd", what, f"{len(back):,} back", "all", len(back) == count and served),
        Result("herd", what, soon, f"≤ {BACK:g} s", last <= BACK, timing=True),
        Result("herd", what, f"{dropped} lost a second time", "0", dropped == 0),
        Result("herd", what, f"{turned_away} told to come later, {again} of them twice", "0 twice", again == 0,
               timing=True),
    ]  # fmt: skip
