"""Publications on their way to the node at the other end of a connection.

Decides when one is sent and who gets its answer. Which options it carries is `protocol.publication`'s business.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from webmesh.deadline import Deadline
from webmesh.messages import Published
from webmesh.protocol import messages
from webmesh.websocket.future import Future
from webmesh.websocket.hub import Completion, HubThread
from webmesh.websocket.sent_call import SentCall, await_room

if TYPE_CHECKING:
    from webmesh.protocol.session import OpenRequest
    from webmesh.websocket.conversation import Conversation

Noted = Callable[[Published], object]


class Publishing(Completion[Any]):
    """The answer to a publication, as `Published`.

    Args:
        noted: Told of it in the hub, before anything that came behind it is read.
    """

    __slots__ = ("_noted",)

    def __init__(self, hub: Any, noted: Noted | None = None) -> None:
        super().__init__(hub)
        self._noted = noted

    def succeed(self, value: Any) -> None:
        """The reply."""
        published = read_published(value)
        if self._noted is not None:
            self._noted(published)
        super().succeed(published)


class SentPublication(SentCall):
    """A publication's place in the session; lives in the hub."""

    __slots__ = ()

    def start(self, path: str, payload: Any, seconds: float | None, headers: dict[str, str] | None) -> None:
        """Send it; *path* is its topic."""
        self.request = ask_publication(self.conversation, path, payload, headers, self.completion)


def ask_publication(
    conversation: Conversation, topic: str, payload: Any, headers: Mapping[str, str] | None, waiter: Any
) -> OpenRequest:
    """Send a publication; the answer comes to *waiter*. In the hub.

    Raises:
        EncodeError: It cannot be sent with this serializer.
        ConnectionClosed: The connection is closing.
        Overloaded: Too many requests are open.
    """
    request = conversation.session.enter(topic, waiter)
    request.batch = conversation.stream.flushes
    sent = False
    try:
        conversation.send(messages.publication(topic, payload, headers, request.id))
        sent = True
    finally:
        if not sent:
            conversation.session.abandon(request)
    conversation.stream.flush_soon()
    return request


def publish_confirmed(
    conversation: Conversation,
    home: HubThread,
    topic: str,
    payload: Any,
    headers: dict[str, str],
    seconds: float,
    noted: Noted | None = None,
) -> Published:
    """Publish and wait until the node has accepted it; from any greenlet or thread.

    Raises:
        RequestTimeout, ReplyLost, ConnectionClosed, RemoteError, EncodeError: As a call.
    """
    completion = Publishing(home.hub, noted)
    sent = SentPublication(conversation, home, completion)
    future = Future(topic, completion, Deadline(seconds), seconds, sent.abandon)
    if home.inside():
        if conversation.stream.full:
            sent.start_in_time(future, payload, headers)
        else:
            sent.start(topic, payload, seconds, headers)
    else:
        if conversation.stream.full:  # as for calls: who publishes in a row has no more in memory than others
            home.run(await_room, conversation.stream, topic, future.deadline, seconds)
        home.post(sent.start_or_fail, future, payload, headers)
    published: Published = future.result()
    return published


def publish_unconfirmed(
    conversation: Conversation, home: HubThread, topic: str, payload: Any, headers: dict[str, str]
) -> None:
    """Publish, at most once; waits only while the peer does not keep up.

    Raises:
        ConnectionClosed, EncodeError: It was not sent.
    """
    home.run(_send, conversation, messages.publication(topic, payload, headers))


def _send(conversation: Conversation, message: messages.Wire) -> None:
    conversation.stream.drain()
    conversation.send(message)
    conversation.stream.flush_soon()


def read_published(answer: Any) -> Published:
    """What a node says of a publication; whatever makes no sense in it counts as not there."""
    said = answer if isinstance(answer, dict) else {}
    offset, epoch, receivers = said.get("offset"), said.get("epoch"), said.get("receivers")
    numbered = type(offset) is int and isinstance(epoch, str | int)
    return Published(
        offset if numbered else None,
        str(epoch) if numbered else None,
        receivers if type(receivers) is int else 0,
        said.get("duplicate") is True,
    )
