"""What kind of process this is: patched by gevent or not; and which one, as others on its machine tell it."""

from __future__ import annotations

import os
from pathlib import Path

from gevent import monkey


def is_patched() -> bool:
    """Whether threads are greenlets here, so that blocking code does not hold the hub."""
    return bool(monkey.is_module_patched("threading") and monkey.is_module_patched("socket"))


def incarnation() -> str:
    """This process, told from a later one with the same id by when it started; by its id alone without /proc."""
    return f"{os.getpid()}:{_started(os.getpid())}"


def lives(incarnation: str) -> bool:
    """Whether the process on this machine whose `incarnation` it is still runs."""
    number, _, started = incarnation.partition(":")
    try:
        if started:
            return _started(int(number)) == started
        os.kill(int(number), 0)
    except PermissionError:
        return True
    except (OSError, ValueError, OverflowError):
        return False
    return True


def _started(pid: int) -> str:
    """Field 22 of its stat, in ticks since the machine's start; empty when it has ended, or /proc is missing."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()
    except OSError:
        return ""
    return "" if fields[0] in (b"Z", b"X") else fields[19].decode()
