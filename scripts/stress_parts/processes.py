"""Processes that take part: the server under stress, and those who load or probe it; all ended by pid."""

from __future__ import annotations

import json
import os
import re
import select
import signal
import socket
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any

import msgpack

from bench_parts.load import LoadFailed, connect, receive_frame
from bench_parts.wire import call_speech, frame, inflated

SCRIPTS = Path(__file__).resolve().parent.parent
START_TIMEOUT = 60.0
"""Seconds for a process to come up on a busy machine."""
END_TIMEOUT = 60.0


def environment(**more: str) -> dict[str, str]:
    """The environment of what is started: the package of this clone and the parts of the scripts are importable."""
    paths = [str(SCRIPTS), str(SCRIPTS.parent), os.environ.get("PYTHONPATH", "")]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths)), **more}


def free_port() -> int:
    """A port that nobody listens on now; for servers that come back to the same one."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Worker:
    """A module of `stress_parts` in a process of its own, which prints one line of JSON at its end."""

    def __init__(self, module: str, *arguments: object) -> None:
        self.errors = tempfile.TemporaryFile(mode="w+")
        self.process = subprocess.Popen(
            [sys.executable, "-m", f"stress_parts.{module}", *map(str, arguments)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self.errors, env=environment(), text=True,
        )  # fmt: skip

    def result(self, seconds: float) -> Any:
        """What it printed last, once it has ended."""
        output, _ = self.process.communicate(timeout=seconds)
        lines = output.strip().splitlines()
        self.errors.seek(0)
        said = self.errors.read()[-2000:]
        if self.process.returncode or not lines:
            raise LoadFailed(f"a worker ended with {self.process.returncode}: {said}")
        sys.stderr.write(said)
        return json.loads(lines[-1])

    def finish(self, seconds: float = END_TIMEOUT) -> Any:
        """Tell it to end, by the end of its input; then its result."""
        return self.result(seconds)

    def kill(self) -> None:
        """End it now."""
        self.process.kill()
        self.process.wait()
        for file in (self.process.stdin, self.process.stdout, self.errors):
            if file is not None:
                file.close()

    def __enter__(self) -> Worker:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.process.poll() is None:
            self.kill()


class Node:
    """`stress_parts.node`, served by the command line as users serve.

    Args:
        port: Where; 0 lets the system choose.
        plain: Not monkey-patched.
        options: For the environment variable that the node reads.
    """

    def __init__(self, *, port: int = 0, plain: bool = False, **options: Any) -> None:
        self.log = tempfile.NamedTemporaryFile(mode="r", suffix=".log")
        command = [sys.executable, "-m", "webmesh.serve", "stress_parts.node:server", "--port", str(port)]
        command += ["--log-level", "warning", *(["--no-patch"] if plain else [])]
        self.started = time.monotonic()
        with open(self.log.name, "w") as errors:
            self.process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=errors, stderr=errors,
                env=environment(WEBMESH_STRESS=json.dumps(options)), cwd=tempfile.gettempdir(),
            )  # fmt: skip
        self.pid = self.process.pid
        self.port = self._read_port()

    def _read_port(self) -> int:
        end = time.monotonic() + START_TIMEOUT
        while time.monotonic() < end and self.process.poll() is None:
            found = re.search(r"url +ws://127\.0\.0\.1:(\d+)", self._said())
            if found:
                return int(found[1])
            time.sleep(0.01)
        said = self._said()
        self.kill()
        raise LoadFailed(f"the node did not start: {said[-2000:]}")

    def _said(self) -> str:
        return Path(self.log.name).read_text(errors="replace")

    @property
    def url(self) -> str:
        """What clients dial."""
        return f"ws://127.0.0.1:{self.port}"

    @property
    def log_lines(self) -> int:
        """Lines that it has logged so far."""
        return self._said().count("\n")

    def ask(self, path: str, payload: Any = None, seconds: float = 120.0) -> Any:
        """Call one of its routes, by a connection of its own: one that stayed would be lost for want of pongs."""
        with connect(self.port, call_speech(path)) as sock:
            sock.settimeout(seconds)
            request = {"path": path, "id": 1, "data": payload, "timeout_ms": seconds * 1e3}
            sock.sendall(frame(msgpack.packb(request)))
            while True:
                head, body = receive_frame(sock)
                if head[0] & 0x0F == 9:
                    sock.sendall(frame(body, opcode=10))
                if head[0] & 0x0F != 2:
                    continue
                answer = msgpack.unpackb(inflated(body))
                if answer.get("id") == 1:
                    if "error" in answer:
                        raise LoadFailed(f"{path}: {answer['error']}; the node said: {self._said()[-1500:]}")
                    return answer["data"]

    def resident(self) -> int:
        """Bytes of memory now."""
        return int(Path(f"/proc/{self.pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")

    def forget_peak(self) -> None:
        """Let `peak` begin anew."""
        Path(f"/proc/{self.pid}/clear_refs").write_text("5")

    def peak(self) -> int:
        """The most memory since the last `forget_peak`, in bytes."""
        for line in Path(f"/proc/{self.pid}/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
        raise LoadFailed("the kernel does not tell the peak of memory")

    def terminate(self, seconds: float = END_TIMEOUT) -> int:
        """Ask it to end, as a supervisor does; its exit status."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(seconds)

    def kill(self) -> None:
        """SIGKILL."""
        with suppress(ProcessLookupError):
            self.process.kill()
        self.process.wait()

    def __enter__(self) -> Node:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.kill()
        self.log.close()


def readable(sock: socket.socket, seconds: float) -> bool:
    """Whether something can be read in time."""
    return bool(select.select([sock], [], [], max(0.0, seconds))[0])
