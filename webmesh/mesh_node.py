"""One node of a mesh: whom it knows, whom it is linked to, and what it says of itself.

Puts together who is alive (`protocol.membership`), links (`node_links`), dialling (`node_diallers`), joining
(`mesh_joins`) and where addresses come from (`discovery`). Everything here runs in the server's hub. What programs see
of it is `mesh`.
"""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import gevent

from webmesh.advertising import at_port, own_urls
from webmesh.auth import Identity
from webmesh.client_session import TokenSource
from webmesh.exceptions import (
    AlreadyExists, InvalidArgument, LocalProtocolError, Overloaded, PermissionDenied, WebMeshError,
)  # fmt: skip
from webmesh.mesh_joins import NODE_ROLE, Joined, MeshJoins
from webmesh.message_serializers import MessagePackSerializer
from webmesh.node_diallers import NodeDiallers
from webmesh.node_links import NodeLinks
from webmesh.node_meeting import NodeMeeting
from webmesh.options import GossipSettings
from webmesh.protocol.claims import claim_of
from webmesh.protocol.membership import Forward, Membership
from webmesh.protocol.node_record import NodeRecord, Scalar
from webmesh.protocol.probing import Probe
from webmesh.websocket.upgraded import OWN_ADDRESS, TcpAddress, UnixAddress

if TYPE_CHECKING:
    import ssl

    from webmesh.discovery.base import Discovery, Found
    from webmesh.routing import Router
    from webmesh.serving import Serving
    from webmesh.websocket.websocket_connection import WebSocketConnection

TICK = 0.2
"""Seconds between two looks at what is due."""
GRACE = 0.2
"""Seconds of draining in which others hear of it, before calls are refused."""

logger = logging.getLogger("webmesh.mesh")


@dataclass(frozen=True, kw_only=True)
class NodeSettings:
    """What a program says of its node; see `WebMesh`."""

    id: str
    epoch: int
    name: str | None = None
    services: tuple[str, ...] = ()
    zone: str | None = None
    release: str | None = None
    metadata: Mapping[str, Any] = field(default_factory=dict)
    advertise: tuple[str, ...] | None = None
    seeds: tuple[str, ...] = ()
    secret: bytes | None = field(default=None, repr=False)
    token: TokenSource | None = field(default=None, repr=False)
    tls: ssl.SSLContext | None = None
    gossip: GossipSettings = field(default_factory=GossipSettings)
    door: TcpAddress | UnixAddress | None = None
    """Where others dial this node, besides where its server listens: for one that shares that with other nodes. A Unix
    socket is for nodes alone, and nobody logs in there: it must be in a folder that only they can reach."""


