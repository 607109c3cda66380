"""The order of measuring: every round goes through all contestants, so that they share what the machine does.

Servers are started afresh in each round, which also averages over what chance decides once per
process (hash seeds, memory layout). Odd rounds go through the contestants backwards.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

from bench_parts.contestants import Contestant
from bench_parts.handshakes import IdleMemory, Opener, idle_memory
from bench_parts.load import Load, LoadFailed, Plan, Sample
from bench_parts.processes import ServerProcess, StartFailed, cores, environment

LARGE = 1 << 20
LARGE_CONNECTIONS = 8
"""Connections for messages of `LARGE` bytes, one in flight each: more would only fill memory."""

CLIENT_TIMEOUT = 120.0
"""Seconds for a peer's own client beyond what its plan takes."""


@dataclass(frozen=True)
class Settings:
    """What the command line asked for."""

    rounds: int
    seconds: float
    warm_up: float
    connections: int
    idle_connections: int
    sizes: tuple[int, ...]
    windows: tuple[int, ...]


@dataclass(frozen=True, order=True)
class Row:
    """One row of the table: a contestant under one load. Handshakes have size 0."""

    size: int
    window: int
    name: str


@dataclass
class Outcome:
    """Everything that was measured, and what could not be."""

    samples: dict[Row, list[Sample]] = field(default_factory=dict)
    failures: dict[Row, str] = field(default_factory=dict)
    idle: dict[str, list[IdleMemory]] = field(default_factory=dict)
    skipped: dict[str, str] = field(default_factory=dict)
    """Contestant → why it did not take part."""


def say(text: str) -> None:
    """Progress, on standard error: standard output is the table."""
    print(text, file=sys.stderr, flush=True)


@contextlib.contextmanager
def on_load_core() -> Iterator[None]:
    """This process, and the clients that it starts, on the core that the servers do not use."""
    before, pinned = os.sched_getaffinity(0), cores()
    if pinned:
        os.sched_setaffinity(0, {pinned[1]})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


class Bench:
    """Runs the rounds."""

    def __init__(self, contestants: Sequence[Contestant], settings: Settings, idle: bool, handshakes: bool) -> None:
        self.settings = settings
        self.outcome = Outcome()
        self.with_idle = idle
        self.with_handshakes = handshakes
        self.contestants = []
        for contestant in contestants:
            missing = contestant.missing()
            if missing:
                self.outcome.skipped[contestant.name] = missing
            else:
                self.contestants.append(contestant)

    def run(self) -> Outcome:
        """All rounds, then memory."""
        for number in range(self.settings.rounds):
            started = time.monotonic()
            with contextlib.ExitStack() as stack:
                servers = self._start_servers(stack)
                self._round(servers, backwards=bool(number % 2))
            say(f"round {number + 1} of {self.settings.rounds}: {time.monotonic() - started:.0f} s")
        if self.with_idle:
            self._measure_idle()
        return self.outcome

    def _start_servers(self, stack: contextlib.ExitStack) -> dict[str, ServerProcess]:
        """Contestant → its server; those that differ only in what they are sent share one."""
        servers: dict[str, ServerProcess] = {}
        shared: dict[tuple[str, tuple[str, ...]], ServerProcess | StartFailed] = {}
        for contestant in self.contestants:
            if contestant.name in self.outcome.skipped or not self._rows(contestant):
                continue
            program = (contestant.module, contestant.options)
            if program not in shared:
                shared[program] = start(contestant, stack)
            server = shared[program]
            if isinstance(server, StartFailed):
                self.outcome.skipped[contestant.name] = f"did not start: {server}"
            else:
                servers[contestant.name] = server
        return servers

    def _rows(self, contestant: Contestant) -> list[Row]:
        """The loads that this contestant is put under."""
        rows = [
            Row(size, window, contestant.name)
            for size in self.settings.sizes
            for window in self.settings.windows
            if size in contestant.sizes and window in contestant.windows and (size < LARGE or window == 1)
        ]
        if self.with_handshakes and contestant.handshakes:
            rows.append(Row(0, 1, contestant.name))
        return rows

    def _round(self, servers: dict[str, ServerProcess], *, backwards: bool) -> None:
        order = self.contestants[::-1] if backwards else self.contestants
        loads = sorted({(row.size, row.window) for contestant in order for row in self._rows(contestant)})
        for size, window in loads:
            for contestant in order:
                row = Row(size, window, contestant.name)
                if contestant.name in servers and row in self._rows(contestant):
                    self._measure(row, contestant, servers[contestant.name])

    def _measure(self, row: Row, contestant: Contestant, server: ServerProcess) -> None:
        """One sample; a contestant that fails is reported in its row and hinders nobody else."""
        try:
            with on_load_core():
                sample = self._sampling(row, contestant)(server)
        except (LoadFailed, OSError) as error:
            self.outcome.failures[row] = f"{error} {server.last_error()}".strip()
            say(f"{row.name}, {row.size} B, {row.window} in flight: {self.outcome.failures[row]}")
        else:
            self.outcome.samples.setdefault(row, []).append(sample)

    def _sampling(self, row: Row, contestant: Contestant) -> Callable[[ServerProcess], Sample]:
        settings, speech = self.settings, contestant.speech
        plan = Plan(
            size=row.size,
            window=row.window,
            connections=min(settings.connections, LARGE_CONNECTIONS) if row.size >= LARGE else settings.connections,
            seconds=settings.seconds,
            warm_up=settings.warm_up,
        )
        if speech is None:
            return lambda server: run_client(contestant, server, plan)
        if not row.size:
            return lambda server: Opener(server.port, server.pid, speech).run(settings.seconds, settings.warm_up)
        return lambda server: Load(server.port, server.pid, speech, plan).run()

    def _measure_idle(self) -> None:
        for contestant in self.contestants:
            if contestant.idle and contestant.speech is not None and contestant.name not in self.outcome.skipped:
                try:
                    with ServerProcess(contestant.module, contestant.options) as server, on_load_core():
                        memory = idle_memory(server, contestant.speech, self.settings.idle_connections)
                except (StartFailed, LoadFailed, OSError) as error:
                    say(f"{contestant.name}, idle connections: {error}")
                else:
                    self.outcome.idle.setdefault(contestant.name, []).append(memory)


def start(contestant: Contestant, stack: contextlib.ExitStack) -> ServerProcess | StartFailed:
    """The contestant's server, which the stack will stop, or why there is none."""
    try:
        server = stack.enter_context(ServerProcess(contestant.module, contestant.options))
    except StartFailed as error:
        say(f"  {contestant.name} did not start: {error}")
        return error
    say(f"  {contestant.name}: server is process {server.pid}")
    return server


def run_client(contestant: Contestant, server: ServerProcess, plan: Plan) -> Sample:
    """A sample taken by a peer's own client, in a process of its own."""
    try:
        finished = subprocess.run(
            [
                sys.executable,
                "-m",
                f"bench_parts.clients.{contestant.client}",
                str(server.port),
                str(server.pid),
                json.dumps(dataclasses.asdict(plan)),
            ],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            env=environment(),
            text=True,
            timeout=CLIENT_TIMEOUT + plan.seconds + plan.warm_up,
        )
    except subprocess.TimeoutExpired as error:
        raise LoadFailed(f"its client did not finish within {error.timeout:g} s") from error
    if not finished.stdout.startswith("{"):
        raise LoadFailed(f"its client failed: {(finished.stderr.strip().splitlines() or ['silently'])[-1]}")
    sample = Sample(**json.loads(finished.stdout))
    if not sample.messages:
        raise LoadFailed("no call was answered within the measured time")
    return sample
