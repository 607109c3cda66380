"""The bench's own virtual environment: this project and the peers it is compared with.

Uses the standard library only, because it runs before anything is installed. It does nothing when
the environment is there and neither the list of peers nor the project's own build has changed.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import venv
from pathlib import Path
from typing import NoReturn

REPOSITORY = Path(__file__).resolve().parent.parent.parent
PLACE = REPOSITORY / ".venv-bench"
STAMP = PLACE / ".bench-installed"
FOUNDATION = ("gevent", "wsproto", "h11", "msgpack", "ujson")
PEERS = ("websockets", "picows", "gevent-websocket", "grpcio", "zerorpc", "python-socketio", "redis", "nats-py")
BUILD_FILES = ("setup.py", "pyproject.toml", "webmesh/_speedups.c")
PIP_TIMEOUT = 900
"""Seconds for one installation; a peer without a wheel is compiled."""


def say(text: str) -> None:
    """Progress, on standard error."""
    print(f"bench: {text}", file=sys.stderr, flush=True)


def fingerprint() -> str:
    """Changes when what has to be installed changes."""
    digest = hashlib.sha256(repr((FOUNDATION, PEERS)).encode())
    for name in BUILD_FILES:
        path = REPOSITORY / name
        digest.update(path.read_bytes() if path.exists() else b"-")
    return digest.hexdigest()


def install(python: Path, *what: str) -> bool:
    """Install with pip; False, and a line that says so, when it fails."""
    command = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *what]
    finished = subprocess.run(command, capture_output=True, text=True, timeout=PIP_TIMEOUT)
    if finished.returncode:
        lines = finished.stderr.strip().splitlines() or ["pip gave no reason"]
        say(f"could not install {' '.join(what)}: {lines[-1]}")
    return finished.returncode == 0


def prepare() -> Path:
    """Make the environment, or find it made; returns its Python."""
    if sys.version_info < (3, 11):
        raise SystemExit(f"scripts/bench needs Python 3.11 or later, this is {sys.version.split()[0]}")
    python = PLACE / "bin" / "python"
    wanted = fingerprint()
    if STAMP.exists() and STAMP.read_text() == wanted:
        return python
    say(f"making {PLACE.name} with {sys.version.split()[0]}: this project, {', '.join(PEERS)}")
    if not python.exists():
        venv.create(PLACE, with_pip=True, clear=True)
    if not install(python, *FOUNDATION):
        raise SystemExit(1)
    whole = all([install(python, peer) for peer in PEERS])
    if (REPOSITORY / "setup.py").exists():
        whole = install(python, "--editable", str(REPOSITORY)) and whole
    if whole:  # else the next run tries again; meanwhile the table says what is missing
        STAMP.write_text(wanted)
    return python


def enter() -> NoReturn:
    """Run this program again inside the environment."""
    python = prepare()
    os.execv(python, [str(python), *sys.argv[:1], "--here", *sys.argv[1:]])
