"""Who takes part in a conversation besides the two ends of the wire: what each of them is asked to do."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

from webmesh.exceptions import ConnectionClosed, RemoteError
from webmesh.protocol.envelope import Notification, Request, TopicMessage
from webmesh.protocol.session import Answering, OpenRequest

if TYPE_CHECKING:
    from webmesh.websocket.conversation import Conversation


class Waiter(Protocol):
    """Who waits for the answer to a request of ours."""

    def succeed(self, value: Any) -> None:
        """The reply."""

    def fail(self, error: BaseException) -> None:
        """The error that came instead of it."""


class ItemWaiter(Waiter, Protocol):
    """Who waits for a stream's items too."""

    def put(self, item: Any) -> None:
        """The next item."""

    def credited(self) -> None:
        """The peer takes more items of ours."""


class Answerer(Protocol):
    """Answers requests of the peer. *owner* is what it gave to `Conversation.begin`."""

    def serve(self, request: Request | Notification, conversation: Conversation, greenlet: Any = None) -> None:
        """Answer; may switch, after which other messages are read.

        Args:
            greenlet: The running one, where it is not the one that reads: then nobody will call `switched`.
        """

    def topic(self, message: TopicMessage, conversation: Conversation) -> None:
        """A publication, or the delivery of one; may switch, after which other messages are read."""

    def switched(self, conversation: Conversation, greenlet: Any) -> None:
        """In the hub: what `serve` runs in *greenlet* has switched for the first time."""

    def cancel(self, owner: Any) -> None:
        """The peer no longer wants the answer, or has gone."""

    def item(self, owner: Any, item: Any) -> None:
        """The asking side has sent an item."""

    def end_items(self, owner: Any, error: RemoteError | None) -> None:
        """The asking side's items are over, or broken."""

    def credited(self, owner: Any) -> None:
        """The asking side takes more items."""


class TopicReceiver(Protocol):
    """Acts on topic messages: a node that has topics, or a client that has subscribed."""

    def topic(self, message: TopicMessage, conversation: Conversation) -> None:
        """See `Answerer.topic`. Whatever carries an id is to be answered."""


class Keeper(Protocol):
    """A session: keeps what a lost connection leaves open, for the next one."""

    def keep(
        self, conversation: Conversation, why: ConnectionClosed, asked: list[OpenRequest], answering: list[Answering]
    ) -> tuple[list[OpenRequest], list[Answering]]:
        """The connection has ended; returns what ends with it."""

    def enter(self, answering: Answering) -> bool:
        """The peer asks for a stream; whether it is kept when the connection is lost."""
