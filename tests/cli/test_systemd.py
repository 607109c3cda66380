"""What a service manager gives and is told: units, and whole servers under a manager that the test plays."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.processes import ENVIRONMENT
from tests.running import PATIENCE
from webmesh.cli.arguments import parse_serve_options
from webmesh.cli.systemd import Notifier, activated_descriptor, inherited_socket
from webmesh.exceptions import ConfigurationError
from webmesh.webmesh_client import WebMeshClient


class Manager:
    """The manager's end of the notifications."""

    def __init__(self, folder: Path) -> None:
        self.path = str(folder / "notify")
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind(self.path)
        self.socket.settimeout(3 * PATIENCE)

    def next(self) -> str:
        return self.socket.recv(4096).decode()

    def await_news(self, news: str) -> None:
        while news not in self.next().splitlines():
            pass


@pytest.fixture
def manager(tmp_path: Path) -> Iterator[Manager]:
    made = Manager(tmp_path)
    yield made
    made.socket.close()


@pytest.fixture
def listening() -> Iterator[socket.socket]:
    """A socket as a manager hands it over."""
    with socket.create_server(("127.0.0.1", 0)) as sock:
        yield sock


# ------------------------------------------------------------------------- units


def test_a_socket_is_this_processes_if_it_says_so() -> None:
    """And the environment of its children does not say so any more."""
    environment = {"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": "1", "LISTEN_FDNAMES": "web", "OTHER": "x"}
    assert 3 == activated_descriptor(environment)
    assert {"OTHER": "x"} == environment


@pytest.mark.parametrize("environment", [
    {}, {"LISTEN_FDS": "1"}, {"LISTEN_PID": "1", "LISTEN_FDS": "1"}, {"LISTEN_PID": str(os.getpid())},
    {"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": "0"}, {"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": "many"},
])  # fmt: skip
def test_a_socket_of_another_process_is_none_of_ours(environment: dict[str, str]) -> None:
    """The parent was started with it, or nobody."""
    assert activated_descriptor(environment) is None


def test_several_sockets_are_a_mistake() -> None:
    """One would be listened on, and the others leave their clients hanging."""
    with pytest.raises(ConfigurationError, match="2 sockets"):
        activated_descriptor({"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": "2"})


def test_a_descriptor_that_is_no_socket_is_a_mistake(tmp_path: Path) -> None:
    """Open, or not."""
    with (tmp_path / "file").open("w") as file, pytest.raises(ConfigurationError, match="is no socket"):
        inherited_socket(file.fileno())
    with pytest.raises(ConfigurationError, match="is no socket"):
        inherited_socket(9999)


def test_news_is_sent_in_lines(manager: Manager) -> None:
    """As the manager reads it; its children are no services."""
    environment = {"NOTIFY_SOCKET": manager.path}
    Notifier(environment).tell(READY=1, STATUS="serving")
    assert "READY=1\nSTATUS=serving" == manager.next()
    assert {} == environment


def test_an_abstract_address_begins_with_an_at() -> None:
    """As systemd writes it."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.bind(f"\0webmesh-test-{os.getpid()}")
        sock.settimeout(PATIENCE)
        Notifier({"NOTIFY_SOCKET": f"@webmesh-test-{os.getpid()}"}).tell(READY=1)
        assert b"READY=1" == sock.recv(100)


def test_without_a_manager_nothing_is_sent(tmp_path: Path) -> None:
    """And one that is gone is no failure of the server."""
    for environment in ({}, {"NOTIFY_SOCKET": str(tmp_path / "gone")}):
        Notifier(environment).tell(READY=1)


def test_signs_of_life_come_twice_as_often_as_they_must() -> None:
    """Where the manager waits for them, and for those of this process."""
    own = {"NOTIFY_SOCKET": "/a", "WATCHDOG_USEC": "3000000"}
    assert 1.5 == Notifier(own.copy()).interval
    assert 1.5 == Notifier(own | {"WATCHDOG_PID": str(os.getpid())}).interval
    for without in ({}, own | {"WATCHDOG_PID": "1"}, own | {"WATCHDOG_USEC": "x"}, {"WATCHDOG_USEC": "3000000"}):
        assert Notifier(without).interval is None


@pytest.mark.parametrize("arguments", [["--port", "1"], ["--unix", "a"], ["--host", "a"], ["--reload"]])
def test_a_socket_that_is_handed_over_needs_no_address(arguments: list[str], capsys: pytest.CaptureFixture) -> None:
    """To give both is a mistake; a reloaded server would not inherit it."""
    with pytest.raises(SystemExit):
        parse_serve_options(["--fd", "fd://3", *arguments], "serve")
    assert "--fd takes no" in capsys.readouterr().err


# ----------------------------------------------------------------- whole servers


APP = """
import time
from webmesh import WebMeshServer

