"""One connection through a `FaultProxy`: two sockets, and a pump for each direction that follows its rules.

Decides what happens to each byte. Which rules hold, and which connections there are, is `fault_proxy`.
"""

from __future__ import annotations

import random
import socket as constants
import struct
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from typing import Any

import gevent
from gevent.event import Event

UP, DOWN = "up", "down"
DIRECTIONS = (UP, DOWN)
"""From the client to the server, and back."""

READ_SIZE = 64 * 1024
"""Bytes asked for in one read."""

LINE_SIZE = 1024 * 1024
"""Bytes that are on their way in one direction; beyond it the sender is held up, as by a full router."""

BEAT = 0.02
"""Seconds that one piece of a limited bandwidth takes: a rate of 1,000 bytes a second passes 20 at a time."""

ABRUPT = frozenset({"reset", "broken", "failed", "turned_away"})
"""Ends that both sides see as a reset: asked for, passed on, or since there is no other side."""


class Rules:
    """What holds in one direction, for all connections of a proxy."""

    __slots__ = ("bandwidth", "flowing", "jitter", "latency", "pause", "size")

    def __init__(self) -> None:
        self.flowing = Event()
        self.heal()

    def heal(self) -> None:
        """Pass everything on at once, whole."""
        self.latency = 0.0
        self.jitter = 0.0
        self.bandwidth: float | None = None
        self.size: int | None = None
        self.pause = 0.0
        self.flowing.set()


class Pump:
    """One direction of one connection. A greenlet reads, another writes, so that delayed bytes hold up no others.

    Attributes:
        cut_left: Bytes until the connection is cut; `None` does not.
        swallowing: Read everything and pass on nothing, not even the end.
        passed: Bytes that went through.
    """

    __slots__ = (
        "_again", "_arrived", "_copied", "_counts", "_ending", "_jitter", "_name", "_room", "_rules", "_size",
        "_waiting", "cut_left", "passed", "source_over", "swallowing", "target_over",
    )  # fmt: skip

    def __init__(self, name: str, rules: Rules, counts: Counter[str], jitter: random.Random) -> None:
        self.cut_left: int | None = None
        self.swallowing = False
        self.passed = 0
        self.source_over = self.target_over = False
        self._name = name
        self._rules = rules
        self._counts = counts
        self._jitter = jitter
        self._waiting: deque[tuple[float, bytes]] = deque()
        self._size = 0
        self._room, self._arrived = Event(), Event()
        self._room.set()
        self._ending = 0.0
        self._again = 0
        self._copied = bytearray()

    def duplicate(self, size: int) -> None:
        """Send the next *size* bytes twice."""
        self._again, self._copied = size, bytearray()

    def read(self, source: Any) -> None:
        """Take in what *source* sends until its end. Raises `OSError` when that is a reset."""
        while True:
            self._rules.flowing.wait()
            self._room.wait()
            data = source.recv(READ_SIZE)
            if self.swallowing:
                self._counts["swallowed"] += len(data)
                if not data:
                    return
                continue
            self._put(data)
            if not data:
                return

    def _put(self, data: bytes) -> None:
        rules = self._rules
        delay = rules.latency + (self._jitter.uniform(-rules.jitter, rules.jitter) if rules.jitter else 0.0)
        # Never before what came earlier: jitter must not change the order.
        self._ending = max(self._ending, time.monotonic() + max(0.0, delay))
        self._waiting.append((self._ending, data))
        self._size += len(data)
        self._arrived.set()
        if self._size >= LINE_SIZE:
            self._room.clear()

    def write(self, target: Any) -> bool:
        """Pass on until the end of the source; False when the connection is to be cut."""
        while True:
            data = self._next()
            if not data:
                return True
            for piece in self._pieces(data):
                self._rules.flowing.wait()
                if self.swallowing:
                    self._counts["swallowed"] += len(piece)
                elif not self._send(target, piece):
                    return False

    def _next(self) -> bytes:
        while not self._waiting:
            self._arrived.clear()
            self._arrived.wait()
        release, data = self._waiting.popleft()
        wait = release - time.monotonic()
        if wait > 0:
            gevent.sleep(wait)
        self._size -= len(data)
        if self._size < LINE_SIZE:
            self._room.set()
        return data

    def _pieces(self, data: bytes) -> Iterator[bytes]:
        """*data* cut as the rules want it, each piece at its time; the rules may change meanwhile."""
        position = 0
        while position < len(data):
            rules = self._rules
            size = rules.size or READ_SIZE
            if rules.bandwidth:
                size = min(size, max(1, int(rules.bandwidth * BEAT)))
            piece = data[position : position + size]
            position += len(piece)
            yield piece
            if rules.bandwidth:
                gevent.sleep(len(piece) / rules.bandwidth)
            elif rules.size:
                gevent.sleep(rules.pause)

    def _send(self, target: Any, piece: bytes) -> bool:
        cut = self.cut_left
        if cut is not None:
            piece = piece[:cut]
        target.sendall(piece)
        self.passed += len(piece)
        self._counts[self._name] += len(piece)
        if self._again:
            self._repeat(target, piece)
        if self.cut_left is None:
            return True
        self.cut_left = max(0, self.cut_left - len(piece))
        return self.cut_left > 0

    def _repeat(self, target: Any, piece: bytes) -> None:
        self._copied += piece[: self._again - len(self._copied)]
        if len(self._copied) == self._again:
            copied, self._again = bytes(self._copied), 0
            self._counts["duplicated"] += len(copied)
            target.sendall(copied)


