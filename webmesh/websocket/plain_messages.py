"""The messages of a plain WebSocket route: read ahead for its handler, sent as they are.

Pings are answered and the end is seen while the handler is busy elsewhere: a greenlet of its own reads for
a handler in a thread, and for one in a greenlet while that does not read by itself. It reads ahead only so far.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import gevent
from gevent import getcurrent

from webmesh.exceptions import ConnectionClosed, LocalProtocolError, RemoteProtocolError
from webmesh.options import Limits
from webmesh.protocol.frames import Incoming
from webmesh.websocket.hub import Completion, HubThread
from webmesh.websocket.inbox import Inbox
from webmesh.websocket.message_writer import OPEN
from webmesh.websocket.turns import HOLD

if TYPE_CHECKING:
    from webmesh.websocket.stream import MessageStream

FAULT_PATIENCE = 1.0
"""Seconds for a handler to answer what came before a peer's fault, in the same packet perhaps."""


class PlainMessages:
    """Incoming and outgoing messages of one connection. `send` and `receive` may be called from any thread."""

    def __init__(self, stream: MessageStream, home: HubThread, limits: Limits) -> None:
        self._stream = stream
        self._home = home
        self._bound = limits.receive_queue
        self._inbox: Inbox[str | bytes] = Inbox(home.hub, self._make_room)
        self._room: Completion[None] | None = None
        self._owner: Any = None
        self._ahead: list[Incoming] = []  # read by the owner and not handed on yet, the next one last
        self._handover: Any = None
        self._reader: Any = None
        self._reads_itself = False
        self._shared = False
        self._until = 0.0
        self._ping_at = 0.0

    # ------------------------------------------------------- a reader of its own

    def read(self) -> None:
        """Read for a handler in another thread until the connection has ended; in the hub."""
        while (items := self._stream.read()) is not None:
            for item in items:
                self._deliver(item)

    def _deliver(self, item: Incoming) -> None:
        if isinstance(item, str | bytes):
            self._put(item)
            return
        if isinstance(item, RemoteProtocolError):
            self._let_answer()
        self._stream.control(item)

    def _let_answer(self) -> None:
        """Before a fault of the peer's closes the connection, let the handler answer what came before it."""
        with gevent.Timeout(FAULT_PATIENCE, False):  # type: ignore[arg-type]
            while self._stream.state is OPEN and not self._inbox.awaited:
                gevent.sleep(0.005)  # it may be in another thread, which says nothing before it asks for more

    # ------------------------------------------------- a handler that reads by itself

    def own(self) -> None:
        """The handler runs in the calling greenlet, of this hub: it reads by itself whenever it waits for a message.

        While it is busy elsewhere a reader is started for it, as in `turns`: what does not switch pays nothing.
        """
        self._owner = getcurrent()
        self._handover = self._home.hub.loop.run_callback(self._read_on)

    def _read_one(self) -> str | bytes:
        if self._handover is not None:
            self._handover.stop()
            self._handover = None
        if self._ahead and time.monotonic() > self._until:
            gevent.sleep(0)  # quick work on each of many messages is long for those who wait for the hub
            self._until = time.monotonic() + HOLD
        while True:
            while self._ahead:
                item = self._ahead.pop()
                if isinstance(item, str | bytes):
                    self._handover = self._home.hub.loop.run_callback(self._read_on)
                    return item
                self._stream.control(item)
            self._reads_itself = True
            try:
                items = self._stream.read()
            finally:
                self._reads_itself = False
            if items is None:
                return self._inbox.take()  # raises why it ended
            if len(items) > 1:
                self._until = time.monotonic() + HOLD
            items.reverse()
            self._ahead = items

    def _read_on(self) -> None:
        """In the hub: the handler has switched to something else, or has ended, so another one must read."""
        self._handover = None
        if self._reader is None and not self._reads_itself:
            self._reader = gevent.spawn(self._read_ahead)

    def _read_ahead(self) -> None:
        """Read for the busy handler, until it waits for messages again and has got one."""
        try:
            while True:
                waiting = self._inbox.awaited and not self._shared
                while self._ahead:
                    self._deliver(self._ahead.pop())
                if waiting and len(self._inbox):
                    return
                items = self._stream.read()
                if items is None:
                    return
                items.reverse()
                self._ahead = items
        finally:
            self._reader = None

    def _take(self, timeout: float | None) -> str | bytes:
        if self._owner is None:
            return self._inbox.take(timeout)
        if getcurrent() is self._owner and timeout is None and self._reader is None and not self._shared:
            if not len(self._inbox):
                return self._read_one()
        elif self._home.inside():
            self._share(getcurrent())
        else:
            self._home.post(self._share, None)
        message = self._inbox.take(timeout)
        if self._reader is None and self._handover is None and self._home.inside():
            self._handover = self._home.hub.loop.run_callback(self._read_on)
        return message

    def _share(self, taker: Any) -> None:
        """Others than the handler take messages, or it waits only so long: from now on a reader serves them all."""
        if taker is not self._owner:
            self._shared = True
        self._read_on()

    def _put(self, message: str | bytes) -> None:
        """Keep a message for the handler; waits while as many as allowed are there, so reading pauses."""
        inbox = self._inbox
        while len(inbox) >= self._bound:
            if self._stream.state is not OPEN:
                return  # dropped, as the handler did not keep up: behind it comes the peer's close
            self._room = Completion(self._home.hub)
            if len(inbox) < self._bound:  # taken by another thread meanwhile
                break
            self._room.wait()
        inbox.put(message)

    def _make_room(self) -> None:
        """A message was taken, by whichever thread."""
        room = self._room
        if room is None or room.done:
            return
        if self._home.inside():
            room.succeed(None)
        else:
            self._home.post(room.succeed, None)

    def tick(self, now: float, ping_interval: float) -> None:
        """While reading pauses, nobody reads of the peer's end: look for it. Called now and then, in the hub.

        What the peer has sent before is read to its last byte then; that is not more than the system has kept already.

        Args:
            ping_interval: Seconds; a peer that is gone without a word fails to acknowledge pings.
        """
        room = self._room
        if room is None or room.done:
            return
        if self._stream.peer_has_ended():
            self._bound = sys.maxsize
            room.succeed(None)
        elif now >= self._ping_at:
            self._ping_at = now + ping_interval
            self._stream.ask()

    def closing(self) -> None:
        """The connection is being closed from this side: somebody must read to its end. In the hub."""
        self._make_room()
        if self._owner is not None:
            self._read_on()

    def shut_out(self, why: ConnectionClosed) -> None:
        """The handler gets nothing more, not even what has come: whoever waits for a message gets *why*. In the hub."""
        self._ahead.clear()
        self._inbox.clear()
        self._inbox.fail(why)
        self.closing()

    def end(self, why: ConnectionClosed) -> None:
        """The connection has ended: who waits for more gets *why*. In the hub."""
        self._inbox.fail(why)
        self._make_room()

    def receive(self, timeout: float | None) -> str | bytes:
        """The next message; see `WebSocketConnection.receive`."""
        return self._take(timeout)

    def __iter__(self) -> Iterator[str | bytes]:
        while True:
            try:
                message = self._take(None)
            except ConnectionClosed:
                return
            yield message

    def send(self, message: str | bytes) -> None:
        """Send a message; see `WebSocketConnection.send`."""
        if not isinstance(message, str | bytes):
            raise LocalProtocolError(f"a message is str or bytes, not {type(message).__name__}")
        self._home.run(self._send, message)

    def _send(self, message: str | bytes) -> None:
        self._stream.drain()
        self._stream.send(message)
        self._stream.flush_soon()
