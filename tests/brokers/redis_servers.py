"""Redis servers for tests: real ones on free ports of the loopback, each with its files in a folder, and a fake one."""

from __future__ import annotations

import random
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from gevent.server import StreamServer

from webmesh.brokers.redis_line import ask_once
from webmesh.brokers.redis_places import Address, Login
from webmesh.exceptions import BrokerUnavailable

needs_redis = pytest.mark.skipif(shutil.which("redis-server") is None, reason="needs redis-server")
needs_sentinel = pytest.mark.skipif(shutil.which("redis-sentinel") is None, reason="needs redis-sentinel")

PATIENCE = 15.0
"""Seconds in which a server starts."""


def free_port() -> int:
    """One that nobody listens on, also when its server is killed and starts again: below those that connections get
    from the system. A Cluster's servers need another one, 10,000 above."""
    while True:
        port = random.randrange(20_000, 22_500)
        try:
            for number in (port, port + 10_000):
                with socket.socket() as sock:
                    sock.bind(("127.0.0.1", number))
        except OSError:
            continue
        return port


class RedisServer:
    """A server of its own; `restart` and signals as the test likes.

    Args:
        options: Lines of its configuration, `name="value"` with `_` for `-`.
    """

    def __init__(self, folder: Path, *, program: str = "redis-server", port: int | None = None, **options: str) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder, self.program = folder, program
        self.port = port or free_port()
        self.password = options.get("requirepass")
        lines = {
            "port": str(self.port), "bind": "127.0.0.1", "dir": str(folder), "save": '""', "loglevel": "warning",
            "logfile": str(folder / "log"), "repl_diskless_sync_delay": "0",
        }  # fmt: skip
        if program == "redis-sentinel":
            lines = {name: lines[name] for name in ("port", "bind", "dir", "logfile")}
        lines |= options
        text = "".join(f"{name.replace('_', '-')} {value}\n" for name, value in lines.items())
        (folder / "redis.conf").write_text(text)
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def address(self) -> Address:
        return Address("127.0.0.1", self.port)

    @property
    def url(self) -> str:
        account = f":{self.password}@" if self.password else ""
        return f"redis://{account}127.0.0.1:{self.port}"

    def start(self) -> RedisServer:
        """Start it; returns when it answers."""
        program = shutil.which(self.program)
        assert program is not None
        self.process = subprocess.Popen(
            [program, str(self.folder / "redis.conf")], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        deadline = time.monotonic() + PATIENCE
        while True:
            try:
                if self.ask("PING") == b"PONG":
                    return self
            except BrokerUnavailable:
                assert time.monotonic() < deadline, (self.folder / "log").read_text()
            time.sleep(0.02)

    def ask(self, *command: Any) -> Any:
        """What it answers to one command."""
        return ask_once(self.address, Login(password=self.password), *command, timeout=5.0)

    def send_signal(self, number: signal.Signals) -> None:
        """SIGSTOP, SIGCONT, …"""
        assert self.process is not None
        self.process.send_signal(number)

    def kill(self) -> None:
        """SIGKILL."""
        assert self.process is not None
        self.process.kill()
        self.process.wait()

    def stop(self) -> None:
        """End it, whatever state it is in."""
        if self.process is not None and self.process.poll() is None:
            self.process.send_signal(signal.SIGCONT)
            self.kill()


class FakeRedis:
    """Answers commands with what a test says, to find out what Redis itself does rarely.

    Args:
        answer: Gets a command's words; returns what is sent for it, or `None` to close the connection; `b""` is none.
    """

    def __init__(self, answer: Callable[[list[bytes]], bytes | None]) -> None:
        self.answer = answer
        self.server = StreamServer(("127.0.0.1", 0), self._serve)

    def __enter__(self) -> Address:
        self.server.start()
        return Address("127.0.0.1", self.server.server_port)

    def __exit__(self, *error: object) -> None:
        self.server.stop(timeout=1)

    def _serve(self, sock: Any, address: object) -> None:
        with sock, sock.makefile("rb") as lines:
            while head := lines.readline():
                words = []
                for _ in range(int(head[1:])):
                    words.append(lines.read(int(lines.readline()[1:]) + 2)[:-2])
                answer = b"+OK\r\n" if words[0] == b"CLIENT" else self.answer(words)
                if answer is None:
                    return
                sock.sendall(answer)
