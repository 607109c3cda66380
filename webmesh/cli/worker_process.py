"""One worker as its supervisor sees it: a process, and what it says."""

from __future__ import annotations

import math
import os
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from typing import Any

from webmesh.cli.worker_link import SupervisorEnd
from webmesh.worker_ticket import VARIABLE, WorkerTicket


class WorkerProcess:
    """From its start to its end.

    Args:
        command: What is run, with "{}" where the number of the link stands.
        ticket: What it is told.

    Attributes:
        said: What it told when it was ready; `None` before.
        heard: The clock's reading at its last sign of life, or at its start.

    Raises:
        OSError: There is no process, or no descriptor, to be had.
    """

    def __init__(self, command: Sequence[str], ticket: WorkerTicket) -> None:
        self.ticket = ticket
        self.said: Mapping[str, Any] | None = None
        self._told_at: float | None = None
        self.link = SupervisorEnd()
        self.link.give(ticket)
        number = self.link.inherited.fileno()
        try:
            self._process = subprocess.Popen(
                [word.replace("{}", str(number)) for word in command],
                pass_fds=[number] if ticket.fd is None else [number, ticket.fd],
                env={**os.environ, VARIABLE: str(ticket.slot)},
                process_group=0,  # Ctrl-C goes to the whole group of the terminal: each gets it once, from us
            )
        except OSError:
            self.link.close()
            raise
        finally:
            self.link.inherited.close()
        self.heard = time.monotonic()

    @property
    def pid(self) -> int:
        """Of its process."""
        return self._process.pid

    @property
    def ready(self) -> bool:
        """Whether it serves."""
        return self.said is not None and not self.ended

    @property
    def ended(self) -> bool:
        """Whether its process has ended."""
        return self._process.poll() is not None

    @property
    def told_to_end(self) -> bool:
        """Whether it was."""
        return self._told_at is not None

    def silent(self) -> float:
        """Seconds without a sign of life."""
        return time.monotonic() - self.heard

    def late(self) -> float:
        """Seconds since it should have ended by itself, at most; negative before."""
        if self._told_at is None:
            return -math.inf
        within: float = (self.said or {}).get("ends_within", 0.0)
        return time.monotonic() - self._told_at - within

    def forgive(self, seconds: float) -> None:
        """This process stood still for so long: that counts for nothing."""
        self.heard = time.monotonic()
        if self._told_at is not None:
            self._told_at += seconds

    @property
    def status(self) -> int | None:
        """The exit status; negative where a signal has ended it, `None` before the end."""
        return self._process.returncode

    def hear(self) -> bool:
        """Take in what it has said; whether it has just become ready."""
        before = self.said
        for message in self.link.read():
            self.heard = time.monotonic()
            if message.get("event") == "ready":
                self.said = message
        return before is None and self.said is not None

    def end(self, number: int = signal.SIGTERM) -> None:
        """Ask it to end, by a signal; a second one ends it at once."""
        if self._told_at is None:
            self._told_at = time.monotonic()
        self._process.send_signal(number)

    def kill(self) -> None:
        """End it."""
        self._process.kill()

    def bury(self) -> int:
        """Wait for its end; the status."""
        status = self._process.wait()
        self.link.close()
        return status

    def about(self) -> dict[str, Any]:
        """For logs."""
        return {"worker": self.ticket.slot, "pid": self.pid}
