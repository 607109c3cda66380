"""A thousand peers are told the news, a gigabyte of it, and ten of them have stopped reading: who pays for that?"""

from __future__ import annotations

from stress_parts.processes import Node, Worker
from stress_parts.results import Result, mebibytes, milliseconds, percentile
from stress_parts.scale import Scale

STUCK = 10
CAP = 512 * 1024
"""Bytes: `Limits.send_queue` of this server."""
SIZE = 16 * 1024
"""Bytes of one message."""
ROUNDS = 64
"""Messages for each peer: a mebibyte; those that are stuck get more, until theirs are too many."""
PATIENT = {"close": 20.0, "write": 120.0}
"""Time for those that are stuck to read again and see why they are thrown out, on a machine that may be busy."""
LONGEST = 240.0


def run(scale: Scale) -> list[Result]:
    """With the stuck ones, and then without them: they are all that differs."""
    peers = scale.of(1_000, quick=30)
    latencies, grown, told, sent = _publish(peers, STUCK, scale)
    calm = latencies if scale.quick else _publish(peers, 0, scale)[0]
    what = f"{peers:,} peers, {STUCK} of them stuck, {mebibytes(sent['bytes'])} sent"
    quiet, loaded = percentile(calm, 0.99), percentile(latencies, 0.99)
    codes = told["codes"]
    return [
        Result("slow", what, f"memory {mebibytes(grown)} more", f"≤ 10 × {mebibytes(CAP)}", grown <= 10 * CAP,
               timing=True),
        Result("slow", what, f"p99 of calls {milliseconds(loaded)}, without the stuck ones {milliseconds(quiet)}",
               "< 2 ×", loaded < 2 * quiet, timing=True),
        Result("slow", what, f"stuck ones were told {codes}", f"4008, all {STUCK}", codes == {"4008": STUCK}),
        Result("slow", what, f"{told['short']} of the others missed anything", "0", told["short"] == 0),
    ]  # fmt: skip


def _publish(peers: int, stuck: int, scale: Scale) -> tuple[list[float], int, dict[str, object], dict[str, int]]:
    limits = {"send_queue": CAP, "connections": peers + 100}
    rounds = int(scale.size(ROUNDS, quick=8))
    with Node(limits=limits, server={"slow_peer": "close"}, timeouts=PATIENT) as node:
        with Worker("reader", node.port, peers - stuck, stuck, rounds * SIZE) as readers:
            assert readers.process.stdout is not None
            assert readers.process.stdout.readline() == "ready\n"
            node.ask("/publish", {"rounds": 2, "size": SIZE, "stuck": 0})  # what is made once is there
            before = node.resident()
            node.forget_peak()
            with Worker("probe", node.port, scale.size(20.0, quick=0.5), "call", 0.01) as probe:
                # `stuck` further messages for those that do not keep up: their queue has to come over its cap.
                sent = node.ask("/publish", {"rounds": rounds, "size": SIZE, "stuck": 1_000 if stuck else 0}, LONGEST)
                grown = node.peak() - before
                told = readers.finish()  # at once: a peer that reads again while its close waits for it is told
                latencies = probe.result(LONGEST)
    return latencies, grown, told, sent
