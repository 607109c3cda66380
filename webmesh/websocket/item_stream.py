"""The asking side of a stream: items that come back, items that go out, and the reply at the end."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import suppress
from types import TracebackType
from typing import TYPE_CHECKING, Any

from webmesh.deadline import Deadline
from webmesh.exceptions import ConnectionClosed, LocalProtocolError, RequestTimeout
from webmesh.protocol import envelope
from webmesh.websocket.hub import Completion, HubThread
from webmesh.websocket.inbox import Inbox

if TYPE_CHECKING:
    from webmesh.protocol.session import OpenRequest
    from webmesh.websocket.conversation import Conversation

ITEMS_BEFORE_SWITCH = 64
"""Items that are sent in a row before the hub serves others."""


class ItemStream:
    """An open stream: iterate over its items, `send` others, read `result` at the end.

    May be used from any greenlet or thread. Use it as a context manager, or read it to its end, or
    `close` it: otherwise the peer goes on within the credit until the connection ends.
    """

    def __init__(self, path: str, conversation: Conversation, home: HubThread) -> None:
        self.path = path
        self._conversation = conversation
        self._home = home
        self._inbox: Inbox[Any] = Inbox(home.hub, self._taken)
        self._request: OpenRequest | None = None
        self._credit_bell: Completion[None] = Completion(home.hub)
        self._sent_all = False
        self._timer: Any = None
        self._on_over: Callable[[], object] | None = None
        self._deadline = Deadline(None)

    def opened(self, request: OpenRequest) -> None:
        """The request is on its way. Called once, by the connection."""
        self._request = request

    @property
    def over(self) -> bool:
        """Whether nothing more will come; items that came before may still wait to be read."""
        return self._inbox.over

    def moved(self, conversation: Conversation) -> None:
        """In the hub: it goes on over another connection."""
        self._conversation = conversation

    # ------------------------------------------------- called by the conversation

    def put(self, item: Any) -> None:
        """The next item has come."""
        self._inbox.put(item)

    def succeed(self, value: Any) -> None:
        """The reply has come: the stream is over."""
        self._inbox.end(value)
        self._wind_up()

    def fail(self, error: BaseException) -> None:
        """An error has come instead."""
        self._inbox.fail(error)
        self._wind_up()

    def when_over(self, callback: Callable[[], object]) -> None:
        """Call *callback* once nothing more will come, in whichever thread learns of it; it must not block."""
        self._on_over = callback
        if self.over:
            self._tell_over()

    def _tell_over(self) -> None:
        callback, self._on_over = self._on_over, None
        if callback is not None:
            callback()

    def _wind_up(self) -> None:
        self._tell_over()
        if self._timer is not None:
            self._timer.close()
            self._timer = None
        self.credited()

    def credited(self) -> None:
        """The peer takes more items."""
        bell, self._credit_bell = self._credit_bell, Completion(self._home.hub)
        bell.succeed(None)

    # ------------------------------------------------------------------ reading

    def __iter__(self) -> Iterator[Any]:
        return self

    def __next__(self) -> Any:
        return self._inbox.take()

    def take(self, timeout: float | None = None) -> Any:
        """The next item.

        Args:
            timeout: Seconds to wait for it; `None` waits as long as the stream lasts.

        Raises:
            StopIteration: The stream is over.
            TimeoutError: Nothing came in time; the stream goes on.
            RemoteError, ReplyLost, RequestTimeout: The stream has failed.
        """
        return self._inbox.take(timeout)

    @property
    def result(self) -> Any:
        """The reply: what the handler's generator returned. Items that nobody has read are dropped.

        Raises:
            RemoteError, ReplyLost, RequestTimeout: The stream has failed.
        """
        for _ in self:
            pass
        return self._inbox.value

    def _taken(self) -> None:
        if self._home.inside():
            self._consume()
        else:
            self._home.post(self._consume)

    def _consume(self) -> None:
        request = self._request
        if request is None or request.receiver is None or self._inbox.over:
            return
        credit = request.receiver.consume()
        if credit:
            self._conversation.say(envelope.credit(request.id, credit))

    # ------------------------------------------------------------------ sending

    def send(self, item: Any) -> None:
        """Send an item; waits for the peer's credit.

        Raises:
            EncodeError: The item cannot be sent; the stream goes on.
            LocalProtocolError: The stream was opened without items of ours, or they were ended.
            RemoteError, ReplyLost, RequestTimeout: The stream has failed.
            ConnectionClosed: The peer has ended the stream, or the connection.
        """
        self._home.run(self._send, item)

    def _send(self, item: Any) -> None:
        request = self._request
        if request is None or request.sender is None or self._sent_all:
            raise LocalProtocolError("the stream takes no items: it was opened without, or they were ended")
        while not request.sender.ready or self._inbox.over:
            self._check_open()
            self._credit_bell.wait()
        if self._conversation.stream.full:
            self._await_room()
            if self._inbox.over:
                self._check_open()
        message = envelope.item(request.id, item, request.sender.seq)
        self._conversation.send(message)
        request.sender.take()
        self._conversation.stream.flush_soon()

    def _await_room(self) -> None:
        """Not longer than the stream may last."""
        with suppress(TimeoutError):  # then the stream is over
            self._conversation.stream.drain(self._deadline.remaining())

    def _check_open(self) -> None:
        if self._inbox.error is not None:
            raise self._inbox.error
        if self._inbox.over:
            raise ConnectionClosed(1000, "the peer has ended the stream")

    def end(self) -> None:
        """Say that no more items of ours come; what comes back goes on. Safe to call twice."""
        self._home.run(self._end)

    def _end(self) -> None:
        if self._request is not None and self._request.sender is not None and not self._sent_all:
            self._sent_all = True
            if not self._inbox.over:
                self._conversation.say(envelope.end(self._request.id))

    def expire_in(self, seconds: float) -> None:
        """End the stream with `RequestTimeout` after *seconds*; called in the hub."""
        timer = self._home.hub.loop.timer(seconds)
        self._deadline = Deadline(seconds)
        self._timer = timer
        timer.start(self._abandon, RequestTimeout(self.path, seconds), update=True)

    def broken(self, error: BaseException) -> None:
        """The items that were to be sent have failed: whoever reads gets *error*, the peer a cancel."""
        with suppress(ConnectionClosed):  # the client was closed meanwhile, which both have been told
            self._home.run(self._abandon, error)

    def close(self) -> None:
        """Give the stream up: the peer's handler is cancelled. Safe to call at any time."""
        self._home.run(self._abandon, ConnectionClosed(1000, "the stream was closed by its own side"))

    def _abandon(self, error: BaseException) -> None:
        if self._request is not None and not self._inbox.over:
            self._conversation.abandon(self._request)
            self.fail(error)

    def __enter__(self) -> ItemStream:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<ItemStream {self.path} {'over' if self._inbox.over else 'open'}>"
