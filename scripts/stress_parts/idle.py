"""Ten thousand connections that do nothing: what one takes of the server's memory."""

from __future__ import annotations

import time
from contextlib import ExitStack

from bench_parts.load import connect
from bench_parts.wire import call_speech

from stress_parts.processes import Node
from stress_parts.results import Result
from stress_parts.scale import Scale

BOUND = 16.0
"""KiB of resident memory for an idle connection (docs/ARCHITECTURE.md)."""
WARM = 100
"""Connections before the first reading, so that what is made once does not count."""


def run(scale: Scale) -> list[Result]:
    """Open them, read the memory, and see that each is still served."""
    count = scale.of(10_000, quick=300)
    speech = call_speech("/echo")
    with Node(limits={"connections": count + 1000}) as node, ExitStack() as opened:
        for _ in range(WARM):
            opened.enter_context(connect(node.port, speech))
        before = node.ask("/census")
        socks = [opened.enter_context(connect(node.port, speech)) for _ in range(count)]
        time.sleep(1.0)
        after = node.ask("/census")
        for sock in socks[:: max(1, count // 100)]:
            sock.sendall(speech.message(0, 32))
            assert sock.recv(200), "an idle connection is no longer served"
    each = (after["resident"] - before["resident"]) / count / 1024
    here = after["connections"] - before["connections"]
    what = f"{count:,} connections"
    return [
        Result("idle", what, f"{each:.1f} KiB each", f"≤ {BOUND:g} KiB", each <= BOUND, timing=True),
        Result("idle", what, f"{here:,} open and served", "all", here == count),
    ]
