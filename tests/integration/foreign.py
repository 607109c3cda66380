"""Clients of other makers, written from docs/PROTOCOL.md alone: nothing of WebMesh is used here.

One over `websockets`, one over picows in a process of its own. Each says and hears whole maps in JSON or msgpack.
"""

from __future__ import annotations

import atexit
import base64
import json
import subprocess
import sys
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

import msgpack
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect
from websockets.typing import Subprotocol

Body = str | bytes
PATIENCE = 10.0


class End(Exception):
    """The connection has ended: `args` are code and reason."""


class Wire(Protocol):
    """A WebSocket that carries bodies."""

    def send(self, body: Body) -> None:
        """Send one message."""

    def receive(self) -> Body:
        """The next message, or `End`."""

    def ping(self) -> None:
        """Ping and wait for the pong."""


class WebsocketsWire:
    def __init__(self, url: str, subprotocol: str | None) -> None:
        offered = [Subprotocol(subprotocol)] if subprotocol else None
        self._context = connect(url, subprotocols=offered, max_size=2**22)
        self.connection = self._context.__enter__()

    def send(self, body: Body) -> None:
        self.connection.send(body)

    def receive(self) -> Body:
        try:
            return self.connection.recv(PATIENCE)
        except ConnectionClosed as closed:
            end = closed.rcvd
            raise End(*(end.code, end.reason) if end else (1006, "")) from None

    def ping(self) -> None:
        assert self.connection.ping().wait(PATIENCE)

    def close(self) -> None:
        self._context.__exit__(None, None, None)


class PicowsWire:
    """One connection of the process that runs picows."""

    _bridge: subprocess.Popen[str] | None = None
    _opened = 0

    def __init__(self, url: str, subprotocol: str | None) -> None:
        cls = type(self)
        if cls._bridge is None:  # one for all tests: a process for each would take longer than they do
            cls._bridge = subprocess.Popen(
                [sys.executable, str(Path(__file__).with_name("picows_bridge.py"))],
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
            )  # fmt: skip
            atexit.register(cls._bridge.kill)
        cls._opened += 1
        self._number = cls._opened
        self._tell(open=url, subprotocol=subprotocol)
        answer = self._next()
        if "failed" in answer:
            raise ConnectionError(answer["failed"])

    def _tell(self, **order: Any) -> None:
        assert self._bridge is not None and self._bridge.stdin is not None
        self._bridge.stdin.write(json.dumps({"n": self._number, **order}) + "\n")
        self._bridge.stdin.flush()

    def _next(self) -> dict[str, Any]:
        assert self._bridge is not None and self._bridge.stdout is not None
        while True:
            told: dict[str, Any] = json.loads(self._bridge.stdout.readline())
            if told.pop("n") == self._number:  # the end of an earlier one may come late
                return told

    def send(self, body: Body) -> None:
        if isinstance(body, str):
            self._tell(text=body)
        else:
            self._tell(bytes=base64.b64encode(body).decode())

    def receive(self) -> Body:
        told = self._next()
        if "end" in told:
            raise End(*told["end"])
        return told["text"] if "text" in told else base64.b64decode(told["bytes"])

    def ping(self) -> None:
        self._tell(ping=True)
        assert "pong" in self._next()

    def close(self) -> None:
        self._tell(drop=True)


WIRES: dict[str, Callable[[str, str | None], Any]] = {"websockets": WebsocketsWire, "picows": PicowsWire}


def to_json(message: Any) -> Body:
    return json.dumps(message)


def from_json(body: Body) -> Any:
    assert isinstance(body, str), "JSON comes in text messages"
    return json.loads(body)


def to_msgpack(message: Any) -> Body:
    packed: bytes = msgpack.packb(message)
    return packed


def from_msgpack(body: Body) -> Any:
    assert isinstance(body, bytes), "msgpack comes in binary messages"
    return msgpack.unpackb(zlib.decompress(body) if body[:1] == b"\x78" else body)


BODIES = {"json": (to_json, from_json), "msgpack": (to_msgpack, from_msgpack)}


class Foreign:
    """A conversation from the asking side, map by map."""

    def __init__(self, wire: Wire, body: str) -> None:
        self.wire = wire
        self._encode, self._decode = BODIES[body]

    def say(self, **message: Any) -> None:
        """Send a map."""
        self.wire.send(self._encode(message))

    def say_raw(self, message: Any) -> None:
        """Send anything that is no map, or a map of any keys."""
        self.wire.send(self._encode(message))

    def hear(self) -> Any:
        """The next map."""
        return self._decode(self.wire.receive())

    def ask(self, path: str, id: Any, data: Any = None, **keys: Any) -> Any:
        """Send a request and hear what comes next."""
        self.say(path=path, id=id, data=data, **keys)
        return self.hear()

    def end(self) -> tuple[int, str]:
        """How the server ends the connection; nothing else may come before."""
        try:
            heard = self.hear()
        except End as end:
            return end.args[0], end.args[1] or ""
        raise AssertionError(f"heard {heard!r} in place of the end")


@contextmanager
def talking(url: str, wire: str, body: str, *, named: bool = True) -> Iterator[Foreign]:
    """A conversation with the server at *url*.

    Args:
        named: Whether the subprotocol is offered; otherwise the server's own serializer must be *body*'s.
    """
    opened = WIRES[wire](url, f"webmesh.v1.{body}" if named else None)
    try:
        yield Foreign(opened, body)
    finally:
        opened.close()
