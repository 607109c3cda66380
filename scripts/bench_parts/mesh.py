"""What a hop over the mesh costs: client -> A -> B, where A's handler calls B, beside a client's direct call of A.

`python -m bench_parts.mesh` measures once; the nodes are processes of their own, monkey-patched; prints JSON.

Counted is the CPU of all three processes, user and system time. A hop is two calls, so that 2.0 is the least where A's
call of B is as cheap as the client's of A; a handler that waits costs A more than one that answers at once. With one
caller each process sleeps while the others work, and must be woken, which no code of ours makes cheaper; a busy machine
has moved that ratio to twice what it is. Instruction counts are steadier: docs/BENCHMARKS.md.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from statistics import median
from typing import TYPE_CHECKING

import gevent

from bench_parts.apart import run_apart
from bench_parts.processes import cpu_seconds, environment
from bench_parts.results import Verdict
from bench_parts.tables import table

if TYPE_CHECKING:
    from webmesh.webmesh_client import WebMeshClient

CALLS = 2_000
REPEATS = 7
LONGEST = 120.0
AT_MOST = 2.5
CALLERS = 1, 16
"""Connections, with one call in flight each: an idle system, whose processes sleep in between, and a busy one."""
WAYS = ("direct", "/echo"), ("hop", "/hop")
NODE = """
from gevent import monkey
monkey.patch_all()
import sys
import gevent
from webmesh import WebMesh, WebMeshServer
server = WebMeshServer(name=sys.argv[1])
server.on("/echo", blocking=False, idempotent=True)(lambda payload, path, client: payload)
server.on("/hop", blocking=False)(lambda payload, path, client: mesh.call("b", "/echo", payload))
mesh = WebMesh(server, *sys.argv[2:])
mesh.start(port=0)
print(server.url, flush=True)
gevent.get_hub().threadpool.apply(sys.stdin.read)
mesh.close(0)
"""


@dataclass(frozen=True)
class Cost:
    """One row: *micros* of CPU of all processes for one call."""

    what: str
    micros: float


def _node(*arguments: str) -> tuple[subprocess.Popen[str], str]:
    process = subprocess.Popen(
        [sys.executable, "-c", NODE, *arguments],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment(), text=True,
    )  # fmt: skip
    assert process.stdout is not None
    return process, process.stdout.readline().strip()


def measure(calls: int = CALLS, repeats: int = REPEATS) -> list[Cost]:
    """Both ways side by side, some rounds of each; the median."""
    from webmesh.webmesh_client import WebMeshClient

    a, url = _node("a")
    b, _ = _node("b", url)
    try:
        with ExitStack() as stack:
            clients = [stack.enter_context(WebMeshClient(url)) for _ in range(max(CALLERS))]
            clients[0].call("/hop", "x")  # waits until they know each other
            taken: dict[str, list[float]] = {}
            for _ in range(repeats):
                for what, path, callers in product(WAYS, CALLERS):
                    each = max(1, calls // callers)
                    before = _used(a.pid, b.pid)
                    _ask(clients[:callers], path, each)
                    spent = _used(a.pid, b.pid) - before
                    taken.setdefault(f"{what} {callers}", []).append(spent / (each * callers) * 1e6)
        return [Cost(what, median(times)) for what, times in taken.items()]
    finally:
        try:
            for process in (b, a):
                process.communicate("", timeout=LONGEST)
        finally:
            for process in (b, a):
                process.kill()  # nothing, where it has ended


def product(ways: tuple[tuple[str, str], ...], callers: tuple[int, ...]) -> list[tuple[str, str, int]]:
    """Direct calls and hops side by side, for each number of callers."""
    return [(what, path, count) for count in callers for what, path in ways]


def _used(*nodes: int) -> float:
    """Seconds of CPU that this process and the nodes have used."""
    return sum(map(cpu_seconds, nodes)) + time.process_time()


def _ask(clients: Sequence[WebMeshClient], path: str, times: int) -> None:
    def one(client: WebMeshClient) -> None:
        for _ in range(times):
            client.call(path, "x")

    gevent.joinall([gevent.spawn(one, client) for client in clients], raise_error=True)


def measure_apart() -> list[Cost]:
    """The same in a process of its own."""
    return [Cost(**one) for one in run_apart("mesh", seconds=LONGEST)]


class MeshCost:
    """Calls over the mesh: a section of the report."""

    name = "mesh"

    def __init__(self, *, rounds: int) -> None:
        self.rounds = rounds
        self.samples: dict[str, list[float]] = {}

    def run(self) -> None:
        """Measure once a round."""
        for _ in range(self.rounds):
            for cost in measure_apart():
                self.samples.setdefault(cost.what, []).append(cost.micros)

    def _ratio(self, callers: int) -> float | None:
        direct, hop = self.samples.get(f"direct {callers}"), self.samples.get(f"hop {callers}")
        # Of each round by itself: a machine that becomes slower meanwhile makes both slower.
        return median(two / one for one, two in zip(direct, hop)) if direct and hop else None

    def markdown(self) -> str:
        """The table."""
        names = {"direct": "client → A", "hop": "client → A → B"}
        rows = []
        for what, taken in self.samples.items():
            way, callers = what.split()
            rows.append([names[way], callers, f"{median(taken):.1f}"])
        return "## Mesh\n\n" + table(["call", "callers", "us of CPU"], rows)

    def verdicts(self) -> list[Verdict]:
        """The claim."""
        claim = f"a hop costs at most {AT_MOST} × the CPU of a direct call"
        return [Verdict(f"{claim}, {callers} at a time", AT_MOST, self._ratio(callers)) for callers in CALLERS]

    def document(self) -> object:
        """For `--json`."""
        return [asdict(Cost(what, one)) for what, taken in self.samples.items() for one in taken]


if __name__ == "__main__":
    from gevent import monkey

    monkey.patch_all()
    print(json.dumps([asdict(one) for one in measure()]))