class MeshNode:
    """An `Extension` of one server.

    Args:
        logins: Whether peers of the server must log in.

    Attributes:
        links: Who is linked.
        diallers: Who is dialled.
        watchers: Called in the hub, in no order, when anything has changed that nodes or links are.
        heard: Called in the hub with the id of a node whose link is new.
    """

    def __init__(
        self, settings: NodeSettings, discoveries: Sequence[Discovery], router: Router, logins: Callable[[], bool]
    ) -> None:
        self.settings = settings
        self.links = NodeLinks(settings.id, self._link_changed)
        self.watchers: list[Callable[[], None]] = []
        self._record = NodeRecord(
            id=settings.id, epoch=settings.epoch, name=settings.name, services=settings.services,
            zone=settings.zone, release=settings.release, metadata=settings.metadata,
            addresses=settings.advertise or (),
        )  # fmt: skip
        self._membership: Membership | None = None
        self._discoveries = tuple(discoveries)
        self._told_of_others = bool(settings.seeds or discoveries)
        self._serving: Serving | None = None
        self._joins = MeshJoins(
            lambda: self.me, self._known, secret=settings.secret, logins=logins, joined=self._came
        )
        self._joins.register(router)
        router.add("$gossip", self._gossip, reserved=True, blocking=False)
        router.add("$news", self._news, reserved=True, blocking=False)
        self._jobs: set[gevent.Greenlet[..., None]] = set()
        self._stopped = self._rivalled = False
        self._own: WebSocketConnection | None = None
        self._meeting = NodeMeeting(
            lambda: self.serving, self._joins, self._met, token=settings.token, tls=settings.tls
        )
        self.diallers = NodeDiallers(
            settings.seeds, lambda: self.membership, self._meeting.meet, self._is_linked, self._refused
        )

    def share_server(
        self, door: TcpAddress | UnixAddress, discovery: Discovery, metadata: Mapping[str, Scalar], *, others: bool
    ) -> None:
        """Be one of several nodes that serve at one address; before the start.

        Args:
            door: See `NodeSettings.door`.
            discovery: Finds the others.
            metadata: Told of this node, besides what its program tells.
            others: Whether there are some already.
        """
        self._told_of_others |= others
        self.settings = replace(self.settings, door=door, metadata={**self.settings.metadata, **metadata})
        self._record = replace(self._record, metadata=self.settings.metadata)
        self._discoveries = (*self._discoveries, discovery)

    @property
    def me(self) -> NodeRecord:
        """This node's record, as it is now."""
        return self._record if self._membership is None else self._membership.me

    @property
    def started(self) -> bool:
        """Whether its server listens."""
        return self._membership is not None

    @property
    def expects(self) -> bool:
        """Whether it was told where others may be, and has not looked there yet."""
        return self._told_of_others and not self.diallers.looked

    @property
    def membership(self) -> Membership:
        """Whom this node knows.

        Raises:
            LocalProtocolError: It has not started.
        """
        if self._membership is None:
            raise LocalProtocolError("the mesh has not started: call start()")
        return self._membership

    @property
    def serving(self) -> Serving:
        """The run of its server.

        Raises:
            LocalProtocolError: It has not started.
        """
        if self._serving is None:
            raise LocalProtocolError("the mesh has not started: call start()")
        return self._serving

    def connection_to(self, node: str) -> WebSocketConnection | None:
        """Over which *node* is asked; itself, too."""
        if node == self.me.id:
            return self._own
        link = self.links.get(node)
        return None if link is None else link.connection

    def update(self, **changes: Any) -> None:
        """Say something else of this node from now on; see `NodeRecord`."""
        self.membership.update_me(**changes)
        self._tell_all()
        self._tell_watchers()
        for discovery in self._discoveries:
            self._spawn(self._announce, discovery)

    # ---------------------------------------------------------------- an extension

    def start(self, serving: Serving) -> None:
        """`Extension.start`."""
        self._serving = serving
        record = self._record.changed(addresses=self._addresses(serving))
        self._membership = Membership(record, self.settings.gossip, random.Random(), time.monotonic())
        self._own = serving.loop(
            lambda: MessagePackSerializer(serving.parts.limits), Identity("this node", frozenset({NODE_ROLE}))
        )
        self._spawn(self._beat)
        self._tell_watchers()
        for url in self.settings.seeds:
            self.diallers.seed(url)
        for discovery in self._discoveries:
            self._spawn(self._discover, discovery)

    def _addresses(self, serving: Serving) -> tuple[str, ...]:
        """Where others can dial this node."""
        parts, door, listener = serving.parts, self.settings.door, serving.listener
        if door is not None:
            private = isinstance(door, UnixAddress)
            fellow = Identity("a fellow process", frozenset({NODE_ROLE}))
            listener = serving.open_door(door, fellow if private else None)
        if self.settings.advertise is None:
            return own_urls(listener.address, parts.mount, secure=parts.tls is not None and listener.port is not None)
        if door is None or listener.port is None:
            return self.settings.advertise
        return tuple(at_port(url, listener.port) for url in self.settings.advertise)

    def ended(self, connection: WebSocketConnection) -> None:
        """`Extension.ended`."""
        self._joins.forget(connection)
        node = self.links.ended(connection)
        if node is not None and self._membership is not None and not self._stopped:
            self._membership.link_lost(node, time.monotonic())
            self.diallers.link_ended(node)

    def drain(self) -> None:
        """`Extension.drain`."""
        if self._membership is not None:
            self.update(state="draining")
            gevent.sleep(GRACE if len(self.links) else 0)

    def keeps(self, connection: WebSocketConnection) -> bool:
        """`Extension.keeps`: links are needed until the topics have ended."""
        return self.links.node_of(connection) is not None

    def trusts(self, connection: WebSocketConnection) -> bool:
        """Whether at its other end is a node that has joined, or this one."""
        return self.links.node_of(connection) is not None or connection.address == OWN_ADDRESS

    def stop(self) -> None:
        """`Extension.stop`."""
        self._stopped = True
        if self._membership is not None:
            self._membership.leave(time.monotonic())
            self._tell_all()
        self.diallers.stop()
        gevent.killall(list(self._jobs), block=False)
        self.links.stop()
        for discovery in self._discoveries:
            with suppress(WebMeshError):
                discovery.stop()

    # ------------------------------------------------------------------ who is there

    def _known(self) -> list[dict[str, Any]]:
        return [] if self._membership is None else self._membership.full_state()

    def _came(self, connection: WebSocketConnection, joined: Joined) -> None:
        """On a connection that was accepted."""
        if self._stopped:
            raise PermissionDenied("this node leaves the mesh")
        self._take(connection, joined, dialled=False)

    def _met(self, connection: WebSocketConnection, joined: Joined) -> bool:
        """On a connection that was dialled; false where this node has dialled itself."""
        if joined.node.id == self.me.id:
            return False
        self._take(connection, joined, dialled=True)
        return True

    def _take(self, connection: WebSocketConnection, joined: Joined, *, dialled: bool) -> None:
        """Make a link of it.

        Raises:
            AlreadyExists: Another process has the id, or had it and is older.
            Overloaded: There are too many nodes.
        """
        node = joined.node
        known = self.membership.members.get(node.id)
        if known is not None and known.record.epoch != node.epoch and self.links.answers(node.id):
            raise AlreadyExists("there is a node of this id, and it answers")
        now = time.monotonic()
        if not self.membership.joined(node, now):
            if node.id == self.me.id or node.id in self.membership.members:
                raise AlreadyExists("there is a later node of this id")
            raise Overloaded(f"a mesh has at most {self.settings.gossip.members} nodes")
        with suppress(InvalidArgument):
            self.membership.merge(joined.known, now, node.id)
        connection.metadata["node"] = node.to_wire()
        self.links.settle(connection, node.id, dialled=dialled)
        self._look()

    def _link_changed(self, node: str) -> None:
        self._tell_watchers()

    def _tell_watchers(self) -> None:
        for watcher in self.watchers:
            watcher()

    # ---------------------------------------------------------------------- dialling

    def _discover(self, discovery: Discovery) -> None:
        """Begin to hear of addresses."""

        def found(entries: Sequence[Found]) -> None:
            self.diallers.found(discovery, entries)
            self._look()

        self._announce(discovery)
        discovery.start(found)

    def _announce(self, discovery: Discovery) -> None:
        try:
            discovery.announce(self.me)
        except WebMeshError as error:
            logger.warning("a registry did not hear of a change", extra={"error": str(error)})

    def _is_linked(self, node: str) -> bool:
        return node == self.me.id or self.links.get(node) is not None

    def _refused(self, node: str) -> None:
        self.membership.refused(node, time.monotonic())
        self._look()

    # ------------------------------------------------------------------------ gossip

    def _beat(self) -> None:
        while True:
            gevent.sleep(TICK)
            try:
                for probe in self.membership.tick(time.monotonic()):
                    self._spawn(self._probe, probe)
                self._look()
            except Exception as error:  # a supervisor's edge: who is alive must be looked at again
                logger.error("the mesh could not be looked after", exc_info=error)

    def _probe(self, probe: Probe) -> None:
        reply = self._ask(probe.to, probe.message, probe.timeout)
        now = time.monotonic()
        further = self.membership.failed(probe, now) if reply is None else self.membership.answered(probe, reply, now)
        for one in further:
            self._spawn(self._probe, one)
        self._look()

    def _ask(self, node: str, message: dict[str, Any], timeout: float) -> Any:
        """Its answer; `None` without one."""
        link = self.links.get(node)
        if link is not None:
            with suppress(WebMeshError):
                return link.connection.call("$gossip", message, timeout=timeout)
        return None

    def _gossip(self, payload: Any, path: str, client: WebSocketConnection) -> Any:
        answer = self.membership.received(self.node_of(client), payload, time.monotonic())
        if isinstance(answer, Forward):
            reply = self._ask(answer.target, answer.message, answer.timeout)
            answer = self.membership.forwarded(answer, reply, time.monotonic())
        self._look()
        return answer

    def _news(self, payload: Any, path: str, client: WebSocketConnection) -> None:
        self.membership.merge(payload, time.monotonic(), self.node_of(client))
        self._look()

    def node_of(self, client: WebSocketConnection) -> str:
        """The node that has joined on this connection.

        Raises:
            PermissionDenied: None has.
        """
        node = self.links.node_of(client)
        if node is None:
            raise PermissionDenied("this is for nodes that have joined")
        return node

    def _tell_all(self) -> None:
        """What this node says of itself, to all at once: it must not wait until it has spread."""
        for link in self.links:
            link.connection.say("$news", [claim_of(self.me).to_wire()])

    def _look(self) -> None:
        """Act on what has changed in the membership."""
        changes = self.membership.changes()
        for change in changes:
            told = {"node": change.record.id, "service": change.record.name, "state": change.after}
            logger.info("a node has changed", extra=told | {"before": change.before})
        self.diallers.follow()
        rival = self.membership.rival
        rivalled, self._rivalled = self._rivalled, rival is not None
        if rival is not None and not rivalled:
            logger.error("another process has the id of this node", extra={"node": rival.id, "at": rival.addresses})
        if changes:
            self._tell_watchers()

    def _spawn(self, job: Callable[..., None], *args: Any) -> None:
        greenlet = gevent.spawn(job, *args)
        self._jobs.add(greenlet)
        greenlet.rawlink(self._jobs.discard)
