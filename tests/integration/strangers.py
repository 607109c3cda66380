"""What tests of limits and proxies share: raw peers that come from addresses of their own.

All of 127.0.0.0/8 is this machine, so each address of it can play another client.
"""

from __future__ import annotations

from typing import Any

from gevent.socket import create_connection, socket

from tests.running import PATIENCE
from webmesh.message_serializers import StandardJsonSerializer
from webmesh.webmesh_server import WebMeshServer

HEAD = (
    "Host: localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
    "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n"
)
UPGRADE = f"GET / HTTP/1.1\r\n{HEAD}\r\n".encode()
CLOSE = b"\x88\x82\0\0\0\0\x03\xe8"
"""A masked close frame with 1000."""


def json_server(**options: Any) -> WebMeshServer:
    """A server that tells each caller its address."""
    server = WebMeshServer(serializer_type=StandardJsonSerializer, **options)
    server.on("/who")(lambda payload, path, client: client.address)
    return server


def dial(server: WebMeshServer, source: str = "127.0.0.1") -> socket:
    """A TCP connection from the address *source*."""
    return create_connection(("127.0.0.1", server.port), timeout=PATIENCE, source_address=(source, 0))


def upgrade(more: str = "", path: str = "/") -> bytes:
    """A request with further header lines, each with its line end."""
    return f"GET {path} HTTP/1.1\r\n{HEAD}{more}\r\n".encode()


def connect(server: WebMeshServer, source: str = "127.0.0.1", *, before: bytes = b"", more: str = "") -> socket:
    """A WebSocket connection from the address *source*."""
    sock = dial(server, source)
    sock.sendall(before + upgrade(more))
    answer = read_head(sock)
    assert 101 == status(answer), answer
    return sock


def answer(server: WebMeshServer, source: str = "127.0.0.1", sent: bytes = UPGRADE) -> bytes:
    """What a peer is told until the server closes; empty when it is told nothing."""
    heard = b""
    with dial(server, source) as sock:
        try:
            sock.sendall(sent)
            while piece := sock.recv(65536):
                heard += piece
        except ConnectionError:  # closed on bytes that nobody read
            pass
    return heard


def read_head(sock: socket) -> bytes:
    """One HTTP head, and what came with it."""
    heard = b""
    while b"\r\n\r\n" not in heard:
        piece = sock.recv(65536)
        assert piece, f"ended after {heard!r}"
        heard += piece
    return heard


def status(head: bytes) -> int:
    """The status of an HTTP answer."""
    return int(head.split(b" ", 2)[1])


def retry_after(head: bytes) -> int:
    """Seconds after which an HTTP answer says to come back."""
    (line,) = [line for line in head.lower().split(b"\r\n") if line.startswith(b"retry-after:")]
    return int(line.partition(b":")[2])


def who(sock: socket) -> str:
    """The address that the server knows this WebSocket peer by."""
    text = b'{"path":"/who","id":1}'
    sock.sendall(bytes([0x81, 0x80 | len(text), 0, 0, 0, 0]) + text)
    heard = b""
    while not heard.endswith(b"}"):
        piece = sock.recv(65536)
        assert piece, f"ended after {heard!r}"
        heard += piece
    return heard.split(b'"data":"')[1].partition(b'"')[0].decode()
