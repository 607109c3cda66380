"""Story: strangers find the port; each gets a short answer or none, and the calls of others go on."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from gevent.socket import create_connection, socket

from tests.running import PATIENCE, Census, running, wait_for
from webmesh.message_serializers import StandardJsonSerializer
from webmesh.options import Limits, Timeouts
from webmesh.testing import RecordingObserver
from webmesh.webmesh_client import WebMeshClient
from webmesh.webmesh_server import WebMeshServer

KEY = "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n"
HEAD = f"Host: shop.example\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n{KEY}"


def upgrade(path: str = "/", more: str = "", *, head: str = HEAD) -> bytes:
    return f"GET {path} HTTP/1.1\r\n{head}{more}\r\n".encode("latin-1")


@contextmanager
def served(**options: Any) -> Iterator[tuple[WebMeshServer, RecordingObserver]]:
    observer = RecordingObserver()
    server = WebMeshServer(
        serializer_type=StandardJsonSerializer, allowed_hosts=["shop.example", "127.0.0.1"], observer=observer,
        **options,
    )  # fmt: skip
    server.on("/")(lambda payload, path, client: payload)
    server.websocket("/plain/<name>")(lambda connection, name: [connection.send(message) for message in connection])
    with running(server):
        yield server, observer


def dial(server: WebMeshServer) -> socket:
    return create_connection(("127.0.0.1", server.port), timeout=PATIENCE)


def read_to_end(sock: socket) -> bytes:
    heard = b""
    while piece := sock.recv(65536):
        heard += piece
    return heard


def frame(text: str) -> bytes:
    """A masked text frame, with a mask of zeros."""
    return bytes([0x81, 0x80 | len(text), 0, 0, 0, 0]) + text.encode()


REFUSED = [
    pytest.param(b"GET / HTTP/1.1\r\n\r\n", 400, id="no host", marks=pytest.mark.row(9)),
    pytest.param(upgrade(head=HEAD.replace("shop", "evil")), 403, id="another host", marks=pytest.mark.row(9)),
    pytest.param(upgrade(more="Origin: https://evil.example\r\n"), 403, id="origin", marks=pytest.mark.row(10)),
    pytest.param(upgrade(more="Origin: null\r\n"), 403, id="null origin", marks=pytest.mark.row(10)),
    pytest.param(upgrade("/" + "x" * 9000), 414, id="long line", marks=pytest.mark.row(3)),
    pytest.param(upgrade(more="X: " + "x" * 9000 + "\r\n"), 431, id="long header", marks=pytest.mark.row(3)),
    pytest.param(upgrade(more="X: x\r\n" * 200), 431, id="many headers", marks=pytest.mark.row(3)),
    pytest.param(upgrade("/caf\xe9"), 400, id="not ASCII", marks=pytest.mark.row(4)),
    pytest.param(upgrade(more="Content-Length: 5\r\n") + b"hello", 400, id="body", marks=pytest.mark.row(5)),
    pytest.param(upgrade().replace(b"1.1", b"1.0"), 505, id="HTTP/1.0", marks=pytest.mark.row(6)),
    pytest.param(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 505, id="HTTP/2", marks=pytest.mark.row(6)),
    pytest.param(upgrade().replace(b"GET", b"POST"), 405, id="POST", marks=pytest.mark.row(6)),
    pytest.param(b"SSH-2.0-OpenSSH_9.2\r\n", 400, id="SSH", marks=pytest.mark.row(6)),
    pytest.param(upgrade().replace(b"\r\n", b"\n"), 400, id="bare LF", marks=pytest.mark.row(7)),
    pytest.param(upgrade(more="X: a\r\n b\r\n"), 400, id="folded", marks=pytest.mark.row(7)),
    pytest.param(upgrade(more="X : a\r\n"), 400, id="space before colon", marks=pytest.mark.row(7)),
    pytest.param(upgrade(head=HEAD.replace(KEY, "")), 400, id="no key", marks=pytest.mark.row(8)),
    pytest.param(upgrade(more=KEY), 400, id="two keys", marks=pytest.mark.row(8)),
    pytest.param(upgrade(head=HEAD.replace("13", "8")), 426, id="old version", marks=pytest.mark.row(8)),
    pytest.param(upgrade(more="Sec-WebSocket-Protocol: soap\r\n"), 400, id="subprotocol", marks=pytest.mark.row(12)),
    pytest.param(upgrade("/nowhere"), 404, id="no route", marks=pytest.mark.row(13)),
    pytest.param(upgrade("/plain/%2e%2e"), 400, id="climbing", marks=pytest.mark.row(13)),
    pytest.param(upgrade("//"), 400, id="empty segment", marks=pytest.mark.row(13)),
    pytest.param(upgrade("/plain/%00"), 400, id="NUL", marks=pytest.mark.row(13)),
    pytest.param(upgrade("http://evil.example/"), 400, id="absolute", marks=pytest.mark.row(13)),
]


@pytest.mark.parametrize(("request_", "status"), REFUSED)
def test_a_bad_request_gets_a_short_answer(
    request_: bytes, status: int, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    """One answer, one line in the log at most, no traceback; whoever is connected notices nothing."""
    caplog.set_level(logging.DEBUG, "webmesh.server")
    with served() as (server, observer), WebMeshClient(server.url) as client:
        with dial(server) as stranger:
            stranger.sendall(request_)
            answer = read_to_end(stranger)
        assert 1 == client.call("/", 1, timeout=PATIENCE)
        assert [status] == [status for _, status, _ in observer.named("handshake_refused")]

    assert answer.startswith(f"HTTP/1.1 {status} ".encode())
    assert len(answer) < 1000
    about_it = [one for one in caplog.records if one.message not in ("listening", "closed")]
    assert len(about_it) <= 1 and not any(one.exc_info for one in about_it)
    assert "" == capfd.readouterr().err


@pytest.mark.row(1, 2)
@pytest.mark.parametrize("said", [b"", b"GET / HTTP/1.1\r\nHo", upgrade()[:-2]])
def test_who_does_not_finish_is_closed(said: bytes) -> None:
    """At the deadline of the whole head."""
    with served(timeouts=Timeouts(upgrade=0.1)) as (server, observer):
        with dial(server) as silent:
            silent.sendall(said)
            read_to_end(silent)
        assert wait_for(lambda: observer.named("handshake_refused"))


@pytest.mark.row(16)
@pytest.mark.parametrize("cut", [0, 1, 7])
def test_frames_in_the_packet_of_the_upgrade_are_handled(cut: int) -> None:
    """In order, on the mesh and on a plain route; a frame may begin there and end later."""
    with served() as (server, _):
        first, second = frame('{"path":"/","id":1}'), frame('{"path":"/","id":2}')
        with dial(server) as hasty:
            data = upgrade() + first + second
            hasty.sendall(data[: len(data) - cut])
            hasty.sendall(data[len(data) - cut :])
            expected = b'{"id":1,"data":null}', b'{"id":2,"data":null}'
            heard = read_until(hasty, expected[1])
            assert heard.index(expected[0]) < heard.index(expected[1])
        with dial(server) as hasty:
            hasty.sendall(upgrade("/plain/x") + frame("one") + frame("two"))
            assert read_until(hasty, b"two").endswith(b"\x81\x03one\x81\x03two")


def read_until(sock: socket, end: bytes) -> bytes:
    heard = b""
    while not heard.endswith(end):
        piece = sock.recv(65536)
        assert piece, f"ended after {heard!r}"
        heard += piece
    return heard


@pytest.mark.row(11)
@pytest.mark.parametrize("offer", ["permessage-deflate; server_max_window_bits=7", "x" * 100, "permessage-deflate;;"])
def test_a_bad_offer_of_compression_is_declined(offer: str) -> None:
    """The upgrade succeeds without."""
    with served(compression=True) as (server, _), dial(server) as peer:
        peer.sendall(upgrade(more=f"Sec-WebSocket-Extensions: {offer}\r\n"))
        answer = read_until(peer, b"\r\n\r\n")
        assert answer.startswith(b"HTTP/1.1 101 ")
        assert b"extensions" not in answer.lower()


def test_a_full_server_says_so() -> None:
    """503 with the time to come back; when one leaves there is room again."""
    with served(limits=Limits(connections=2)) as (server, _):
        first, second = WebMeshClient(server.url), WebMeshClient(server.url)
        first.connect()
        second.connect()
        with dial(server) as third:
            third.sendall(upgrade())
            answer = read_to_end(third)
            assert answer.startswith(b"HTTP/1.1 503 ") and b"retry-after: 5" in answer.lower()
        second.close()
        assert wait_for(lambda: len(server.connections) == 1)
        with WebMeshClient(server.url) as third_client:
            assert 1 == third_client.call("/", 1, timeout=PATIENCE)
        first.close()


@pytest.mark.parametrize(
    ("path", "status"), [("/livez", 200), ("/readyz", 200), ("/", 426), ("/plain/x", 404), ("/etc/passwd", 404)]
)
def test_the_port_speaks_http(path: str, status: int) -> None:
    """Health for those who watch over it, hints for those who came by mistake."""
    with served() as (server, _), dial(server) as browser:
        browser.sendall(f"GET {path} HTTP/1.1\r\nHost: shop.example\r\n\r\n".encode())
        assert read_to_end(browser).startswith(f"HTTP/1.1 {status} ".encode())


@pytest.mark.row(71, 86)
def test_strangers_leave_nothing_behind() -> None:
    """A hundred of all kinds, some of which go in the middle."""
    with served(timeouts=Timeouts(upgrade=0.2, close=0.2)) as (server, _), WebMeshClient(server.url) as client:
        client.call("/", timeout=PATIENCE)
        census = Census()
        for number in range(100):
            with dial(server) as stranger:
                request = REFUSED[number % len(REFUSED)].values[0]
                assert isinstance(request, bytes)
                stranger.sendall(request[: len(request) // (1 + number % 3)])
        assert wait_for(lambda: server._begun.listener.newcomers == 0)
        assert {} == census.grown()
        assert 1 == client.call("/", 1, timeout=PATIENCE)
