"""Dialling one URL and joining whoever answers there.

Decides what a peer that was dialled may do before it has joined: nothing but answer. It may be anybody, as where a
register lies; what it asks meanwhile waits, since a node that has just said yes asks at once.
"""

from __future__ import annotations

import ssl
from collections.abc import Callable
from typing import TYPE_CHECKING

from gevent.event import Event

from webmesh.auth import Identity
from webmesh.client_session import TokenSource, made_token
from webmesh.exceptions import ConnectFailed, WebMeshError
from webmesh.mesh_joins import NODE_ROLE, Joined, MeshJoins
from webmesh.message_serializers import MessagePackSerializer, subprotocol
from webmesh.processes import is_patched
from webmesh.websocket.dialer import dial

if TYPE_CHECKING:
    from webmesh.serving import Serving
    from webmesh.websocket.websocket_connection import WebSocketConnection

MOST_WAITING = 256
"""Messages of one peer that wait until it has joined; as many as it may have in progress. Further ones are dropped."""

Take = Callable[["WebSocketConnection", Joined], bool]
"""Makes a link of a connection whose peer has joined; false where that is this node itself. Raises what refuses it."""


class NodeMeeting:
    """See above.

    Args:
        serving: The run of the server whose connections these become.
        token: To log in with where nodes authenticate.
        tls: For `wss` URLs; `None` verifies by the system's authorities.
    """

    def __init__(
        self,
        serving: Callable[[], Serving],
        joins: MeshJoins,
        take: Take,
        *,
        token: TokenSource | None,
        tls: ssl.SSLContext | None,
    ) -> None:
        self._serving = serving
        self._joins = joins
        self._take = take
        self._token = token
        self._tls = tls

    def meet(self, url: str) -> tuple[str, WebSocketConnection | None]:
        """The id of the node at *url*, and its connection; `None` where that is this node.

        Raises:
            ConnectFailed, HandshakeRejected, RemoteError, RequestTimeout: Nobody is there, or it cannot be joined.
        """
        serving = self._serving()
        limits, seconds = serving.parts.limits, serving.parts.timeouts.connect
        upgraded = dial(
            url, timeout=seconds, limits=limits, subprotocols=(subprotocol(MessagePackSerializer),),
            tls=self._tls if url.startswith("wss:") else None,
        )  # fmt: skip
        serializer = serving.parts.endpoints.spoken(MessagePackSerializer)
        connection = serving.adopt(upgraded, serializer, Identity(f"whoever answers at {upgraded.address}"))
        admission = _Admission(seconds)
        connection.conversation.admit_only(admission.admits, serializer, limits.message_size)
        kept = False
        try:
            if self._token is not None:
                connection.call("$hello", {"token": self._made_token(self._token, seconds)}, timeout=seconds)
            joined = self._joins.ask(connection, seconds)
            connection.identity = Identity(f"node {joined.node.id}", frozenset({NODE_ROLE}))
            kept = self._take(connection, joined)
            return joined.node.id, connection if kept else None
        finally:
            admission.decide(admitted=kept)
            if kept:
                connection.conversation.admit_all(limits.message_size)
            else:
                connection.close(1000, "", timeout=0)

    def _made_token(self, token: TokenSource, seconds: float) -> str:
        """What the program's own function makes.

        Raises:
            ConnectFailed: It fails. The text does not quote its error, which may quote a token.
            RequestTimeout: It takes too long.
        """
        try:
            return made_token(token, None if is_patched() else self._serving().parts.callback_executor, seconds)
        except WebMeshError:
            raise
        except Exception as error:  # the edge around user code
            raise ConnectFailed("nodes: no token", [type(error).__name__]) from error


class _Admission:
    """What comes on one connection before its peer has joined."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._decided = Event()
        self._admitted = False
        self._waiting = 0

    def admits(self, connection: object, message: object) -> bool:
        """Answers at once; all else when it is decided."""
        if isinstance(message, dict) and "path" not in message and "topic" not in message:
            return True
        if not self._decided.is_set() and self._waiting < MOST_WAITING:
            self._waiting += 1
            try:
                self._decided.wait(self._seconds)
            finally:
                self._waiting -= 1
        return self._admitted

    def decide(self, *, admitted: bool) -> None:
        """Let in what waits, or drop it."""
        self._admitted = admitted
        self._decided.set()
