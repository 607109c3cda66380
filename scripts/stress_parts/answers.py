"""A million calls, many of them given up or out of time: does an answer ever reach another caller?"""

from __future__ import annotations

import time

from stress_parts.processes import Node, Worker
from stress_parts.results import Result
from stress_parts.scale import Scale

LONGEST = 420.0
"""Seconds after which the callers stop, wherever they are; the table says how far they came."""
MODES = ("patched", "patched", "plain")
"""Calling processes: two with greenlets, one with native threads."""


def run(scale: Scale) -> list[Result]:
    """Each caller knows what it asked for, so a reply to somebody else's question is seen at once."""
    count = scale.of(1_000_000, quick=3_000)
    longest = scale.size(LONGEST, quick=10.0)
    with Node() as node:
        began = time.monotonic()
        workers = [Worker("asker", node.port, count // len(MODES) + 1, longest, mode) for mode in MODES]
        try:
            told = [worker.result(longest + 60) for worker in workers]
        finally:
            for worker in workers:
                if worker.process.poll() is None:
                    worker.kill()
        seconds = time.monotonic() - began
        node.ask("/echo")
        left = node.ask("/census")
    total = {name: sum(each[name] for each in told) for name in told[0]}
    given_up = f"{total['timeouts']:,} timed out, {total['cancels']:,} given up"
    what = f"{total['calls']:,} calls in {seconds:.0f} s, {given_up}"
    return [
        Result("answers", what, f"{total['wrong']} replies to a wrong caller", "0", total["wrong"] == 0),
        Result("answers", what, f"{total['failed']} failed otherwise", "0", total["failed"] == 0),
        Result("answers", "the server afterwards", f"{left['greenlets']} greenlets", "≤ 10", left["greenlets"] <= 10),
    ]
