"""The topics' part of a connection: publishing by it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Protocol

from webmesh.exceptions import LocalProtocolError
from webmesh.messages import Published
from webmesh.protocol.publication import option_headers, read_publication
from webmesh.protocol.topics import read_topic
from webmesh.websocket.asking import seconds_for
from webmesh.websocket.plain_connection import PlainConnection

if TYPE_CHECKING:
    from webmesh.options import Timeouts
    from webmesh.protocol.publication import Publication
    from webmesh.websocket.conversation import Conversation
    from webmesh.websocket.hub import HubThread
    from webmesh.websocket.websocket_connection import WebSocketConnection


class PeerTopics(Protocol):
    """The topics of the node that has accepted a connection."""

    def publish(self, publication: Publication, connection: WebSocketConnection) -> Published:
        """Publish as the peer of *connection* would."""


class TopicConnection(PlainConnection):
    """A base of `WebSocketConnection`.

    Attributes:
        topics: Those of this node, where it has accepted the connection; `None` where it has none, or has dialled.
    """

    topics: PeerTopics | None = None
    _dialled: bool
    _home: HubThread
    _timeouts: Timeouts

    @property
    def conversation(self) -> Conversation:
        """The protocol's state."""
        raise NotImplementedError

    def publish(
        self,
        topic: str,
        payload: Any = None,
        *,
        ttl: float | None = None,
        dedupe_id: str | None = None,
        conflate_key: str | None = None,
        key: str | None = None,
        exclude_self: bool = False,
        headers: Mapping[str, str] | None = None,
        confirm: bool = True,
        timeout: float | None = None,
    ) -> Published | None:
        """Publish by this connection: on the side that dialled, to the node at its other end, once and without another
        attempt (`WebMeshClient.publish` makes those); in a handler of a server, on its own node as its peer.

        Arguments and errors are those of `WebMeshClient.publish`.

        Raises:
            LocalProtocolError: It is the accepting side of a program that has no topics.
        """
        made = option_headers(
            headers, ttl=ttl, dedupe_id=dedupe_id, conflate_key=conflate_key, key=key, exclude_self=exclude_self
        )
        topic = "/".join(read_topic(topic))
        if self.topics is not None:
            publication = read_publication(topic, payload, made, publisher=None, now=0.0)
            published = self._home.run(self.topics.publish, publication, self)
            return published if confirm else None
        if not self._dialled:
            raise LocalProtocolError("this side of the connection has no topics: the side that dialled publishes")
        from webmesh.websocket.publishing import publish_confirmed, publish_unconfirmed  # loaded with the first

        if not confirm:
            publish_unconfirmed(self.conversation, self._home, topic, payload, made)
            return None
        seconds = seconds_for(topic, timeout, self._timeouts.request)
        return publish_confirmed(
            self.conversation, self._home, topic, payload, made, self._timeouts.request if seconds is None else seconds
        )
