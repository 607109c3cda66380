"""`$join`: how two nodes tell each other who they are, and who else is there, when a link is made.

Decides who may become a node: whoever knows the mesh's secret; without a secret whoever has logged in with the role
`node`, or, where nobody must log in, whoever comes. Wire form: docs/PROTOCOL.md, "Between nodes".
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from webmesh.exceptions import (
    FailedPrecondition, InvalidArgument, PermissionDenied, RemoteProtocolError, Unauthenticated,
)  # fmt: skip
from webmesh.protocol.mesh_proof import NONCE_SIZE, Handshake, acceptor_proof, dialler_proof, is_proof, read_nonce
from webmesh.protocol.node_record import NodeRecord, read_record

if TYPE_CHECKING:
    from webmesh.routing import Router
    from webmesh.websocket.websocket_connection import WebSocketConnection

NODE_ROLE = "node"
"""The role that makes a peer that has logged in a node."""

MOST_KNOWN = 1024
"""Claims in one `$join` that are looked at."""


class Joined(NamedTuple):
    """What the other side has said."""

    node: NodeRecord
    known: list[Any]
    """What it claims of all nodes that it knows, as it came; see `protocol.claims`."""


class _Asked(NamedTuple):
    """A `$join` whose proof is yet to come."""

    joined: Joined
    expected: str


class MeshJoins:
    """Both sides of `$join` for one node; in the server's hub.

    Args:
        me: This node's record, as it is now.
        known: What is claimed of all nodes that this one knows.
        secret: Of the mesh; `None` for none.
        logins: Whether peers of this server must log in.
        joined: Called with a connection that came, and what its peer said, once it may be a node; raises a
            `RemoteError` where it may not.
    """

    def __init__(
        self,
        me: Callable[[], NodeRecord],
        known: Callable[[], Sequence[Mapping[str, Any]]],
        *,
        secret: bytes | None,
        logins: Callable[[], bool],
        joined: Callable[[WebSocketConnection, Joined], None],
    ) -> None:
        self._me = me
        self._known = known
        self._secret = secret
        self._logins = logins
        self._joined = joined
        self._asked: dict[WebSocketConnection, _Asked] = {}

    def register(self, router: Router) -> None:
        """Answer `$join` and `$proof`."""
        router.add("$join", self._join, reserved=True, blocking=False)
        router.add("$proof", self._proof, reserved=True, blocking=False)

    def forget(self, connection: WebSocketConnection) -> None:
        """It has ended."""
        self._asked.pop(connection, None)

    # ------------------------------------------------------------ the dialling side

    def ask(self, connection: WebSocketConnection, seconds: float) -> Joined:
        """Join on a connection that was dialled.

        Raises:
            RemoteError: The other side does not want us; `PermissionDenied` too where it does not know the secret.
            RemoteProtocolError: Its answer makes no sense.
            RequestTimeout, ReplyLost, ConnectionClosed: There was none.
        """
        said = self._said()
        nonce = os.urandom(NONCE_SIZE).hex()
        if self._secret is not None:
            del said["known"]  # for those who have shown that they belong here
            said["nonce"] = nonce
        answer = connection.call("$join", said, timeout=seconds)
        node = _answered_node(answer)
        if self._secret is not None:
            answer = self._show(connection, answer, node, nonce, seconds)
        return Joined(node, _claims(answer.get("known")))

    def _show(
        self, connection: WebSocketConnection, answer: dict[str, Any], node: NodeRecord, nonce: str, seconds: float
    ) -> dict[str, Any]:
        assert self._secret is not None
        try:
            handshake = Handshake(self._me().id, node.id, nonce, read_nonce(answer.get("nonce")))
        except InvalidArgument:
            raise PermissionDenied("that node asks for no secret: it is none of this mesh") from None
        if not is_proof(answer.get("proof"), acceptor_proof(self._secret, handshake)):
            raise PermissionDenied("that node does not know the mesh's secret")
        shown = {"proof": dialler_proof(self._secret, handshake), "known": self._said()["known"]}
        final = connection.call("$proof", shown, timeout=seconds)
        if not isinstance(final, dict):
            raise RemoteProtocolError("the answer to $proof is no map")
        return final

    # ----------------------------------------------------------- the accepting side

    def _join(self, payload: Any, path: str, client: WebSocketConnection) -> dict[str, Any]:
        if not isinstance(payload, dict):
            raise InvalidArgument("$join takes a map")
        node = read_record(payload.get("node"))
        if self._secret is None:
            identity = client.identity
            if self._logins() and (identity is None or NODE_ROLE not in identity.roles):
                raise PermissionDenied(f"only peers with the role {NODE_ROLE!r} may join the mesh")
            self._joined(client, Joined(node, _claims(payload.get("known"))))
            return self._said()
        if payload.get("nonce") is None:
            raise Unauthenticated("this mesh has a secret")
        handshake = Handshake(node.id, self._me().id, read_nonce(payload["nonce"]), os.urandom(NONCE_SIZE).hex())
        self._asked[client] = _Asked(Joined(node, []), dialler_proof(self._secret, handshake))
        proof = acceptor_proof(self._secret, handshake)
        return {"node": self._me().to_wire(), "nonce": handshake.accepting_nonce, "proof": proof}

    def _proof(self, payload: Any, path: str, client: WebSocketConnection) -> dict[str, Any]:
        asked = self._asked.pop(client, None)
        if asked is None:
            raise FailedPrecondition("$join comes before $proof")
        if not isinstance(payload, dict) or not is_proof(payload.get("proof"), asked.expected):
            raise Unauthenticated("that is not the mesh's secret")
        self._joined(client, Joined(asked.joined.node, _claims(payload.get("known"))))
        return {"known": self._said()["known"]}

    def _said(self) -> dict[str, Any]:
        return {"node": self._me().to_wire(), "known": list(self._known())}


def _answered_node(answer: object) -> NodeRecord:
    try:
        return read_record(answer.get("node") if isinstance(answer, dict) else None)
    except InvalidArgument as error:
        raise RemoteProtocolError(f"the answer to $join: {error}"[:200]) from None


def _claims(wire: object) -> list[Any]:
    """The list, unless it is none or too long: what is said of third nodes must not keep two from linking."""
    return wire if isinstance(wire, list) and len(wire) <= MOST_KNOWN else []
