"""README.md and docs/MESH.md are programs: their blocks run, plain and patched, and print what the pages say.

A `python` block is run as it stands; a `text` block that follows it is what it prints. The commands of a
`bash` block must exist. docs/PROTOCOL.md shows the conversation by hand that the last test has.
"""

from __future__ import annotations

import fcntl
import importlib.util
import os
import re
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

import webmesh

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
FENCE = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)

Block = tuple[str, str]
BLOCKS: list[Block] = FENCE.findall(README)


def _programs(blocks: list[Block]) -> list[tuple[str, str | None]]:
    """Each with what it prints."""
    return [
        (text, following[1] if following[0] == "text" else None)
        for (kind, text), following in zip(blocks, [*blocks[1:], ("", "")], strict=True)
        if kind == "python"
    ]


PROGRAMS = _programs(BLOCKS)
MESH_PROGRAMS = _programs(FENCE.findall((ROOT / "docs" / "MESH.md").read_text(encoding="utf-8")))
NAMES = [f"block{n}" for n in range(len(PROGRAMS))] + [f"mesh{n}" for n in range(len(MESH_PROGRAMS))]
CALLS = [
    (text.strip(), following[1])
    for (kind, text), following in zip(BLOCKS, [*BLOCKS[1:], ("", "")], strict=True)
    if kind == "bash" and following[0] == "text"
]
COMMANDS = [line for kind, text in BLOCKS if kind == "bash" for line in text.splitlines() if line.strip()]


@pytest.fixture
def default_port() -> Iterator[None]:
    """Sole use of the default port: the README's programs name none, and another run may be at them too."""
    with open(Path(tempfile.gettempdir()) / "webmesh-readme.lock", "w", encoding="utf-8") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


@pytest.mark.parametrize("before", [(), ("-m", "gevent.monkey")], ids=["plain", "patched"])
@pytest.mark.parametrize(("program", "printed"), PROGRAMS + MESH_PROGRAMS, ids=NAMES)
@pytest.mark.usefixtures("default_port")
def test_python_block_runs(program: str, printed: str | None, before: tuple[str, ...], tmp_path: Path) -> None:
    """A reader who copies a block gets what the page says, whether the process is patched or not."""
    script = tmp_path / "program.py"
    script.write_text(program, encoding="utf-8")
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}

    done = subprocess.run(
        [sys.executable, *before, str(script)],
        cwd=ROOT, env=environment, capture_output=True, text=True, timeout=30, check=False,
    )  # fmt: skip

    assert (0, "") == (done.returncode, done.stderr)
    if printed is not None:
        assert printed == done.stdout


@pytest.mark.skipif(importlib.util.find_spec("airportsdata") is None, reason="the extra `examples` is not installed")
@pytest.mark.usefixtures("default_port")
def test_calls_by_hand_are_answered_as_shown() -> None:
    """What the page shows of the example is what the example answers."""
    serve = [sys.executable, "-m", "webmesh.serve"]
    with subprocess.Popen(serve, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as server:
        try:
            assert any("listening" in line for line in server.stdout or ()), "it did not start"
            answers = [
                subprocess.run(
                    [sys.executable, *shlex.split(command)[1:]],
                    cwd=ROOT, capture_output=True, text=True, timeout=30, check=False,
                ).stdout
                for command, _ in CALLS
            ]  # fmt: skip
        finally:
            server.terminate()
            server.communicate(timeout=30)

    assert [shown for _, shown in CALLS] == answers
    assert 0 == server.returncode


@pytest.mark.parametrize("programs", [PROGRAMS, MESH_PROGRAMS], ids=["README", "MESH"])
def test_page_begins_with_a_quick_start(programs: list[tuple[str, str | None]]) -> None:
    """The first program on the page is short enough to be read at a glance."""
    lines = [line for line in programs[0][0].splitlines() if line.strip()]
    assert len(lines) <= 15


@pytest.mark.parametrize("line", COMMANDS)
def test_command_exists(line: str) -> None:
    """A command on the page names a script of the clone, a module that is there or a common tool."""
    words = [word for word in shlex.split(line, comments=True) if "=" not in word]
    program, *arguments = words
    if "/" in program:
        assert os.access(ROOT / program, os.X_OK), program
    elif program.startswith("python"):
        module = arguments[arguments.index("-m") + 1]
        assert importlib.util.find_spec(module) is not None, module
    else:
        assert program in {"git", "cd", "pip", "nox", "webmesh"}, program


@pytest.mark.parametrize("target", sorted(set(re.findall(r"\]\((?!https?:)([^)#]+)", README))))
def test_link_leads_somewhere(target: str) -> None:
    """Pages and folders that the page points to are in the clone."""
    assert (ROOT / target).exists()


@pytest.mark.parametrize("row", re.findall(r"^\| `(?:Limits|Timeouts)\..*$", README, re.MULTILINE))
def test_limits_table_tells_the_defaults(row: str) -> None:
    """The numbers in a row of the table are the defaults of the options that it names, in their order."""
    names, numbers = row.split("|")[1:3]
    options = re.findall(r"`(Limits|Timeouts)\.(\w+)`", names)

    defaults = [getattr(getattr(webmesh, kind)(), field) for kind, field in options]

    assert defaults == [float(number.replace(",", "")) for number in re.findall(r"\d[\d,]*", numbers)]
