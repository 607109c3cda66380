"""How a server under measurement says that it is ready, and makes sure that it ends."""

from __future__ import annotations

import resource
import signal
import socket

LIFETIME = 1800
"""Seconds after which a server is ended by its own alarm, should the program that started it have died."""


def prepare() -> None:
    """Arm the alarm and allow as many descriptors as the system grants."""
    signal.alarm(LIFETIME)
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


def announce(port: int | None) -> None:
    """Tell the program that started this one where to connect."""
    print(f"PORT {port}", flush=True)


def free_port() -> int:
    """A loopback port that nobody listens on: for libraries that do not tell which one they were given."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
