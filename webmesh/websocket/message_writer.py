"""The writing half of a stream: what leaves at once, what waits for a slow peer's socket, and what gives way.

Decides when bytes are written. What waits, and in which order, is `outgoing`'s. Everything here runs in the hub
that owns the socket; any number of greenlets may send.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from typing import TYPE_CHECKING, Any

import gevent
from gevent.hub import get_hub

from webmesh.exceptions import ConnectionClosed
from webmesh.observer import Observer
from webmesh.options import Limits, Timeouts
from webmesh.websocket.outgoing import Outgoing, Policy
from webmesh.websocket.room import Room
from webmesh.websocket.write_batch import write_batch

if TYPE_CHECKING:
    from webmesh.websocket.wire import PlainWire
    from webmesh.protocol.frames import Frames

FLUSH_SIZE = 64 * 1024
"""Bytes of answers after which they leave before the turn is over: about one socket buffer."""
OPEN, CLOSING, CLOSED = "open", "closing", "closed"
STUCK = 1.0
"""Seconds without a byte taken after which a reader no longer waits for a full queue: its peer may wait for it."""


class MessageWriter:
    """Whole frames on their way to one socket. `MessageStream` adds reading, deadlines and the end.

    Args:
        observer: Told of messages that a full queue leaves out.

    Attributes:
        state: `OPEN`, `CLOSING` from our close frame on, or `CLOSED`.
        full: Whether who sends is to `drain` before: too much waits for the peer, or others wait for room already.
        flushes: Batches that were handed to the socket or its queue; what was taken since the last one has not been.
        shares_frames: Whether `server_frame(message)` is what is sent here, so that one frame, made once, can be
            offered to many connections.
    """

    # Slots: an instance dict of so many keys would take 1.5 KiB of an idle connection.
    __slots__ = (
        "_after_queue", "_batch", "_clock", "_close_timer", "_ending", "_flushing", "_frames", "_hub",
        "_limits", "_observer", "_out", "_out_size", "_plain", "_queue", "_room", "_send", "_timeouts", "_wire",
        "_wrote_at", "flushes", "full", "shares_frames", "state",
    )  # fmt: skip

    def __init__(
        self,
        wire: PlainWire,
        frames: Frames,
        *,
        limits: Limits,
        timeouts: Timeouts,
        observer: Observer,
        clock: Callable[[], float],
    ) -> None:
        self.state = OPEN
        self.shares_frames = False
        self.full = False
        self.flushes = 0
        self._hub = get_hub()
        self._batch = write_batch(self._hub)
        self._limits = limits
        self._timeouts = timeouts
        self._observer = observer
        self._clock = clock
        self._wire = wire
        self._send, self._plain = wire.send, wire.plain
        self._frames = frames
        self._out: list[bytes] = []
        self._out_size = 0
        self._flushing = False
        self._queue: Outgoing | None = None  # made when the socket does not take all for the first time
        self._after_queue: Callable[[], None] | None = None
        self._room: Room | None = None  # made when somebody has to wait for the first time
        self._ending: ConnectionClosed | None = None
        self._close_timer: Any = None
        self._wrote_at = clock()

    def send(self, message: str | bytes) -> None:
        """Take a message; it leaves with `flush`, or before when much has gathered.

        Raises:
            ConnectionClosed: It is closing or closed.
        """
        if self.state is not OPEN:
            self.check_open()
        data = self._frames.encode(message)
        self._out.append(data)
        self._out_size += len(data)
        if self._out_size > FLUSH_SIZE:
            self.flush()

    def check_open(self) -> None:
        """Nothing, or the error that tells why it ended.

        Raises:
            ConnectionClosed: It is closing or closed.
        """
        if self.state is not OPEN:
            # A new one each time: every raise adds to a traceback, which would grow and hold frames.
            ending = self._ending or ConnectionClosed()
            raise ConnectionClosed(ending.code, ending.reason)

    def offer(self, message: str | bytes, policy: Policy, conflate_key: Hashable = None) -> bool:
        """Take a message unless the peer is too slow for it; never waits, and raises nothing when it has gone.

        Args:
            policy: For a full queue. With "wait" the message is taken in any case; `take` waits before.
            conflate_key: While the queue moves slowly, only the newest message with this key stays.

        Returns:
            Whether it was taken; false, too, after the end.
        """
        return self.state is OPEN and self.offer_frame(self._frames.encode(message), policy, conflate_key)

    def offer_frame(self, frame: bytes, policy: Policy, conflate_key: Hashable = None) -> bool:
        """`offer` for a message that is a frame already, made once for many receivers; see `shares_frames`."""
        if self.state is not OPEN:
            return False
        queue = self._queue
        if queue is None or not queue.size:
            self._out.append(frame)
            self._out_size += len(frame)
            if self._out_size > FLUSH_SIZE:
                self.flush()
            elif not self._flushing:
                self.flush_soon()
            return True
        self.flush()
        taken = queue.offer(frame, self._limits.send_queue, policy, conflate_key)
        self._grown(queue)
        if not taken and policy == "close":
            self.cut_off(4008, f"too slow: {queue.size} bytes are waiting")
        return taken

    def push_frame(self, frame: bytes, policy: Policy) -> bool:
        """`offer_frame`, but written at once where nothing waits: for one frame to so many receivers that nothing is
        saved by gathering more for each."""
        plain, queue = self._plain, self._queue
        if plain is None or self._out or self.state is not OPEN or queue is not None and queue.size:
            return self.offer_frame(frame, policy)
        try:
            sent = plain.send(frame)
        except BlockingIOError:
            sent = 0
        except OSError as error:
            self._broken(error)
            return False
        if sent != len(frame):
            self._congest((frame,), sent)
        return True

    def take(self, message: str | bytes, policy: Policy, conflate_key: Hashable) -> bool:
        """`offer`, but with "wait" waits for room, unless what it replaces makes enough.

        Raises:
            ConnectionClosed: It is closing or closed.
        """
        self.check_open()
        frame = self._frames.encode(message)
        if policy == "wait" and self.full and self._queue is not None:
            if not self._queue.replaces(frame, self._limits.send_queue, conflate_key):
                self.drain()
                self.check_open()
        return self.offer_frame(frame, policy, conflate_key)

    def flush(self) -> None:
        """Write what was taken, as one write; never waits. What the socket does not take is queued."""
        self._flushing = False  # it may still be in the batch, where it then finds nothing or what is new
        frames = self._out
        if frames:
            self._out = []
            self._out_size = 0
            if self._write(frames):
                self.flushes += 1

    def end_turn(self) -> None:
        """Let what one turn of the reader produced leave, with what the other connections have, when the hub has served
        everything that was ready. Waits only where the queue has far outgrown its limit by what must not wait.
        """
        if self._out and not self._flushing:
            self._flushing = True
            self._batch.add(self.flush)
        if self.full and self.queued > self._most:
            self.pause()

    def flush_soon(self) -> None:
        """Flush when the running greenlet switches, with whatever else is sent until then."""
        if not self._flushing:
            self._flushing = True
            self._batch.add(self.flush)

    def drain(self, seconds: float | None = None) -> None:
        """Wait until no more than `Limits.send_queue` bytes await the socket, and all who have waited before have gone
        on. Send before the next switch. Comes back at once when the connection is closing.

        Raises:
            TimeoutError: There was no room within *seconds*.
        """
        if self.full:
            if self._room is None:
                self._room = Room(self._hub, self._has_room, self._all_have_room)
            self._room.wait(seconds)

    def pause(self) -> bool:
        """For who reads: wait for room as long as the peer takes anything; false when it does not, or needs not wait.

        A peer that takes nothing may wait for us to read. Then reading goes on, until the queue is far too long.
        """
        while self.full:
            try:
                self.drain(STUCK)
                return True
            except TimeoutError:
                if self.queued <= self._most and self._clock() - self._wrote_at >= STUCK:
                    return False
        return False

    @property
    def _most(self) -> int:
        """Bytes that replies which cannot wait, as refusals, may fill the queue with before reading pauses."""
        return 2 * self._limits.send_queue + self._limits.message_size

    def _has_room(self) -> bool:
        if self.state is not OPEN:
            return True
        self.flush()  # what is taken and not written counts too
        return self._queue is None or self._queue.size <= self._limits.send_queue

    def _all_have_room(self) -> None:
        self.full = False

    def _grown(self, queue: Outgoing) -> None:
        if queue.size > self._limits.send_queue and self.state is OPEN:
            self.full = True

    def _make_room(self) -> None:
        if self._room is None:
            self.full = False
        else:
            self._room.open()

    @property
    def ending(self) -> ConnectionClosed | None:
        """Why it is closing or has ended; `None` while it is open."""
        return self._ending

    @property
    def queued(self) -> int:
        """Bytes that wait for the peer's socket."""
        return self._out_size + (0 if self._queue is None else self._queue.size)

    @property
    def queue(self) -> Outgoing | None:
        """What waits, and what was left out; `None` while the peer has always been quick enough."""
        return self._queue

    @property
    def _congested(self) -> bool:
        return self._queue is not None and self._queue.size > 0

    def _write(self, frames: Sequence[bytes]) -> bool:
        """Write whole frames, or queue them behind those that wait; false when the socket takes none of them."""
        if self.state is CLOSED:
            return False
        queue = self._queue
        if queue is not None and queue.size:
            queue.add(frames)
            self._grown(queue)
            return True
        data = frames[0] if len(frames) == 1 else b"".join(frames)
        try:
            sent = self._send(data)
        except OSError as error:
            self._broken(error)
            return False
        if sent != len(data):
            self._congest(frames, sent)
        return True

    def _congest(self, frames: Sequence[bytes], sent: int) -> None:
        """The socket has taken only *sent* bytes of *frames*: the rest waits, and all that comes behind it."""
        self._wrote_at = self._clock()
        queue = self._queue
        if queue is None:
            queue = self._queue = Outgoing(self._left_out)
        queue.begin(frames, sent)
        self._grown(queue)
        gevent.spawn(self._write_queue, queue)

    def _left_out(self, policy: Policy) -> None:
        self._observer.refused("outgoing", policy)

    def _broken(self, error: OSError) -> None:
        # Not ended here: the caller may be in the middle of anything.
        self._ending = self._ending or ConnectionClosed(1006, f"sending failed: {error}")
        self._hub.loop.run_callback(self._end, self._ending)

    def _write_queue(self, queue: Outgoing) -> None:
        """Write the queue as the socket takes it; one such greenlet runs while there is a queue."""
        try:
            while queue.size and self.state is not CLOSED:
                self._wire.wait_writable()
                self._write_some(queue)
        except OSError as error:
            self._broken(error)
        if self._after_queue is not None:
            self._after_queue()

    def _write_some(self, queue: Outgoing) -> None:
        while queue.size:
            chunk = queue.next()
            sent = self._send(chunk)
            if not sent:
                return
            self._wrote_at = self._clock()
            queue.sent(sent)
            if self.full and queue.size <= self._limits.send_queue:
                self._make_room()
            if sent < len(chunk):
                return

    def _answer_ping(self, payload: bytes) -> None:
        if self.state is not OPEN:
            return
        pong = self._frames.pong(payload)
        if self._queue is not None and self._queue.size:
            self._queue.pong(pong)
        else:
            self._out.append(pong)
            self._out_size += len(pong)
            self.flush_soon()

    def ping(self, payload: bytes = b"") -> None:
        """Send a ping behind the messages that were sent before: its pong tells that they have arrived."""
        if self.state is OPEN:
            self._out.append(self._frames.ping(payload))
            self.flush()

    def ask(self) -> None:
        """Ask for a sign of life: ahead of the messages that wait, or it would only tell how many these are."""
        if self.state is not OPEN:
            return
        if self._queue is not None and self._queue.size:
            self._queue.ping(self._frames.ping())
        else:
            self.ping()

    # ------------------------------------------------------------------ the end

    def cut_off(self, code: int, reason: str) -> None:
        """Close a peer that does not keep up: it is told as soon as a frame ends, and what waits for it is left out."""
        if self.state is not OPEN:
            return
        closing = self._frames.close(code, reason)
        self.state = CLOSING
        self._ending = ConnectionClosed(code, reason)
        self._out = []
        self._out_size = 0
        if self._queue is not None and self._queue.size:
            self._queue.cut(closing)
        else:
            self._write([closing])
        self._make_room()
        self._end_in(self._timeouts.close)

    def _once_written(self, act: Callable[[], None]) -> None:
        """Do the last thing, when the queue is empty."""
        if self._congested:
            self._after_queue = act
        else:
            act()

    def _end_in(self, seconds: float) -> None:
        if self._close_timer is None:
            self._close_timer = self._hub.loop.timer(seconds)
            self._close_timer.start(self._end, self._ending or ConnectionClosed())

    def _end(self, why: ConnectionClosed) -> None:
        """The connection has ended, unless it had before."""
        raise NotImplementedError

    def _drop_all(self) -> None:
        """Nothing is written from now on, and nobody waits for room."""
        self._out = []
        self._out_size = 0
        if self._queue is not None:
            self._queue.clear()
        if self._close_timer is not None:
            self._close_timer.close()
            self._close_timer = None
        self._make_room()
