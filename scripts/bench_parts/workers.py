"""How many more calls two workers answer than one: a handler that uses 1 ms of CPU, on as many cores as workers.

`python -m bench_parts.workers` measures once: the same program is served by one worker and by two, in turns, each under
the load of one process with many connections; prints JSON.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median

import gevent

from bench_parts.apart import run_apart
from bench_parts.processes import environment
from bench_parts.results import Verdict
from bench_parts.tables import table

CONNECTIONS = 48
SECONDS = 4.0
REPEATS = 3
LONGEST = 120.0
AT_LEAST = 1.8
APP = """
import time
from webmesh import WebMeshServer
server = WebMeshServer(watchdog=False)


@server.on("/work", blocking=False)
def work(payload, path, client):
    end = time.thread_time() + 0.001
    while time.thread_time() < end:
        pass
"""


@dataclass(frozen=True)
class Rate:
    """One row: calls that so many workers answered in a second."""

    workers: int
    calls: float


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as sock:
        return int(sock.getsockname()[1])


def _rate(workers: int, folder: str) -> float:
    """Calls/s of one server with so many workers."""
    port = _free_port()
    server = subprocess.Popen(
        [sys.executable, "-m", "webmesh.serve", "--workers", str(workers), "--port", str(port)],
        cwd=folder, env=environment(), stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        assert server.stderr is not None
        for line in server.stderr:
            if line.startswith("WebMesh "):  # the banner, after all of them are ready
                break
        threading.Thread(target=server.stderr.read, daemon=True).start()
        return _load(f"ws://127.0.0.1:{port}")
    finally:
        server.send_signal(signal.SIGTERM)
        try:
            server.wait(LONGEST)
        finally:
            server.kill()  # nothing, where it has ended: its workers end with it


def _load(url: str) -> float:
    from webmesh.webmesh_client import WebMeshClient

    counts = [0] * CONNECTIONS

    def ask(number: int, client: WebMeshClient) -> None:
        while True:
            client.call("/work", timeout=LONGEST)
            counts[number] += 1

    clients = [WebMeshClient(url) for _ in range(CONNECTIONS)]
    for client in clients:
        client.connect()
    asking = [gevent.spawn(ask, number, client) for number, client in enumerate(clients)]
    gevent.sleep(SECONDS / 4)
    before, since = sum(counts), time.monotonic()
    gevent.sleep(SECONDS)
    rate = (sum(counts) - before) / (time.monotonic() - since)
    gevent.killall(asking)
    for client in clients:
        client.close()
    return rate


def measure(repeats: int = REPEATS) -> list[Rate]:
    """One and two, in turns."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "app.py").write_text(APP)
        return [Rate(workers, _rate(workers, folder)) for _ in range(repeats) for workers in (1, 2)]


def measure_apart() -> list[Rate]:
    """The same in a process of its own."""
    return [Rate(**one) for one in run_apart("workers", seconds=LONGEST)]


class Workers:
    """Calls of several workers: a section of the report."""

    name = "workers"

    def __init__(self, *, rounds: int) -> None:
        self.rounds = rounds
        self.samples: dict[int, list[float]] = {}

    def run(self) -> None:
        """Measure once a round."""
        for _ in range(self.rounds):
            for rate in measure_apart():
                self.samples.setdefault(rate.workers, []).append(rate.calls)

    def _ratio(self) -> float | None:
        one, two = self.samples.get(1), self.samples.get(2)
        return median(one) / median(two) if one and two else None

    def markdown(self) -> str:
        """The table."""
        rows = [[str(workers), f"{median(rates):.0f}"] for workers, rates in self.samples.items()]
        cores = f"Handlers that use 1 ms of CPU; {os.cpu_count()} cores, the load's share included.\n\n"
        return "## Workers\n\n" + cores + table(["workers", "calls/s"], rows)

    def verdicts(self) -> list[Verdict]:
        """The claim, turned around as the others are: less is better."""
        claim = f"one worker answers at most 1/{AT_LEAST} of the calls of two"
        return [Verdict(claim, round(1 / AT_LEAST, 3), self._ratio())]

    def document(self) -> object:
        """For `--json`."""
        return [asdict(Rate(workers, one)) for workers, rates in self.samples.items() for one in rates]


if __name__ == "__main__":
    from gevent import monkey

    monkey.patch_all()
    print(json.dumps([asdict(one) for one in measure()]))