server = WebMeshServer()
server.on("/echo")(lambda payload, path, client: payload)
server.on("/hold", blocking=False)(lambda payload, path, client: hold())


def hold():
    while True:
        pass
"""

START = "import os, sys; os.dup2(int(sys.argv[1]), 3); os.environ['LISTEN_PID'] = str(os.getpid()); " \
    "os.execv(sys.executable, [sys.executable, '-m', 'webmesh.serve', *sys.argv[2:]])"  # fmt: skip
"""What a manager does between fork and exec."""


def start(folder: Path, sock: socket.socket, *arguments: str, **environment: str) -> subprocess.Popen[bytes]:
    (folder / "app.py").write_text(APP, encoding="utf-8")
    return subprocess.Popen(
        [sys.executable, "-c", START, str(sock.fileno()), *arguments],
        cwd=folder, env=ENVIRONMENT | environment, pass_fds=[sock.fileno(), 3],
    )  # fmt: skip


@pytest.mark.once
@pytest.mark.parametrize("mode", [[], ["--no-patch"]], ids=["patched", "plain"])
@pytest.mark.parametrize("how", [["--fd", "fd://3"], []], ids=["told", "activated"])
def test_a_server_serves_at_a_socket_that_it_was_given(
    how: list[str], mode: list[str], tmp_path: Path, manager: Manager, listening: socket.socket
) -> None:
    """Ready, alive and stopping as it says; the socket outlives it, so that the next one loses no client."""
    process = start(
        tmp_path, listening, *how, *mode, "app", LISTEN_FDS="" if how else "1",
        NOTIFY_SOCKET=manager.path, WATCHDOG_USEC="100000",
    )  # fmt: skip
    try:
        manager.await_news("READY=1")
        manager.await_news("WATCHDOG=1")
        manager.await_news("WATCHDOG=1")
        port = listening.getsockname()[1]
        with WebMeshClient(f"ws://127.0.0.1:{port}") as client:
            assert 7 == client.call("/echo", 7, timeout=PATIENCE)
        process.send_signal(signal.SIGTERM)
        manager.await_news("STOPPING=1")
        assert 0 == process.wait(3 * PATIENCE)
    finally:
        process.kill()
        process.wait(PATIENCE)
    with socket.create_connection(("127.0.0.1", port), PATIENCE):
        pass  # it waits in the queue for the next one


@pytest.mark.once
@pytest.mark.parametrize("mode", [[], ["--no-patch"]], ids=["patched", "plain"])
def test_a_server_whose_hub_hangs_shows_no_life(
    mode: list[str], tmp_path: Path, manager: Manager, listening: socket.socket
) -> None:
    """So that the manager starts it again."""
    process = start(tmp_path, listening, "--fd", "3", *mode, "app", NOTIFY_SOCKET=manager.path, WATCHDOG_USEC="100000")
    try:
        manager.await_news("WATCHDOG=1")
        with WebMeshClient(f"ws://127.0.0.1:{listening.getsockname()[1]}") as client:
            client.notify("/hold")
            manager.socket.settimeout(1.0)  # ten times what the manager would wait
            with pytest.raises(TimeoutError):
                while True:
                    manager.next()
    finally:
        process.kill()
        process.wait(PATIENCE)


@pytest.mark.once
def test_a_browser_led_astray_gets_nothing_from_an_activated_socket(
    tmp_path: Path, manager: Manager, listening: socket.socket
) -> None:
    """Also where only this machine gets in because somebody else has bound the socket."""
    process = start(tmp_path, listening, "app", LISTEN_FDS="1", NOTIFY_SOCKET=manager.path)
    try:
        manager.await_news("READY=1")
        for host, status in (("evil.example", b"403"), ("localhost", b"200")):
            with socket.create_connection(listening.getsockname(), PATIENCE) as sock:
                sock.sendall(f"GET /webmesh.js HTTP/1.1\r\nhost: {host}\r\n\r\n".encode())
                told = sock.recv(4096).split()[1]
            assert (host, told == b"403") == (host, status == b"403")
    finally:
        process.kill()
        process.wait(PATIENCE)
