"""Many light clients that come back: `returning PORT COUNT HERD SECONDS`. Their delays are those of WebMesh's clients.

Prints `all there` once each has its connection; when all have lost it and are back, or the time is up, what happened.
"""

from __future__ import annotations

import json
import random
import sys
import time
from collections import Counter

import gevent
from gevent import socket
from gevent.event import Event
from gevent.lock import Semaphore

from bench_parts.wire import upgrade_request
from webmesh.options import Backoff
from webmesh.protocol.backoff import BackoffSeries
from webmesh.protocol.rejection import retry_after

UPGRADE = upgrade_request("/", subprotocol="webmesh.v1.msgpack")
AT_ONCE = 200
"""Connections that are made at the same time before the kill; after it nothing holds them back."""
TIMEOUT = 10.0
"""Seconds for TCP and upgrade."""


class Herd:
    """All clients of this process."""

    def __init__(self, port: int, count: int, number: int) -> None:
        self.port = port
        self.count = count
        self.number = number
        self.counts: Counter[str] = Counter(turned_away=0, turned_away_again=0, dropped=0, refused=0)
        self.back: list[float] = []
        self.there = 0
        self.complete, self.over = Event(), Event()
        self.door = Semaphore(AT_ONCE)

    def client(self, index: int) -> None:
        """One of them, from its first connection to the end."""
        address = f"127.{10 + self.number}.{index // 250}.{1 + index % 250}"
        series = BackoffSeries(Backoff(), random.random)
        with self.door:
            sock = None
            while sock is None:
                sock, asked = self._dial(address)
                if sock is None:
                    gevent.sleep(asked or 0.2)
        self._counted()
        self._wait_for_end(sock)
        turned_away = 0
        series.ended(time.monotonic())
        asked = None
        while not self.over.is_set():
            gevent.sleep(series.next_delay(asked))
            sock, asked = self._dial(address)
            if sock is not None:
                self.back.append(time.monotonic())
                if len(self.back) == self.count:
                    gevent.spawn_later(2.0, self.over.set)
                self._wait_for_end(sock)
                self.counts["dropped"] += not self.over.is_set()
                return
            if asked is not None:
                turned_away += 1
                self.counts["turned_away"] += 1
                self.counts["turned_away_again"] += turned_away == 2
            else:
                self.counts["refused"] += 1  # nobody listens yet

    def _counted(self) -> None:
        self.there += 1
        if self.there == self.count:
            self.complete.set()

    def _dial(self, address: str) -> tuple[socket.socket | None, float | None]:
        """A connection, or none and how long the server asks to stay away, if it says so."""
        sock = socket.socket()
        sock.settimeout(TIMEOUT)
        try:
            sock.bind((address, 0))
            sock.connect(("127.0.0.1", self.port))
            sock.sendall(UPGRADE)
            head = sock.recv(4096)
        except OSError:
            sock.close()
            return None, None
        if head.startswith(b"HTTP/1.1 101 "):
            sock.settimeout(None)
            return sock, None
        sock.close()
        fields = (line.partition(b":") for line in head.split(b"\r\n")[1:])
        headers = {name.decode().strip().lower(): value.decode().strip() for name, _, value in fields}
        return None, retry_after(headers)

    def _wait_for_end(self, sock: socket.socket) -> None:
        with sock:
            try:
                while not self.over.is_set() and sock.recv(1000):
                    pass
            except OSError:
                pass


def main() -> None:
    """Run the herd."""
    port, count, number, seconds = (int(float(text)) for text in sys.argv[1:5])
    herd = Herd(port, count, number)
    clients = [gevent.spawn(herd.client, index) for index in range(count)]
    if herd.complete.wait(120):
        print("all there", flush=True)
        herd.over.wait(seconds)
    herd.over.set()
    report = {**herd.counts, "back": herd.back}
    gevent.killall(clients, block=False)
    print(json.dumps(report))


if __name__ == "__main__":
    main()
