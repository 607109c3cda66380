"""`webmesh top`: what it shows, and what it does while there is nothing to show."""

from __future__ import annotations

import os
import pty
import re
import select
import signal
import subprocess
import sys
import time

import pytest

from tests.cli.test_figures import node, route
from tests.processes import ENVIRONMENT, ROOT, run_python
from tests.running import PATIENCE, running
from webmesh.cli.figures import read_snapshot
from webmesh.cli.top import View, main
from webmesh.webmesh_server import WebMeshServer


@pytest.fixture
def server():
    made = WebMeshServer(name="shop")
    made.on("/a")(lambda payload, path, client: payload)
    with running(made) as started:
        yield started


def test_rates_come_with_the_second_answer():
    """And are of the time since the one before."""
    view = View("ws://a", "routes", "calls/s")
    view.answered(read_snapshot([node(seconds=10.0, a=route(0), b=route(0))]))
    assert [None, None] == [row["calls/s"] for row in view.rows]
    view.answered(read_snapshot([node(seconds=12.0, a=route(10), b=route(40))]))
    assert [("/b", 20.0), ("/a", 5.0)] == [(row["route"], row["calls/s"]) for row in view.rows]


def test_a_lost_connection_is_shown_with_what_was_before():
    """Until there is an answer again."""
    view = View("ws://a", "nodes", "name")
    view.answered(read_snapshot([node(), node(2) | {"state": "lost"}]))
    view.failed("connection refused")
    assert "ws://a   2 nodes, 1 lost   NO ANSWER: connection refused" == view.title
    assert ["n1", "n2"] == [row["id"] for row in view.rows]
    view.answered(read_snapshot([node()]))
    assert "ws://a   1 nodes" == view.title


@pytest.mark.parametrize("by", ["nodes", "services", "routes"])
def test_each_view_is_printed_once(by, server, capsys):
    """Where there is no terminal, and with `--once`."""
    pytest.importorskip("rich")
    assert 0 == main([server.url, "--once", "--interval", "0.05", "--by", by])
    assert server.url in capsys.readouterr().out


def test_a_node_that_is_not_there_is_one_line_and_status_1(capsys):
    """To begin with; one that is lost later is waited for."""
    pytest.importorskip("rich")
    assert 1 == main(["ws://127.0.0.1:1"])
    assert 1 == capsys.readouterr().err.count("\n")


def test_without_rich_it_says_what_to_install(server, capsys, monkeypatch):
    """In one line."""
    monkeypatch.setitem(sys.modules, "rich.console", None)
    assert 2 == main([server.url, "--once"])
    assert "pip install 'webmesh-gevent[cli]'" in capsys.readouterr().err


def test_a_view_has_its_own_columns(capsys):
    """Sorting by another's is a mistake of the command line."""
    with pytest.raises(SystemExit) as caught:
        main(["ws://a", "--by", "routes", "--sort", "uptime"])
    assert 2 == caught.value.code
    assert "routes have no column uptime" in capsys.readouterr().err


@pytest.mark.once
def test_it_is_a_command_of_webmesh(server):
    """In a process of its own."""
    pytest.importorskip("rich")
    finished = run_python("-m", "webmesh", "top", server.url, "--once", "--interval", "0.05", "--sort", "in-flight")
    assert (0, "") == (finished.returncode, finished.stderr)
    assert "shop" in finished.stdout


@pytest.mark.once
def test_on_a_terminal_it_goes_on_until_it_is_interrupted():
    """It shows when its node is gone, dials it again, and ends with status 0."""
    pytest.importorskip("rich")
    first = WebMeshServer(name="shop")
    with running(first) as server:
        port = server.port
        process, screen = _on_a_terminal("top", server.url, "--interval", "0.1")
        try:
            screen.show("shop")
            server.close(0)
            screen.show("NO ANSWER")
            with running(WebMeshServer(name="reborn"), port=port):
                screen.show("reborn")
                process.send_signal(signal.SIGINT)
                assert 0 == screen.wait_end(process)
        finally:
            process.kill()
            process.wait(PATIENCE)
            os.close(screen.descriptor)


class Screen:
    """What a program draws on a terminal."""

    def __init__(self, descriptor: int) -> None:
        self.descriptor = descriptor

    def show(self, text: str) -> None:
        """Read until *text* was drawn."""
        seen, until = "", time.monotonic() + 3 * PATIENCE
        while text not in re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", seen):
            assert time.monotonic() < until, seen[-2000:]
            seen += self._read()

    def _read(self) -> str:
        if not select.select([self.descriptor], [], [], 0.1)[0]:
            return ""
        try:
            return os.read(self.descriptor, 65536).decode("utf-8", "replace")
        except OSError:  # the program has ended
            return ""

    def wait_end(self, process: subprocess.Popen[bytes]) -> int:
        """Read on until it has ended: it cannot while nobody takes what it draws."""
        until = time.monotonic() + PATIENCE
        while process.poll() is None and time.monotonic() < until:
            self._read()
        return process.wait(PATIENCE)


def _on_a_terminal(*arguments: str) -> tuple[subprocess.Popen[bytes], Screen]:
    ours, theirs = pty.openpty()
    environment = ENVIRONMENT | {"TERM": "xterm", "COLUMNS": "180", "LINES": "30"}
    process = subprocess.Popen(
        [sys.executable, "-m", "webmesh", *arguments],
        stdin=theirs, stdout=theirs, stderr=theirs, cwd=ROOT, env=environment,
    )  # fmt: skip
    os.close(theirs)
    return process, Screen(ours)
