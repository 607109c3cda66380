"""Connects and closes again and again: `cycler PORT COUNT connect|fail`; prints how many cycles went as they should.

One epoll loop with many at once. `connect`: upgrade, a call, the closing handshake or just an end. `fail`: what
is refused for one reason or another, or is given up half-way.
"""

from __future__ import annotations

import json
import select
import socket
import sys
import time

import msgpack

from bench_parts.wire import frame, upgrade_request

AT_ONCE = 64
PATIENCE = 60.0
"""Seconds without any progress after which it gives up."""
CALL = frame(msgpack.packb({"path": "/echo", "id": 1, "data": "x"}))
CLOSE = frame(b"\x03\xe8", opcode=8)
UPGRADE = upgrade_request("/", subprotocol="webmesh.v1.msgpack")
REFUSED = (
    b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n",
    UPGRADE.replace(b"Version: 13", b"Version: 12"),
    UPGRADE.replace(b"GET / ", b"GET /nowhere "),
    UPGRADE.replace(b"webmesh.v1.msgpack", b"unknown"),
    b"\x16\x03\x01\x02\x00\x01\x00",
    b"POST / HTTP/1.1\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: a\r\nX: " + b"y" * 9000,
)
"""Answered with a status that is no 101, and closed."""


class Cycle:
    """One connection: what is still to be sent, and when it is over."""

    def __init__(self, port: int, number: int, kind: str) -> None:
        self.sock = socket.socket()
        self.sock.setblocking(False)
        self.kind = kind
        self.number = number
        self.answer = b""
        self.called = self.closed = False
        self.sock.connect_ex(("127.0.0.1", port))

    def begin(self) -> bool:
        """It is connected: speak; whether that was all."""
        if self.kind == "connect":
            self.sock.send(UPGRADE)
            return False
        choice = self.number % (len(REFUSED) + 1)
        if choice == len(REFUSED):
            self.sock.send(UPGRADE[:40])  # given up half-way
            return True
        self.sock.send(REFUSED[choice])
        return False

    def hear(self) -> bool | None:
        """Something has come: True when it went as it should, False when not, None while it goes on."""
        try:
            data = self.sock.recv(4096)
        except OSError:
            data = b""
        self.answer += data
        if self.kind == "fail":
            if data:
                return None
            return b" 101 " not in self.answer
        if not data:
            return self.closed
        if not self.called:
            if b"\r\n\r\n" in self.answer:
                if not self.answer.startswith(b"HTTP/1.1 101 "):
                    return False
                self.called = True
                self.answer = b""
                self.sock.send(CALL)
            return None
        if self.number % 2:
            return True  # it ends without a word
        if not self.closed:
            self.closed = True
            self.sock.send(CLOSE)
        return None


def run(port: int, count: int, kind: str) -> dict[str, int]:
    """So many cycles."""
    poll = select.epoll()
    under_way: dict[int, Cycle] = {}
    begun = done = ended = 0
    last = time.monotonic()
    while ended < count:
        while begun < count and len(under_way) < AT_ONCE:
            cycle = Cycle(port, begun, kind)
            under_way[cycle.sock.fileno()] = cycle
            poll.register(cycle.sock, select.EPOLLOUT)
            begun += 1
        events = poll.poll(1.0)
        for fd, event in events:
            cycle = under_way[fd]
            good: bool | None = None
            if event & select.EPOLLIN or event & (select.EPOLLERR | select.EPOLLHUP) and not event & select.EPOLLOUT:
                good = cycle.hear()
            elif cycle.begin():
                good = True
            else:
                poll.modify(fd, select.EPOLLIN)
            if good is not None:
                poll.unregister(fd)
                del under_way[fd]
                cycle.sock.close()
                ended += 1
                done += good
        if events:
            last = time.monotonic()
        elif time.monotonic() - last > PATIENCE:
            break
    return {"done": done, "ended": ended}


if __name__ == "__main__":
    print(json.dumps(run(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3])))
