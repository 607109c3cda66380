"""`import webmesh`: its public names, and that importing it does nothing else."""

from __future__ import annotations

import ast
import inspect
import subprocess
import sys
from importlib import import_module, util
from pathlib import Path

import pytest

import webmesh

ROOT = Path(__file__).parent.parent

SIDE_EFFECTS = """
import os, sys
before, files = set(sys.modules), os.listdir("/proc/self/fd")
import webmesh
loaded = {name.partition(".")[0] for name in set(sys.modules) - before}
print(sorted(loaded & {"gevent", "greenlet", "ssl", "socket", "wsproto", "h11", "msgpack", "ujson", "pytest"}))
print(sorted(name for name in sys.modules if name.startswith("webmesh.")))
print(len(os.listdir("/proc/self/fd")) - len(files))
"""


def run_python(code: str) -> list[str]:
    """Run *code* in a fresh interpreter; the lines that it printed."""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=30)
    assert 0 == done.returncode, done.stderr
    assert "" == done.stderr
    return done.stdout.splitlines()


@pytest.mark.parametrize("name", webmesh.__all__)
def test_public_name_is_there_and_documented(name: str) -> None:
    """Every name of `__all__` can be imported from the package and says what it is."""
    value = getattr(webmesh, name)

    assert inspect.getdoc(value)
    assert value.__module__.startswith("webmesh.")


def test_public_names_are_sorted_and_distinct() -> None:
    """`__all__` reads as a list to look things up in."""
    assert sorted(set(webmesh.__all__)) == webmesh.__all__


def test_names_imported_late_are_the_ones_that_checkers_see() -> None:
    """What a type checker is told about late names is what `__getattr__` finds."""
    tree = ast.parse(Path(webmesh.__file__).read_text(encoding="utf-8"))
    block = next(n for n in tree.body if isinstance(n, ast.If) and "TYPE_CHECKING" == getattr(n.test, "id", ""))
    told = {a.name: n.module for n in block.body if isinstance(n, ast.ImportFrom) for a in n.names}

    assert told == webmesh._HOMES


def test_names_imported_late_are_kept() -> None:
    """The second use of a late name is a plain attribute, the same object."""
    assert webmesh.Router is webmesh.__dict__["Router"]
    assert import_module("webmesh.routing").Router is webmesh.Router


def test_unknown_name() -> None:
    """A misspelt name fails as it would in any module."""
    with pytest.raises(AttributeError, match="no attribute 'WebMeshSever'"):
        webmesh.WebMeshSever  # type: ignore[attr-defined]


def test_dir_lists_names_before_their_first_use() -> None:
    """`dir(webmesh)` shows what can be imported, loaded or not."""
    assert set(webmesh.__all__) <= set(dir(webmesh))


def test_import_has_no_side_effects() -> None:
    """`import webmesh` loads no dependency, opens no file and leaves room to patch."""
    loaded, modules, opened = run_python(SIDE_EFFECTS)

    assert "[]" == loaded
    assert str(["webmesh.exceptions", "webmesh.observer", "webmesh.options", "webmesh.version"]) == modules
    assert "0" == opened


def test_importing_everything_patches_nothing() -> None:
    """The endpoints bring gevent with them and leave the standard library as it was."""
    code = (
        "import webmesh; [getattr(webmesh, name) for name in webmesh.__all__]\n"
        "import gevent.monkey, threading\n"
        "print(any(map(gevent.monkey.is_module_patched, ['socket', 'ssl', 'threading', 'time', 'os', 'select'])))\n"
        "print(threading.active_count())"
    )
    assert ["False", "1"] == run_python(code)


def test_package_is_typed() -> None:
    """Type checkers of users see the annotations (PEP 561)."""
    assert (Path(webmesh.__file__).parent / "py.typed").is_file()


@pytest.mark.skipif(util.find_spec("webmesh.pytest_plugin") is None, reason="the plugin is not there")
def test_pytest_plugin_loads_nothing_heavy() -> None:
    """pytest loads every installed plugin first: ours leaves room to patch after it."""
    code = (
        "import pytest, sys; before = set(sys.modules); import webmesh.pytest_plugin\n"
        "print(sorted((set(sys.modules) - before) & {'gevent', 'ssl', 'socket', 'threading', 'wsproto'}))"
    )
    assert ["[]"] == run_python(code)
