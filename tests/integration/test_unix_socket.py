"""Story: a server behind a Unix socket, for programs on the same machine."""

from __future__ import annotations

import os
import socket
import stat
from pathlib import Path
from typing import Any

import pytest
from websockets.sync.client import unix_connect

from tests.processes import run_program
from tests.running import PATIENCE, Census, running
from webmesh.exceptions import ConfigurationError, ConnectFailed, HandshakeRejected, TransportError
from webmesh.message_serializers import StandardJsonSerializer
from webmesh.webmesh_client import WebMeshClient
from webmesh.webmesh_server import WebMeshServer


def echo_server(**options: Any) -> WebMeshServer:
    server = WebMeshServer(**options)
    server.on("/")(lambda payload, path, client: [payload, client.address])
    return server


@pytest.mark.parametrize("name", ["shop.sock", "a shop's socket", "größe", "100%.sock", "a?b#c@d:e", "Mixed.Case"])
def test_calls_go_over_a_unix_socket(tmp_path: Path, name: str) -> None:
    """`url` leads there, whatever the file is called."""
    path = str(tmp_path / name)
    server = echo_server()
    with running(server, unix=path):
        assert (f"unix:{path}", None) == (server.address, server.port)
        with WebMeshClient(server.url) as client:
            assert ["hi", f"unix:{path}"] == client.call("/", "hi", timeout=PATIENCE)


@pytest.mark.parametrize("mount", ["/mesh", "/a b/c", "/größe"])
def test_a_mount_can_be_reached_too(tmp_path: Path, mount: str) -> None:
    """The URL has room for both paths; the mesh is at no other."""
    server = echo_server(mount=mount)
    with running(server, unix=str(tmp_path / "s")):
        with WebMeshClient(server.url) as client:
            assert 1 == client.call("/", 1, timeout=PATIENCE)[0]
        wrong = WebMeshClient(f"ws+unix://{tmp_path}/s")
        with pytest.raises(HandshakeRejected):
            wrong.connect()
        wrong.close()


@pytest.mark.parametrize("patch", ["", "from gevent import monkey; monkey.patch_all()\n"], ids=["plain", "patched"])
def test_a_relative_path_works(tmp_path: Path, patch: str) -> None:
    """As the command line's user would write it."""
    program = """
from webmesh import WebMeshClient, WebMeshServer
server = WebMeshServer()
server.on("/")(lambda payload, path, client: payload)
server.listen(unix="shop.sock")
server.await_started()
with WebMeshClient(server.url) as client:
    print(client.call("/", "hi"))
server.close()
"""
    assert "hi\n" == run_program(patch + program, folder=tmp_path)


def test_plain_routes_and_foreign_clients_are_served(tmp_path: Path) -> None:
    """The same server in every other respect."""
    path = str(tmp_path / "s")
    server = echo_server(serializer_type=StandardJsonSerializer)
    server.websocket("/plain")(lambda connection: connection.send(connection.receive()))
    with running(server, unix=path):
        with unix_connect(path, uri="ws://localhost/plain") as peer:
            peer.send("hi")
            assert "hi" == peer.recv(PATIENCE)
        with unix_connect(path, uri="ws://localhost/") as peer:
            peer.send('{"path": "/", "id": 1}')
            assert '{"id":1,"data":[null,' in str(peer.recv(PATIENCE))


def test_the_file_goes_with_the_server(tmp_path: Path) -> None:
    """And nothing else is left; the path can be used again."""
    census, path = Census(), tmp_path / "s"
    for _ in range(2):
        server = echo_server()
        with running(server, unix=str(path)):
            assert stat.S_ISSOCK(path.stat().st_mode)
            with WebMeshClient(server.url) as client:
                client.call("/", timeout=PATIENCE)
        assert not path.exists()
    assert {} == census.grown()


def test_a_stale_file_is_taken_over_and_a_live_one_is_not(tmp_path: Path) -> None:
    """A process that was killed leaves its file; a living server keeps it."""
    path = str(tmp_path / "s")
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(path)
    first = echo_server()
    with running(first, unix=path):
        second = echo_server()
        second.listen(unix=path)
        with pytest.raises(TransportError, match="cannot listen on unix:"):
            second.await_started()
        second.close()
        with WebMeshClient(first.url) as client:
            assert 1 == client.call("/", 1, timeout=PATIENCE)[0]


@pytest.mark.parametrize("path", ["", "a\0b"])
def test_a_path_that_is_none_is_refused(path: str) -> None:
    """It is an address that does not exist, so it is told as one."""
    server = echo_server()
    server.listen(unix=path)
    with pytest.raises((ConfigurationError, TransportError)):
        server.await_started()
    server.close()


def test_a_file_that_is_no_socket_is_left_alone(tmp_path: Path) -> None:
    """Nobody's data is removed."""
    path = tmp_path / "data"
    path.write_text("precious")
    server = echo_server()
    server.listen(unix=str(path))
    with pytest.raises(TransportError):
        server.await_started()
    server.close()
    assert "precious" == path.read_text()


def test_a_socket_that_is_gone_is_an_error_that_names_it(tmp_path: Path) -> None:
    """And when it is there again the same client finds it."""
    path = str(tmp_path / "s")
    client = WebMeshClient(f"ws+unix://{path}")
    with pytest.raises(ConnectFailed, match="/s"):
        client.call("/", fail_fast=True)
    server = echo_server()
    with running(server, unix=path):
        assert 1 == client.call("/", 1, timeout=PATIENCE)[0]
        (connection,) = server.connections
        connection.abort()
        assert connection.wait_closed(PATIENCE)
        assert 2 == client.call("/", 2, timeout=PATIENCE)[0]
    client.close()


def test_a_path_that_is_too_long_is_told(tmp_path: Path) -> None:
    """The system's limit is about a hundred bytes."""
    server = echo_server()
    server.listen(unix=str(tmp_path / ("x" * 200)))
    with pytest.raises(TransportError, match="cannot listen on unix:"):
        server.await_started()
    server.close()
    assert [] == os.listdir(tmp_path)
