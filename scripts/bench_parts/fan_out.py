"""Fan-out: what one publication costs the server for each of its receivers, and how long the last of them waits.

One server at a time: an audience grows from the smallest size to the largest, and is published to at each. Group
rows measure the other way to deliver: a publication goes to one member, however many there are.
"""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from statistics import median

from bench_parts import audience
from bench_parts.audience import Audience, Dialect
from bench_parts.load import LoadFailed, Sample
from bench_parts.processes import ServerProcess, StartFailed
from bench_parts.results import Verdict, figures
from bench_parts.rounds import on_load_core
from bench_parts.tables import table

FLOOR = "fan-out-floor"
OURS = "fan-out"
SESSIONS = "fan-out-sessions"
GROUP = "group"
SIZES = (1_000, 10_000)
"""Receivers. Ten thousand need as many descriptors, and a few more, in the server and in the load."""

GROUP_SIZES = (10, 1_000)
WINDOW = 8
"""Publications to a group that are on their way at once."""

DELIVERIES = 60_000
"""Of one measurement, about: the clock of a process counts too coarsely for a single publication."""


@dataclass(frozen=True)
class Contestant:
    """One row's server, in `bench_parts.servers`, and how it is spoken to."""

    name: str
    what: str
    module: str
    needs: tuple[str, ...]
    dialect: Dialect
    options: tuple[str, ...] = ()
    group: bool = False
    rival: bool = False
    """Whether the claim is to be cheaper than it."""

    @property
    def sizes(self) -> tuple[int, ...]:
        """Of the audiences that it is measured with."""
        return GROUP_SIZES if self.group else SIZES


CONTESTANTS = (
    Contestant(FLOOR, "raw `send` of the ready-made frame", "fan_out_floor", (), audience.raw_speech()),
    Contestant(OURS, "WebMesh `publish`", "fan_out_webmesh", ("gevent",), audience.webmesh()),
    Contestant(
        SESSIONS, "WebMesh, receivers with sessions that keep deliveries", "fan_out_webmesh", ("gevent",),
        audience.webmesh(session=True),
    ),
    Contestant(
        "fan-out-history", "WebMesh, topic with history", "fan_out_webmesh", ("gevent",), audience.webmesh(),
        ("--history",),
    ),
    Contestant(
        "fan-out-websockets", "`websockets.broadcast`, asyncio", "fan_out_websockets", ("websockets",),
        audience.frame_speech(), rival=True,
    ),
    Contestant(
        "fan-out-picows", "picows (Cython), a loop over its transports", "fan_out_picows", ("picows",),
        audience.frame_speech(), rival=True,
    ),
    Contestant(
        "fan-out-socketio", "python-socketio on gevent, `emit` to a room", "fan_out_socketio",
        ("socketio", "geventwebsocket"), audience.socketio(), rival=True,
    ),
    Contestant(
        GROUP, "WebMesh, to a group", "fan_out_webmesh", ("gevent",), audience.webmesh(group="g"), group=True
    ),
)  # fmt: skip


@dataclass(frozen=True, order=True)
class Audition:
    """A contestant before an audience of one size."""

    size: int
    name: str


