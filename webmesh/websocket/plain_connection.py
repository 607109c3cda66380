"""The plain half of a connection: what the handler of a plain WebSocket route, and whoever runs it, may do with it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from webmesh.exceptions import ConnectionClosed, LocalProtocolError

if TYPE_CHECKING:
    from webmesh.websocket.plain_messages import PlainMessages
    from webmesh.websocket.stream import MessageStream


class PlainConnection:
    """A base of `WebSocketConnection`, which fills it; on a mesh connection its methods refuse."""

    _plain: PlainMessages | None
    _stream: MessageStream

    def run_plain(self) -> None:
        """Read for a handler that iterates, until the connection has ended; in the hub."""
        try:
            self._messages.read()
        finally:
            self._stream.abort(ConnectionClosed(1001, "the reader was stopped"))

    def own_plain(self) -> None:
        """The handler runs in the calling greenlet and reads by itself; in the hub."""
        self._messages.own()

    def attend_plain(self) -> None:
        """Wait until the connection has ended, while its handler reads by itself; in the hub."""
        try:
            self._stream.closed.wait()
        finally:
            self._stream.abort(ConnectionClosed(1001, "the reader was stopped"))

    def send(self, message: str | bytes) -> None:
        """Send one message on a plain WebSocket route: text for `str`, binary for `bytes`.

        Waits only while more than `Limits.send_queue` bytes await the peer.

        Raises:
            ConnectionClosed: The connection has ended.
            LocalProtocolError: The message is neither, or this is a mesh connection.
        """
        self._messages.send(message)

    def receive(self, timeout: float | None = None) -> str | bytes:
        """The next message on a plain WebSocket route.

        Args:
            timeout: Seconds; `None` waits for ever.

        Raises:
            TimeoutError: Nothing came in time.
            ConnectionClosed: The connection has ended, and everything that came before was taken.
        """
        return self._messages.receive(timeout)

    def __iter__(self) -> Iterator[str | bytes]:
        """Messages until the connection has ended, however it ended; see `close_reason`."""
        return iter(self._messages)

    @property
    def _messages(self) -> PlainMessages:
        if self._plain is None:
            raise LocalProtocolError("this is a mesh connection: its serializer owns the messages, use call or notify")
        return self._plain
