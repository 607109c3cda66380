"""Where workers listen and meet."""

from __future__ import annotations

import os
import socket
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from webmesh.cli.arguments import parse_serve_options
from webmesh.cli.worker_place import Place
from webmesh.exceptions import ConfigurationError
from webmesh.worker_ticket import WorkerTicket


@contextmanager
def place(*arguments: Any) -> Iterator[Place]:
    with Place(parse_serve_options([*map(str, arguments)], "serve")) as made:
        yield made


def test_a_port_is_held_for_the_workers() -> None:
    """Whichever it is; it is free again afterwards, and so is the folder, where only this user gets in."""
    with place("--port", 0) as made:
        assert made.port and made.fd is None
        assert 0o700 == stat.S_IMODE(os.stat(made.folder).st_mode)
        with socket.socket() as other, pytest.raises(OSError):
            other.bind(("127.0.0.1", made.port))
    socket.create_server(("127.0.0.1", made.port)).close()
    assert not os.path.exists(made.folder)


def test_two_services_do_not_share_a_port_by_mistake() -> None:
    """Each would get half of the other's peers."""
    with socket.create_server(("127.0.0.1", 0), reuse_port=True) as other:
        with pytest.raises(ConfigurationError, match="in use"), place("--port", other.getsockname()[1]):
            pass


def test_a_unix_socket_is_inherited(tmp_path: Path) -> None:
    """Its file goes with the supervisor."""
    path = tmp_path / "s"
    with place("--unix", path) as made:
        assert made.port is None and made.fd is not None
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(str(path))
        with pytest.raises(ConfigurationError, match="in use"), place("--unix", path):
            pass
    assert not path.exists()


def test_a_socket_that_was_handed_over_is_inherited() -> None:
    """By number."""
    with socket.create_server(("127.0.0.1", 0)) as given:
        number = os.dup(given.fileno())
        with place("--fd", number) as made:
            assert (None, number) == (made.port, made.fd)


def test_what_a_worker_has_left_is_removed() -> None:
    """Nobody is to dial one that has ended."""
    with place("--port", 0) as made:
        ticket = WorkerTicket(slot=1, life=7, folder=made.folder, secret="s")
        for path in (ticket.door, f"{made.folder}/{ticket.node}.node"):
            Path(path).touch()
        made.forget(ticket)
        made.forget(ticket)
        assert [] == os.listdir(made.folder)


def test_no_folder_for_temporary_files_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """And the port is let go of."""

    def none(**options: object) -> str:
        raise FileNotFoundError("no usable temporary directory")

    monkeypatch.setattr(tempfile, "mkdtemp", none)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with pytest.raises(ConfigurationError, match="no folder"), place("--port", port):
        pass
    socket.create_server(("127.0.0.1", port), reuse_port=False).close()
