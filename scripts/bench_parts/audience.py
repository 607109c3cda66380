"""An audience: many connections that subscribe, in one epoll loop, and one that publishes to them.

The servers under measurement differ in how one joins and publishes; a `Dialect` says it. Every delivery is counted by
its frame, the first ones are read in full. Pings are no deliveries.
"""

from __future__ import annotations

import gc
import json
import select
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass
from statistics import median

import msgpack

from bench_parts.load import PATIENCE, LoadFailed, Sample, receive_exactly, receive_frame
from bench_parts.processes import cpu_seconds
from bench_parts.wire import frame, text, upgrade_request

SIZE = 128
"""Bytes of the payload that is published."""

TOPIC = "news/today"
SETTLE = 0.05
"""Seconds before the CPU time is read, for what a server does after the last receiver has its message."""

BUFFER = 1 << 16


@dataclass(frozen=True)
class Dialect:
    """How to talk to one contestant.

    Attributes:
        opening: Sent first on every connection; empty for plain TCP.
        join: What a receiver sends, and how many messages come back before it sends the next.
        publish: What the publisher sends, by the number of the publication.
        holds: Whether the body of a delivery is the right one.
        enter: The same as *join* for the publisher.
    """

    opening: bytes
    join: tuple[tuple[bytes, int], ...]
    publish: Callable[[int], bytes]
    holds: Callable[[bytes], bool]
    enter: tuple[tuple[bytes, int], ...] = ()


def packed(**message: object) -> bytes:
    """A WebMesh message in its frame."""
    return frame(msgpack.packb(message))


def webmesh(*, group: str | None = None, session: bool = False) -> Dialect:
    """`$subscribe` and publications with an id (docs/PROTOCOL.md sections 2 and 4).

    Args:
        session: Receivers say `$hello` first, so that what they miss is kept for them.
    """
    asked = {"pattern": "news/*"} if group is None else {"pattern": "news/*", "group": group}
    hello = ((packed(path="$hello", id=0, data={"node": {"name": "bench"}}), 1),) if session else ()

    def holds(body: bytes) -> bool:
        delivered = msgpack.unpackb(body)
        return bool((delivered["topic"], delivered["data"]) == (TOPIC, text(SIZE)) and delivered["subs"])

    return Dialect(
        upgrade_request("/", subprotocol="webmesh.v1.msgpack"),
        (*hello, (packed(path="$subscribe", id=1, data=asked), 1)),
        lambda number: packed(topic=TOPIC, data=text(SIZE), id=number),
        holds,
    )


def frame_speech(opening: bytes = upgrade_request("/")) -> Dialect:
    """`join` and `publish` in text, of the servers that have no protocol of their own."""
    return Dialect(
        opening,
        ((frame(b"join", opcode=1), 1),),
        lambda number: frame(b"publish", opcode=1),
        lambda body: text(SIZE).encode() in body,
    )


def raw_speech() -> Dialect:
    """The floor's: one byte each, and frames back."""
    return Dialect(b"", ((b"J", 1),), lambda number: b"P", lambda body: text(SIZE).encode() in body)


def socketio() -> Dialect:
    """Socket.IO 5 over Engine.IO 4, by WebSocket from the start."""
    enter = ((b"", 1), (frame(b"40", opcode=1), 1))
    publication = frame(b'42["publish",' + json.dumps(text(SIZE)).encode() + b"]", opcode=1)
    return Dialect(
        upgrade_request("/socket.io/?EIO=4&transport=websocket"),
        (*enter, (frame(b'420["join"]', opcode=1), 1)),
        lambda number: publication,
        lambda body: bool(json.loads(body[2:]) == ["news", text(SIZE)]),
        enter,
    )


class Receiver:
    """One connection of the audience."""

    __slots__ = ("sock", "_rest")

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self._rest = b""

    def take(self, data: bytes) -> int:
        """Read what has come, answering pings; how many deliveries it completes."""
        data, position, found = self._rest + data, 0, 0
        while len(data) - position >= 2:
            size, start = data[position + 1], position + 2
            if size >= 126:
                start += 2 if size == 126 else 8
                size = int.from_bytes(data[position + 2 : start], "big")
            if len(data) < start + size:
                break
            opcode = data[position] & 0x0F
            position = start + size
            if opcode < 8:
                found += 1
            elif opcode == 8:
                raise LoadFailed(f"the server closed the connection of a receiver: {data[start:position]!r}")
            elif opcode == 9:
                self.sock.sendall(frame(data[start:position], opcode=10))
        self._rest = data[position:]
        return found


