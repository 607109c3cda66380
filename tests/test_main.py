"""`python -m webmesh` is the command `webmesh`."""

from __future__ import annotations

from webmesh import __version__

from tests.processes import run_python


def test_version():
    """The version that is installed, on standard output."""
    finished = run_python("-m", "webmesh", "--version")

    assert (0, f"WebMesh {__version__}\n") == (finished.returncode, finished.stdout)


def test_calls_itself_by_what_was_typed():
    """Usage and errors name the command in the form in which it can be repeated."""
    assert run_python("-m", "webmesh", "--help").stdout.startswith("usage: python -m webmesh ")
    assert run_python("-m", "webmesh", "call", "--help").stdout.startswith("usage: python -m webmesh call ")
    assert run_python("-m", "webmesh", "serve", "--port", "x").stderr.startswith("python -m webmesh serve: error: ")


def test_without_a_command_it_is_used_wrongly():
    """Status 2 and one line."""
    finished = run_python("-m", "webmesh")

    assert (2, 1) == (finished.returncode, finished.stderr.count("\n"))


def test_importing_it_does_nothing():
    """Tools that import every module of a package run no command."""
    finished = run_python("-c", "import webmesh.__main__, webmesh.serve")

    assert (0, "", "") == (finished.returncode, finished.stdout, finished.stderr)
