"""Telling a patched process from an unpatched one."""

from __future__ import annotations

import os
import subprocess
import sys

from gevent import monkey

from webmesh.processes import incarnation, is_patched, lives


def answer_of(program: str) -> str:
    command = [sys.executable, "-c", program]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stdout.strip()


def test_this_process_is_told_right():
    """The suite runs once in either mode."""
    assert monkey.is_module_patched("socket") == is_patched()


def test_a_fresh_process_is_not_patched():
    """Importing WebMesh patches nothing."""
    assert "False" == answer_of("from webmesh.processes import is_patched; import webmesh; print(is_patched())")


def test_a_patched_process_is_told():
    """`monkey.patch_all()` is what turns threads into greenlets."""
    program = "from gevent import monkey; monkey.patch_all()\n"
    program += "from webmesh.processes import is_patched; print(is_patched())"
    assert "True" == answer_of(program)


def test_patching_sockets_alone_is_not_enough():
    """With native threads and locks, blocking code in a greenlet would hold the hub."""
    program = "from gevent import monkey; monkey.patch_socket()\n"
    program += "from webmesh.processes import is_patched; print(is_patched())"
    assert "False" == answer_of(program)


def test_a_process_is_told_from_its_forerunners():
    """By when it began; one that has ended lives no more, nor does what is no process."""
    assert lives(incarnation()) and not lives(f"{os.getpid()}:1")
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as child:
        assert lives(f"{child.pid}:")
        began = answer_of(
            f"from webmesh.processes import _started; print(_started({child.pid}))"
        )
        assert lives(f"{child.pid}:{began}")
    assert not lives(f"{child.pid}:{began}") and not lives(f"{child.pid}:")
    for nobody in ("", "x", "-5:", "9" * 40, "0:5"):
        assert not lives(nobody)
