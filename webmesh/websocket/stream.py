"""A socket that carries WebSocket messages: reads, writes, pings, deadlines and the closing handshake.

Decides when bytes move. What they mean is `protocol.frames`; which greenlet reads is `turns`. Everything
here runs in the hub that owns the socket. One greenlet reads at a time; any number may send.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import gevent
from gevent.event import Event
from gevent.hub import get_hub

from webmesh.exceptions import ConnectionClosed, LocalProtocolError, MessageTooBig, RemoteProtocolError
from webmesh.options import Limits, Timeouts
from webmesh.protocol.frames import CloseReceived, Frames, Incoming, PingReceived
from webmesh.websocket.hub import Completion
from webmesh.websocket.upgraded import Upgraded
from webmesh.websocket.wire import wire_for
from webmesh.websocket.write_batch import write_batch

FLUSH_SIZE = 64 * 1024
"""Bytes of answers after which they leave before the turn is over: about one socket buffer."""
OPEN, CLOSING, CLOSED = "open", "closing", "closed"


class MessageStream:
    """Messages over one upgraded socket.

    Args:
        client: Whether this side dialled; it masks, and waits for the server to end TCP first.
        on_closed: Called once, in the hub, when the connection has ended.
    """

    # Slots: an instance dict of so many keys would take 1.5 KiB of an idle connection.
    __slots__ = (
        "_after_backlog", "_backlog", "_backlog_size", "_batch", "_begun_at", "_client", "_clock",
        "_close_timer", "_early", "_encode", "_ending", "_flushing", "_frames", "_heard", "_heard_at",
        "_hub", "_limits", "_on_closed", "_out", "_out_size", "_overhead", "_ping_at", "_pong", "_recv",
        "_room", "_send", "_timeouts", "_tokens", "_tokens_at", "_waiting", "_whole", "_wire", "_wrote_at",
        "closed", "state",
    )  # fmt: skip

    def __init__(
        self,
        upgraded: Upgraded,
        *,
        client: bool,
        limits: Limits,
        timeouts: Timeouts,
        on_closed: Callable[[ConnectionClosed], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.state = OPEN
        self._hub = get_hub()
        self._batch = write_batch(self._hub)
        self.closed: Completion[ConnectionClosed] = Completion(self._hub)
        self._client = client
        self._limits = limits
        self._timeouts = timeouts
        self._on_closed = on_closed
        self._clock = clock
        self._frames = Frames(client=client, limits=limits, extensions=upgraded.extensions)
        self._encode = self._frames.encode
        self._early = upgraded.trailing
        self._wire = wire_for(upgraded.sock)
        self._recv, self._send = self._wire.recv, self._wire.send
        self._out: list[bytes] = []
        self._out_size = 0
        self._flushing = False
        self._backlog: deque[bytes | memoryview] | tuple[()] = ()  # an empty deque takes 760 bytes, and most stay so
        self._backlog_size = 0
        self._after_backlog: Callable[[], None] | None = None
        self._room: Event | None = None
        self._pong: bytes | None = None
        self._ending: ConnectionClosed | None = None
        self._overhead = 0
        self._tokens = float(limits.overhead_rate)
        self._close_timer: Any = None
        self._tokens_at = 0.0
        self._watch(clock())

    # ----------------------------------------------------------------- reading

    def read(self) -> list[Incoming] | None:
        """What came next, at least one item; `None` once the connection has ended.

        Whatever is no message goes to `control`. Always lets the hub turn, however fast the peer sends.
        """
        frames = self._frames
        while self.state is not CLOSED:
            if frames.pending:
                gevent.sleep(0)
                data = b""
            elif self._early:
                data, self._early = self._early, b""
            else:
                self._waiting = True
                data = self._recv()
                self._waiting = False
                if not data:
                    self._read_end()
                    return None
            self._heard = True
            incoming = frames.receive(data)
            if frames.overhead != self._overhead:
                self._charge(frames.overhead)
                # Control frames between two fragments must not pass for progress.
                if any(isinstance(item, str | bytes) for item in incoming):
                    self._whole = True
                if incoming:
                    return incoming
            elif incoming:
                self._whole = True
                return incoming
        return None

    def _read_end(self) -> None:
        """The peer sends no more. If it has closed before that, it may still be reading what is queued for it."""
        if self._backlog and self._after_backlog is not None:
            self._after_backlog = self._finish
            self.closed.wait()  # not longer than the close timer
        else:
            self._end(self._ending or ConnectionClosed(1006, "the link ended without a close"))

    def control(self, item: object) -> None:
        """Act on what `read` returned that is no message."""
        if isinstance(item, PingReceived):
            self._answer_ping(item.payload)
        elif isinstance(item, CloseReceived):
            self._peer_closes(item)
        elif isinstance(item, RemoteProtocolError):
            reason = "message too big" if isinstance(item, MessageTooBig) else str(item)
            self.close(item.close_code, reason)
            if not self._client:
                # Its answer to our close is not read as a frame any more. So it must see our end, upon which it ends
                # TCP, as RFC 6455 §7.1.7 lets a server do; else both would wait for the close timer. And we read on:
                # closing on unread bytes would reset the connection, and a reset may overtake our close frame.
                self._once_written(self._wire.end_writing)

    def _charge(self, overhead: int) -> None:
        """Count frames that carry no whole message against the rate that a peer may send them at."""
        now = self._clock()
        rate = self._limits.overhead_rate
        self._tokens = min(rate, self._tokens + (now - self._tokens_at) * rate) - (overhead - self._overhead)
        self._tokens_at = now
        self._overhead = overhead
        if self._tokens < 0:
            self.close(1008, "too many control frames or fragments")

    # ----------------------------------------------------------------- writing

    def send(self, message: str | bytes) -> None:
        """Take a message; it leaves with `flush`, or before when much has gathered.

        Raises:
            ConnectionClosed: It is closing or closed.
        """
        if self.state is not OPEN:
            # A new one each time: every raise adds to a traceback, which would grow and hold frames.
            ending = self._ending or ConnectionClosed()
            raise ConnectionClosed(ending.code, ending.reason)
        data = self._encode(message)
        self._out.append(data)
        self._out_size += len(data)
        if self._out_size > FLUSH_SIZE:
            self.flush()

    def flush(self) -> None:
        """Write what was taken, as one write; never waits. What the socket does not take is queued."""
        out = self._out
        if not out:
            return
        data = out[0] if len(out) == 1 else b"".join(out)
        out.clear()
        self._out_size = 0
        self._write(data)

    def end_turn(self) -> None:
        """Let what one turn of the reader produced leave; waits where the peer has not taken enough.

        It leaves with what the other connections have when the hub has served everything that was ready.
        """
        if self._out and not self._flushing:
            self._flushing = True
            self._batch.add(self._flush_now)
        if self._backlog_size > self._limits.send_queue:
            self.drain()

    def flush_soon(self) -> None:
        """Flush when the running greenlet switches, with whatever else is sent until then."""
        if not self._flushing:
            self._flushing = True
            self._batch.add(self._flush_now)

    def _flush_now(self) -> None:
        self._flushing = False
        self.flush()

    def drain(self) -> None:
        """Wait until no more than `Limits.send_queue` bytes await the socket."""
        while self._backlog_size > self._limits.send_queue and self.state is not CLOSED:
            if self._room is None:
                self._room = Event()
            self._room.clear()
            self._room.wait()

    @property
    def queued(self) -> int:
        """Bytes that wait for the peer's socket."""
        return self._backlog_size + self._out_size

    def _write(self, data: bytes) -> None:
        if self.state is CLOSED:
            return
        if not self._backlog:
            try:
                sent = self._send(data)
            except OSError as error:
                self._broken(error)
                return
            if sent == len(data):
                return
            self._wrote_at = self._clock()
            self._queue(memoryview(data)[sent:] if sent else data)
            gevent.spawn(self._write_backlog)
        else:
            self._queue(data)

    def _queue(self, data: bytes | memoryview) -> None:
        if isinstance(self._backlog, tuple):
            self._backlog = deque()
        self._backlog.append(data)
        self._backlog_size += len(data)

    def _broken(self, error: OSError) -> None:
        # Not ended here: the caller may be in the middle of anything.
        self._ending = self._ending or ConnectionClosed(1006, f"sending failed: {error}")
        self._hub.loop.run_callback(self._end, self._ending)

    def _write_backlog(self) -> None:
        """Write the queue as the socket takes it; one such greenlet runs while there is a queue."""
        try:
            while self._backlog and self.state is not CLOSED:
                self._wire.wait_writable()
                self._write_some()
        except OSError as error:
            self._broken(error)
        if self._after_backlog is not None:
            self._after_backlog()

    def _write_some(self) -> None:
        while self._backlog:
            chunk = self._backlog[0]
            sent = self._send(chunk)
            if not sent:
                return
            self._wrote_at = self._clock()
            self._backlog_size -= sent
            if sent < len(chunk):
                self._backlog[0] = memoryview(chunk)[sent:]
                return
            self._backlog.popleft()
            if self._room is not None and self._backlog_size <= self._limits.send_queue:
                self._room.set()
            if not self._backlog and self._pong is not None and self.state is OPEN:
                self._queue(self._frames.pong(self._pong))
                self._pong = None

    def _answer_ping(self, payload: bytes) -> None:
        if self.state is not OPEN:
            return
        if self._backlog:
            self._pong = payload  # RFC 6455 §5.5.3: only the newest ping of a slow reader needs its pong
        else:
            pong = self._frames.pong(payload)
            self._out.append(pong)
            self._out_size += len(pong)
            self.flush_soon()

    def ping(self, payload: bytes = b"") -> None:
        """Send a ping; its pong counts as life like any frame."""
        if self.state is OPEN:
            self.flush()
            self._write(self._frames.ping(payload))

    # ---------------------------------------------------------------- deadlines

    def _watch(self, now: float) -> None:
        self._heard = False
        self._heard_at = now
        self._ping_at = now + self._timeouts.ping_interval
        self._waiting = False
        self._whole = False
        self._begun_at: float | None = None
        self._wrote_at = now
        self._tokens_at = now

    def tick(self, now: float) -> None:
        """Look at every deadline; called about once a second, with the clock's reading."""
        if self._backlog and now - self._wrote_at > self._timeouts.write:
            self.abort(ConnectionClosed(4008, "too slow: no byte taken in time"))
        if self.state is not OPEN:
            return
        if self._heard or not self._waiting:
            # While we ourselves read nothing, as at the bound of handlers, silence proves nothing.
            self._heard = False
            self._heard_at = now
            self._ping_at = now + self._timeouts.ping_interval
        elif now - self._heard_at >= self._timeouts.liveness:
            self.abort(ConnectionClosed(4012, "no pong"), say=True)
            return
        elif now >= self._ping_at:
            self._ping_at = now + self._timeouts.ping_interval
            self.ping()
        self._tick_message(now)

    def _tick_message(self, now: float) -> None:
        if not self._frames.mid_message or not self._waiting:
            self._begun_at = None
        elif self._begun_at is None or self._whole:
            self._begun_at = now
        elif now - self._begun_at > self._timeouts.message:
            self.close(1008, "message not finished in time")
        self._whole = False

    # ------------------------------------------------------------------ closing

    def close(self, code: int = 1000, reason: str = "") -> None:
        """Begin the closing handshake; returns at once. `closed` tells the end, at most `Timeouts.close` later.

        Raises:
            LocalProtocolError: Nobody may send this code; nothing has changed.
        """
        if self.state is not OPEN:
            return
        closing = self._frames.close(code, reason)
        self.flush()
        self.state = CLOSING
        self._ending = ConnectionClosed(code, reason)
        self._write(closing)
        self._end_in(self._timeouts.close)

    def _peer_closes(self, item: CloseReceived) -> None:
        if self.state is OPEN:
            self.flush()
            self.state = CLOSING
            self._ending = ConnectionClosed(item.code, item.reason)
            self._write(self._frames.close(item.code))
        if self._client or self._backlog:
            self._end_in(self._timeouts.close)
        if not self._client:
            # RFC 6455 §7.1.1: the server ends TCP first; a client's reader sees that.
            self._once_written(self._finish)

    def _once_written(self, act: Callable[[], None]) -> None:
        """Do the last thing, when the queue is empty."""
        if self._backlog:
            self._after_backlog = act
        else:
            act()

    def _finish(self) -> None:
        self._end(self._ending or ConnectionClosed())

    def _end_in(self, seconds: float) -> None:
        if self._close_timer is None:
            self._close_timer = self._hub.loop.timer(seconds)
            self._close_timer.start(self._end, self._ending or ConnectionClosed())

    def abort(self, why: ConnectionClosed, *, say: bool = False) -> None:
        """End at once, without the closing handshake.

        Args:
            say: Try to tell the peer the code first, as far as its socket takes it.
        """
        if self.state is CLOSED:
            return
        if say and self.state is OPEN and not self._backlog:
            self.state = CLOSING
            with suppress(LocalProtocolError):  # a code that nobody may send stays ours
                self._write(self._frames.close(why.code, why.reason))
        self._end(why)

    def leave(self) -> None:
        """In a forked child: nothing is read or written any more; the connection is the parent's."""
        self._let_go()
        self._wire.leave()

    def _end(self, why: ConnectionClosed) -> None:
        if self.state is CLOSED:
            return
        self._ending = why
        cut = bool(self._backlog)
        self._let_go()
        self._wire.close(cut=cut)
        self.closed.succeed(why)
        self._on_closed(why)

    def _let_go(self) -> None:
        """Nothing is read or written from now on, and nobody waits for room."""
        self.state = CLOSED
        self._out.clear()
        self._out_size = 0
        self._backlog = ()
        self._backlog_size = 0
        if self._close_timer is not None:
            self._close_timer.close()
            self._close_timer = None
        if self._room is not None:
            self._room.set()
