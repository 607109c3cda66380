"""Sessions that check the project on every Python that is present. `nox --list` names them.

`scripts/test` checks the same with one Python. Floors and extras are read from setup.py.
"""

from __future__ import annotations

import ast
import os
import subprocess
from pathlib import Path

import nox

HERE = Path(__file__).parent

# pyenv answers for every Python that it has, once all are named: without this it knows only the selected one.
PYENV = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv")) / "versions"
if PYENV.is_dir():
    names = sorted(entry.name for entry in PYENV.glob("3.1[1-9].*"))
    os.environ.setdefault("PYENV_VERSION", ":".join(names))


def present(version: str) -> bool:
    """Whether this Python can be started; a version manager's stand-in alone does not count."""
    try:
        return subprocess.run([f"python{version}", "-c", ""], capture_output=True, timeout=30).returncode == 0
    except OSError:
        return False


PYTHONS = [version for version in ("3.11", "3.12", "3.13", "3.14") if present(version)]
MODES = [nox.param(False, id="plain"), nox.param(True, id="patched")]

nox.options.sessions = ["lint", "types", "tests"]
nox.options.error_on_missing_interpreters = True


def run_tests(session: nox.Session, patched: bool, *before: str) -> None:
    """Run pytest in one of the two process modes; *before* stands between `python` and the module."""
    mode = ["-m", "gevent.monkey", "--module", "pytest"] if patched else ["-m", "pytest"]
    env = {"WEBMESH_TEST_PATCHED": "1"} if patched else {}
    session.run("python", *before, *mode, *session.posargs, env=env)


@nox.session
def lint(session: nox.Session) -> None:
    """flake8 on all Python files."""
    session.install("flake8>=7.1")
    session.run("flake8")


@nox.session
def types(session: nox.Session) -> None:
    """mypy, strict, on the package."""
    session.install("-e", ".[dev]")
    session.run("mypy")


@nox.session(python=PYTHONS)
@nox.parametrize("patched", MODES)
def tests(session: nox.Session, patched: bool) -> None:
    """All tests, in a plain and in a monkey-patched process."""
    session.install("-e", ".[examples,dev]")
    run_tests(session, patched)


@nox.session(python=PYTHONS[:1])
@nox.parametrize("patched", MODES)
def floors(session: nox.Session, patched: bool) -> None:
    """All tests with the oldest dependencies that setup.py admits."""
    session.install("-e", ".[examples,dev]", *floor_pins())
    run_tests(session, patched)


def floor_pins() -> list[str]:
    """`name==floor` for every entry of INSTALL_REQUIRES."""
    tree = ast.parse((HERE / "setup.py").read_text(encoding="utf-8"))
    listed = next(
        ast.literal_eval(node.value)
        for node in tree.body
        if isinstance(node, ast.Assign) and "INSTALL_REQUIRES" == ast.unparse(node.targets[0])
    )
    return [requirement.split(",")[0].replace(">=", "==") for requirement in listed]


@nox.session
def coverage(session: nox.Session) -> None:
    """Lines and branches that the tests of both modes run, together."""
    session.install("-e", ".[examples,dev]")
    session.run("coverage", "erase")
    for patched in (False, True):
        run_tests(session, patched, "-m", "coverage", "run")
    session.run("coverage", "combine")
    session.run("coverage", "report")


@nox.session
def build(session: nox.Session) -> None:
    """Source archive and wheel; the wheel again as on a machine without a compiler."""
    session.install("build")
    session.run("python", "-m", "build", "--outdir", session.create_tmp())
    session.run("python", "-m", "build", "--wheel", "--outdir", session.create_tmp(), env={"CC": "no-such-compiler"})
