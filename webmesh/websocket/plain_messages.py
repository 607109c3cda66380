"""The messages of a plain WebSocket route: read ahead for its handler, sent as they are.

A greenlet of its own reads, so pings are answered and the end is seen while the handler is busy
elsewhere, in a thread perhaps. It reads ahead only so far.
"""

from __future__ import annotations

from collections.abc import Iterator

from webmesh.exceptions import ConnectionClosed, LocalProtocolError
from webmesh.options import Limits
from webmesh.websocket.hub import Completion, HubThread
from webmesh.websocket.inbox import Inbox
from webmesh.websocket.stream import OPEN, MessageStream


class PlainMessages:
    """Incoming and outgoing messages of one connection. `send` and `receive` may be called from any thread."""

    def __init__(self, stream: MessageStream, home: HubThread, limits: Limits) -> None:
        self._stream = stream
        self._home = home
        self._bound = limits.receive_queue
        self._inbox: Inbox[str | bytes] = Inbox(home.hub, self._make_room)
        self._room: Completion[None] | None = None

    def read(self) -> None:
        """Read for the handler until the connection has ended; in the hub."""
        while (items := self._stream.read()) is not None:
            for item in items:
                if isinstance(item, str | bytes):
                    self._put(item)
                else:
                    self._stream.control(item)

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

    def closing(self) -> None:
        """The connection is being closed from this side: a reader that has paused goes on to its end. In the hub."""
        self._make_room()

    def end(self, why: ConnectionClosed) -> None:
        """The connection has ended: who waits for more gets *why*. In the hub."""
        self._inbox.fail(why)
        self._make_room()

    def receive(self, timeout: float | None) -> str | bytes:
        """The next message; see `WebSocketConnection.receive`."""
        return self._inbox.take(timeout)

    def __iter__(self) -> Iterator[str | bytes]:
        while True:
            try:
                message = self._inbox.take()
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
