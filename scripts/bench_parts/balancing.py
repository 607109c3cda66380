"""What it costs to choose among the instances of a service, and to call one instead of a connection.

`python -m bench_parts.balancing` measures all of it once, in a process of its own that is monkey-patched, with a server
in another one; prints JSON.
"""

from __future__ import annotations

import json
import random
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from statistics import median

from bench_parts.apart import run_apart
from bench_parts.processes import environment
from bench_parts.results import Verdict
from bench_parts.tables import table

COUNTS = (2, 10, 200)
CALLS = 2_000
REPEATS = 9
LONGEST = 120.0
SERVER = """
import sys
from webmesh import WebMeshServer
server = WebMeshServer()
server.on("/echo", blocking=False)(lambda payload, path, client: payload)
server.listen(port=0)
server.await_started()
print(server.url, flush=True)
sys.stdin.read()
server.close()
"""


@dataclass(frozen=True)
class Cost:
    """One row: *micros* of CPU of the calling process for one."""

    what: str
    count: int
    micros: float


def best(run: Callable[[], object], times: int, repeats: int = REPEATS) -> float:
    """Microseconds of CPU for one *run*, in the quickest of some rounds."""
    least = float("inf")
    for _ in range(repeats):
        started = time.process_time()
        for _ in range(times):
            run()
        least = min(least, time.process_time() - started)
    return least / times * 1e6


class _Link:
    open = True


def choosing(count: int) -> list[Cost]:
    """Look who may be asked, and choose, in each way."""
    from webmesh.balancing import Balancer
    from webmesh.call_policy import BALANCES
    from webmesh.instances import Instance, usable

    instances = [Instance(f"node-{number}", "stock", _Link()) for number in range(count)]
    balancer, costs = Balancer(), []
    for balance in BALANCES:

        def choose(balance: str = balance) -> object:
            found = usable(instances, 1.0, zone=None, share=0.5)
            return balancer.choose(found, balance, "customer 7", random.random)

        costs.append(Cost(balance, count, best(choose, max(20, 4_000 // count))))
    return costs


def calling(url: str) -> list[Cost]:
    """A connection's call, and a call to a service of one instance, and of two."""
    from webmesh.instances import Instance
    from webmesh.service_calls import ServiceCalls
    from webmesh.service_directory import ServiceDirectory
    from webmesh.webmesh_client import WebMeshClient

    with WebMeshClient(url) as client, WebMeshClient(url) as other:
        links, directory = (client.connect(), other.connect()), ServiceDirectory()
        calls = ServiceCalls(directory, client._link.home)
        for service in ("one", "two"):
            for number in range(1 + (service == "two")):
                directory.add(Instance(f"node-{number}", service, links[number]))
        kinds: dict[tuple[str, int], Callable[[], object]] = {
            ("connection.call", 1): lambda: links[0].call("/echo", "x"),
            ("call of a service", 1): lambda: calls.call("one", "/echo", "x"),
            ("call of a service", 2): lambda: calls.call("two", "/echo", "x"),
        }
        rounds = [{kind: best(run, CALLS, 1) for kind, run in kinds.items()} for _ in range(REPEATS)]
        # Side by side: what such calls cost depends more on how the machine is just now than on who makes them.
        return [Cost(what, count, median(taken[what, count] for taken in rounds)) for what, count in kinds]


def measure() -> list[Cost]:
    """All of it once, in this process."""
    server = subprocess.Popen(
        [sys.executable, "-c", SERVER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment(), text=True
    )
    try:
        assert server.stdout is not None
        return [*calling(server.stdout.readline().strip()), *(cost for count in COUNTS for cost in choosing(count))]
    finally:
        server.communicate("", timeout=LONGEST)


def measure_apart() -> list[Cost]:
    """The same in a process of its own."""
    return [Cost(**one) for one in run_apart("balancing", seconds=LONGEST)]


class BalancingCost:
    """Calls of services: a section of the report."""

    name = "balancing"

    def __init__(self, *, rounds: int) -> None:
        self.rounds = rounds
        self.samples: dict[tuple[str, int], list[float]] = {}

    def run(self) -> None:
        """Measure all once a round."""
        for _ in range(self.rounds):
            for cost in measure_apart():
                self.samples.setdefault((cost.what, cost.count), []).append(cost.micros)

    def _median(self, what: str, count: int) -> float | None:
        taken = self.samples.get((what, count))
        return median(taken) if taken else None

    def markdown(self) -> str:
        """The table."""
        plain, rows = self._median("connection.call", 1), []
        for (what, count), taken in self.samples.items():
            compared = f"{median(taken) / plain:.2f}" if plain and "call" in what else "–"
            rows.append([what, str(count), f"{median(taken):.1f}", compared])
        return "## Balancing\n\n" + table(["what", "instances", "us of the caller", "ratio"], rows)

    def verdicts(self) -> list[Verdict]:
        """The claims."""
        plain, service = self._median("connection.call", 1), self._median("call of a service", 2)
        ratio = service / plain if plain and service else None
        chosen = self._median("least-pending", COUNTS[-1])
        return [
            Verdict("a call of a service costs the caller at most 1.5 × one of a connection", 1.5, ratio),
            Verdict(f"choosing among {COUNTS[-1]} instances takes at most 100 us", 100.0, chosen),
        ]

    def document(self) -> object:
        """For `--json`."""
        return [asdict(Cost(what, count, one)) for (what, count), taken in self.samples.items() for one in taken]


if __name__ == "__main__":
    from gevent import monkey

    monkey.patch_all()
    print(json.dumps([asdict(one) for one in measure()]))
