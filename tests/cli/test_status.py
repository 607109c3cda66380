"""`webmesh status`: what it prints of a node, and of one that is not there."""

from __future__ import annotations

import json
import sys

import pytest

from tests.processes import run_python
from tests.running import running
from webmesh.cli.status import main
from webmesh.webmesh_server import WebMeshServer


@pytest.fixture
def server():
    made = WebMeshServer(name="shop")
    made.on("/a")(lambda payload, path, client: payload)
    with running(made) as started:
        yield started


def test_a_node_is_shown_as_a_row(server, capsys):
    """Plain text where nobody sees it."""
    assert 0 == main([server.url, "--over", "0.05"])
    head, row = capsys.readouterr().out.splitlines()
    assert ["name", "id", "state"] == head.split()[:3]
    assert "shop" == row.split()[0] and server.url in row and " ok " in row


def test_the_same_as_json(server, capsys):
    """With numbers, for programs."""
    assert 0 == main([server.url, "--json", "--over", "0"])
    (row,) = json.loads(capsys.readouterr().out)["nodes"]
    assert ("shop", "ok", "shop", 0.0, 1) == (
        row["name"], row["state"], row["services"], row["calls/s"], row["connections"]
    )  # fmt: skip


def test_a_node_that_is_not_there_is_one_line_and_status_1(capsys):
    """Scripts ask for it."""
    assert 1 == main(["ws://127.0.0.1:1", "--timeout", "5"])
    out, err = capsys.readouterr()
    assert ("", 1) == (out, err.count("\n"))
    assert "webmesh status: " == err[:16]


def test_what_is_no_url_is_a_mistake_of_the_command_line(capsys):
    """Status 2."""
    assert 2 == main(["http://127.0.0.1"])
    assert 1 == capsys.readouterr().err.count("\n")


def test_who_may_not_ask_is_told_so(capsys, monkeypatch):
    """With what would help; a token that is let in does."""
    token = "a-token-of-some-length"
    monkeypatch.setenv("A_TOKEN", token)
    with running(WebMeshServer(metrics_allow=[], metrics_token=token)) as server:
        assert 1 == main([server.url, "--over", "0"])
        assert "permission_denied" in (said := capsys.readouterr().err) and "operator" in said
        assert 0 == main([server.url, "--over", "0", "--token-env", "A_TOKEN"])


def test_without_rich_the_table_is_plain(server, capsys, monkeypatch):
    """Also on a terminal."""
    monkeypatch.setitem(sys.modules, "rich.console", None)
    monkeypatch.setattr("sys.stdout.isatty", lambda: True, raising=False)
    assert 0 == main([server.url, "--over", "0"])
    assert capsys.readouterr().out.startswith("name ")


@pytest.mark.once
def test_it_is_a_command_of_webmesh(server):
    """In a process of its own, which is plain."""
    finished = run_python("-m", "webmesh", "status", server.url, "--json", "--over", "0.05")
    assert (0, "") == (finished.returncode, finished.stderr)
    assert ["shop"] == [row["name"] for row in json.loads(finished.stdout)["nodes"]]