class Pair:
    """One connection: the client's socket and the one to the target. Lives in the proxy's hub.

    Attributes:
        number: 1 for the first connection that the proxy accepted, and so on.
        pumps: By direction; `pumps["up"].passed` are bytes.
        open: Whether it has not ended.
    """

    def __init__(
        self, number: int, client: Any, rules: dict[str, Rules], counts: Counter[str], *, seed: int
    ) -> None:
        self.number = number
        self.open = True
        self.pumps = {
            name: Pump(name, rules[name], counts, random.Random(f"{seed}/{number}/{name}")) for name in DIRECTIONS
        }
        self.on_end: Callable[[Pair], object] = lambda pair: None
        self._counts = counts
        self._client = client
        self._server: Any = None
        self._greenlets: list[Any] = []
        self._abruptly = False

    def __repr__(self) -> str:
        up, down = (self.pumps[name].passed for name in DIRECTIONS)
        return f"<Pair {self.number} {'open' if self.open else 'ended'} up={up} down={down}>"

    def run(self, dial: Callable[[], Any] | None) -> None:
        """Connect by *dial*, or to nothing, and begin to pump."""
        if dial is None:
            self.pumps[DOWN].source_over = True  # nobody is there
            self._spawn(self._read, UP, self._client)
            return
        try:
            server = dial()
        except OSError:
            self._counts["failed"] += 1
            self.end("failed")
            return
        if not self.open:  # ended while it was dialled
            _close(server, abruptly=self._abruptly)
            return
        self._server = server
        for name, source, target in ((UP, self._client, server), (DOWN, server, self._client)):
            self._spawn(self._read, name, source)
            self._spawn(self._write, name, target)
        if any(pump.cut_left == 0 for pump in self.pumps.values()):
            self.end("cut")

    def swallow(self, names: Iterable[str]) -> None:
        """Pass on nothing more in these directions, for good."""
        for name in names:
            self.pumps[name].swallowing = True

    def cut_after(self, left: int, names: Iterable[str]) -> None:
        """Cut it once *left* more bytes have passed in one of these directions."""
        if left == 0:
            self.end("cut")
            return
        for name in names:
            self.pumps[name].cut_left = left

    def heal(self) -> None:
        """Forget what was to happen to it."""
        for pump in self.pumps.values():
            pump.cut_left = None
            pump.duplicate(0)

    def end(self, how: str) -> None:
        """End it on both sides; *how* says whether with a reset, see `ABRUPT`."""
        if not self.open:
            return
        self.open = False
        self._abruptly = how in ABRUPT
        if how in ("cut", "reset"):
            self._counts[how] += 1
        self.on_end(self)
        current = gevent.getcurrent()
        gevent.killall([one for one in self._greenlets if one is not current], block=False)
        for sock in (self._client, self._server):
            if sock is not None:
                _close(sock, abruptly=self._abruptly)

    def _spawn(self, function: Callable[..., None], *args: Any) -> None:
        self._greenlets.append(gevent.spawn(function, *args))

    def _read(self, name: str, source: Any) -> None:
        pump = self.pumps[name]
        try:
            pump.read(source)
        except OSError:
            if not pump.swallowing:
                self.end("broken")
                return
        pump.source_over = True
        self._end_if_over()

    def _write(self, name: str, target: Any) -> None:
        pump = self.pumps[name]
        try:
            if not pump.write(target):
                self.end("cut")
                return
            target.shutdown(constants.SHUT_WR)
        except OSError:
            pass  # it has gone: its own reader tells
        pump.target_over = True
        self._end_if_over()

    def _end_if_over(self) -> None:
        if all(one.target_over or one.swallowing and one.source_over for one in self.pumps.values()):
            self.end("closed")


def _close(sock: Any, *, abruptly: bool) -> None:
    with suppress(OSError):
        if abruptly:
            # l_onoff and l_linger: with 0 seconds, close sends a reset (socket(7)).
            sock.setsockopt(constants.SOL_SOCKET, constants.SO_LINGER, struct.pack("ii", 1, 0))
        else:
            sock.shutdown(constants.SHUT_WR)
            sock.settimeout(0.0)
            while sock.recv(READ_SIZE):  # else the kernel makes a reset of the close
                pass
    sock.close()
