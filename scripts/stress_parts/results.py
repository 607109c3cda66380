"""What came of a scenario, and the table of it."""

from __future__ import annotations

from dataclasses import dataclass


class Skipped(Exception):
    """A scenario cannot run here; the text says why."""


@dataclass(frozen=True)
class Result:
    """One line of the table.

    Attributes:
        what: What was done, and how much of it.
        figures: What was measured.
        bound: What was promised.
        kept: Whether it was.
        timing: It is about time or memory, which a busy machine spoils: not judged in quick runs.
        skipped: Nothing was done; `figures` has the reason.
    """

    scenario: str
    what: str
    figures: str
    bound: str
    kept: bool
    timing: bool = False
    skipped: bool = False

    def fails(self, *, quick: bool) -> bool:
        """Whether the run has failed by it."""
        return not self.kept and not (quick and self.timing)

    def row(self, *, quick: bool) -> str:
        """It, in markdown."""
        word = "pass" if self.kept else "FAIL"
        if quick and self.timing:
            word = "not judged"
        if self.skipped:
            word = "skipped"
        return f"| {self.scenario} | {self.what} | {self.figures} | {self.bound} | {word} |"


HEAD = "| scenario | what was done | measured | bound | |\n| --- | --- | --- | --- | --- |"


def percentile(values: list[float], share: float) -> float:
    """The value below which this share of *values* lies; 0 when there are none."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))] if ordered else 0.0


def milliseconds(seconds: float) -> str:
    """For people."""
    return f"{seconds * 1000:.3g} ms"


def mebibytes(size: float) -> str:
    """For people."""
    return f"{size / (1 << 20):.3g} MiB"
