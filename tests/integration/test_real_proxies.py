"""Story: nginx or HAProxy stands before two servers, with the files of examples/deploy.

They are Debian's packages; where one is not installed its tests are skipped.
"""

from __future__ import annotations

import re
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import gevent
import pytest

from tests.integration.strangers import upgrade, who
from tests.processes import ROOT
from tests.running import PATIENCE, running, wait_for
from webmesh.message_serializers import StandardJsonSerializer
from webmesh.options import Timeouts
from webmesh.webmesh_client import WebMeshClient
from webmesh.webmesh_server import WebMeshServer

pytestmark = pytest.mark.once

DEPLOY = ROOT / "examples" / "deploy"
HOST = "shop.example"
CLIENT = "127.0.0.9"
"""An address of this machine that is not the proxy's."""


def node(**options: Any) -> WebMeshServer:
    """A server as the files ask for it."""
    server = WebMeshServer(
        serializer_type=StandardJsonSerializer, trusted_proxies=["127.0.0.1"], allowed_hosts=[HOST, "127.0.0.1"],
        timeouts=Timeouts(drain=PATIENCE), **options,
    )  # fmt: skip
    server.on("/who")(lambda payload, path, client: client.address)
    server.on("/port")(lambda payload, path, client: server.port)
    server.on("/sleep", blocking=False)(lambda payload, path, client: gevent.sleep(payload) or server.port)
    return server


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as sock:
        port: int = sock.getsockname()[1]
    return port


def configuration(name: str, folder: Path, ports: dict[int, int]) -> Path:
    """The project's file, with other ports."""
    text = (DEPLOY / name).read_text(encoding="utf-8")
    for old, new in ports.items():
        text, count = re.subn(rf"127\.0\.0\.1:{old}\b", f"127.0.0.1:{new}", text)
        assert count, f"{name} does not speak of port {old}"
    made = folder / name
    made.write_text(text, encoding="utf-8")
    return made


def nginx(folder: Path, ports: dict[int, int]) -> list[str]:
    file = configuration("nginx.conf", folder, ports)
    places = "".join(f"{kind}_temp_path {folder}/{kind};" for kind in ("proxy", "fastcgi", "uwsgi", "scgi"))
    places += f"client_body_temp_path {folder}/body;"
    text = file.read_text(encoding="utf-8").replace("http {", f"http {{ {places}", 1)
    file.write_text(text, encoding="utf-8")
    alone = f"daemon off; master_process off; pid {folder}/pid; error_log {folder}/errors;"
    return ["nginx", "-p", str(folder), "-c", str(file), "-g", alone, "-e", f"{folder}/errors"]


def haproxy(folder: Path, ports: dict[int, int]) -> list[str]:
    return ["haproxy", "-db", "-f", str(configuration("haproxy.cfg", folder, ports))]


@contextmanager
def proxied(kind: str, folder: Path) -> Iterator[tuple[int, list[WebMeshServer]]]:
    """The port of a proxy of that kind, and two servers behind it."""
    if shutil.which(kind) is None:
        pytest.skip(f"{kind} is not installed")
    with ExitStack() as stack:
        options = {"proxy_protocol": True} if kind == "haproxy" else {}
        servers = [stack.enter_context(running(node(**options))) for _ in range(2)]
        port = free_port()
        made = {"nginx": nginx, "haproxy": haproxy}[kind]
        command = made(folder, {8080: port, 4269: servers[0].port or 0, 4270: servers[1].port or 0})
        process = subprocess.Popen(command, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
        try:
            assert wait_for(lambda: accepts(port)), f"{kind} does not listen"
            yield port, servers
        finally:
            process.kill()
            process.wait(PATIENCE)


def accepts(port: int) -> bool:
    try:
        status = int(connect(port)[1].split(b" ", 2)[1])
    except OSError:
        return False
    return status == 101


def connect(port: int, more: str = "") -> tuple[Any, bytes]:
    """A connection of the client's to the proxy, and what its upgrade was answered."""
    import gevent.socket

    sock = gevent.socket.create_connection(("127.0.0.1", port), PATIENCE, (CLIENT, 0))
    sock.sendall(upgrade(more).replace(b"Host: localhost", f"Host: {HOST}".encode()))
    heard = b""
    while b"\r\n\r\n" not in heard:
        piece = sock.recv(65536)
        if not piece:
            raise ConnectionError(heard)
        heard += piece
    return sock, heard


def client(port: int) -> WebMeshClient:
    return WebMeshClient(f"ws://127.0.0.1:{port}", reconnect=False)


each_proxy = pytest.mark.parametrize("kind", ["nginx", "haproxy"])


@each_proxy
@pytest.mark.row(59)
def test_the_server_knows_the_client_and_not_what_it_claims(kind: str, tmp_path: Path) -> None:
    """By the header that the proxy sets, or its PROXY header; a header of the client's own is not believed."""
    with proxied(kind, tmp_path) as (port, _):
        sock, answer = connect(port, "X-Forwarded-For: 203.0.113.9\r\n")
        with sock:
            assert b" 101 " in answer.split(b"\r\n")[0]
            assert CLIENT == who(sock).partition(":")[0]


@each_proxy
def test_the_pages_of_the_servers_stay_inside(kind: str, tmp_path: Path) -> None:
    """Nobody outside learns which server is ready, or what it counts."""
    with proxied(kind, tmp_path) as (port, _):
        for path in ("/readyz", "/livez", "/metrics", "/status"):
            with socket.create_connection(("127.0.0.1", port), PATIENCE) as sock:
                sock.sendall(f"GET {path} HTTP/1.1\r\nHost: {HOST}\r\nConnection: close\r\n\r\n".encode())
                assert b"404" == sock.recv(4096).split()[1]


@each_proxy
def test_a_server_that_drains_gets_no_newcomers(kind: str, tmp_path: Path) -> None:
    """They get to the other one, while what it has begun is finished."""
    with proxied(kind, tmp_path) as (port, servers), ExitStack() as stack:
        busy = stack.enter_context(client(port))
        waiting = busy.spawn("/sleep", 1.0, timeout=PATIENCE)
        first = wait_busy(servers)
        closing = gevent.spawn(first.close, PATIENCE)
        other = servers[1 - servers.index(first)]
        assert wait_for(lambda: not first.listening)
        for _ in range(6):
            with client(port) as newcomer:
                assert other.port == newcomer.call("/port", timeout=PATIENCE)
        assert first.port == waiting.result(PATIENCE)
        closing.join(2 * PATIENCE)
        assert first.drained


def wait_busy(servers: list[WebMeshServer]) -> WebMeshServer:
    """The server that handles a call."""
    until = time.monotonic() + PATIENCE
    while time.monotonic() < until:
        for server in servers:
            if server._begun.parts.dispatcher.in_progress:
                return server
        gevent.sleep(0.01)
    raise AssertionError("no server was called")


@each_proxy
def test_a_proxy_waits_longer_than_two_pings(kind: str) -> None:
    """Else it cuts connections that are idle and well."""
    pattern: dict[str, str] = {
        "nginx": r"proxy_(?:read|send)_timeout (\d+)s", "haproxy": r"timeout (?:client|server|tunnel) (\d+)s",
    }  # fmt: skip
    name: Callable[[str], str] = {"nginx": "nginx.conf", "haproxy": "haproxy.cfg"}.__getitem__
    found = re.findall(pattern[kind], (DEPLOY / name(kind)).read_text(encoding="utf-8"))
    assert len(found) >= 2
    assert all(int(seconds) > 2 * Timeouts().ping_interval for seconds in found)
