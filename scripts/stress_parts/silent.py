"""Thousands of peers that connect and then say nothing, or one byte a second."""

from __future__ import annotations

import selectors
import socket
import time
from collections import deque

from stress_parts.processes import Node, Worker
from stress_parts.results import Result, milliseconds, percentile
from stress_parts.scale import Scale

DEADLINE = 5.0
"""`Timeouts.upgrade` at its default."""
GRACE = 1.0
"""Seconds after the deadline in which the last one has to be gone."""
CONNECT = 0.1
"""Seconds in which an honest client gets in meanwhile."""
ARRIVAL = 2.5
"""Seconds in which they all arrive: 2,000 a second, as many as a server lets in (`Limits.accept_rate`)."""
DRIP = b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nX-Slow: "


class Rude:
    """All of them: half are silent, half send their head one byte a second, each at its own time."""

    def __init__(self, port: int, count: int, seconds: float) -> None:
        self.selector = selectors.DefaultSelector()
        self.dripping: deque[tuple[float, socket.socket, int]] = deque()
        self.gone: list[float] = []
        self.opened: dict[socket.socket, float] = {}
        begun = time.monotonic()
        for number in range(count):
            self.watch(begun + seconds * number / count)
            sock = socket.create_connection(("127.0.0.1", port), timeout=30)
            sock.setblocking(False)
            self.opened[sock] = time.monotonic()
            self.selector.register(sock, selectors.EVENT_READ)
            if number % 2:
                self.dripping.append((time.monotonic(), sock, 0))

    def watch(self, until: float) -> None:
        """Drip and see who is thrown out, until then or until nobody is left."""
        while self.opened and (now := time.monotonic()) < until:
            while self.dripping and self.dripping[0][0] <= now:
                self._drip(*self.dripping.popleft())
            for key, _ in self.selector.select(min(0.002, max(0.0, until - now))):
                self._look(key.fileobj)  # type: ignore[arg-type]

    def _drip(self, due: float, sock: socket.socket, position: int) -> None:
        try:
            sock.send(DRIP[position : position + 1])
        except OSError:
            return  # gone, as was read or will be
        self.dripping.append((due + 1.0, sock, (position + 1) % len(DRIP)))

    def _look(self, sock: socket.socket) -> None:
        try:
            data = sock.recv(1000)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self.gone.append(time.monotonic() - self.opened.pop(sock))
            self.selector.unregister(sock)
            sock.close()

    def close(self) -> None:
        """Hang up."""
        for sock in self.opened:
            sock.close()
        self.selector.close()


def run(scale: Scale) -> list[Result]:
    """With room for all of them, so that the deadline has to do it; honest peers come in between."""
    count = scale.of(5_000, quick=300)
    deadline = scale.size(DEADLINE, quick=1.5)
    arrival = scale.size(ARRIVAL, quick=0.3)
    with Node(limits={"handshakes": count + 100}, timeouts={"upgrade": deadline}) as node:
        with Worker("probe", node.port, arrival + deadline, "connect", 0.02) as honest:
            rude = Rude(node.port, count, arrival)
            rude.watch(time.monotonic() + deadline + GRACE)
            left = len(rude.opened) + sum(1 for seconds in rude.gone if seconds > deadline + GRACE)
            longest = max(rude.gone, default=0.0)
            rude.close()
            latencies = honest.result(60)
        lines = node.log_lines
        alive = node.ask("/echo", "still here") == "still here"
    what = f"{count:,} silent or slow peers"
    most, ninety_nine = max(latencies, default=9.9), percentile(latencies, 0.99)
    met = f"{len(latencies)} connected, p99 {milliseconds(ninety_nine)}, longest {milliseconds(most)}"
    return [
        Result("silent", what, f"{left} left 1 s after the deadline; longest {longest:.2f} s", "0 left", left == 0),
        Result("silent", "honest peers meanwhile", met, "p99 < 100 ms", bool(latencies) and ninety_nine < CONNECT,
               timing=True),
        Result("silent", "the server afterwards", f"{'serves' if alive else 'is dead'}; {lines} lines of log",
               "serves; ≤ 100 lines a second", alive and lines <= 100 * (deadline + 3)),
    ]  # fmt: skip
