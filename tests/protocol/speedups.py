"""Both implementations of the inner loops for tests: the Python one, and the C one built from the source beside it.

The C file is built anew into a directory of its own, so that a test never judges an old build.
"""

from __future__ import annotations

import importlib.util
import shutil
import subprocess
import sysconfig
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from webmesh.protocol import data_frames, envelope, frames, masking, msgpack_body, values

SOURCE = Path(masking.__file__).parents[1] / "_speedups.c"
IMPLEMENTATIONS = ["python", "c"]


@cache
def build() -> ModuleType | str:
    """The C module, or why there is none."""
    compiler = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
    if compiler is None:
        return "no C compiler"
    with tempfile.TemporaryDirectory() as directory:
        library = Path(directory) / "_speedups.so"
        include = sysconfig.get_paths()["include"]
        flags = ["-shared", "-fPIC", "-O2", "-Wall", "-Wextra", "-Werror", f"-I{include}"]
        made = subprocess.run(
            [compiler, *flags, str(SOURCE), "-o", str(library)], capture_output=True, text=True, timeout=60
        )
        if made.returncode:
            if "Python.h" in made.stderr:
                return "no Python headers"
            raise AssertionError(made.stderr)
        spec = importlib.util.spec_from_file_location("_speedups", library)
        assert spec is not None and spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
    return module


def c_module() -> ModuleType:
    """The C module; skips the test where it cannot be built."""
    module = build()
    if isinstance(module, str):
        pytest.skip(f"the C extension cannot be built here: {module}")
    return module


IN_PYTHON = SimpleNamespace(
    mask=masking.mask_in_python, unmask=masking.unmask_in_python, read_run=data_frames.read_run_in_python,
    whole_frame=data_frames.whole_frame_in_python, msgpack_marks=msgpack_body.marks_in_python,
    spare_items=values.spare_items_in_python, plain_request=envelope.plain_request_in_python,
)  # fmt: skip
"""All that the C module has, in Python."""


def loops(implementation: str) -> Any:
    """The functions of one of `IMPLEMENTATIONS`."""
    return c_module() if implementation == "c" else IN_PYTHON


@contextmanager
def framing_by(implementation: str) -> Iterator[None]:
    """Let frames be read and written by one of `IMPLEMENTATIONS`."""
    chosen = loops(implementation)
    with pytest.MonkeyPatch.context() as patch:
        for name in ("mask", "read_run", "whole_frame"):
            patch.setattr(frames, name, getattr(chosen, name))
        for name in ("mask", "unmask", "whole_frame"):
            patch.setattr(data_frames, name, getattr(chosen, name))
        yield
