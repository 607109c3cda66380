"""A thousand processes that have left a will are killed, as many leave on purpose: is each will published, and once?

The server counts them by a subscription of its own.
"""

from __future__ import annotations

import random
import time
from collections import Counter

from bench_parts.load import LoadFailed
from stress_parts.processes import Node, Worker
from stress_parts.results import Result
from stress_parts.scale import Scale

AT_ONCE = 40
"""Of each end that live at the same time."""
PATIENCE = 30.0
"""Seconds for the last wills to be published."""
SETTLE = 1.0
"""Seconds after that in which one could be published that should not."""
ENDS = ("kill", "drop", "leave")
"""How lives end: by SIGKILL, by a connection closed without a word, by `$goodbye`."""


class Mortals(Worker):
    """The process that forks them."""

    def tell(self, order: str, key: str) -> bool:
        """Give an order; whether it was done."""
        assert self.process.stdin is not None and self.process.stdout is not None
        self.process.stdin.write(f"{order} {key}\n")
        self.process.stdin.flush()
        answer = self.process.stdout.readline().strip()
        if not answer:
            raise LoadFailed("the process that forks the others has died")
        return answer == key


def published(node: Node) -> Counter[str]:
    """Wills by key, and how often."""
    return Counter({key: int(count) for key, count in node.ask("/wills").items()})


def run(scale: Scale) -> list[Result]:
    """Let them live, end them by lot, and read the history."""
    each = scale.of(1_000, quick=20)
    chance = random.Random(1)
    ends = [end for end in ENDS for _ in range(each)]
    chance.shuffle(ends)
    fates = {f"{end}-{number}": end for number, end in enumerate(ends)}
    with Node() as node:
        with Mortals("mortals", node.port) as mortals:
            for first in range(0, len(ends), AT_ONCE):
                let_live(mortals, list(fates.items())[first : first + AT_ONCE])
        found = await_all(node, {key for key, end in fates.items() if end != "leave"})
    return [verdict(fates, found, end, each) for end in ENDS]


def let_live(mortals: Mortals, batch: list[tuple[str, str]]) -> None:
    """Some lives, from beginning to end."""
    unborn = [key for key, _ in batch if not mortals.tell("live", key)]
    if unborn:
        raise LoadFailed(f"{len(unborn)} could not connect")
    for key, end in batch:
        mortals.tell(end, key)


def await_all(node: Node, owed: set[str]) -> Counter[str]:
    """What was published once all that is owed is there, and a moment later."""
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end and owed - set(published(node)):
        time.sleep(0.1)
    time.sleep(SETTLE)
    return published(node)


def verdict(fates: dict[str, str], found: Counter[str], end: str, each: int) -> Result:
    """Of those who have ended in one way."""
    times = Counter(found[key] for key, fate in fates.items() if fate == end)
    told = ", ".join(f"{count:,} published {often} times" for often, count in sorted(times.items()))
    what = {"kill": "processes killed", "drop": "connections dropped", "leave": "goodbyes"}[end]
    wanted = 0 if end == "leave" else 1
    return Result("wills", f"{each:,} {what}", told, f"each {wanted} times", set(times) == {wanted})