@dataclass
class FanOut:
    """All rounds of it, and what came of them: a section of the report.

    Attributes:
        sizes: In the place of the contestants' own.
    """

    contestants: tuple[Contestant, ...]
    rounds: int
    sizes: tuple[int, ...] | None = None
    samples: dict[Audition, list[Sample]] = field(default_factory=dict)
    failures: dict[Audition, str] = field(default_factory=dict)
    skipped: dict[str, str] = field(default_factory=dict)

    name = "fan-out"

    def run(self) -> None:
        """Measure everyone in turn, in odd rounds backwards."""
        for number in range(self.rounds):
            for contestant in self.contestants[::-1] if number % 2 else self.contestants:
                missing = [module for module in contestant.needs if importlib.util.find_spec(module) is None]
                if missing:
                    self.skipped[contestant.name] = f"not installed: {', '.join(missing)}"
                else:
                    self._measure(contestant)
            print(f"fan-out: round {number + 1} of {self.rounds}", file=sys.stderr, flush=True)

    def _measure(self, contestant: Contestant) -> None:
        """Audiences that grow, before one server; one that fails ends it for this contestant and round."""
        try:
            with ServerProcess(contestant.module, contestant.options) as server, on_load_core():
                listeners = Audience(server.port, server.pid, contestant.dialect)
                try:
                    for size in self.sizes or contestant.sizes:
                        audition = Audition(size, contestant.name)
                        try:
                            listeners.grow(size)
                            sample = self._sample(contestant, listeners, size)
                        except (LoadFailed, OSError) as error:
                            self.failures[audition] = f"{error} {server.last_error()}".strip()
                            print(f"{contestant.name}, {size}: {self.failures[audition]}", file=sys.stderr)
                            return
                        self.samples.setdefault(audition, []).append(sample)
                finally:
                    listeners.close()
        except StartFailed as error:
            self.skipped[contestant.name] = f"did not start: {error}"

    def _sample(self, contestant: Contestant, listeners: Audience, size: int) -> Sample:
        if contestant.group:
            return listeners.shared(DELIVERIES // 20, WINDOW)
        return listeners.fan_out(max(5, min(200, DELIVERIES // size)), warm_up=2)

    # --------------------------------------------------------------------- results

    def ratio(self, size: int, name: str, base: str) -> float | None:
        """CPU of one to that of another: the median of the ratios within rounds; None when one was not measured."""
        ours, theirs = (self.samples.get(Audition(size, each), []) for each in (name, base))
        if not ours or not theirs:
            return None
        if len(ours) != len(theirs):
            return median(s.micros for s in ours) / median(s.micros for s in theirs)
        return median(a.micros / b.micros for a, b in zip(ours, theirs))

    def markdown(self) -> str:
        """One table of deliveries to all, one of deliveries to one of a group."""
        parts = ["## Fan-out"]
        for group, unit in ((False, "receiver"), (True, "publication")):
            rows = [row for row in self._rows() if row[0] == str(group)]
            if rows:
                numbers = [f"CPU us a {unit}", "× floor", "last ms", "worst ms", "server busy", "spread"]
                parts.append(table(["what", "receivers", *numbers], [row[1:] for row in rows]))
        parts += [f"- skipped `{name}`: {reason}" for name, reason in self.skipped.items()]
        return "\n\n".join(parts)

    def _rows(self) -> Iterator[list[str]]:
        """Whether it is a group's, then the cells."""
        for contestant in self.contestants:
            for size in self.sizes or contestant.sizes:
                audition = Audition(size, contestant.name)
                first = [str(contestant.group), f"{contestant.what} (`{contestant.name}`)", f"{size:,}"]
                if audition in self.samples:
                    yield [*first, *self._cells(audition, contestant.group)]
                elif audition in self.failures:
                    yield [*first, f"failed: {self.failures[audition]}", *[""] * 5]

    def _cells(self, audition: Audition, group: bool) -> list[str]:
        found = figures(self.samples[audition])
        ratio = None if group else self.ratio(audition.size, audition.name, FLOOR)
        return [
            f"{found.micros:.2f}", "–" if ratio is None else f"{ratio:.2f}", f"{found.p50 * 1e3:.1f}",
            f"{found.p99 * 1e3:.1f}", f"{found.busy * 100:.0f} %", f"{found.spread * 100:.0f} %",
        ]  # fmt: skip

    def verdicts(self) -> list[Verdict]:
        """The claims, judged at every size."""
        judged = []
        for size in self.sizes or SIZES:
            text = f"fan-out to {size:,} costs at most 1.5 × the raw send for each receiver"
            judged.append(Verdict(text, 1.5, self.ratio(size, OURS, FLOOR)))
            judged.append(Verdict("the same where receivers have sessions", 1.5, self.ratio(size, SESSIONS, FLOOR)))
            for contestant in self.contestants:
                if contestant.rival:
                    text = f"fan-out to {size:,} costs less than that of {contestant.what}"
                    judged.append(Verdict(text, 1.0, self.ratio(size, OURS, contestant.name)))
        text = f"a publication to a group of {GROUP_SIZES[1]:,} costs at most 1.5 × that to one of {GROUP_SIZES[0]:,}"
        return [*judged, Verdict(text, 1.5, self._growth())]

    def _growth(self) -> float | None:
        """What the larger group costs to what the smaller one does."""
        few, many = (self.samples.get(Audition(size, GROUP), []) for size in GROUP_SIZES)
        if not few or not many:
            return None
        return median(a.micros for a in many) / median(a.micros for a in few)

    def document(self) -> object:
        """For `--json`."""
        return {
            "samples": [
                {**asdict(audition), "round": index, "micros": sample.micros, **asdict(sample)}
                for audition, taken in sorted(self.samples.items())
                for index, sample in enumerate(taken)
            ],
            "failures": [{**asdict(audition), "reason": why} for audition, why in self.failures.items()],
            "skipped": self.skipped,
        }
