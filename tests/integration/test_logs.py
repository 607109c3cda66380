"""What is logged under attack and in a whole session: few lines, no payloads, no secrets, and nobody waits for them."""

from __future__ import annotations

import logging
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import pytest

from tests.processes import run_program
from tests.running import PATIENCE, connected, running, wait_for
from webmesh.exceptions import ConnectFailed, HandlerFailed, RouteNotFound, WebMeshError
from webmesh.log_limit import RATE
from webmesh.observability.logs import JsonFormatter, TextFormatter
from webmesh.options import Limits
from webmesh.webmesh_client import WebMeshClient
from webmesh.webmesh_server import WebMeshServer

MARK = "MARK7f3a"
"""Stands in everything that must not be logged."""

UPGRADE = (
    b"GET /%s HTTP/1.1\r\nhost: localhost\r\nconnection: upgrade\r\nupgrade: websocket\r\n"
    b"sec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n%s\r\n"
)
BAD = (
    b"", b"\x16\x03\x01\x02\x00\x01\x00", b"GARBAGE\r\n\r\n", b"GET / HTTP/1.1\r\n\r\n", b"PRI * HTTP/2.0\r\n\r\n",
    b"POST / HTTP/1.1\r\nhost: localhost\r\n\r\n", UPGRADE % (b"nowhere", b""),
    UPGRADE % (b"", b"origin: http://evil.example\r\n"), UPGRADE % (b"", b"") + b"\xff\xff\xff\xff",
    UPGRADE % (b"", b"") + b"\x81\x05hello",
)  # fmt: skip
"""Ten kinds of bad connections: silent, TLS, garbage, without a host, HTTP/2, a body, no route, a foreign page, frames
that are none, and a frame without a mask."""


class Lines(logging.Handler):
    """Everything that is logged, as it would be written."""

    def __init__(self) -> None:
        super().__init__()
        self.records: list[logging.LogRecord] = []
        self.text: list[str] = []
        self._formatters = (TextFormatter(), JsonFormatter())

    def emit(self, record: logging.LogRecord) -> None:
        self.records.append(record)
        self.text += [formatter.format(record) for formatter in self._formatters]

    @property
    def count(self) -> int:
        """Lines of text."""
        return sum(text.count("\n") + 1 for text in self.text[::2])


@contextmanager
def logged(level: int) -> Iterator[Lines]:
    """What the package's loggers say meanwhile."""
    logger, lines = logging.getLogger("webmesh"), Lines()
    before = logger.level
    logger.addHandler(lines)
    logger.setLevel(level)
    try:
        yield lines
    finally:
        logger.removeHandler(lines)
        logger.setLevel(before)


@pytest.mark.row(46)
def test_an_attack_writes_few_lines() -> None:
    """2,000 bad connections and 2,000 calls that fail: at most 100 lines a second in all."""
    server = WebMeshServer(limits=Limits(accept_rate=1_000_000, address_failures=1_000_000))

    @server.on("/fails")
    def fails(payload: Any, path: str, client: Any) -> None:
        raise ZeroDivisionError

    with logged(logging.INFO) as lines, connected(server) as client:
        began = time.monotonic()
        for number in range(2000):
            with socket.create_connection(("127.0.0.1", server.port or 0), timeout=PATIENCE) as sock:
                with suppress(OSError):
                    sock.sendall(BAD[number % len(BAD)])
            if number % 40 == 0:
                futures = [client.spawn("/fails", timeout=PATIENCE) for _ in range(40)]
                for future in futures:
                    with pytest.raises(HandlerFailed):
                        future.result()
        seconds = time.monotonic() - began

    assert lines.records
    assert lines.count <= 2 * RATE * (seconds + 1) + 50  # one traceback, and what begins and ends


def test_a_bad_connection_is_one_line() -> None:
    """At most: however it is bad."""
    for bad in BAD:
        with logged(logging.INFO) as lines, running(WebMeshServer()) as server:
            with socket.create_connection(("127.0.0.1", server.port or 0), timeout=PATIENCE) as sock:
                sock.sendall(bad)
                sock.shutdown(socket.SHUT_WR)
                with suppress(OSError):
                    while sock.recv(65536):
                        pass
            assert wait_for(lambda: not server.connections)
        about = [one for one in lines.records if one.getMessage() not in ("listening", "closed")]
        assert len(about) <= 1, (bad, [one.getMessage() for one in about])
        assert len(lines.text[0].splitlines()) == 1


@pytest.mark.row(58)
def test_nothing_that_is_logged_holds_payloads_or_secrets() -> None:
    """At DEBUG, over a whole session: payloads, headers, tokens in URLs, ids of plain messages, answers."""
    server = WebMeshServer()

    @server.on("/echo")
    def echo(payload: Any, path: str, client: Any) -> Any:
        client.notify("/told", payload)
        return payload

    @server.on("/fails")
    def fails(payload: Any, path: str, client: Any) -> None:
        raise ZeroDivisionError

    @server.websocket("/plain")
    def plain(connection: Any) -> None:
        for message in connection:
            connection.send(message)

    with logged(logging.DEBUG) as lines, running(server):
        options: dict[str, Any] = {"headers": {"Authorization": f"Bearer {MARK}", "Cookie": f"session={MARK}"}}
        with WebMeshClient(f"{server.url}/?token={MARK}", **options) as client:
            assert MARK == client.call("/echo", MARK, headers={"x-key": MARK}, timeout=PATIENCE)
            client.notify("/fails", MARK)
            with pytest.raises(HandlerFailed):
                client.call("/fails", {"password": MARK}, timeout=PATIENCE)
            with pytest.raises(RouteNotFound):
                client.call("/nowhere", MARK, timeout=PATIENCE)
            client.notify("/nowhere", MARK)
            list(client.stream("/echo", MARK, timeout=PATIENCE))
        with suppress(WebMeshError), WebMeshClient(f"{server.url}/missing?token={MARK}", **options):
            pass
    with logged(logging.DEBUG) as failing, pytest.raises(ConnectFailed):
        with WebMeshClient(f"ws://127.0.0.1:1/?token={MARK}", **options):
            pass

    assert lines.records
    found = [text for text in (*lines.text, *failing.text) if MARK in text]
    assert [] == found


@pytest.mark.row(85)
@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="there is no device that is always full")
def test_a_full_disk_below_the_log_holds_up_nobody() -> None:
    """Lines are dropped and counted; calls go on."""
    done = run_program(
        "import logging, os\n"
        "from webmesh import WebMeshClient, WebMeshServer\n"
        "from webmesh.observability.logs import set_up_logging\n"
        "handler = set_up_logging(descriptor=os.open('/dev/full', os.O_WRONLY))\n"
        "server = WebMeshServer()\n"
        "@server.on('/echo')\n"
        "def echo(payload, path, client):\n"
        "    logging.getLogger('shop').info('a line')\n"
        "    return payload\n"
        "server.listen(port=0)\n"
        "with server, WebMeshClient(server.url) as client:\n"
        "    print(sum(client.call('/echo', 1) for _ in range(200)))\n"
        "handler.flush()\n"
        "print(handler.writer.dropped > 100)\n"
    )
    assert "200\nTrue\n" == done
