"""One of several processes that serve one program at one address: what it needs to be one service with the others.

Decides how a server that knows nothing of that becomes a node of the workers' own mesh. Who starts workers is
`cli.workers`. For users: docs/DEPLOYMENT.md, "Workers".
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from operator import itemgetter
from typing import TYPE_CHECKING, Any

from webmesh.brokers.memory import MemoryBroker
from webmesh.brokers.mesh import MeshBroker
from webmesh.deadline import Deadline
from webmesh.discovery.folder import FolderDiscovery
from webmesh.exceptions import ConfigurationError
from webmesh.fellow_workers import Fellows
from webmesh.idempotency_store import MEMORY
from webmesh.mesh_node import MeshNode
from webmesh.websocket.upgraded import TcpAddress, UnixAddress
from webmesh.worker_ticket import WorkerTicket

if TYPE_CHECKING:
    from webmesh.protocol.node_record import Scalar
    from webmesh.webmesh_server import WebMeshServer

FELLOWS_TIMEOUT = 10.0
"""Seconds that a new worker waits for its links before it counts as ready; they take tenths of one."""

POLL = 0.02
"""Seconds between two looks at them."""

LEASE = 3.0
"""Seconds after which a worker that was killed is looked for no longer."""


def join_workers(server: WebMeshServer, ticket: WorkerTicket) -> None:
    """Make *server* one of the workers, before it listens.

    A program without a mesh gets one with the other workers alone, over Unix sockets. One that is a node of a mesh
    becomes one node for each worker, with a port of its own beside the common one.

    Raises:
        ConfigurationError: It keeps something that several processes cannot share.
    """
    from webmesh.mesh import WebMesh

    _check_engine(server)
    node = _node_of(server)
    door: TcpAddress | UnixAddress
    if node is None:
        WebMesh(server, secret=ticket.secret, node_id=ticket.node)
        node = _node_of(server)
        assert node is not None
        door = UnixAddress(ticket.door, 0o600)
    else:
        door = TcpAddress(ticket.host, 0)
    metadata: dict[str, Scalar] = {"worker": ticket.slot, "workers": ticket.group}
    node.share_server(door, FolderDiscovery(ticket.folder, lease=LEASE), metadata, others=ticket.fellows > 0)
    server.tell_of_fellows(Fellows(str(ticket.slot), lambda: fellow_links(node, ticket)))
    if server.idempotency == MEMORY:
        # A link that is lost comes back anywhere: what ran here must not run again there.
        path = os.path.join(ticket.folder, "calls.db")
        server.idempotency = f"sqlite:///{path}?synchronous=off"


def _check_engine(server: WebMeshServer) -> None:
    broker = server.broker
    if not broker.shared and not isinstance(broker, MemoryBroker):
        raise ConfigurationError(
            f"the engine of the topics, {type(broker).__name__}, is for one process: with workers take memory://, "
            "redis:// or nats://"
        )


def _node_of(server: WebMeshServer) -> MeshNode | None:
    nodes = [one for one in server.registered.extensions if isinstance(one, MeshNode)]
    return nodes[0] if nodes else None


def await_fellows(
    server: WebMeshServer, ticket: WorkerTicket, given_up: Callable[[], bool] = lambda: False,
    seconds: float = FELLOWS_TIMEOUT,
) -> bool:  # fmt: skip
    """Wait until *server* is linked to those that served before it, and its topics work; false where that takes too
    long, as when one of them has just ended, or once it is *given_up*."""
    node = _node_of(server)
    assert node is not None
    deadline, pause = Deadline(seconds), threading.Event()
    while not deadline.expired and not given_up():
        if node.serving.home.run(_settled, server, node, ticket):
            return True
        pause.wait(POLL)
    return False


def _settled(server: WebMeshServer, node: MeshNode, ticket: WorkerTicket) -> bool:
    """Whether it could do without any of the others: it has links, and there are copies of what topics keep."""
    if len(fellow_links(node, ticket)) < ticket.fellows or not server.ready:
        return False
    return not isinstance(server.broker, MeshBroker) or server.broker.settled


def fellow_links(node: MeshNode, ticket: WorkerTicket) -> dict[str, Any]:
    """Links to the other workers, by the number of each; of one that is being replaced, to its successor."""
    found = []
    for link in node.links:
        member = node.membership.members.get(link.node)
        metadata = {} if member is None else member.record.metadata
        if member is not None and metadata.get("workers") == ticket.group and link.connection.open:
            found.append((member.record.epoch, str(metadata.get("worker")), link.connection))
    return {label: connection for _, label, connection in sorted(found, key=itemgetter(0))}
