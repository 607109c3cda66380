"""`webmesh COMMAND`: finds the command and gives it the rest."""

from __future__ import annotations

import sys

import pytest

from webmesh import serve
from webmesh.cli import call
from webmesh.cli.main import COMMANDS, main


@pytest.mark.parametrize(("name", "module"), [("serve", serve), ("call", call)])
def test_a_command_gets_what_follows_it(name, module, monkeypatch):
    """Options belong to the command, --help included; its status is ours."""
    seen: list[object] = []
    monkeypatch.setattr(module, "main", lambda arguments, prog: seen.append((arguments, prog)) or 5)

    assert 5 == main([name, "--help", "x"])
    assert [(["--help", "x"], f"webmesh {name}")] == seen


def test_arguments_are_the_processes_own(monkeypatch):
    """The console script calls it without arguments."""
    monkeypatch.setattr(call, "main", lambda arguments, prog: len(arguments))
    monkeypatch.setattr(sys, "argv", ["webmesh", "call", "a", "b", "c"])

    assert 3 == main()


def test_help_lists_the_commands(capsys):
    """Each command with what it does."""
    with pytest.raises(SystemExit) as caught:
        main(["--help"])

    out = capsys.readouterr().out
    assert 0 == caught.value.code
    assert all(name in out and text in out for name, text in COMMANDS.items())


@pytest.mark.parametrize("arguments", [[], ["srve"], ["--loud"], ["--version=3"]])
def test_what_is_no_command_is_one_line(arguments, capsys):
    """Status 2, and nothing on standard output."""
    with pytest.raises(SystemExit) as caught:
        main(arguments)

    out, err = capsys.readouterr()
    assert (2, "", 1) == (caught.value.code, out, err.count("\n"))
    assert err.startswith("webmesh: error: ")
