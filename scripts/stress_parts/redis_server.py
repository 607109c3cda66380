"""A Redis of one's own that writes down what it acknowledges, and comes back to the same port with all of it."""

from __future__ import annotations

import shutil
import socket
import subprocess
import time
from pathlib import Path

from bench_parts.load import LoadFailed
from stress_parts.processes import START_TIMEOUT, free_port

PROGRAM = shutil.which("redis-server")


class RedisServer:
    """On the loopback, with its files in *folder*."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir()
        self.port = free_port()
        self.process = self._start()

    @property
    def url(self) -> str:
        """For `broker=`."""
        return f"redis://127.0.0.1:{self.port}"

    def _start(self) -> subprocess.Popen[bytes]:
        assert PROGRAM is not None
        process = subprocess.Popen(
            [
                PROGRAM, "--port", str(self.port), "--bind", "127.0.0.1", "--dir", str(self.folder), "--save", "",
                "--appendonly", "yes", "--appendfsync", "always",
            ],
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        end = time.monotonic() + START_TIMEOUT
        while time.monotonic() < end and process.poll() is None:
            if self._answers():
                return process
            time.sleep(0.02)
        process.kill()
        raise LoadFailed("redis-server did not start")

    def _answers(self) -> bool:
        try:
            with socket.create_connection(("127.0.0.1", self.port), timeout=1.0) as sock:
                sock.sendall(b"PING\r\n")
                return sock.recv(64).startswith(b"+PONG")
        except OSError:
            return False

    def restart(self, seconds: float) -> None:
        """SIGKILL, and back after a while."""
        self.kill()
        time.sleep(seconds)
        self.process = self._start()

    def kill(self) -> None:
        """SIGKILL."""
        self.process.kill()
        self.process.wait()
