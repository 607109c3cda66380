"""What a publication costs by engine: from a node that wants it, through the engine, back to that node.

`python -m bench_parts.brokers ENGINE URL KEPT PUBLISHERS SECONDS` measures one row in a process of its own. A Redis and
a NATS server are started for it where they are installed, on a free port of the loopback with their files in a folder
of their own.
"""

from __future__ import annotations

import importlib.util
import json
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any

from bench_parts.apart import run_apart
from bench_parts.load import LoadFailed
from bench_parts.results import Verdict
from bench_parts.tables import table

HISTORY = 1000
PUBLISHERS = (1, 32)
PAYLOAD = "x" * 128
LONGEST = 60.0
START = 10.0
"""Seconds in which a server answers."""

AOF = ["--appendonly", "yes"]
REDIS = {"Redis": [], "Redis, AOF": AOF, "Redis, AOF always": [*AOF, "--appendfsync", "always"]}
"""Ways to run it, by how long it keeps what it has acknowledged."""

NATS = "NATS, JetStream"


@dataclass(frozen=True)
class Publishing:
    """One row: how many publications a second, and microseconds of the node's CPU for each."""

    engine: str
    kept: bool
    publishers: int
    rate: float
    micros: float


def measure(engine: str, url: str, kept: bool, publishers: int, seconds: float) -> Publishing:
    """Publish from so many greenlets at once, each when its last one was acknowledged; all come back as deliveries."""
    import gevent
    from webmesh.brokers.base import Keep
    from webmesh.brokers.opening import open_broker
    from webmesh.protocol.publication import read_publication

    class Node:
        delivered = 0

        def deliver(self, publication: object) -> None:
            self.delivered += 1

        def gap(self, reason: str) -> None:
            raise LoadFailed(f"{engine}: {reason}")

        def health(self, up: bool, reason: str) -> None:
            raise LoadFailed(f"{engine}: {reason}")

    node: Any = Node()
    broker, counts = open_broker(url), []
    broker.start(node)
    broker.want(("**",))
    keep = Keep(history=HISTORY) if kept else Keep()

    def publish(topic: str) -> None:
        taken = 0
        while time.perf_counter() < end:
            broker.publish(read_publication(topic, PAYLOAD, None, publisher="bench", now=0.0), keep)
            taken += 1
        counts.append(taken)

    started, used = time.perf_counter(), time.process_time()
    end = started + seconds
    gevent.joinall([gevent.spawn(publish, f"bench/{number}") for number in range(publishers)], raise_error=True)
    with gevent.Timeout(LONGEST):
        while node.delivered < sum(counts):
            gevent.sleep(0.001)
    spent, used = time.perf_counter() - started, time.process_time() - used
    broker.stop()
    return Publishing(engine, kept, publishers, sum(counts) / spent, used / sum(counts) * 1e6)


def measure_apart(engine: str, url: str, kept: bool, publishers: int, seconds: float) -> Publishing:
    """The same in a process of its own."""
    return Publishing(**run_apart("brokers", engine, url, int(kept), publishers, seconds, seconds=LONGEST + seconds))


def free_port() -> str:
    """One of the loopback's."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return str(free.getsockname()[1])


@contextmanager
def redis(folder: Path, options: list[str]) -> Iterator[str]:
    """The URL of a Redis that lives as long as this."""
    port = free_port()
    command = ["redis-server", "--port", port, "--bind", "127.0.0.1", "--dir", str(folder), "--save", "", *options]
    with serving(command, port):
        yield f"redis://127.0.0.1:{port}"


@contextmanager
def nats(folder: Path) -> Iterator[str]:
    """The URL of a NATS server with JetStream that lives as long as this."""
    port = free_port()
    with serving(["nats-server", "-a", "127.0.0.1", "-p", port, "-js", "-sd", str(folder)], port):
        yield f"nats://127.0.0.1:{port}"


def missing() -> dict[str, str]:
    """Why an engine is left out, by its name; nothing of those that are there."""
    reasons = {}
    if not shutil.which("redis-server"):
        reasons["Redis"] = "redis-server is not installed"
    elif importlib.util.find_spec("redis") is None:
        reasons["Redis"] = "redis-py is not installed"
    if not shutil.which("nats-server"):
        reasons["NATS"] = "nats-server is not installed"
    elif importlib.util.find_spec("nats") is None:
        reasons["NATS"] = "nats-py is not installed"
    return reasons


@contextmanager
def serving(command: list[str], port: str) -> Iterator[None]:
    """A server that lives as long as this; it listens."""
    server = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        end = time.monotonic() + START
        while True:
            try:
                socket.create_connection(("127.0.0.1", int(port)), 1).close()
                break
            except OSError:
                if time.monotonic() > end or server.poll() is not None:
                    raise LoadFailed(f"{command[0]} does not start") from None
                time.sleep(0.02)
        yield
    finally:
        server.kill()
        server.wait()


class Engines:
    """All engines that are there: a section of the report."""

    name = "brokers"

    def __init__(self, *, rounds: int, seconds: float) -> None:
        self.rounds, self.seconds = rounds, seconds
        self.samples: dict[tuple[str, bool, int], list[Publishing]] = {}
        self.missing = missing()

    def run(self) -> None:
        """Measure each engine once a round."""
        for _ in range(self.rounds):
            with tempfile.TemporaryDirectory() as name:
                folder = Path(name)
                self._engine("memory", "memory://")
                self._engine("SQLite", f"sqlite:///{folder}/bench.db")
                for engine, options in {} if "Redis" in self.missing else REDIS.items():
                    (folder / engine).mkdir()
                    with redis(folder / engine, options) as url:
                        self._engine(engine, url)
                if "NATS" not in self.missing:
                    with nats(folder / "nats") as url:
                        self._engine(NATS, url)

    def _engine(self, engine: str, url: str) -> None:
        for kept in (False, True):
            for publishers in PUBLISHERS:
                row = measure_apart(engine, url, kept, publishers, self.seconds)
                self.samples.setdefault((engine, kept, publishers), []).append(row)

    def markdown(self) -> str:
        """The table."""
        rows = []
        for (engine, kept, publishers), taken in self.samples.items():
            rates = [one.rate for one in taken]
            figures = [f"{median(rates):,.0f}", f"{median(one.micros for one in taken):.1f}"]
            spread = f"{(max(rates) - min(rates)) / median(rates) * 100:.0f} %"
            rows.append([engine, f"history of {HISTORY:,}" if kept else "live", str(publishers), *figures, spread])
        head = ["engine", "topic", "publishers at once", "publications/s", "node's CPU us each", "spread"]
        left_out = "".join(f"{engine} was left out: {reason}.\n" for engine, reason in self.missing.items())
        return f"## Engines\n\n{left_out}{table(head, rows)}"

    def verdicts(self) -> list[Verdict]:
        """No claims: what an engine costs is for the reader to weigh."""
        return []

    def document(self) -> object:
        """For `--json`."""
        return [asdict(one) for taken in self.samples.values() for one in taken]


if __name__ == "__main__":
    engine, url, kept, publishers, seconds = sys.argv[1:]
    print(json.dumps(asdict(measure(engine, url, kept == "1", int(publishers), float(seconds)))))
