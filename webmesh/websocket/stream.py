"""A socket that carries WebSocket messages: reads, deadlines and the closing handshake.

Decides when bytes are read and when a connection is over. What they mean is `protocol.frames`; which greenlet
reads is `turns`; how they are written is `message_writer`. Everything here runs in the hub that owns the socket.
One greenlet reads at a time; any number may send.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress

from webmesh.exceptions import ConnectionClosed, LocalProtocolError, MessageTooBig, RemoteProtocolError
from webmesh.observer import NO_OBSERVER, Observer
from webmesh.options import Limits, Timeouts
from webmesh.protocol.frames import CloseReceived, Frames, Incoming, PingReceived, PongReceived
from webmesh.protocol.liveness import Decision, Silence, ask_after
from webmesh.websocket.hub import Completion
from webmesh.websocket.message_writer import CLOSED, CLOSING, FLUSH_SIZE, OPEN, MessageWriter
from webmesh.websocket.upgraded import Upgraded
from webmesh.websocket.wire import wire_for

__all__ = ["CLOSED", "CLOSING", "FLUSH_SIZE", "OPEN", "MessageStream"]


class MessageStream(MessageWriter):
    """Messages over one upgraded socket.

    Args:
        client: Whether this side dialled; it masks, and waits for the server to end TCP first.
        on_closed: Called once, in the hub, when the connection has ended.
        observer: Told of messages that a full queue leaves out.

    Attributes:
        cut_short: Whether it has ended with bytes that the socket had not taken.
        on_pong: Called with the payload of each pong, if anybody wants to know.
    """

    # Slots: an instance dict of so many keys would take 1.5 KiB of an idle connection.
    __slots__ = (
        "_begun_at", "_budget", "_budget_at", "_client", "_early", "_heard", "_heard_at", "_on_closed", "_overhead",
        "_silence", "_tokens", "_tokens_at", "_waiting", "_whole", "closed", "cut_short", "on_pong",
    )  # fmt: skip

    def __init__(
        self,
        upgraded: Upgraded,
        *,
        client: bool,
        limits: Limits,
        timeouts: Timeouts,
        on_closed: Callable[[ConnectionClosed], None],
        observer: Observer = NO_OBSERVER,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        super().__init__(
            wire_for(upgraded.sock), Frames(client=client, limits=limits, extensions=upgraded.extensions),
            limits=limits, timeouts=timeouts, observer=observer, clock=clock,
        )  # fmt: skip
        self.shares_frames = not client and not upgraded.extensions
        self.cut_short = False
        self.on_pong: Callable[[bytes], None] | None = None
        self.closed: Completion[ConnectionClosed] = Completion(self._hub)
        self._client = client
        self._on_closed = on_closed
        self._early = upgraded.trailing
        self._wire.give_up_after(timeouts.liveness)
        self._overhead = 0
        self._tokens = float(limits.overhead_rate)
        self._tokens_at = clock()
        self._budget = limits.message_rate
        self._budget_at = self._tokens_at
        self._watch(self._tokens_at)

    # ----------------------------------------------------------------- reading

    def read(self) -> list[Incoming] | None:
        """What came next, at least one item; `None` once the connection has ended.

        Whatever is no message goes to `control`. Always lets the hub turn, however fast the peer sends.
        """
        frames = self._frames
        while self.state is not CLOSED:
            if frames.pending:
                self.let_others()
                data = b""
            elif self._early:
                data, self._early = self._early, b""
            else:
                self._waiting = True
                data = self._wire.recv()
                self._waiting = False
                if not data:
                    self._read_end()
                    return None
            self._heard = True
            incoming = frames.receive(data)
            self._budget -= len(incoming)
            if self._budget < 0:
                self._charge_messages()
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

    def let_others(self) -> None:
        """Come back when the hub has looked at all sockets. After `sleep(0)` it only runs what is ready already, for up
        to 5 ms and often more: seen to hold others up for 30 ms."""
        turn = self._hub.loop.timer(0)
        try:
            self._hub.wait(turn)
        finally:
            turn.close()

    def _read_end(self) -> None:
        """The peer sends no more. If it has closed before that, it may still be reading what is queued for it."""
        if self._congested and self._after_queue is not None:
            self._after_queue = self._finish
            self.closed.wait()  # not longer than the close timer
        else:
            self._end(self._ending or ConnectionClosed(1006, self._wire.failure or "the link ended without a close"))

    def control(self, item: object) -> None:
        """Act on what `read` returned that is no message."""
        if isinstance(item, PingReceived):
            self._answer_ping(item.payload)
        elif isinstance(item, PongReceived):
            if self.on_pong is not None:
                self.on_pong(item.payload)
        elif isinstance(item, CloseReceived):
            self._peer_closes(item)
        elif isinstance(item, RemoteProtocolError):
            reason = "message too big" if isinstance(item, MessageTooBig) else str(item)
            self.refuse(item.close_code, reason)

    def _charge(self, overhead: int) -> None:
        """Count frames that carry no whole message against the rate that a peer may send them at."""
        now = self._clock()
        rate = self._limits.overhead_rate
        self._tokens = min(rate, self._tokens + (now - self._tokens_at) * rate) - (overhead - self._overhead)
        self._tokens_at = now
        self._overhead = overhead
        if self._tokens < 0:
            self.refuse(1008, "too many control frames or fragments")

    def _charge_messages(self) -> None:
        """So many messages have come that the rate is to be looked at; not done for each, which would cost them."""
        now = self._clock()
        rate = self._limits.message_rate
        self._budget += min(rate, round((now - self._budget_at) * rate))
        self._budget_at = now
        if self._budget < 0:
            self.refuse(1008, "too many messages")

    def limit_messages(self, size: int) -> None:
        """Bound messages that begin from now on to *size* bytes."""
        self._frames.limit_messages(size)

    # ---------------------------------------------------------------- deadlines

    def _watch(self, now: float) -> None:
        self._heard = False
        self._heard_at = now
        self._silence: Silence | None = None  # while a ping of ours awaits an answer
        self._waiting = False
        self._whole = False
        self._begun_at: float | None = None

    @property
    def stalled(self) -> bool:
        """Whether the peer's machine acknowledges what is sent, and the peer does not answer."""
        return self._silence is not None and self._silence.stalled and not self._heard

    def peer_has_ended(self) -> bool:
        """Whether the peer sends no more, or is gone, however much of what it sent is unread."""
        return self._wire.peer_has_ended()

    def tick(self, now: float, busy: bool = False, late: float = 0.0) -> bool | None:
        """Look at every deadline; called about once a second, with the clock's reading.

        Args:
            busy: Somebody waits for an answer of this peer.
            late: Seconds in which nothing could be read or written here; see `pulse.Ticking`.

        Returns:
            True when the peer has stalled just now, false when it has recovered, else `None`.
        """
        if late:
            self._wrote_at = min(now, self._wrote_at + late)
            if self._begun_at is not None:
                self._begun_at = min(now, self._begun_at + late)
        if self._congested and now - self._wrote_at > self._timeouts.write:
            self.abort(ConnectionClosed(4008, "too slow: no byte taken in time"))
        if self.state is not OPEN:
            return None
        changed = self._tick_silence(now, busy or self._congested)
        if self.state is OPEN:
            self._tick_message(now)
        return changed

    def _tick_silence(self, now: float, busy: bool) -> bool | None:
        silence = self._silence
        if self._heard or not self._waiting:
            # While we ourselves read nothing, as at the bound of handlers, silence proves nothing.
            self._heard = False
            self._heard_at = now
            self._silence = None
            return False if silence is not None and silence.stalled else None
        if silence is None:
            if now - self._heard_at >= ask_after(self._timeouts, busy=busy):
                self._silence = Silence(self._timeouts, heard_at=self._heard_at, asked_at=now)
                self.ask()
            return None
        decision = silence.look(now, self._wire.tcp_state())
        if decision is Decision.PING:
            self.ask()
        elif decision is Decision.LOST:
            self.abort(ConnectionClosed(4012, "no pong"), say=True)
        return True if decision is Decision.STALLED else None

    def _tick_message(self, now: float) -> None:
        if not self._frames.mid_message or not self._waiting:
            self._begun_at = None
        elif self._begun_at is None or self._whole:
            self._begun_at = now
        elif now - self._begun_at > self._timeouts.message:
            self.refuse(1008, "message not finished in time")
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
        self._write([closing])
        self._make_room()
        self._end_in(self._timeouts.close)

    def refuse(self, code: int, reason: str) -> None:
        """Close because of what the peer has sent. What it goes on to send is not looked at: a flood would cost as
        much as before, for as long as the closing handshake may take."""
        if self.state is CLOSED:
            return
        self._frames.stop()
        self.close(code, reason)
        if not self._client:
            # Its answer to our close is not read as a frame any more. So it must see our end, upon which it ends
            # TCP, as RFC 6455 §7.1.7 lets a server do; else both would wait for the close timer. And we read on:
            # closing on unread bytes would reset the connection, and a reset may overtake our close frame.
            self._once_written(self._wire.end_writing)

    def _peer_closes(self, item: CloseReceived) -> None:
        if self.state is OPEN:
            self.flush()
            self.state = CLOSING
            self._ending = ConnectionClosed(item.code, item.reason)
            self._write([self._frames.close(item.code)])
            self._make_room()
        if self._client or self._congested:
            self._end_in(self._timeouts.close)
        if not self._client:
            # RFC 6455 §7.1.1: the server ends TCP first; a client's reader sees that.
            self._once_written(self._finish)

    def _finish(self) -> None:
        self._end(self._ending or ConnectionClosed())

    def abort(self, why: ConnectionClosed, *, say: bool = False) -> None:
        """End at once, without the closing handshake.

        Args:
            say: Try to tell the peer the code first, as far as its socket takes it.
        """
        if self.state is CLOSED:
            return
        if say and self.state is OPEN and not self._congested:
            self.state = CLOSING
            with suppress(LocalProtocolError):  # a code that nobody may send stays ours
                self._write([self._frames.close(why.code, why.reason)])
        self._end(why)

    def leave(self) -> None:
        """In a forked child: nothing is read or written any more; the connection is the parent's."""
        self._let_go()
        self._wire.leave()

    def _end(self, why: ConnectionClosed) -> None:
        if self.state is CLOSED:
            return
        self._ending = why
        cut = self.cut_short = self._congested
        self._let_go()
        self._wire.close(cut=cut)
        self.closed.succeed(why)
        tell, self._on_closed = self._on_closed, _nobody  # its owner would be freed late, by the collector
        tell(why)

    def _let_go(self) -> None:
        """Nothing is read or written from now on, and nobody waits for room."""
        self.state = CLOSED
        self._frames.stop()
        self._drop_all()


def _nobody(_: ConnectionClosed) -> None:
    return None
