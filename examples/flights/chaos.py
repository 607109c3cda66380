"""Kills instances at random, under load: `python -m examples.flights.chaos [--seconds N] [--every SECONDS]`.

Starts two instances of each service as processes of their own. For so long, one after another is killed by SIGKILL and
started anew; then all are restarted one by one, by SIGTERM. The table at the end says what became of the calls, of the
bookings, and of who was killed. Exit status: 0 all promises were kept, 1 one was not.
"""

from __future__ import annotations

import argparse
import json
import logging
import random
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from examples.flights.fleet import Fleet, Instance
from examples.flights.instance import new_server
from examples.flights.load import Load, Row, percentile
from webmesh import Message, WebMesh, WebMeshClient

PATIENCE = 30.0
"""Seconds for what must come about: a start, the news of a loss, a will."""
LOOK_EVERY = 0.1


class Witness:
    """A node of the mesh that looks on: who is known to be gone, and whose will was told.

    Attributes:
        noticed: Node → seconds from its death until no other node counted it as alive.
        wills: Node → how often its last will came.
    """

    def __init__(self, fleet: Fleet) -> None:
        self.fleet = fleet
        self.noticed: dict[str, float] = {}
        self.wills: Counter[str] = Counter()
        self.fares: Counter[str] = Counter()
        self._died: dict[str, float] = {}
        self._over = threading.Event()
        self.mesh = WebMesh(new_server("witness"), fleet.instances[0].url, advertise=())
        self.mesh.start(port=0)
        self.client = WebMeshClient(self.mesh.server.url)  # by which what was missed is fetched after a gap
        for service in fleet.services:
            self.client.subscribe(f"instances/{service}", self._hear_will)
        self.client.subscribe("fares/CHF", self._hear_fare)
        self._thread = threading.Thread(target=self._look, daemon=True)
        self._thread.start()

    def _hear_will(self, payload: dict[str, str], topic: str, message: Message) -> None:
        if message.event is None:
            self.wills[payload["node"]] += 1

    def _hear_fare(self, payload: dict[str, str], topic: str, message: Message) -> None:
        if message.event is None:
            self.fares[payload["turn"]] += 1

    def kept_wills(self) -> Counter[str]:
        """The same by the history of the topics."""
        pages = [self.client.history(f"instances/{service}", limit=10_000) for service in self.fleet.services]
        return Counter(message.payload["node"] for page in pages for message in page.items)

    def sees(self, instance: Instance) -> bool:
        """Whether it is up, and can be called."""
        return any(view.id == instance.node and view.state == "ok" and view.link for view in self.mesh.nodes())

    def died(self, instance: Instance) -> None:
        """From now on look whether all notice."""
        self._died[instance.node] = time.monotonic()

    def unnoticed(self) -> set[str]:
        """Those who are dead, and counted as alive somewhere."""
        return set(self._died) - set(self.noticed)

    def _look(self) -> None:
        while not self._over.wait(LOOK_EVERY):
            if not self.unnoticed():
                continue
            must_tell = {instance.node for instance in self.fleet.instances if instance.ready and self.sees(instance)}
            answers = {one.node: one.value for one in self.mesh.gather("$peers", timeout=2) if one.ok}
            if not must_tell <= answers.keys():
                continue
            alive = {
                one["node"]["id"] for known in answers.values() for one in known if one["state"] in ("ok", "stalled")
            }
            now = time.monotonic()
            for node in self.unnoticed() - alive:
                self.noticed[node] = now - self._died[node]

    def close(self) -> None:
        """Leave."""
        self._over.set()
        self._thread.join()
        self.client.close()
        self.mesh.close()


