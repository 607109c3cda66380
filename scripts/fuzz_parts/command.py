"""The command line of `scripts/fuzz`, and one process of atheris for each target."""

from __future__ import annotations

import argparse
import importlib.util
import os
import re
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parent.parent.parent
REPORTS = Path(os.environ.get("WEBMESH_FUZZ_REPORTS", REPOSITORY / "reports" / "fuzz"))
SCRIPT = REPOSITORY / "scripts" / "fuzz"
SOUND, FOUND, SKIPPED = 0, 1, 3
SLOWEST = 10
"""Seconds that one input may take; one that takes longer counts as found."""
LONGEST = 4096
"""Bytes of one input. Limits are set so tight that all of them are met within it."""
MEMORY = 1024
"""MiB that a fuzzing process may take."""
LEEWAY = 120
"""Seconds beyond its time that a process gets to start, to read its corpus, and to end."""
HOW_TO_GET_IT = """scripts/fuzz: skipped: atheris is not there.
Where it has a wheel, that is: .venv/bin/pip install atheris (or into the Python that --here runs)."""


@dataclass(frozen=True)
class Result:
    """How one target fared."""

    name: str
    runs: int
    corpus: int
    coverage: int
    found: tuple[str, ...]
    """What went wrong, in a line each, with the file of the input that brings it about."""

    def row(self, seconds: float) -> str:
        """A line of the table."""
        verdict = "; ".join(self.found) or "nothing found"
        return f"| {self.name} | {self.runs:,} | {seconds:g} | {self.coverage:,} | {self.corpus:,} | {verdict} |"


def parser() -> argparse.ArgumentParser:
    """What the command line understands."""
    made = argparse.ArgumentParser(
        prog="scripts/fuzz",
        description="Feed arbitrary bytes to the parsers of WebMesh, guided by coverage (atheris). Only WebMesh's own "
        "exceptions may come of it. Exit status: 0 nothing found, 1 something was, 3 skipped as atheris is not there.",
    )
    made.add_argument("targets", nargs="*", metavar="TARGET", help="default: all; --list names them")
    made.add_argument("--seconds", type=float, default=60.0, metavar="N", help="for each target, default 60")
    made.add_argument("--list", action="store_true", help="name the targets and what each one is")
    made.add_argument("--input", type=Path, metavar="FILE", help="run the one target once, with this file's bytes")
    made.add_argument("--here", action="store_true", help="use this Python as it is; install nothing")
    made.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    return made


def fuzz(name: str, seconds: float) -> Result:
    """Run one target for so long in a process of its own."""
    folder = REPORTS / name
    corpus, crashes = folder / "corpus", folder / "found"
    for each in (corpus, crashes):
        each.mkdir(parents=True, exist_ok=True)
    known = set(crashes.iterdir())
    command = [sys.executable, str(SCRIPT), "--here", "--child", "--seconds", f"{seconds:g}", name]
    path = os.pathsep.join(filter(None, (str(REPOSITORY), os.environ.get("PYTHONPATH", ""))))
    log = folder / "log.txt"
    with log.open("w") as output:
        try:
            status = subprocess.run(
                command, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT,
                env={**os.environ, "PYTHONPATH": path}, timeout=seconds + LEEWAY,
            ).returncode  # fmt: skip
        except subprocess.TimeoutExpired:
            status = -1
    text = log.read_text(errors="replace")
    found = [] if status == 0 else [_what_happened(text, status)]
    found += [os.path.relpath(file) for file in sorted(set(crashes.iterdir()) - known)]
    runs = re.findall(r"number_of_executed_units:\s*(\d+)|^#(\d+)\s", text, re.MULTILINE)
    coverage = re.findall(r"cov: (\d+)", text)
    return Result(
        name, max((int(a or b) for a, b in runs), default=0), len(list(corpus.iterdir())),
        int(coverage[-1]) if coverage else 0, tuple(found),
    )  # fmt: skip


def _what_happened(text: str, status: int) -> str:
    """The line of a fuzzer's log that says why it stopped."""
    lines = text.splitlines()
    after = [lines[i + 1 : i + 3] for i, line in enumerate(lines) if "Uncaught Python exception" in line]
    if after:
        return " ".join(after[0]).strip()[:300]
    errors = [line for line in lines if "ERROR:" in line or line.startswith("SUMMARY")]
    return (errors or lines[-1:] or [""])[0][:300] or f"ended with status {status}"


def child(name: str, seconds: float) -> None:
    """Be the fuzzing process; never returns."""
    import atheris

    with atheris.instrument_imports(include=["webmesh", "wsproto", "h11", "fuzz_parts.targets"]):
        from fuzz_parts.targets import targets
    target = targets()[name]
    folder = REPORTS / name
    seeds = folder / "seeds"
    seeds.mkdir(parents=True, exist_ok=True)
    for number, seed in enumerate(target.seeds):
        (seeds / f"{number:02}").write_bytes(seed)
    options = [
        str(SCRIPT), str(folder / "corpus"), str(seeds), f"-artifact_prefix={folder / 'found'}{os.sep}",
        f"-max_total_time={max(1, round(seconds))}", f"-timeout={SLOWEST}", f"-max_len={LONGEST}",
        f"-rss_limit_mb={MEMORY}", "-print_final_stats=1", "-reload=0",
    ]  # fmt: skip
    atheris.Setup(options, target.run)
    atheris.Fuzz()


def main(arguments: Sequence[str] | None = None) -> int:
    """Fuzz, and print the table."""
    options = parser().parse_args(arguments)
    if not options.list and not options.input and not importlib.util.find_spec("atheris"):
        print(HOW_TO_GET_IT, file=sys.stderr)
        return SKIPPED
    if options.child:
        child(options.targets[0], options.seconds)
    from fuzz_parts.targets import targets

    known = targets()
    unknown = sorted(set(options.targets) - set(known))
    if unknown:
        raise SystemExit(f"scripts/fuzz: no such target: {', '.join(unknown)} (known: {', '.join(known)})")
    names = options.targets or list(known)
    if options.list:
        for name in names:
            print(f"{name:18} {(known[name].run.__doc__ or '').splitlines()[0]}")
        return SOUND
    if options.input:
        known[names[0]].run(options.input.read_bytes())
        return SOUND
    print("| target | inputs | seconds | coverage | corpus | outcome |\n| --- | ---: | ---: | ---: | ---: | --- |")
    results = []
    for name in names:
        results.append(fuzz(name, options.seconds))
        print(results[-1].row(options.seconds), flush=True)
    return FOUND if any(result.found for result in results) else SOUND
