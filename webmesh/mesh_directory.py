"""What a node knows of others, for those who make calls and for programs: instances of services, and who is there.

Follows the membership and the links; everything is written in the server's hub, and may be read from anywhere.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from webmesh.instances import Instance
from webmesh.service_directory import ServiceDirectory

if TYPE_CHECKING:
    from webmesh.mesh_node import MeshNode
    from webmesh.protocol.member_table import Member
    from webmesh.protocol.node_record import NodeRecord


@dataclass(frozen=True, slots=True)
class NodeView:
    """What this node knows of one: `mesh.nodes()`.

    Attributes:
        state: "ok"; "stalled": it does not answer at the moment; "draining": it is about to leave; "lost".
        since: Seconds for which that has been so.
        own: Whether it is this node itself.
        link: Who made the link to it, "dialled" (this node) or "accepted"; `None` without one.
        pending: Calls of this node's that it has in progress.
        latency: Seconds that its answers take, as of late; `None` where there was none.
    """

    id: str
    epoch: int
    name: str | None
    services: tuple[str, ...]
    addresses: tuple[str, ...]
    zone: str | None
    release: str | None
    metadata: Mapping[str, Any]
    state: str
    since: float
    own: bool = False
    link: str | None = None
    pending: int = 0
    latency: float | None = None


class MeshDirectory:
    """See above.

    Attributes:
        services: For calls.
        watchers: Called in the hub with the views of a node before and after, where any of it but figures has changed;
            `None` for one that was not there, or is not any more.
    """

    def __init__(self, node: MeshNode) -> None:
        self._node = node
        self.services = ServiceDirectory()
        self.watchers: list[Callable[[NodeView | None, NodeView | None], object]] = []
        self._instances: dict[tuple[str, str], Instance] = {}
        self._views: dict[str, NodeView] = {}
        node.watchers.append(self.look)

    def nodes(self) -> tuple[NodeView, ...]:
        """All known nodes, this one first."""
        return tuple(self._views.values())

    def look(self) -> None:
        """In the hub: something may have changed."""
        node = self._node
        if not node.started:
            return
        records = {node.me.id: node.me}
        members = node.membership.members
        records |= {name: one.record for name, one in members.items() if one.state not in ("lost", "left")}
        wanted = {(name, service) for name, record in records.items() for service in record.services or ("",)}
        for name, service in self._instances.keys() - wanted:
            del self._instances[name, service]
            self.services.remove(name, service or None)
        for name in {name for name, _ in wanted}:
            for service in records[name].services or ("",):
                self._place(records[name], service, members.get(name))
        for name in [one.node for one in self.services.nodes() if one.node not in records]:
            self.services.remove(name)
        self.services.tell()
        self._view_all(members)

    def _place(self, record: NodeRecord, service: str, member: Member | None) -> None:
        instance = self._instances.get((record.id, service))
        if instance is None or instance.epoch != record.epoch:
            instance = Instance(record.id, service, zone=record.zone, epoch=record.epoch)
            self._instances[record.id, service] = instance
            self.services.add(instance)
        instance.zone = record.zone
        instance.connection = self._node.connection_to(record.id)
        instance.draining = record.state != "ok"
        instance.stalled = member is not None and self._state(member) == "stalled"

    def _state(self, member: Member) -> str:
        if member.state == "lost":
            return "lost"
        link = self._node.links.get(member.record.id)
        if member.state == "suspect" or link is None or link.connection.stalled:
            return "stalled"
        return "ok" if member.record.state == "ok" else "draining"

    # --------------------------------------------------------------------- for programs

    def _view_all(self, members: Mapping[str, Member]) -> None:
        now, me = time.monotonic(), self._node.me
        own_state = "ok" if me.state == "ok" else "draining"
        views = {me.id: self._view(me, own_state, self._since(me.id, own_state, now), own=True)}
        for name, member in members.items():
            if member.state != "left":
                state = self._state(member)
                views[name] = self._view(member.record, state, self._since(name, state, now))
        before, self._views = self._views, views
        for name in before.keys() | views.keys():
            self._tell(before.get(name), views.get(name))

    def _since(self, name: str, state: str, now: float) -> float:
        """The clock's reading since when it has been in this state."""
        known = self._views.get(name)
        return known.since if known is not None and known.state == state else now

    def _view(self, record: NodeRecord, state: str, since: float, *, own: bool = False) -> NodeView:
        link = self._node.links.get(record.id)
        made = None if link is None else "dialled" if link.dialler == self._node.me.id else "accepted"
        return NodeView(
            record.id, record.epoch, record.name, record.services, record.addresses, record.zone, record.release,
            MappingProxyType(dict(record.metadata)), state, since, own, made,
        )  # fmt: skip

    def _tell(self, before: NodeView | None, after: NodeView | None) -> None:
        if before != after:
            for watcher in self.watchers:
                watcher(before, after)

    def entries(self) -> list[dict[str, Any]]:
        """The same as entries of `$peers`."""
        now = time.monotonic()
        return [self._entry(view, now) for view in self._views.values() if not view.own]

    def _entry(self, view: NodeView, now: float) -> dict[str, Any]:
        member = self._node.membership.members.get(view.id)
        instances = [one for (name, _), one in self._instances.items() if name == view.id]
        answered = [one.latency for one in instances if one.successes]
        return {
            "node": {"id": view.id} if member is None else member.record.to_wire(), "state": view.state,
            "since_ms": round((now - view.since) * 1000), "link": view.link,
            "pending": sum(one.pending for one in instances),
            "latency_ms": round(max(answered) * 1000, 3) if answered else None,
            "address": view.addresses[0] if view.addresses else None,
        }  # fmt: skip
