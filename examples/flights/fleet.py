"""The instances of the three services as processes: started, killed, ended by SIGTERM, started anew."""

from __future__ import annotations

import random
import re
import socket
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
INSTANCES = 2  # of each service
START_TIMEOUT = 60.0  # seconds
PORTS = range(20_000, 30_000)  # not those that the system gives to outgoing connections while an instance is away


class Instance:
    """One process after another at the same address. Every second instance is monkey-patched, which makes no difference
    to the others."""

    def __init__(self, service: str, number: int, folder: Path, options: list[str]) -> None:
        self.service = service
        self.url = f"ws://127.0.0.1:{(port := free_port())}"
        self._log = folder / f"{service}-{number}.log"
        self._command = [sys.executable, "-m"] + (["gevent.monkey", "--module"] if number % 2 else [])
        self._command += [f"examples.flights.{service}", "--port", str(port), *options]
        self._process: subprocess.Popen[bytes] | None = None
        self._told: tuple[object, str] = (None, "")

    def start(self, *peers: str) -> None:
        """Start it; it is `ready` some time later."""
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                [*self._command, *peers], cwd=ROOT, stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )

    @property
    def node(self) -> str:
        """The id of the process that runs now, once it has told; of one that was killed, until the next is started."""
        process = self._process
        whose, node = self._told  # another thread may start the next process just now
        if process is None or whose is process:
            return node
        found = re.search(rf"^\w+ (\S+) at \S+, pid {process.pid}$", self.said(), re.MULTILINE)
        if found is None:
            if process.poll() is not None:
                raise RuntimeError(f"{self.service} did not start: {self.said()[-2000:]}")
            return ""
        self._told = (process, found[1])
        return found[1]

    @property
    def ready(self) -> bool:
        """Whether it is up."""
        return bool(self.node)

    def said(self) -> str:
        """All that its processes have printed."""
        return self._log.read_text(errors="replace")

    def kill(self) -> None:
        """As hard as can be."""
        assert self._process is not None
        self._process.kill()
        self._process.wait()

    def terminate(self, seconds: float) -> int:
        """Ask it to end; its exit status."""
        assert self._process is not None
        self._process.terminate()
        return self._process.wait(seconds)


class Fleet:
    """Two instances of each service.

    Args:
        folder: For the bookings and the logs.
    """

    services = ("catalogue", "routes", "pricing")

    def __init__(self, folder: Path) -> None:
        options = {"routes": ["--store", str(folder / "bookings.db")]}
        self.instances = [
            Instance(service, number, folder, options.get(service, []))
            for number in range(INSTANCES)
            for service in self.services
        ]

    def pairs(self) -> list[list[Instance]]:
        """The instances by service."""
        return [[one for one in self.instances if one.service == service] for service in self.services]

    def start_all(self) -> None:
        """The first one knows nobody; the others know the first one, and no more."""
        seed, *others = self.instances
        seed.start()
        end = time.monotonic() + START_TIMEOUT
        while not seed.ready:
            if time.monotonic() > end:
                raise TimeoutError("the first instance did not start")
            time.sleep(0.02)
        for one in others:
            one.start(seed.url)

    def start(self, instance: Instance) -> None:
        """Again; one that is up is all it is told of."""
        instance.start(random.choice([one.url for one in self.instances if one is not instance and one.node]))

    def close(self) -> None:
        """Kill all that were started."""
        for instance in self.instances:
            if instance._process is not None:
                instance.kill()


def free_port() -> int:
    """A port that nobody listens on."""
    while True:
        port = random.choice(PORTS)
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)):
                return port
