"""A stream of messages on one end of a wire, and bare frames on the other, both in the test's hands."""

from __future__ import annotations

import ssl
from collections.abc import Callable
from typing import Any

import gevent
from gevent.socket import SHUT_WR

from tests.websocket.loopback import PATIENCE, until
from tests.websocket.wires import Wires
from webmesh.exceptions import ConnectionClosed
from webmesh.observer import NO_OBSERVER, Observer
from webmesh.options import Limits, Timeouts
from webmesh.protocol.frames import Frames, Incoming
from webmesh.testing import FakeClock
from webmesh.websocket.stream import CLOSED, MessageStream
from webmesh.websocket.upgraded import Upgraded

GENEROUS = Limits(message_size=64 * 1024 * 1024)
QUIET = Timeouts(ping_interval=1e6, liveness=2e6, write=1e6, message=1e6, close=1e6)
"""Nothing ends by itself; whoever waits in vain for an end fails."""


class Line:
    """One connection.

    Args:
        answer: Called with each message that the stream has read, in the greenlet that reads.

    Attributes:
        received: Messages that were read.
        ends: What `on_closed` was given: never more than one.
        writes: Sizes of what was given to the socket, in order.
        frames: The peer's, for making and reading frames.
    """

    def __init__(
        self,
        wires: Wires,
        *,
        client: bool = False,
        small: bool = False,
        trailing: bytes = b"",
        limits: Limits = Limits(),
        timeouts: Timeouts = QUIET,
        answer: Callable[[Any], object] = lambda message: None,
        observer: Observer = NO_OBSERVER,
    ) -> None:
        ours, self.sock = wires.pair(client=client, small=small)
        self.clock = FakeClock()
        self.received: list[str | bytes] = []
        self.ends: list[ConnectionClosed] = []
        self.writes: list[int] = []
        self.frames = Frames(client=not client, limits=GENEROUS)
        self._answer = answer
        self._heard: list[Incoming] = []
        upgraded = Upgraded(ours, None, None, [], trailing, "peer", None)
        self.stream = MessageStream(
            upgraded, client=client, limits=limits, timeouts=timeouts, on_closed=self.ends.append, clock=self.clock,
            observer=observer,
        )
        self._send, self.stream._send = self.stream._send, self._note_write
        self.reader: Any = None

    def _note_write(self, data: Any) -> int:
        self.writes.append(len(data))
        return self._send(data)

    # ------------------------------------------------------------------ our side

    def read_on(self) -> Line:
        """Let a greenlet read for the stream, as `Turns` does."""
        self.reader = gevent.spawn(self._read)
        return self

    def _read(self) -> None:
        while (items := self.stream.read()) is not None:
            for item in items:
                if isinstance(item, str | bytes):
                    self.received.append(item)
                    self._answer(item)
                else:
                    self.stream.control(item)
            self.stream.end_turn()
        assert self.stream.state is CLOSED, "the reader was told of an end that had not come"

    def tick(self, seconds: float = 1.0, times: int = 1) -> None:
        """Let time pass, in steps of so many seconds."""
        for _ in range(times):
            self.stream.tick(self.clock.advance(seconds))

    @property
    def end(self) -> tuple[int, str]:
        """Code and reason with which it ended, once it has."""
        until(lambda: bool(self.ends))
        if self.reader is not None:
            self.reader.join(PATIENCE)
            assert self.reader.successful()
        [why] = self.ends
        assert why is self.stream.closed.wait(0)
        return why.code, why.reason

    @property
    def code(self) -> int:
        """Code with which it ended, once it has."""
        return self.end[0]

    def clog(self, size: int = 4 * 1024 * 1024) -> bytes:
        """Send more than the socket takes while the peer does not read; what that was."""
        message = bytes(range(256)) * (size // 256)
        self.stream.send(message)
        self.stream.flush()
        assert self.stream.queued
        return message

    # ---------------------------------------------------------------- the peer's

    def say(self, *frames: bytes) -> None:
        """Send bytes, and let them be read."""
        self.sock.sendall(b"".join(frames))
        settle()

    def message(self, *messages: str | bytes) -> None:
        """Send whole messages, and let them be read."""
        self.say(*map(self.frames.encode, messages))

    def hear(self, count: int = 1) -> Any:
        """The next things that arrive; one of them by itself."""
        with gevent.Timeout(PATIENCE):
            while len(self._heard) < count:
                data = self.sock.recv(65536)
                assert data, "the connection has ended"
                self._take(data)
        heard, self._heard = self._heard[:count], self._heard[count:]
        return heard[0] if count == 1 else heard

    def hear_out(self) -> tuple[list[Incoming], str]:
        """Everything until the end, and how that was: `end`, `cut` (TLS without a proper end) or `reset`."""
        how = "end"
        with gevent.Timeout(PATIENCE):
            try:
                while data := self.sock.recv(65536):
                    self._take(data)
            except ssl.SSLEOFError:
                how = "cut"
            except ConnectionResetError:
                how = "reset"
        heard, self._heard = self._heard, []
        return heard, how

    def _take(self, data: bytes) -> None:
        self._heard += self.frames.receive(data)
        while self.frames.pending:
            self._heard += self.frames.receive()

    def hang_up(self) -> None:
        """End what the peer sends, and let that be seen."""
        self.sock._sock.shutdown(SHUT_WR)
        settle()


def settle() -> None:
    """Let everything run that can, sockets included."""
    for _ in range(4):
        gevent.sleep(0)
        gevent.sleep(0.001)
