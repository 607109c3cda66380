"""`TopicRequests`: what a client asks of its node about topics, and publishes there.

Nothing of it lives longer than its answer, but for the numbers of own publications that are not to come back.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol

from webmesh.exceptions import ConnectionClosed, PublishDoubtful, ReplyLost
from webmesh.messages import HistoryPage, Position, Published
from webmesh.protocol.publication import DEDUPE, EXCLUDED
from webmesh.protocol.topic_positions import OwnOffsets
from webmesh.retries import surely_not_begun
from webmesh.subscription import read_members
from webmesh.topic_arrivals import read_page
from webmesh.websocket.hub import HubThread
from webmesh.websocket.publishing import publish_confirmed, publish_unconfirmed

if TYPE_CHECKING:
    from webmesh.execution import Executor
    from webmesh.websocket.conversation import Conversation
    from webmesh.websocket.websocket_connection import WebSocketConnection


class Ask(Protocol):
    """Sends on the client's connection, once there is one, and again where that is needed."""

    def __call__(
        self,
        send: Callable[[WebSocketConnection, float], Any],
        path: str,
        timeout: float | None,
        fail_fast: bool | None = None,
    ) -> Any:
        """What *send* returns, which is given a connection and the seconds that are left."""


class Link(Protocol):
    """See `client_link.ClientLink`."""

    home: HubThread
    subscribers: Executor

    def present(self) -> WebSocketConnection | None:
        """The open connection; `None` while there is none."""


class TopicRequests:
    """Those of one client; may be used from anywhere.

    Args:
        seconds: For what nobody waits for.

    Attributes:
        own: Own publications that are not delivered to this client.
        memory: The newest connection, and what names the memory of the node there, where that ends with the node.
    """

    def __init__(self, link: Link, ask: Ask, seconds: float) -> None:
        self.own = OwnOffsets()
        self.memory: tuple[Conversation | None, str] = (None, "")
        self._home = link.home
        self._connected = link.present
        self._ask = ask
        self._seconds = seconds

    def publish(
        self,
        topic: str,
        payload: Any,
        headers: dict[str, str],
        *,
        own: bool,
        confirm: bool,
        timeout: float | None,
        fail_fast: bool | None,
    ) -> Published | None:
        """Publish; see `WebMeshClient.publish`. *own*: it is not to come back to this client."""
        if own:
            headers.setdefault(EXCLUDED, self.own.mark)
        if not confirm:
            def send(connection: WebSocketConnection, seconds: float) -> None:
                publish_unconfirmed(connection.conversation, self._home, topic, payload, headers)

            self._ask(send, topic, timeout, fail_fast)
            return None
        if DEDUPE not in headers:
            headers[DEDUPE] = os.urandom(16).hex()
        noted = partial(self._note, topic) if own else None
        lost: list[tuple[ReplyLost, str]] = []

        def send_confirmed(connection: WebSocketConnection, seconds: float) -> Published:
            conversation = connection.conversation
            memory = self._memory_of(conversation)
            if lost and lost[0][1] != memory:
                raise PublishDoubtful("the answer was lost, and the node that may have it is not there") from lost[0][0]
            try:
                return publish_confirmed(conversation, self._home, topic, payload, headers, seconds, noted)
            except ReplyLost as error:
                if not surely_not_begun(error):
                    lost[:] = [(error, memory)]
                raise

        published: Published = self._ask(send_confirmed, topic, timeout, fail_fast)
        return published

    def _memory_of(self, conversation: Conversation) -> str:
        newest, memory = self.memory
        return memory if newest is conversation else ""

    def _note(self, topic: str, published: Published) -> None:
        if published.offset is not None and published.epoch is not None:
            self.own.add(topic, published.epoch, published.offset)

    def history(self, topic: str, asked: dict[str, Any], timeout: float | None) -> HistoryPage:
        """What is kept of a topic."""
        payload = {"topic": topic, **asked}
        return read_page(topic, self._ask(partial(call_path, "$history", payload), "$history", timeout))

    def presence(self, topic: str, timeout: float | None) -> dict[str, list[Any]]:
        """Who is present on a topic."""
        return read_members(self._ask(partial(call_path, "$presence", {"topic": topic}), "$presence", timeout))

    def presence_counts(self, topic: str, timeout: float | None) -> tuple[int, int]:
        """How many keys, and how many connections with one, are present on a topic."""
        payload = {"topic": topic, "counts": True}
        said = self._ask(partial(call_path, "$presence", payload), "$presence", timeout)
        counts = [said.get(name) if isinstance(said, dict) else None for name in ("keys", "connections")]
        keys, connections = (count if type(count) is int else 0 for count in counts)
        return keys, connections

    def fetch(self, topic: str, since: Position, most: int) -> HistoryPage:
        """A page of what came after a position, from whoever is connected now.

        Raises:
            ConnectionClosed: Nobody is.
            RemoteError: The node will not tell.
        """
        connection = self._connected()
        if connection is None:
            raise ConnectionClosed(1006, "there is no connection")
        payload = {"topic": topic, "since": since._asdict(), "limit": most}
        page = read_page(topic, connection.call("$history", payload, timeout=self._seconds))
        for message in page.items:
            if message.offset is not None and self.own.marks(message.headers):
                self.own.add(topic, page.epoch, message.offset)
        return page


def call_path(path: str, payload: Mapping[str, Any], connection: WebSocketConnection, seconds: float) -> Any:
    """What `Ask` is to send for a call."""
    return connection.call(path, payload, timeout=seconds)
