"""What membership by gossip costs and how soon it knows, by the number of nodes; simulated, on a clock of its own.

`python -m bench_parts.gossip COUNT SEED` simulates one mesh in a process of its own. The network has 1 to 21 ms of
latency and tells of no end, so a kill is found by probes alone: links of real nodes tell of most kills at once.
"""

from __future__ import annotations

import json
import sys
from dataclasses import asdict, dataclass
from statistics import median

from bench_parts.apart import run_apart
from bench_parts.load import LoadFailed
from bench_parts.results import Verdict
from bench_parts.tables import table

COUNTS = (10, 50, 200)
IDLE = 60.0
"""Simulated seconds in which nothing happens; two comparisons of states are among them."""

LONGEST = 300.0


@dataclass(frozen=True)
class Simulated:
    """One mesh: what a node sends a second while nothing happens, and seconds until all know of a join and a kill."""

    count: int
    messages: float
    size: float
    join: float
    kill: float
    false: int
    """Nodes that somebody took for lost and that were not."""


def simulate(count: int, seed: int) -> Simulated:
    """A mesh whose nodes know each other, then one more, then one less."""
    from tests.protocol.simulated_mesh import Mesh

    mesh = Mesh(seed=seed)
    mesh.fill(count)
    mesh.run(5)
    mesh.reset_traffic()
    mesh.run(IDLE)
    messages, size, _ = mesh.traffic(IDLE)
    mesh.add("new", known="n000")
    join = mesh.run_until(lambda: mesh.all_hold("new", "ok"), LONGEST)
    mesh.run(10)
    mesh.kill("n001")
    kill = mesh.run_until(lambda: mesh.all_hold("n001", "lost"), LONGEST)
    if join is None or kill is None:
        raise LoadFailed(f"gossip {count}: not all nodes know after {LONGEST:g} s")
    lost = {node for other in mesh.running for node in other.lost_seen}
    return Simulated(count, messages, size, join, kill, len(lost - {"n001"}))


def simulate_apart(count: int, seed: int) -> Simulated:
    """The same in a process of its own."""
    return Simulated(**run_apart("gossip", count, seed, seconds=LONGEST))


class GossipCost:
    """All counts: a section of the report."""

    name = "gossip"

    def __init__(self, *, rounds: int, counts: tuple[int, ...] = COUNTS) -> None:
        self.rounds = rounds
        self.counts = counts
        self.meshes: dict[int, list[Simulated]] = {}

    def run(self) -> None:
        """Simulate; a mesh of 200 nodes takes about 10 s."""
        for count in self.counts:
            self.meshes[count] = [simulate_apart(count, seed) for seed in range(self.rounds)]

    def markdown(self) -> str:
        """The table."""
        rows = []
        for count, runs in self.meshes.items():
            joins, kills = [run.join for run in runs], [run.kill for run in runs]
            times = [f"{find(values):.1f}" for values in (joins, kills) for find in (median, max)]
            size = f"{median(run.size for run in runs):.0f}"
            rows.append([f"{count} nodes", f"{len(runs)}", size, *times, f"{sum(run.false for run in runs)}"])
        head = ["of", "meshes", "bytes/s of a node", "join, s", "at most", "kill, s", "at most", "falsely lost"]
        return "## Membership by gossip\n\n" + table(head, rows)

    def verdicts(self) -> list[Verdict]:
        """The claims."""
        runs = [run for meshes in self.meshes.values() for run in meshes]
        growth = slowest = None
        if runs:
            least, most = (median(run.size for run in self.meshes[find(self.meshes)]) for find in (min, max))
            growth, slowest = most / least, max(max(run.join, run.kill) for run in runs)
        return [
            Verdict("a node's gossip does not grow with the nodes (1.1 for noise)", 1.1, growth),
            Verdict("all nodes know of a join or a kill within 10 s", 10.0, slowest),
        ]

    def document(self) -> object:
        """For `--json`."""
        return [asdict(run) for meshes in self.meshes.values() for run in meshes]


if __name__ == "__main__":
    print(json.dumps(asdict(simulate(int(sys.argv[1]), int(sys.argv[2])))))
