"""A server is asked to end, again and again, while a thousand calls a second come in: is any of them lost?"""

from __future__ import annotations

import time
from collections import Counter
from tempfile import NamedTemporaryFile

from stress_parts.processes import Node, Worker
from stress_parts.results import Result, milliseconds
from stress_parts.scale import Scale

RATE = 1_000
"""Calls a second."""
BEFORE = 0.5
"""Seconds of calls before the signal."""
DEADLINE = 11.0
"""Seconds from the signal to the end: `Timeouts.drain` and one more."""


def run(scale: Scale) -> list[Result]:
    """Each time: a new server, callers, SIGTERM, and what became of every call.

    A call may cross the server's close on its way: that one was never read. Lost is one that the ledger knows.
    """
    times = scale.of(100, quick=2)
    total: Counter[str] = Counter(answered=0, refused=0, wrong=0, lost=0, unread=0)
    statuses: dict[int, int] = {}
    longest = 0.0
    for number in range(times):
        with (
            NamedTemporaryFile("r") as ledger,
            Node(ledger=ledger.name) as node,
            Worker("steady", node.port, RATE) as callers,
        ):
            assert callers.process.stdout is not None
            assert callers.process.stdout.readline() == "ready\n"
            time.sleep(BEFORE + number % 10 * 0.01)
            begun = time.monotonic()
            status = node.terminate()
            longest = max(longest, time.monotonic() - begun)
            statuses[status] = statuses.get(status, 0) + 1
            told = callers.result(60)
            unanswered, run_by_it = set(told.pop("open")), set(map(int, ledger.read().split()))
            total.update(told)
            total["lost"] += len(unanswered & run_by_it)
            total["unread"] += len(unanswered - run_by_it)
    rest = f"{total['refused']:,} refused, {total['unread']} never read"
    what = f"{times} times, {total['answered']:,} calls answered, {rest}"
    return [
        Result("shutdown", what, f"{total['lost']} replies lost", "0", total["lost"] == 0),
        Result("shutdown", what, f"{total['wrong']} wrong answers", "0", total["wrong"] == 0),
        Result("shutdown", what, f"exit status {statuses}", "0 each time", set(statuses) == {0}),
        Result("shutdown", what, f"the longest took {milliseconds(longest)}", f"≤ {DEADLINE:g} s", longest <= DEADLINE,
               timing=True),
    ]  # fmt: skip
