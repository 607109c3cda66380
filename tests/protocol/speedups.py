"""Both implementations of masking for tests: the Python one, and the C one built from the source beside it.

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
from types import ModuleType

import pytest

from webmesh.protocol import data_frames, frames, masking

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


@contextmanager
def masking_by(implementation: str) -> Iterator[None]:
    """Let frames be masked and unmasked by one of `IMPLEMENTATIONS`."""
    if implementation == "c":
        module = c_module()
        mask, unmask = module.mask, module.unmask
    else:
        mask, unmask = masking.mask_in_python, masking.unmask_in_python
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(frames, "mask", mask)
        patch.setattr(frames, "unmask", unmask)
        patch.setattr(data_frames, "mask", mask)
        yield
