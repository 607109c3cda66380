"""A node that leads the mesh's engine, for one term: what it does for all, its copies, and where deliveries go.

Nothing leaves it, neither answers nor deliveries, before its copies have it: nobody gets what another leader would not
know of. Everything here runs in its hub.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

from gevent import GreenletExit

from webmesh.brokers.base import GroupName
from webmesh.brokers.mesh_copies import MeshCopies
from webmesh.brokers.mesh_engine import MeshEngine
from webmesh.brokers.mesh_interest import MeshInterest
from webmesh.brokers.mesh_messages import group_to_wire, publication_to_wire
from webmesh.brokers.mesh_port import MeshPort
from webmesh.brokers.mesh_questions import DOUBTFUL
from webmesh.deadline import Clock
from webmesh.exceptions import ReplyLost, Unavailable
from webmesh.protocol.publication import Publication

if TYPE_CHECKING:
    from webmesh.brokers.copied_storage import CopiedStorage
    from webmesh.protocol.leadership import Leadership

CHANGING = frozenset({"publish", "join", "leave", "drop", "put", "claim"})
"""Operations after which the copies must have come as far before they are answered."""


class MeshLead:
    """See above.

    Args:
        storage: What is kept: a copy of what the one before kept, or nothing yet.
        here: Takes what this node sends itself: a path, and the payload, in which publications stand as they are.
    """

    def __init__(
        self, port: MeshPort, leadership: Leadership, storage: CopiedStorage, interest: MeshInterest,
        here: Callable[[str, Any], None], *, clock: Clock,
    ) -> None:  # fmt: skip
        self._port = port
        self._interest = interest
        self._here = here
        self._clock = clock
        self._copies = MeshCopies(port, leadership, storage)
        self._engine = MeshEngine(self, storage, clock=clock)

    @property
    def durable(self) -> list[GroupName]:
        """See `MeshEngine.durable`."""
        return self._engine.durable

    def ask(self, node: str, said: dict[str, Any]) -> Any:
        """See `MeshEngine.ask`; returns when the copies have it.

        Raises:
            Unavailable: This node has lost the lead meanwhile, and nobody knows what became of it.
        """
        answer = self._engine.ask(node, said)
        if said.get("op") in CHANGING:
            try:
                self._copies.wait()
            except ReplyLost as lost:
                raise Unavailable("another node leads the mesh now", details=DOUBTFUL) from lost
            except GreenletExit as ended:  # this node ends: others are told so, and what asks here ends
                if node == self._port.me:
                    raise
                raise Unavailable("another node will lead the mesh", details=DOUBTFUL) from ended
        return answer

    def gone(self, node: str) -> None:
        """A node cannot be reached."""
        self._engine.gone(node)

    def look(self) -> None:
        """Links or the council may have changed."""
        self._copies.look()

    def stop(self) -> None:
        """Another one leads, or nobody."""
        self._copies.stop()
        self._engine.stop()

    # ------------------------------------------------------------------------ outlet

    def deliver(self, publication: Publication) -> None:
        """`Outlet.deliver`."""
        self._copies.after(partial(self._deliver, publication))

    def work(self, node: str, group: GroupName, publication: Publication, token: int) -> None:
        """`Outlet.work`."""
        self._copies.after(partial(self._work, node, group, publication, token))

    def lost(self, node: str, group: GroupName, count: int) -> None:
        """`Outlet.lost`."""
        self._copies.after(partial(self._send, node, "$lost", {"group": group_to_wire(group), "count": count}))

    def _deliver(self, publication: Publication) -> None:
        self._here("$deliver", publication)
        nodes = self._interest.nodes(tuple(publication.topic.split("/")))
        if nodes:
            self._port.tell_all(nodes, "$deliver", publication_to_wire(publication, self._clock()))

    def _work(self, node: str, group: GroupName, publication: Publication, token: int) -> None:
        own = node == self._port.me
        given = publication if own else publication_to_wire(publication, self._clock())
        self._send(node, "$work", {"group": group_to_wire(group), "publication": given, "token": token})

    def _send(self, node: str, path: str, said: Any) -> None:
        if node == self._port.me:
            self._here(path, said)
        else:
            self._port.tell(node, path, said)
