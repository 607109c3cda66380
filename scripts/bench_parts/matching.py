"""What it costs to find the subscriptions that match a topic, by how many there are; in this process, without network.

`python -m bench_parts.matching COUNT` measures one count in a process of its own, for the sake of its memory.
"""

from __future__ import annotations

import gc
import json
import os
import random
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median

from bench_parts.apart import run_apart
from bench_parts.results import Verdict
from bench_parts.tables import table

COUNTS = (10, 100, 1_000, 10_000, 100_000, 1_000_000)
TOPICS = 2_000
"""Topics that are looked up in turn, so that not all of it stays in the processor's cache."""

REPEATS = 15
LONGEST = 300.0
WORTH_WEIGHING = 1_000
"""Subscriptions from which on their memory is more than a few pages."""


@dataclass(frozen=True)
class Matching:
    """One row: *micros* for one look-up that finds *found* subscriptions on average."""

    count: int
    micros: float
    found: float
    size: float
    """Bytes of resident memory for each subscription."""


def resident() -> int:
    """Bytes of this process."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def measure(count: int) -> Matching:
    """Fill a trie and look topics up.

    Nine of ten subscriptions are for one order each, the others for any event of an order that has one of those: so a
    topic finds one or two, however many there are.
    """
    from webmesh.protocol.topic_trie import TopicTrie

    chance = random.Random(count)
    orders = [f"{chance.randrange(1 << 40):x}" for _ in range(max(1, count * 9 // 10))]
    trie: TopicTrie[int] = TopicTrie()
    gc.disable()
    before = resident()
    for number, order in enumerate(orders):
        trie.add(("shops", order[-3:], "orders", order, "created"), number)
    for number in range(len(orders), count):
        trie.add(("shops", "*", "orders", orders[number - len(orders)], "**"), number)
    size = (resident() - before) / count
    asked = [chance.choice(orders) for _ in range(TOPICS)]
    topics = [("shops", order[-3:], "orders", order, "created") for order in asked]
    best, found = float("inf"), 0
    for _ in range(REPEATS):
        started = time.perf_counter()
        found = sum(len(trie.match(topic)) for topic in topics)
        best = min(best, time.perf_counter() - started)
    return Matching(count, best / TOPICS * 1e6, found / TOPICS, size)


def measure_apart(count: int) -> Matching:
    """The same in a process of its own."""
    return Matching(**run_apart("matching", count, seconds=LONGEST))


class MatchingCost:
    """All counts: a section of the report."""

    name = "matching"

    def __init__(self, *, rounds: int, counts: tuple[int, ...] = COUNTS) -> None:
        self.rounds = rounds
        self.counts = counts
        self.samples: dict[int, list[Matching]] = {}

    def run(self) -> None:
        """Measure each count once a round."""
        for _ in range(self.rounds):
            for count in self.counts:
                self.samples.setdefault(count, []).append(measure_apart(count))

    def markdown(self) -> str:
        """The table."""
        rows = []
        for count, taken in self.samples.items():
            size = f"{median(one.size for one in taken):,.0f}" if count >= WORTH_WEIGHING else "–"
            micros = [one.micros for one in taken]
            spread = (max(micros) - min(micros)) / median(micros)
            figures = [f"{median(micros):.2f}", size, f"{spread * 100:.0f} %"]
            rows.append([f"{count:,} subscriptions", f"{taken[0].found:.2f}", *figures])
        head = ["in the trie", "found on average", "us a topic", "bytes each", "spread"]
        return "## Matching\n\n" + table(head, rows)

    def verdicts(self) -> list[Verdict]:
        """The claims."""
        least, most = min(self.counts), max(self.counts)
        ratio = size = None
        if self.samples:
            ratio = median(m.micros / one.micros for one, m in zip(self.samples[least], self.samples[most]))
            size = median(one.size for one in self.samples[most])
        return [
            Verdict(f"matching among {most:,} subscriptions costs at most 3 × that among {least:,}", 3.0, ratio),
            Verdict("a subscription takes at most 1 KiB of the trie", 1024, size),
        ]

    def document(self) -> object:
        """For `--json`."""
        return [asdict(one) for taken in self.samples.values() for one in taken]


if __name__ == "__main__":
    print(json.dumps(asdict(measure(int(sys.argv[1])))))
