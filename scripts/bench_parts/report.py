"""The table: markdown for people, and everything measured as JSON for programs."""

from __future__ import annotations

import dataclasses
import importlib.metadata
import json
import os
import platform
import resource
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from bench_parts.contestants import Contestant
from bench_parts.environment import FOUNDATION, PEERS
from bench_parts.processes import cores
from bench_parts.results import Figures, Verdict, figures, noise, to_floor, verdicts
from bench_parts.rounds import Outcome, Row, Settings
from bench_parts.tables import table

SIZE_NAMES = {128: "128 B", 4096: "4 KiB", 65536: "64 KiB", 1 << 20: "1 MiB"}


class MachineUse:
    """How much of the machine others used while the bench ran: the first thing to ask of a figure."""

    def __init__(self) -> None:
        self.started = time.monotonic()
        self.busy_then = self._busy_seconds()
        self.own_then = self._own_seconds()

    @staticmethod
    def _busy_seconds() -> float:
        user, nice, system, _, _, irq, softirq, steal = map(
            int, Path("/proc/stat").read_text().splitlines()[0].split()[1:9]
        )
        return (user + nice + system + irq + softirq + steal) / os.sysconf("SC_CLK_TCK")

    @staticmethod
    def _own_seconds() -> float:
        used = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
        return sum(usage.ru_utime + usage.ru_stime for usage in used)

    def by_others(self) -> float:
        """Cores that others kept busy, on average, since this object was made."""
        spent = time.monotonic() - self.started
        others = self._busy_seconds() - self.busy_then - (self._own_seconds() - self.own_then)
        return max(0.0, others / spent)


def cpu_model() -> str:
    """The processor's name."""
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return platform.machine()


def machine() -> dict[str, str]:
    """What the figures depend on and the reader cannot see."""
    versions = []
    for package in (*FOUNDATION, *PEERS):
        try:
            versions.append(f"{package} {importlib.metadata.version(package)}")
        except importlib.metadata.PackageNotFoundError:
            continue
    pinned = cores()
    return {
        "processor": f"{cpu_model()}, {os.cpu_count()} cores",
        "system": f"{platform.system()} {platform.release()}",
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        "packages": ", ".join(versions),
        "placing": f"server on core {pinned[0]}, load on core {pinned[1]}" if pinned else "one core for both",
    }


