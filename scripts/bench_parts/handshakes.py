"""Opening connections: how many a second and at what cost, and how much memory idle ones take."""

from __future__ import annotations

import select
import socket
import time
from dataclasses import dataclass

from bench_parts.load import PATIENCE, LoadFailed, Sample, connect, percentiles, receive_exactly, receive_frame
from bench_parts.processes import ServerProcess, cpu_seconds, resident_bytes
from bench_parts.wire import Speech

AT_ONCE = 32
"""Handshakes under way at any moment."""

SETTLE = 0.0005
"""Seconds per connection before memory is read, for what the server still has to do after the last one."""

WARM_CONNECTIONS = 100
"""Opened and used before the first reading, so that what a server allocates once is not counted."""


class Opener:
    """Opens connections, waits for the answer to the upgrade (or for one echoed byte), closes, opens anew."""

    def __init__(self, port: int, pid: int, speech: Speech) -> None:
        self.address = ("127.0.0.1", port)
        self.pid = pid
        self.opening = speech.opening or b"x"
        self.upgrades = bool(speech.opening)
        self.poll = select.epoll()
        self.under_way: dict[int, tuple[socket.socket, float]] = {}
        self.latencies: list[float] = []
        self.opened = 0

    def run(self, seconds: float, warm_up: float) -> Sample:
        """Measure for so long."""
        try:
            for _ in range(AT_ONCE):
                self._begin()
            self._turn(warm_up)
            self.latencies.clear()
            before, cpu, started = self.opened, cpu_seconds(self.pid), time.perf_counter()
            self._turn(seconds)
            cpu, spent = cpu_seconds(self.pid) - cpu, time.perf_counter() - started
        finally:
            for sock, _ in self.under_way.values():
                sock.close()
            self.poll.close()
        if self.opened == before:
            raise LoadFailed("no handshake was finished within the measured time")
        return Sample(self.opened - before, spent, cpu, percentiles(self.latencies))

    def _turn(self, seconds: float) -> None:
        now = time.perf_counter()
        end, last = now + seconds, now
        while now < end:
            events = self.poll.poll(1.0)
            now = time.perf_counter()
            for fd, event in events:
                self._advance(fd, event)
            if events:
                last = now
            elif now - last > PATIENCE:
                raise LoadFailed(f"no handshake was answered for {PATIENCE:g} s")

    def _begin(self) -> None:
        sock = socket.socket()
        sock.setblocking(False)
        sock.connect_ex(self.address)
        self.under_way[sock.fileno()] = (sock, time.perf_counter())
        self.poll.register(sock, select.EPOLLOUT)

    def _advance(self, fd: int, event: int) -> None:
        sock, started = self.under_way[fd]
        if event & select.EPOLLIN:
            answer = sock.recv(4096)
            if not answer:
                raise LoadFailed("the server closed the connection during the handshake")
            if self.upgrades and not answer.startswith(b"HTTP/1.1 101 "):
                raise LoadFailed(f"the upgrade was refused: {answer[:60]!r}")
            self.opened += 1
            self.latencies.append(time.perf_counter() - started)
            self.poll.unregister(fd)
            del self.under_way[fd]
            sock.close()
            self._begin()
        elif event & (select.EPOLLERR | select.EPOLLHUP):
            raise LoadFailed(f"cannot connect: error {sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)}")
        else:
            sock.send(self.opening)
            self.poll.modify(fd, select.EPOLLIN)


@dataclass(frozen=True)
class IdleMemory:
    """Bytes of resident memory that one idle connection takes in the server."""

    connections: int
    opened: float
    """After the upgrade, before any message."""
    used: float
    """After one message was exchanged on each."""


def exchange_one(sock: socket.socket, speech: Speech) -> None:
    """Send one small message and read its answer."""
    message = speech.message(0, 128)
    sock.sendall(message)
    if speech.answers_are_frames:
        receive_frame(sock)
    else:
        receive_exactly(sock, len(message))


def idle_memory(server: ServerProcess, speech: Speech, connections: int) -> IdleMemory:
    """Open so many connections to a fresh server and read its memory."""
    socks: list[socket.socket] = []
    settle = 0.1 + SETTLE * connections
    try:
        for _ in range(WARM_CONNECTIONS):
            socks.append(connect(server.port, speech))
            exchange_one(socks[-1], speech)
        time.sleep(settle)
        base = resident_bytes(server.pid)
        for _ in range(connections):
            socks.append(connect(server.port, speech))
        time.sleep(settle)
        opened = resident_bytes(server.pid)
        for sock in socks[WARM_CONNECTIONS:]:
            exchange_one(sock, speech)
        time.sleep(settle)
        used = resident_bytes(server.pid)
    finally:
        for sock in socks:
            sock.close()
    return IdleMemory(connections, (opened - base) / connections, (used - base) / connections)
