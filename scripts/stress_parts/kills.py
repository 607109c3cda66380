"""Clients, the server and what is between them are killed a thousand times under load: is any acknowledged call lost?

Every call carries an idempotency key. The handler writes the key into a ledger, the caller writes it into a journal
once its answer is there; both survive a SIGKILL. At the end a journal's keys must be in the ledger, none twice.
"""

from __future__ import annotations

import random
import tempfile
import time
from collections import Counter
from pathlib import Path

from stress_parts.processes import Node, Worker, free_port
from stress_parts.results import Result
from stress_parts.scale import Scale
from webmesh.testing import FaultProxy

KINDS = ("client", "server", "link")
CLIENTS = 3
LONGEST = 540.0
"""Seconds after which no more is killed; the table says how often it was."""
PAUSE = 0.25
"""Seconds of load before each kill, on the average."""
KEYS = 200_000
"""What the server remembers at least, in keys: more than are used between a call and its last repetition."""


class Battle:
    """The server, the proxy before it, the callers, and what happens to them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.chance = random.Random(1)
        self.counts: Counter[str] = Counter()
        self.port = free_port()
        self.node = self._new_node()
        self.proxy = FaultProxy(f"ws://127.0.0.1:{self.port}").start()
        self.callers = [self._new_caller() for _ in range(CLIENTS)]

    def _new_node(self) -> Node:
        store = f"sqlite:///{self.folder / 'outcomes.db'}"
        return Node(
            port=self.port, ledger=str(self.folder / "ledger"), server={"idempotency": store},
            limits={"idempotency_keys": KEYS, "idempotency_size": 256 << 20},
        )  # fmt: skip

    def _new_caller(self) -> Worker:
        self.counts["callers"] += 1
        journal = self.folder / f"journal-{self.counts['callers']}"
        return Worker("keyed", self.proxy.url, journal, self.counts["callers"])

    def kill(self) -> None:
        """One of three, by lot: the link most often, which comes back soonest."""
        kind = self.chance.choices(KINDS, (3, 2, 5))[0]
        self.counts[kind] += 1
        if kind == "server":
            self.node.__exit__(None, None, None)
            self.node = self._new_node()
        elif kind == "client":
            which = self.chance.randrange(CLIENTS)
            self.callers[which].kill()
            self.callers[which] = self._new_caller()
        elif self.chance.random() < 0.5:
            self.proxy.reset()
        else:
            self.proxy.cut(self.chance.randrange(200), self.chance.choice(("up", "down")))

    def end(self) -> Counter[str]:
        """Let the callers finish what they have begun; what they tell."""
        self.proxy.heal()
        told: Counter[str] = Counter()
        for caller in self.callers:
            told.update(caller.finish(90))
        return told

    def close(self) -> None:
        """End everything."""
        for caller in self.callers:
            if caller.process.poll() is None:
                caller.kill()
        self.proxy.close()
        self.node.__exit__(None, None, None)


def run(scale: Scale) -> list[Result]:
    """Kill, and then compare the books."""
    kills = scale.of(1_000, quick=3)
    with tempfile.TemporaryDirectory(prefix="webmesh-stress-") as place:
        battle = Battle(Path(place))
        try:
            end = time.monotonic() + scale.size(LONGEST, quick=6.0)
            done = 0
            while done < kills and time.monotonic() < end:
                time.sleep(battle.chance.random() * 2 * PAUSE)
                battle.kill()
                done += 1
            told = battle.end()
        finally:
            battle.close()
        runs = Counter((Path(place) / "ledger").read_text().split())
        acknowledged = {key for file in Path(place).glob("journal-*") for key in file.read_text().split()}
    lost, twice = len(acknowledged - set(runs)), sum(1 for many in runs.values() if many > 1)
    kinds = ", ".join(f"{battle.counts[kind]} of a {kind}" for kind in KINDS)
    what = f"{done:,} kills ({kinds}) in {len(acknowledged):,} acknowledged calls"
    odd = f"{told['wrong']} wrong answers, {told['unknown']} calls that were told: outcome unknown"
    return [
        Result("kills", what, f"{lost} acknowledged calls lost", "0", lost == 0),
        Result("kills", what, f"{twice} of {sum(runs.values()):,} run twice", "0", twice == 0),
        Result("kills", odd, f"{told['wrong']} wrong answers", "0", told["wrong"] == 0),
        Result("kills", what, f"{len(acknowledged):,} calls went through", "≥ 10 for each kill",
               len(acknowledged) >= 10 * done, timing=True),
    ]  # fmt: skip
