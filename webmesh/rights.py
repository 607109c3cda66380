"""What peers have begun is looked at again when their rights change: by a renewed login, by a resume, by the program.

Decides when that is, and what ends. Who may do what is `topic_access`'s and `authorisation`'s business. Lives in the
node's hub.
"""

from __future__ import annotations

import logging
from collections.abc import Collection
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from webmesh.exceptions import PermissionDenied, RemoteError

if TYPE_CHECKING:
    from webmesh.auth import Identity
    from webmesh.dispatch import Dispatcher
    from webmesh.node_wills import NodeWills
    from webmesh.peer_subscriber import PeerSubscriber
    from webmesh.pubsub import Topics
    from webmesh.topic_options import Segments
    from webmesh.websocket.websocket_connection import WebSocketConnection

logger = logging.getLogger("webmesh.server")


class Rights:
    """Those of the peers of one node.

    Args:
        connections: Those that are open.
    """

    def __init__(
        self, connections: Collection[WebSocketConnection], topics: Topics, wills: NodeWills, dispatcher: Dispatcher
    ) -> None:
        self._connections = connections
        self._topics = topics
        self._wills = wills
        self._dispatcher = dispatcher

    def tick(self, now: float, late: float = 0.0) -> None:
        """The program may have given a connection another identity; called about once a second."""
        for connection in tuple(self._connections):
            owner = _owner(connection)
            if owner is connection:
                owner = connection.subscriber
            if owner is not None and owner.judged is not connection.identity:
                self.look_at(connection)

    def look_at(self, connection: WebSocketConnection) -> None:
        """End what this one, or its session, has begun and may not have any more. Does not switch."""
        identity, owner = connection.identity, _owner(connection)
        peer, session = owner.subscriber, None if owner is connection else owner
        before = session.judged if session is not None else None if peer is None else peer.judged
        if session is not None:
            session.judged = identity
            session.follow_identity(connection)
        if peer is not None:
            peer.judged = identity
        if _equal(before, identity):
            return
        if peer is not None:
            self._look_at_subscriptions(peer, identity)
        if session is not None:
            self._wills.look_at(session, identity)
        self._dispatcher.look_at(connection)

    def _look_at_subscriptions(self, peer: PeerSubscriber, identity: Identity | None) -> None:
        denied = {
            sub: subscription.pattern
            for sub, subscription in tuple(peer.subscriptions.items())
            if not self._may_go_on(identity, subscription.pattern)
        }
        for sub in denied:
            self._topics.observer.refused("topic", PermissionDenied.code)
            self._topics.unsubscribe(peer, sub)
        if denied:
            peer.withdraw(denied)

    def _may_go_on(self, identity: Identity | None, pattern: Segments) -> bool:
        try:
            self._topics.access.check_subscribe(identity, pattern)
        except RemoteError:
            return False
        except Exception as error:  # the edge around user code: nobody is let in by a rule that crashes
            logger.error("rule failed", exc_info=error, extra={"pattern": "/".join(pattern)})
            return False
        return True


def _owner(connection: WebSocketConnection) -> Any:
    """Whose the subscriptions are, as `Topics.peer` has it."""
    session = connection.session
    return connection if session is None or session.over else session


def _equal(before: Identity | None, now: Identity | None) -> bool:
    """Whether they may do the same."""
    if before is None or now is None:
        return before is now
    return replace(before, expires_at=None) == replace(now, expires_at=None)
