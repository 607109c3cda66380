"""`python -m webmesh.serve`: patches first, unless told not to, and hands over."""

from __future__ import annotations

import sys

import pytest
from gevent import monkey

from webmesh import serve
from webmesh.cli import reloading, serving
from webmesh.cli.arguments import ServeOptions

from tests.processes import run_python


@pytest.fixture
def steps(monkeypatch) -> list[tuple[object, ...]]:
    """What was done, in order, in place of patching, serving and supervising."""
    steps: list[tuple[object, ...]] = []
    monkeypatch.setattr(monkey, "patch_all", lambda: steps.append(("patch",)))
    monkeypatch.setattr(serving, "serve", lambda options, prog: steps.append(("serve", options, prog)) or 7)
    monkeypatch.setattr(reloading, "supervise", lambda options, words: steps.append(("supervise", words)) or 8)
    return steps


def test_patches_and_then_serves(steps):
    """The default: a patched process; the status is the server's."""
    assert 7 == serve.main(["app"], prog="webmesh serve")
    assert [("patch",), ("serve", ServeOptions(target="app"), "webmesh serve")] == steps


def test_no_patch(steps):
    """--no-patch leaves the standard library alone."""
    assert 7 == serve.main(["--no-patch"])
    assert [("serve", ServeOptions(patch=False), "python -m webmesh.serve")] == steps


def test_reload_supervises(steps):
    """With --reload this process only watches; it is not patched, and gets the arguments as they were."""
    assert 8 == serve.main(["app", "--reload"])
    assert [("supervise", ["app", "--reload"])] == steps


def test_the_child_of_reload_serves(steps):
    """What --reload has started serves, whatever its command line repeats."""
    assert 7 == serve.main(["--report-to", "5", "app", "--reload"])
    assert ["patch", "serve"] == [step[0] for step in steps]


def test_arguments_are_the_processes_own(steps, monkeypatch):
    """Without arguments of the caller's, those of the process are read."""
    monkeypatch.setattr(sys, "argv", ["serve.py", "shop:api"])

    serve.main()

    assert steps[1][1] == ServeOptions(target="shop:api")


def test_a_mistake_ends_before_anything_is_done(steps):
    """A wrong option costs no patching and imports nothing."""
    with pytest.raises(SystemExit):
        serve.main(["--port", "x"])

    assert [] == steps


@pytest.mark.row(90)
@pytest.mark.parametrize("command", [["-m", "webmesh.serve"], ["-m", "webmesh", "serve"]])
def test_patching_comes_before_what_it_patches(command, tmp_path):
    """When the user's module is imported, the process is patched, and nothing had been imported too early."""
    (tmp_path / "app.py").write_text(
        "import ssl, socket, threading, gevent.monkey, sys\n"
        "sys.stdout.write(f'{gevent.monkey.is_module_patched(\"ssl\")} {socket.socket.__module__}')\n"
        "raise SystemExit\n"
    )

    finished = run_python("-W", "error", *command, "app", folder=tmp_path)

    assert "True gevent._socket3" == finished.stdout
    assert (2, 1) == (finished.returncode, finished.stderr.count("\n"))
    assert "'app' ended the program with None while it was imported" in finished.stderr


@pytest.mark.row(90)
def test_a_module_that_patches_by_itself_is_in_time(tmp_path):
    """With --no-patch nothing of ours that uses sockets is there before the user's module."""
    (tmp_path / "app.py").write_text(
        "import sys\n"
        "sys.stdout.write(str(sorted({'ssl', 'gevent.socket', 'webmesh.websocket.tls'} & set(sys.modules))))\n"
        "from gevent import monkey\n"
        "monkey.patch_all()\n"
        "raise SystemExit\n"
    )

    finished = run_python("-W", "error", "-m", "webmesh.serve", "--no-patch", "app", folder=tmp_path)

    assert "[]" == finished.stdout
    assert "Warning" not in finished.stderr


INTERRUPTED = """
import os, runpy, signal, sys

class Interrupt:
    def find_spec(self, name, path, target=None):
        if name == sys.argv[1]:
            os.kill(os.getpid(), signal.SIGINT)

sys.meta_path.insert(0, Interrupt())
runpy.run_module("webmesh.serve", run_name="__main__", alter_sys=True)
"""


@pytest.mark.row(91)
@pytest.mark.parametrize("module", ["webmesh.cli.arguments", "gevent.monkey", "webmesh.cli.serving"])
def test_an_interrupt_while_it_starts_is_told_by_the_status_alone(module: str) -> None:
    """Whichever of our modules, or of gevent's, is being imported then."""
    finished = run_python("-c", INTERRUPTED, module)
    assert (130, "", "") == (finished.returncode, finished.stdout, finished.stderr)
