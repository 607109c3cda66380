"""Calls at an even rate until the server has gone: `steady PORT RATE`; prints what became of each call.

Raw peers, so that nothing is sent twice: a request that has left gets its reply, or an error that says that it has not
been run. `open` are the tokens of those that got neither: the server may not have read them any more.
"""

from __future__ import annotations

import json
import random
import select
import socket
import sys
import time
from collections import Counter

import msgpack

from bench_parts.load import connect
from bench_parts.wire import call_speech, frame, inflated

LINKS = 20
LONGEST = 60.0
"""Seconds after which it ends in any case."""


class Link:
    """One connection with its open calls."""

    def __init__(self, port: int) -> None:
        self.sock = connect(port, call_speech("/"))
        self.open: dict[int, int] = {}
        self.buffer = b""
        self.next = 1
        self.code = 0

    def ask(self, chance: random.Random) -> None:
        """Send one call, if the socket takes it."""
        number, token = self.next, chance.getrandbits(50)
        self.next += 1
        body = {"path": "/recorded", "id": number, "data": {"seconds": chance.random() * 0.05, "token": token}}
        try:
            self.sock.sendall(frame(msgpack.packb(body)))
        except OSError:
            return
        self.open[number] = token

    def hear(self, counts: Counter[str]) -> bool:
        """Take what has come; False at the end."""
        try:
            data = self.sock.recv(1 << 16)
        except OSError:
            data = b""
        self.buffer += data
        while (taken := self._frame()) is not None:
            self._take(*taken, counts)
        return bool(data)

    def _frame(self) -> tuple[int, bytes] | None:
        if len(self.buffer) < 2:
            return None
        size, start = self.buffer[1], 2
        if size == 126:
            size, start = int.from_bytes(self.buffer[2:4], "big"), 4
        if len(self.buffer) < start + size:
            return None
        first, body = self.buffer[0], self.buffer[start : start + size]
        self.buffer = self.buffer[start + size :]
        return first & 0x0F, body

    def _take(self, opcode: int, body: bytes, counts: Counter[str]) -> None:
        if opcode == 8:
            self.code = int.from_bytes(body[:2], "big")
            self.sock.sendall(frame(body[:2], opcode=8))
            return
        if opcode == 9:
            self.sock.sendall(frame(body, opcode=10))
        if opcode != 2:
            return
        message = msgpack.unpackb(inflated(body))
        token = self.open.pop(message.get("id"), None)
        if token is None:
            return
        if "error" in message:
            counts["refused" if message["error"]["code"] == "unavailable" else "wrong"] += 1
        else:
            counts["answered" if message["data"] == token else "wrong"] += 1


def run(port: int, rate: float) -> dict[str, object]:
    """Call in turn by all links."""
    chance = random.Random(port)
    counts: Counter[str] = Counter(answered=0, refused=0, wrong=0)
    links = [Link(port) for _ in range(LINKS)]
    print("ready", flush=True)
    alive = {link.sock: link for link in links}
    turn, at, end = 0, time.monotonic(), time.monotonic() + LONGEST
    while alive and time.monotonic() < end:
        now = time.monotonic()
        while at <= now and alive:
            link = links[turn % LINKS]
            turn += 1
            at += 1 / rate
            if link.sock in alive and not link.code:
                link.ask(chance)
        ready, _, _ = select.select(list(alive), [], [], max(0.0, at - time.monotonic()))
        for sock in ready:
            if not alive[sock].hear(counts):
                del alive[sock]
    return {**counts, "open": [token for link in links for token in link.open.values()]}


def main() -> None:
    """Until the end of the server."""
    socket.setdefaulttimeout(30)
    print(json.dumps(run(int(sys.argv[1]), float(sys.argv[2]))))


if __name__ == "__main__":
    main()
