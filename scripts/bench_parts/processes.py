"""Server processes: started, pinned to a core, their CPU time and memory read from outside, ended by pid."""

from __future__ import annotations

import os
import select
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType

SCRIPTS = Path(__file__).resolve().parent.parent
START_TIMEOUT = 60.0
"""Seconds for a server to import and listen. Ten thousand routes and a busy machine fit in it."""


class StartFailed(Exception):
    """A server did not get as far as listening. The text is the last line that it wrote."""


def cores() -> tuple[int, int] | None:
    """The core for the server and the one for the load, or None on a machine that has but one."""
    allowed = sorted(os.sched_getaffinity(0))
    return (allowed[0], allowed[-1]) if len(allowed) > 1 else None


def cpu_seconds(pid: int) -> float:
    """User and system time that all threads of a process have used, those that ended included.

    Linux's CPU-time clock of another process (clock_getcpuclockid(3)): nanoseconds, where
    /proc/PID/stat counts hundredths of a second.
    """
    return time.clock_gettime((~pid << 3) | 2)


def resident_bytes(pid: int) -> int:
    """The resident set of a process."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def environment() -> dict[str, str]:
    """The environment of servers and clients: this package and the repository are importable."""
    paths = [str(SCRIPTS), str(SCRIPTS.parent), os.environ.get("PYTHONPATH", "")]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths))}


class ServerProcess:
    """One server of `bench_parts.servers`, from `start` to `stop`."""

    def __init__(self, module: str, options: Sequence[str] = ()) -> None:
        self.errors = tempfile.TemporaryFile(mode="w+")
        pinned = cores()
        self.process = subprocess.Popen(
            [sys.executable, "-m", f"bench_parts.servers.{module}", *options],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=self.errors,
            env=environment(),
            text=True,
        )
        self.pid = self.process.pid
        if pinned:
            os.sched_setaffinity(self.pid, {pinned[0]})
        try:
            self.port = self._read_port()
        except BaseException:
            self.stop()
            raise

    def _read_port(self) -> int:
        assert self.process.stdout is not None
        ready, _, _ = select.select([self.process.stdout], [], [], START_TIMEOUT)
        line = self.process.stdout.readline() if ready else ""
        if not line.startswith("PORT "):
            raise StartFailed(self.last_error() or "it did not say on which port it listens")
        return int(line.split()[1])

    def last_error(self) -> str:
        """The last line on its standard error, or an empty text."""
        self.errors.seek(0)
        lines = self.errors.read().strip().splitlines()
        return lines[-1].strip() if lines else ""

    def stop(self) -> None:
        """End the process; it has nothing to save, so it is not asked first."""
        self.process.kill()
        self.process.wait()
        if self.process.stdout is not None:
            self.process.stdout.close()
        self.errors.close()

    def __enter__(self) -> ServerProcess:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()
