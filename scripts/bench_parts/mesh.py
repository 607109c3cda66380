"""What a hop over the mesh costs: client -> A -> B, where A's handler calls B, beside a client's direct call of A.

`python -m bench_parts.mesh` measures once; the nodes are processes of their own, monkey-patched; prints JSON.

The CPU of a direct call is that of the client's and A's process, of a hop that of the client's, A's and B's: whole
processes, user and system time, with the same message, one call in flight at a time. A hop is two calls, so that 2.0
is the least where A's call of B is as cheap as the client's call of A; a handler that waits costs A more than one that
answers at once. A process that waits longer also pays more to be woken, which no code of ours changes: on a busy
machine the ratio was seen from 2.6 to 5.5 for the same tree. Instruction counts are steadier: docs/BENCHMARKS.md.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from dataclasses import asdict, dataclass
from statistics import median

from bench_parts.load import LoadFailed
from bench_parts.processes import environment
from bench_parts.results import Verdict
from bench_parts.tables import table

CALLS = 2_000
REPEATS = 7
LONGEST = 120.0
AT_MOST = 2.5
NODE = """
from gevent import monkey
monkey.patch_all()
import sys, time
import gevent
from webmesh import WebMesh, WebMeshServer
server = WebMeshServer(name=sys.argv[1])
server.on("/echo", blocking=False, idempotent=True)(lambda payload, path, client: payload)
server.on("/hop", blocking=False)(lambda payload, path, client: mesh.call("b", "/echo", payload))
server.on("/cpu", blocking=False)(lambda payload, path, client: time.process_time())
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
    b, other = _node("b", url)
    try:
        with WebMeshClient(url) as client, WebMeshClient(other) as second:

            def used() -> float:
                return float(client.call("/cpu")) + float(second.call("/cpu")) + time.process_time()

            client.call("/hop", "x")  # waits until they know each other
            taken: dict[str, list[float]] = {"direct": [], "hop": []}
            for _ in range(repeats):
                for what, path in (("direct", "/echo"), ("hop", "/hop")):
                    before = used()
                    for _ in range(calls):
                        client.call(path, "x")
                    taken[what].append((used() - before) / calls * 1e6)
        return [Cost(what, median(times)) for what, times in taken.items()]
    finally:
        for process in (b, a):
            process.communicate("", timeout=LONGEST)


def measure_apart() -> list[Cost]:
    """The same in a process of its own."""
    finished = subprocess.run(
        [sys.executable, "-m", "bench_parts.mesh"],
        stdin=subprocess.DEVNULL, capture_output=True, env=environment(), text=True, timeout=LONGEST,
    )  # fmt: skip
    if finished.returncode:
        raise LoadFailed(f"mesh: {(finished.stderr.strip().splitlines() or ['silently'])[-1]}")
    return [Cost(**one) for one in json.loads(finished.stdout)]


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

    def _ratio(self) -> float | None:
        direct, hop = self.samples.get("direct"), self.samples.get("hop")
        return median(hop) / median(direct) if direct and hop else None

    def markdown(self) -> str:
        """The table."""
        names = {"direct": "client → A", "hop": "client → A → B"}
        rows = [[names[what], f"{median(taken):.1f}"] for what, taken in self.samples.items()]
        return "## Mesh\n\n" + table(["call", "us of CPU"], rows)

    def verdicts(self) -> list[Verdict]:
        """The claim."""
        return [Verdict(f"a hop costs at most {AT_MOST} × the CPU of a direct call", AT_MOST, self._ratio())]

    def document(self) -> object:
        """For `--json`."""
        return [asdict(Cost(what, one)) for what, taken in self.samples.items() for one in taken]


if __name__ == "__main__":
    from gevent import monkey

    monkey.patch_all()
    print(json.dumps([asdict(one) for one in measure()]))
