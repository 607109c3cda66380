"""One measurement with a peer's own client: the clock of the server is read when measuring begins and ends."""

from __future__ import annotations

import dataclasses
import json
import sys
import time
from collections.abc import Callable

from bench_parts.load import Plan, Sample, percentiles
from bench_parts.processes import cpu_seconds


class Tally:
    """Counts answered calls and their latencies; clients call `answered` for each."""

    def __init__(self) -> None:
        self.messages = 0
        self.latencies: list[float] = []

    def answered(self, sent: float) -> None:
        """One more; `sent` is when it was sent, on time.perf_counter."""
        self.messages += 1
        self.latencies.append(time.perf_counter() - sent)


def measure(tally: Tally, pid: int, plan: Plan, sleep: Callable[[float], object]) -> Sample:
    """Warm up, then sample for the planned time, while other threads or greenlets make the calls."""
    sleep(plan.warm_up)
    tally.latencies.clear()
    before, cpu, started = tally.messages, cpu_seconds(pid), time.perf_counter()
    sleep(plan.seconds)
    messages, cpu, seconds = tally.messages - before, cpu_seconds(pid) - cpu, time.perf_counter() - started
    return Sample(messages, seconds, cpu, percentiles(list(tally.latencies)))


def arguments() -> tuple[int, int, Plan]:
    """Port, the server's pid and the plan, from the command line."""
    return int(sys.argv[1]), int(sys.argv[2]), Plan(**json.loads(sys.argv[3]))


def report(sample: Sample) -> None:
    """Hand the sample to the program that started this one, which then expects no more."""
    print(json.dumps(dataclasses.asdict(sample)), flush=True)
