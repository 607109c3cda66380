"""Story: the first example that anybody sees runs as it stands, and a person can speak to it by hand."""

from __future__ import annotations

import base64
import os
import subprocess
import sys
from collections.abc import Iterator
from socket import create_connection, socket

import pytest
from websockets.sync.client import connect

from tests.processes import ENVIRONMENT, run_python
from tests.running import PATIENCE

EXAMPLE = """
from typing import Any

from webmesh.message_serializers import {serializer}
from webmesh.webmesh_client import WebMeshClient
from webmesh.webmesh_server import WebMeshServer
from webmesh.websocket.websocket_connection import WebSocketConnection

server = WebMeshServer(serializer_type={serializer})


@server.on('/')
def echo(payload: Any, path: str, client: WebSocketConnection):
    return payload


server.listen('127.0.0.1', 0, blocking=False)
server.await_started()
"""
"""With a port that the system chooses, since many run at the same time."""

ASK = """
with WebMeshClient(server.url, serializer_type={serializer}) as client:
    print(client.call('/', 'hi'))
    print(client.call('/', {{'a': [1, 2.5, None, True, 'x']}}, timeout=5))
server.close()
"""

SERVE = """
import signal
signal.signal(signal.SIGTERM, lambda number, frame: server.close())
print(server.url, flush=True)
server.serve_forever()
"""

MODES = pytest.mark.parametrize("before", [(), ("-m", "gevent.monkey")], ids=["plain", "patched"])


@MODES
@pytest.mark.parametrize("serializer", ["MessagePackSerializer", "StandardJsonSerializer"])
@pytest.mark.row(90)
def test_the_example_runs(before: tuple[str, ...], serializer: str, tmp_path: object) -> None:
    """In a plain and in a patched process: it prints, ends by itself, and says nothing else."""
    script = f"{tmp_path}/example.py"
    with open(script, "w", encoding="utf-8") as file:
        file.write((EXAMPLE + ASK).format(serializer=serializer))

    done = run_python(*before, script)

    assert ("", 0) == (done.stderr, done.returncode)
    assert "hi\n{'a': [1, 2.5, None, True, 'x']}\n" == done.stdout


@pytest.fixture(params=[(), ("-m", "gevent.monkey")], ids=["plain", "patched"])
def url(request: pytest.FixtureRequest, tmp_path: object) -> Iterator[str]:
    """The example with JSON, serving in a process of its own."""
    script = f"{tmp_path}/example.py"
    with open(script, "w", encoding="utf-8") as file:
        file.write((EXAMPLE + SERVE).format(serializer="StandardJsonSerializer"))
    process = subprocess.Popen(
        [sys.executable, *request.param, script], env=ENVIRONMENT, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    assert process.stdout is not None
    yield process.stdout.readline().strip()
    process.terminate()
    _, errors = process.communicate(timeout=PATIENCE)
    assert ("", 0) == (errors, process.returncode)


def test_json_by_hand_from_any_client(url: str) -> None:
    """What is typed comes back; with an id it is a call."""
    with connect(url) as client:
        client.send('{"path": "/", "data": "hi"}')
        assert '{"path":"/","data":"hi"}' == client.recv(PATIENCE)
        client.send('{"path": "/", "data": "hi", "id": 1}')
        assert '{"id":1,"data":"hi"}' == client.recv(PATIENCE)
        client.send('{"path": "/nowhere", "id": 2}')
        assert str(client.recv(PATIENCE)).startswith('{"id":2,"error":{"code":"unimplemented","message":')


def test_json_by_hand_from_a_raw_socket(url: str) -> None:
    """With nothing but RFC 6455: a request head, a masked frame, and what is read."""
    host, port = url.removeprefix("ws://").split(":")
    with create_connection((host, int(port)), timeout=PATIENCE) as sock:
        key = base64.b64encode(os.urandom(16)).decode()
        sock.sendall(
            f"GET / HTTP/1.1\r\nHost: {host}:{port}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            f"Sec-WebSocket-Key: {key}\r\nSec-WebSocket-Version: 13\r\n\r\n".encode()
        )
        head = b""
        while not head.endswith(b"\r\n\r\n"):
            head += sock.recv(1)
        assert head.startswith(b"HTTP/1.1 101 ")

        message, mask = b'{"path": "/", "data": "hi"}', b"\x01\x02\x03\x04"
        masked = bytes(byte ^ mask[index % 4] for index, byte in enumerate(message))
        sock.sendall(bytes([0x81, 0x80 | len(message)]) + mask + masked)

        expected = b'{"path":"/","data":"hi"}'
        assert bytes([0x81, len(expected)]) + expected == read_exactly(sock, 2 + len(expected))

        sock.sendall(bytes([0x88, 0x82]) + b"\0\0\0\0" + b"\x03\xe8")
        assert b"\x88\x02\x03\xe8" == read_exactly(sock, 4)
        assert b"" == sock.recv(1)


def read_exactly(sock: socket, size: int) -> bytes:
    data = b""
    while len(data) < size:
        piece = sock.recv(size - len(data))
        assert piece, f"the server ended after {data!r}"
        data += piece
    return data