def read_head(sock: socket.socket) -> None:
    """The head of the answer to the upgrade, and not a byte more: some servers speak at once."""
    while True:
        seen = sock.recv(4096, socket.MSG_PEEK)
        end = seen.find(b"\r\n\r\n")
        if end >= 0 or not seen:
            break
    if not seen.startswith(b"HTTP/1.1 101 "):
        raise LoadFailed(f"the upgrade was refused: {seen[:100]!r}")
    receive_exactly(sock, end + 4)


def dial(port: int, dialect: Dialect, steps: tuple[tuple[bytes, int], ...]) -> socket.socket:
    """A connection that has said what there is to say, and has its answers."""
    sock = socket.create_connection(("127.0.0.1", port), timeout=PATIENCE)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    if dialect.opening:
        sock.sendall(dialect.opening)
        read_head(sock)
    for message, answers in steps:
        sock.sendall(message)
        while answers:
            head, body = receive_frame(sock)
            if head[0] & 0x0F == 8:
                raise LoadFailed(f"the server closed the connection of a receiver: {body!r}")
            answers -= not head[0] & 0x08
    return sock


class Audience:
    """Receivers, and who publishes to them."""

    def __init__(self, port: int, pid: int, dialect: Dialect) -> None:
        self.port, self.pid, self.dialect = port, pid, dialect
        self.receivers: dict[int, Receiver] = {}
        self.poll = select.epoll()
        self.published = 0
        self.publisher = dial(port, dialect, dialect.enter)
        self.poll.register(self.publisher, select.EPOLLIN)

    def grow(self, size: int) -> None:
        """Let receivers join until there are so many."""
        while len(self.receivers) < size:
            sock = dial(self.port, self.dialect, self.dialect.join)
            self.receivers[sock.fileno()] = Receiver(sock)
            self.poll.register(sock, select.EPOLLIN)

    def check(self) -> None:
        """One publication, which every receiver must get, and rightly."""
        self._publish()
        for receiver in self.receivers.values():
            head, body = receive_frame(receiver.sock)
            while head[0] & 0x08:  # a ping of its, meanwhile
                head, body = receive_frame(receiver.sock)
            if not self.dialect.holds(body):
                raise LoadFailed(f"a wrong delivery: {body[:200]!r}")

    def fan_out(self, publications: int, warm_up: int) -> Sample:
        """Publish, each time once all have the last one; the CPU time is that of a receiver."""
        self.check()
        gc.collect()
        gc.disable()
        try:
            for _ in range(warm_up):
                self._round(len(self.receivers))
            time.sleep(SETTLE)
            cpu, started = cpu_seconds(self.pid), time.perf_counter()
            walls = sorted(self._round(len(self.receivers)) for _ in range(publications))
            seconds = time.perf_counter() - started
            time.sleep(SETTLE)
            cpu = cpu_seconds(self.pid) - cpu
        finally:
            gc.enable()
        return Sample(publications * len(self.receivers), seconds, cpu, (median(walls), walls[-1]))

    def shared(self, publications: int, window: int) -> Sample:
        """Publish to a group, *window* at a time; one member gets each. The CPU time is that of a publication."""
        self._round(1)
        time.sleep(SETTLE)
        cpu, started = cpu_seconds(self.pid), time.perf_counter()
        walls = sorted(self._round(window, window) for _ in range(publications // window))
        seconds = time.perf_counter() - started
        time.sleep(SETTLE)
        cpu = cpu_seconds(self.pid) - cpu
        return Sample(publications // window * window, seconds, cpu, (median(walls), walls[-1]))

    def close(self) -> None:
        """Drop all connections."""
        for sock in (self.publisher, *(receiver.sock for receiver in self.receivers.values())):
            sock.close()
        self.poll.close()

    def _publish(self, count: int = 1) -> None:
        messages = [self.dialect.publish(100_000 + self.published + number) for number in range(count)]
        self.published += count
        self.publisher.sendall(b"".join(messages))

    def _round(self, expected: int, publications: int = 1) -> float:
        """Publish; returns how long it took until the last delivery was there."""
        started = last = time.perf_counter()
        self._publish(publications)
        while expected > 0:
            events = self.poll.poll(1.0)
            now = time.perf_counter()
            for fd, _ in events:
                expected -= self._receive(fd)
            if events:
                last = now
            elif now - last > PATIENCE:
                raise LoadFailed(f"{expected} deliveries did not come")
        if expected:
            raise LoadFailed(f"{-expected} deliveries too many")
        return time.perf_counter() - started

    def _receive(self, fd: int) -> int:
        receiver = self.receivers.get(fd)
        if receiver is None:
            if not self.publisher.recv(BUFFER):
                raise LoadFailed("the server closed the publisher's connection")
            return 0
        data = receiver.sock.recv(BUFFER)
        if not data:
            raise LoadFailed("the server closed the connection of a receiver")
        return receiver.take(data)