class Chaos:
    """What happens to the fleet."""

    def __init__(self, folder: Path) -> None:
        self.fleet = Fleet(folder)
        self.killed: list[str] = []
        self.exits: list[int] = []
        try:
            self.fleet.start_all()
            self.witness = Witness(self.fleet)
        except BaseException:
            self.fleet.close()
            raise

    def settle(self) -> None:
        """Wait until all are up."""
        until(lambda: all(map(self.up, self.fleet.instances)), "all instances are up")

    def up(self, instance: Instance) -> bool:
        """Whether it has started, and is linked."""
        return instance.ready and self.witness.sees(instance)

    def kill_some(self, seconds: float, every: float) -> None:
        """At random times, so many seconds apart on the average; never the last instance of a service."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            time.sleep(random.random() * 2 * every)
            pairs = [pair for pair in self.fleet.pairs() if all(map(self.up, pair))]
            if not pairs:
                continue
            victim = random.choice(random.choice(pairs))
            self.killed.append(victim.node)
            victim.kill()
            print(f"killed {victim.service} {victim.node}", file=sys.stderr)
            self.witness.died(victim)
            self.fleet.start(victim)

    def restart_all(self) -> None:
        """One after another: it ends by itself, and its successor is up before the next one's turn."""
        for instance in self.fleet.instances:
            self.exits.append(instance.terminate(PATIENCE))
            self.fleet.start(instance)
            until(lambda instance=instance: self.up(instance), f"{instance.service} is up again")  # type: ignore[misc]

    def settled(self) -> bool:
        """Whether all that is owed has come."""
        return not self.witness.unnoticed() and set(self.killed) <= self.witness.wills.keys()

    def rows(self) -> list[Row]:
        """What became of those who were killed."""
        witness, kills = self.witness, len(self.killed)
        times = list(witness.noticed.values())
        wrong = {node: told for node, told in witness.wills.items() if told > 1 or node not in self.killed}
        kept = witness.kept_wills()
        once = [node for node in self.killed if witness.wills[node] == kept[node] == 1]
        twice = sum(1 for told in witness.fares.values() if told > 1)
        return [
            Row(f"noticed by all, of {kills} killed", f"{len(times)}, the last after {percentile(times, 1):.1f} s",
                "all", 0 < kills == len(times)),
            Row(f"wills told once, of {kills} killed", f"{len(once)}, and {len(wrong)} otherwise", "all, and 0",
                len(once) == kills and not wrong),
            Row(f"told twice of {len(witness.fares)} fares", str(twice), "0", bool(witness.fares) and not twice),
        ]  # fmt: skip

    def close(self) -> None:
        """End everything."""
        self.witness.close()
        self.fleet.close()


def until(condition: Callable[[], bool], what: str) -> None:
    """Wait for it."""
    end = time.monotonic() + PATIENCE
    while not condition():
        if time.monotonic() > end:
            raise TimeoutError(f"not within {PATIENCE:.0f} s: {what}")
        time.sleep(0.02)


def under_load(chaos: Chaos, do: Callable[[], object]) -> Load:
    """Do it while there is load; what the load has to tell."""
    load = Load(chaos.witness.mesh)
    load.start()
    try:
        do()
    finally:
        load.stop()
    return load


def run(folder: Path, seconds: float, every: float) -> list[tuple[str, Row]]:
    """All of it: the part, and a row of its table."""
    chaos = Chaos(folder)
    try:
        chaos.settle()
        load = under_load(chaos, lambda: chaos.kill_some(seconds, every))
        with suppress(TimeoutError):  # the table tells
            until(chaos.settled, "all is noticed and told")
        rows = [("killed", row) for row in [*load.rows(), *chaos.rows()]]
        chaos.settle()
        rolled = under_load(chaos, chaos.restart_all)
        odd = sum(1 for status in chaos.exits if status)
        ends = Row(f"ended badly, of {len(chaos.exits)}", str(odd), "0", not odd)
        rows += [("restarted", row) for row in [*rolled.rows(certain=True), ends]]
        for line in [*load.failed, *rolled.failed, *rolled.refused.values(), *rolled.unknown.values()][:10]:
            print(line, file=sys.stderr)
        return rows
    finally:
        chaos.close()


def main() -> int:
    made = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    made.add_argument("--seconds", type=float, default=60.0, help="of killing; default 60")
    made.add_argument("--every", type=float, default=3.0, metavar="SECONDS", help="between kills; default 3")
    made.add_argument("--json", action="store_true", help="print the table in JSON")
    options = made.parse_args()
    logging.getLogger("webmesh").setLevel(logging.ERROR)  # that nodes cannot be reached is no news here
    with tempfile.TemporaryDirectory(prefix="flights-") as folder:
        rows = run(Path(folder), options.seconds, options.every)
    if options.json:
        print(json.dumps([{"part": part, **vars(row)} for part, row in rows]))
    else:
        print(*(f"{part:10} {row}" for part, row in rows), sep="\n")
    return 0 if all(row.kept for _, row in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