def number(value: float) -> str:
    """Three digits that mean something."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def cells(found: Figures, floors: float | None) -> list[str]:
    """The numbers of one row."""
    return [
        number(found.micros),
        "–" if floors is None else f"{floors:.2f}",
        f"{found.rate:,.0f}",
        number(found.p50 * 1e3),
        number(found.p99 * 1e3),
        f"{found.busy * 100:.0f} %",
        f"{found.spread * 100:.0f} %",
    ]


NUMBERS = ["CPU us", "× floor", "per second", "p50 ms", "p99 ms", "server busy", "spread"]


class Section(Protocol):
    """A part of the bench that measures in its own way."""

    name: str
    """For `--only` and `--json`."""

    def run(self) -> None:
        """Measure."""

    def markdown(self) -> str:
        """Heading and tables."""

    def verdicts(self) -> list[Verdict]:
        """Its claims, judged."""

    def document(self) -> object:
        """Its samples, for `--json`."""


class Report:
    """Words and numbers for one outcome, and for what the sections have measured."""

    def __init__(
        self,
        contestants: Sequence[Contestant],
        settings: Settings,
        outcome: Outcome,
        use: MachineUse,
        sections: Sequence[Section] = (),
    ) -> None:
        self.sections = sections
        self.contestants = contestants
        self.settings = settings
        self.outcome = outcome
        self.machine = {**machine(), "others": f"kept {use.by_others():.2f} cores busy meanwhile"}

    def markdown(self) -> str:
        """The whole report."""
        parts = [self._conditions()]
        if self.contestants:
            parts.append(self._messages())
        if any(not row.size for row in self.outcome.samples):
            parts.append(self._handshakes())
        if self.outcome.idle:
            parts.append(self._idle())
        if self.outcome.skipped:
            lines = [f"- skipped `{name}`: {reason}" for name, reason in self.outcome.skipped.items()]
            parts.append("\n".join(lines))
        if self.contestants:
            parts.append(self._noise())
        parts += [*(section.markdown() for section in self.sections), self._claims()]
        return "\n\n".join(parts) + "\n"

    def _conditions(self) -> str:
        settings = self.settings
        lines = [f"- {key}: {value}" for key, value in self.machine.items()]
        lines.append(
            f"- rounds: {settings.rounds} of {settings.seconds:g} s after {settings.warm_up:g} s to warm up, "
            f"{settings.connections} connections"
        )
        return "\n".join(lines)

    def _messages(self) -> str:
        names = [contestant.name for contestant in self.contestants]
        what = {contestant.name: contestant.what for contestant in self.contestants}
        measured = {*self.outcome.samples, *self.outcome.failures}
        rows = []
        for row in sorted((row for row in measured if row.size), key=lambda r: (r.size, r.window, names.index(r.name))):
            first = [f"{what[row.name]} (`{row.name}`)", SIZE_NAMES.get(row.size, f"{row.size} B"), str(row.window)]
            if row in self.outcome.samples:
                rows.append(first + cells(figures(self.outcome.samples[row]), to_floor(self.outcome, row)))
            else:
                rows.append(first + [f"failed: {self.outcome.failures[row]}"] + [""] * (len(NUMBERS) - 1))
        return table(["what", "size", "in flight", *NUMBERS], rows)

    def _handshakes(self) -> str:
        rows = []
        for contestant in self.contestants:
            row = Row(0, 1, contestant.name)
            if row in self.outcome.samples:
                numbers = cells(figures(self.outcome.samples[row]), to_floor(self.outcome, row))
                rows.append([f"{contestant.what} (`{contestant.name}`)", "handshake", *numbers])
        return table(["what", "", *NUMBERS], rows)

    def _idle(self) -> str:
        what = {contestant.name: contestant.what for contestant in self.contestants}
        rows = []
        for name, readings in self.outcome.idle.items():
            memory = readings[-1]
            kib = [f"{value / 1024:.1f}" for value in (memory.opened, memory.used)]
            rows.append([f"{what[name]} (`{name}`)", f"{memory.connections:,} idle", *kib])
        return table(["what", "connections", "KiB each, opened", "KiB each, used once"], rows)

    def _noise(self) -> str:
        found = noise(self.outcome)
        if found is None:
            return "Noise: one round only, so it is unknown. Compare nothing."
        middle, worst, row = found
        size = SIZE_NAMES.get(row.size, "handshake" if not row.size else f"{row.size} B")
        return (
            f"Noise: between rounds the CPU per message differed by {middle * 100:.0f} % (median of the rows), "
            f"at worst by {worst * 100:.0f} % (`{row.name}`, {size}, {row.window} in flight)."
        )

    def _claims(self) -> str:
        rows = []
        for verdict in self._verdicts():
            measured = "–" if verdict.measured is None else f"{verdict.measured:.3g}"
            rows.append([verdict.claim, verdict.word, f"{verdict.bound:g}", measured])
        return "## Claims\n\n" + table(["claim", "verdict", "bound", "measured"], rows)

    def _verdicts(self) -> list[Verdict]:
        general = verdicts(self.outcome) if self.contestants else []
        return [*general, *(verdict for section in self.sections for verdict in section.verdicts())]

    def save(self, path: Path) -> None:
        """Every single sample, as JSON."""
        samples = [
            {
                **dataclasses.asdict(row),
                "round": index,
                "micros": sample.micros,
                "rate": sample.rate,
                "busy": sample.busy,
                **dataclasses.asdict(sample),
            }
            for row, taken in sorted(self.outcome.samples.items())
            for index, sample in enumerate(taken)
        ]
        document = {
            "machine": self.machine,
            "settings": dataclasses.asdict(self.settings),
            "samples": samples,
            "idle": {name: [dataclasses.asdict(m) for m in taken] for name, taken in self.outcome.idle.items()},
            "skipped": self.outcome.skipped,
            "failures": [{**dataclasses.asdict(row), "reason": why} for row, why in self.outcome.failures.items()],
            "sections": {section.name: section.document() for section in self.sections},
            "claims": [{**dataclasses.asdict(v), "verdict": v.word} for v in self._verdicts()],
        }
        path.write_text(json.dumps(document, indent=1) + "\n")
