"""A thousand processes that have left a will are killed, as many leave on purpose: is each will published, and once?

And their server is killed while they are there: the one that comes back finds their wills in the engine's file. What is
published is written into a ledger, which survives it.
"""

from __future__ import annotations

import random
import tempfile
import time
from collections import Counter
from pathlib import Path

from bench_parts.load import LoadFailed
from stress_parts.processes import Node, Worker, free_port
from stress_parts.results import Result
from stress_parts.scale import Scale

AT_ONCE = 40
"""That live at the same time."""
PATIENCE = 60.0
"""Seconds for the last wills to be published."""
SETTLE = 1.0
"""Seconds after that in which one could be published that should not."""
SESSION = 2.0
"""Seconds for which a server that comes back waits for those who were there."""
ENDS = ("kill", "drop", "leave")
"""How lives end: by SIGKILL, by a connection closed without a word, by `$goodbye`."""
WORDS = {
    "kill": "processes killed", "drop": "connections dropped", "leave": "goodbyes",
    "server": "there when their server was killed",
}  # fmt: skip


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

    def begin(self, keys: list[str]) -> None:
        """Let them live."""
        unborn = [key for key in keys if not self.tell("live", key)]
        if unborn:
            raise LoadFailed(f"{len(unborn)} could not connect")


class Graveyard:
    """The server, those who live, and the ledger of their wills."""

    def __init__(self, folder: Path) -> None:
        self.ledger = folder / "wills"
        self.engine = f"sqlite:///{folder / 'topics.db'}"
        self.port = free_port()
        self.node = self._new_node()
        self.mortals = Mortals("mortals", self.port)
        self.fates: dict[str, str] = {}

    def _new_node(self) -> Node:
        return Node(
            port=self.port, ledger=str(self.ledger), server={"broker": self.engine}, timeouts={"session": SESSION}
        )

    def published(self) -> Counter[str]:
        """Wills, and how often each was."""
        return Counter(self.ledger.read_text().split())

    def let_live(self, ends: list[str]) -> None:
        """Some lives, from beginning to end."""
        keys = self._named(ends)
        self.mortals.begin(keys)
        for key, end in zip(keys, ends):
            self.mortals.tell(end, key)

    def kill_server(self, lives: int) -> None:
        """While so many are there; a few more have left before."""
        keys = self._named(["server"] * lives + ["leave"] * (lives // 4))
        self.mortals.begin(keys)
        for key in keys[lives:]:
            self.mortals.tell("leave", key)
        self.node.__exit__(None, None, None)
        self.node = self._new_node()
        self.await_owed()
        for key in keys[:lives]:
            self.mortals.tell("kill", key)

    def _named(self, ends: list[str]) -> list[str]:
        named = {f"{end}-{len(self.fates) + number}": end for number, end in enumerate(ends)}
        self.fates.update(named)
        return list(named)

    def await_owed(self) -> None:
        """Until all that is owed is published, or is not going to be."""
        owed = {key for key, end in self.fates.items() if end != "leave"}
        end = time.monotonic() + PATIENCE
        while time.monotonic() < end and owed - set(self.published()):
            time.sleep(0.05)

    def close(self) -> None:
        """End everything."""
        self.mortals.kill()
        self.node.__exit__(None, None, None)


def run(scale: Scale) -> list[Result]:
    """Let them live, end them by lot, and read the ledger."""
    each = scale.of(1_000, quick=20)
    ends = [end for end in ENDS for _ in range(each)]
    random.Random(1).shuffle(ends)
    with tempfile.TemporaryDirectory(prefix="webmesh-stress-") as place:
        yard = Graveyard(Path(place))
        try:
            for first in range(0, len(ends), AT_ONCE):
                yard.let_live(ends[first : first + AT_ONCE])
            yard.await_owed()
            for _ in range(max(1, each // 100)):
                yard.kill_server(min(AT_ONCE, each))
            yard.await_owed()
            time.sleep(SETTLE)
            found = yard.published()
        finally:
            yard.close()
    return [verdict(yard.fates, found, end) for end in (*ENDS, "server")]


def verdict(fates: dict[str, str], found: Counter[str], end: str) -> Result:
    """Of those who have ended in one way."""
    times = Counter(found[key] for key, fate in fates.items() if fate == end)
    told = ", ".join(f"{count:,} published {often} times" for often, count in sorted(times.items()))
    wanted = 0 if end == "leave" else 1
    return Result("wills", f"{times.total():,} {WORDS[end]}", told, f"each {wanted} times", set(times) == {wanted})
