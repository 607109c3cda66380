"""A NATS server with JetStream for tests: a process of its own, on a free port of the loopback interface."""

from __future__ import annotations

import asyncio
import itertools
import shutil
import signal
import socket
import subprocess
from collections.abc import Awaitable
from pathlib import Path
from typing import Any, TypeVar

import gevent

from webmesh.brokers.asyncio_bridge import AsyncioBridge

T = TypeVar("T")

SERVER = shutil.which("nats-server") or shutil.which("nats-server", path="/usr/sbin:/usr/local/bin")


_numbers = itertools.count()


def new_prefix() -> str:
    """A prefix that no other test uses."""
    return f"test{next(_numbers)}"


class NatsServer:
    """Started by `start`, which may be done again after `kill`: it finds what it has kept.

    Args:
        folder: For what it keeps.
        settings: More of its configuration file.
    """

    def __init__(self, folder: Path, settings: str = "", *, jetstream: bool = True) -> None:
        self._folder, self._settings = folder, settings
        if jetstream:
            self._settings += f"\njetstream {{ store_dir: {folder / 'store'} }}\n"
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"nats://127.0.0.1:{self.port}"

    def start(self) -> None:
        """Start it, and wait until it takes connections."""
        configuration = self._folder / "nats.conf"
        configuration.write_text(f"listen: 127.0.0.1:{self.port}\n{self._settings}")
        assert SERVER is not None
        with open(self._folder / "log", "ab") as log:
            self._process = subprocess.Popen([SERVER, "-c", str(configuration)], stdout=log, stderr=log)
        with gevent.Timeout(10, AssertionError("the NATS server does not start")):
            while not self._answers():
                assert self._process.poll() is None, (self._folder / "log").read_text()
                gevent.sleep(0.02)

    def _answers(self) -> bool:
        try:
            with socket.create_connection(("127.0.0.1", self.port), 5) as connection:
                return connection.recv(4) == b"INFO"
        except OSError:
            return False

    def kill(self) -> None:
        """End it as a crash does."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def freeze(self) -> None:
        """It keeps its connections and does nothing."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)
        tasks = Path(f"/proc/{self._process.pid}/task")
        with gevent.Timeout(10, AssertionError("the NATS server does not stand still")):
            while any("(nats-server) T" not in (task / "stat").read_text() for task in tasks.iterdir()):
                gevent.sleep(0.001)

    def thaw(self) -> None:
        """It goes on."""
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)


class InLoop:
    """An `AsyncioBridge` with a `Link`: `in_loop(coroutine)` runs there and returns the result.

    Attributes:
        events: What the link has told: "up", "down: reason", "trouble: text".
    """

    def __init__(self, url: str, *, patience: float = 2.0, tls: Any = None) -> None:
        from webmesh.brokers.nats_address import read_address
        from webmesh.brokers.nats_link import Link

        self.events: list[str] = []
        self._bridge = AsyncioBridge(lambda thing: None, lost=lambda: None, failed=lambda error: None)
        self._bridge.start()
        self.link = Link(read_address(url), self, tls=tls, name="test", check_every=patience, patience=patience)
        try:
            self(self.link.open())
        except BaseException:
            self._bridge.stop()
            raise

    def __call__(self, coroutine: Awaitable[T]) -> T:
        async def run() -> T:
            return await coroutine

        return self._bridge.call(run, timeout=20)

    def do(self, function: Any, *args: Any) -> Any:
        """Call *function* in the loop."""

        async def run() -> Any:
            return function(*args)

        return self._bridge.call(run, timeout=20)

    def until(self, condition: Any) -> None:
        """Wait in the loop until *condition* holds."""

        async def wait() -> None:
            while not condition():
                await asyncio.sleep(0.005)

        self(wait())

    def close(self) -> None:
        """Disconnect and end the loop."""
        self(self.link.close())
        self._bridge.stop()

    def on_up(self) -> None:
        self.events.append("up")

    def on_down(self, reason: str) -> None:
        self.events.append(f"down: {reason}")

    def on_trouble(self, text: str) -> None:
        self.events.append(f"trouble: {text}")
