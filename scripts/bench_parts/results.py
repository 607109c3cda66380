"""What the samples amount to: medians, ratios to the floor, noise, and the claims that they are held against."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import median

from bench_parts.contestants import FLOOR
from bench_parts.load import Sample
from bench_parts.rounds import Outcome, Row


@dataclass(frozen=True)
class Figures:
    """One row of the table, from the samples of all rounds."""

    micros: float
    rate: float
    p50: float
    p99: float
    busy: float
    spread: float
    """(highest - lowest) / median of the CPU per message, between rounds."""


def figures(samples: Sequence[Sample]) -> Figures:
    """Medians over the rounds, each column on its own."""
    micros = [sample.micros for sample in samples]
    return Figures(
        micros=median(micros),
        rate=median(sample.rate for sample in samples),
        p50=median(sample.latencies[0] for sample in samples),
        p99=median(sample.latencies[1] for sample in samples),
        busy=median(sample.busy for sample in samples),
        spread=(max(micros) - min(micros)) / median(micros),
    )


def ratio(outcome: Outcome, row: Row, base: Row) -> float | None:
    """CPU per message of one row to that of another: the median of the ratios of each round.

    A ratio within a round is worth more than one of medians, because both sides had the same machine.
    None when one of them was not measured.
    """
    ours, theirs = outcome.samples.get(row, []), outcome.samples.get(base, [])
    if not ours or not theirs:
        return None
    if len(ours) != len(theirs):
        return median(s.micros for s in ours) / median(s.micros for s in theirs)
    return median(a.micros / b.micros for a, b in zip(ours, theirs))


def to_floor(outcome: Outcome, row: Row) -> float | None:
    """Ratio to the floor with the same size and one in flight.

    Always one in flight: ten messages that arrive together are one piece to a TCP echo, and a
    ratio to that would say nothing.
    """
    return ratio(outcome, row, Row(row.size, 1, FLOOR))


def noise(outcome: Outcome) -> tuple[float, float, Row] | None:
    """Median and worst spread between rounds, and the row of the worst; None with fewer than two rounds."""
    spreads = [(figures(samples).spread, row) for row, samples in outcome.samples.items() if len(samples) > 1]
    if not spreads:
        return None
    worst, row = max(spreads)
    return median(spread for spread, _ in spreads), worst, row


@dataclass(frozen=True)
class Verdict:
    """A claim and what was measured."""

    claim: str
    bound: float
    measured: float | None

    @property
    def word(self) -> str:
        """`pass`, `FAIL`, or that there is nothing to judge."""
        if self.measured is None:
            return "not measured"
        return "pass" if self.measured <= self.bound else "FAIL"


@dataclass(frozen=True)
class Claim:
    """CPU of one row divided by that of another must not exceed the bound."""

    text: str
    bound: float
    row: Row
    base: Row

    def judge(self, outcome: Outcome) -> Verdict:
        """Hold it against what was measured."""
        return Verdict(self.text, self.bound, ratio(outcome, self.row, self.base))


def no_slower(window: int, suffix: str) -> Claim:
    """A plain echo of 64 KiB against `websockets`, both without compression or both with it."""
    text = f"a 64 KiB echo is no slower than websockets ({window} in flight{', both deflate' if suffix else ''})"
    return Claim(text, 1.0, Row(65536, window, f"plain{suffix}"), Row(65536, window, f"websockets{suffix}"))


CALL = Row(128, 1, "call")
PIPELINED = Row(128, 10, "call")
CLAIMS = (
    Claim("a call costs at most 1.25 × the floor (128 B, 1 in flight)", 1.25, CALL, Row(128, 1, FLOOR)),
    Claim("pipelined, a call costs at most 0.65 × the floor's 1 in flight", 0.65, PIPELINED, Row(128, 1, FLOOR)),
    Claim("a call costs at most 1/5 of gRPC Python's", 0.2, CALL, Row(128, 1, "grpc")),
    Claim("a call costs at most 1/10 of zerorpc's", 0.1, CALL, Row(128, 1, "zerorpc")),
    *(no_slower(window, suffix) for window in (1, 10) for suffix in ("", "-deflate")),
    Claim(
        "10,000 routes cost no more than 10 (1.1 for noise)",
        1.1,
        Row(128, 10, "routes-10000"),
        Row(128, 10, "routes-10"),
    ),
    Claim(
        "the same with a parameter in the path",
        1.1,
        Row(128, 10, "routes-10000-parameter"),
        Row(128, 10, "routes-10-parameter"),
    ),
)
IDLE_BOUND = 16 * 1024
"""Bytes of an idle connection."""


def verdicts(outcome: Outcome) -> list[Verdict]:
    """All claims, judged."""
    judged = [claim.judge(outcome) for claim in CLAIMS]
    states: tuple[tuple[str, Callable[[str], float | None]], ...] = (
        ("opened", lambda name: median([m.opened for m in outcome.idle[name]]) if name in outcome.idle else None),
        ("used once", lambda name: median([m.used for m in outcome.idle[name]]) if name in outcome.idle else None),
    )
    for state, bytes_of in states:
        measured = bytes_of("call")
        kib = None if measured is None else measured / 1024
        judged.append(Verdict(f"an idle connection ({state}) takes at most 16 KiB", IDLE_BOUND / 1024, kib))
    return judged
