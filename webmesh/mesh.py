"""`WebMesh`: a server and its links to other nodes, and everything that goes over them.

Composes; decides only what belongs before the start. Services are called by name, from any thread or greenlet; topics
go by the engine of the mesh, unless the program chose another one. For users: docs/MESH.md.
"""

from __future__ import annotations

import ssl
import time
from collections.abc import Callable, Mapping, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any, TypeVar

from webmesh.advertising import checked_urls
from webmesh.brokers.base import Broker
from webmesh.brokers.mesh import MeshBroker
from webmesh.brokers.opening import open_broker
from webmesh.call import check_callable
from webmesh.call_policy import Balance, CallPolicy
from webmesh.callbacks import Teller
from webmesh.deadline import Deadline
from webmesh.discovery.base import Discovery
from webmesh.discovery.opening import open_discovery
from webmesh.exceptions import ConfigurationError
from webmesh.gathering import Gathering
from webmesh.mesh_directory import MeshDirectory, NodeView
from webmesh.mesh_node import MeshNode, NodeSettings
from webmesh.messages import Published
from webmesh.node_port import NodePort
from webmesh.node_status import gather_stats
from webmesh.options import GossipSettings, RetryBudget
from webmesh.protocol.mesh_proof import checked_secret
from webmesh.service_calls import ServiceCalls
from webmesh.websocket.future import Future
from webmesh.websocket.item_stream import ItemStream

if TYPE_CHECKING:
    from webmesh.webmesh_server import WebMeshServer

S = TypeVar("S", bound=Callable[..., object])
Watcher = Callable[[NodeView | None, NodeView | None], object]


class WebMesh:
    """A node of a mesh.

    Everything of the server is registered first, and the mesh is made before it listens. Use it as a context manager:
    it listens, if the server does not yet, and closes the server at the end.

    Args:
        server: Its routes are called by other nodes over all links, whoever dialled. `None` makes one that only this
            machine reaches and that nobody is told of: for programs that only call.
        peers: URLs of other nodes; one that is up is enough, since nodes tell each other whom they know.
        name: The service that this node is; `None` takes the server's name.
        services: Further services that it serves.
        discovery: Where else to look for nodes: a URL as `redis://…`, `dns://…`, or several; see docs/DISCOVERY.md.
        broker: The engine of the topics, as `WebMeshServer`'s; `None` takes the server's if that is not in memory, and
            else the mesh's own.
        advertise: URLs at which others can dial this node; `None` takes where the server listens. `()` for a node that
            nobody can dial, as behind NAT: it is called over the links that it dials itself.
        zone: Where it runs; calls prefer instances of the same zone.
        release: The program's version.
        metadata: Whatever else others are to know: text to text, numbers, booleans.
        node_id: `None` makes one. Two nodes must never have the same one at a time.
        secret: Known to all nodes of the mesh, and to nobody else; at least 16 bytes.
        token: To log in where nodes authenticate; or a function that makes one.
        tls: For `wss` URLs; `None` verifies by the system's authorities.
        policy: How calls are balanced, repeated and cut off; see docs/BALANCING.md.
        policies: The same for single services.
        retries: How many calls may be sent again; `None` for none, ever.
        gossip: How nodes watch over each other; the same for all nodes.

    Attributes:
        server: The server.

    Raises:
        ConfigurationError: A URL or an option cannot be used, or the server listens already.
    """

    def __init__(
        self,
        server: WebMeshServer | None = None,
        *peers: str,
        name: str | None = None,
        services: Sequence[str] = (),
        discovery: str | Discovery | Sequence[str | Discovery] = (),
        broker: str | Broker | None = None,
        advertise: str | Sequence[str] | None = None,
        zone: str | None = None,
        release: str | None = None,
        metadata: Mapping[str, Any] | None = None,
        node_id: str | None = None,
        secret: str | bytes | None = None,
        token: str | Callable[[], str] | None = None,
        tls: ssl.SSLContext | None = None,
        policy: CallPolicy | None = None,
        policies: Mapping[str, CallPolicy] | None = None,
        retries: RetryBudget | None = RetryBudget(),
        gossip: GossipSettings | None = None,
    ) -> None:
        if isinstance(server, str):
            server, peers = None, (server, *peers)
        self._hidden = server is None
        self.server = _checked_server(server)
        if self._hidden and advertise is None:
            advertise = ()
        system = self.server.system
        system.name_node(node_id, name)
        settings = NodeSettings(
            id=system.node["id"], epoch=system.epoch, name=name or self.server.name, services=tuple(services),
            zone=zone, release=release, metadata=dict(metadata or {}),
            advertise=None if advertise is None else checked_urls("advertise", advertise),
            seeds=checked_urls("peers", peers), secret=None if secret is None else checked_secret(secret),
            token=token, tls=tls, gossip=gossip or GossipSettings(),
        )  # fmt: skip
        sources = [discovery] if isinstance(discovery, str | Discovery) else list(discovery)
        opened = [open_discovery(one) if isinstance(one, str) else one for one in sources]
        self._node = MeshNode(settings, opened, self.server.router, lambda: self.server.authenticates)
        self.directory = MeshDirectory(self._node)
        self._use_broker(broker)
        self._policy, self._policies, self._retries = policy, dict(policies or {}), retries
        self._made_calls: ServiceCalls | None = None
        self._watchers: list[Watcher] = []
        self._teller = Teller(lambda: self._node.serving.parts.callbacks)
        self.server.extend(self._node)
        self.directory.watchers.append(self._changed)
        system.peers, system.record = self.directory.entries, lambda: self._node.me.to_wire()
        system.peer_stats = self._peer_stats
        self.server.trust(self._node.trusts)

    def _use_broker(self, broker: str | Broker | None) -> None:
        server = self.server
        if broker is not None:
            server.broker = open_broker(broker) if isinstance(broker, str) else broker
        elif not server.broker.shared and server.broker.run is not None:  # in memory: for one node alone
            server.broker = MeshBroker()
        if isinstance(server.broker, MeshBroker):
            port = NodePort(self._node)
            port.answer(server.router, server.broker.attach(port))

    # ---------------------------------------------------------------- start and end

    @property
    def id(self) -> str:
        """This node's id."""
        return self._node.settings.id

    def start(self, **listen: Any) -> None:
        """Listen, unless the server does, and wait until it has started.

        Args:
            listen: As `WebMeshServer.listen`.

        Raises:
            ListenFailed, ConfigurationError, TimeoutError: As `WebMeshServer.await_started`.
        """
        if not self.server.begun:
            self.server.listen(**({"port": 0} if self._hidden else {}) | listen)
        self.server.await_started()

    def close(self, timeout: float | None = None) -> None:
        """Leave the mesh: tell the others, finish what is in progress, close the server."""
        self.server.close(timeout)

    def __enter__(self) -> WebMesh:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def update(self, **changes: Any) -> None:
        """Tell the others something new of this node: `metadata`, `services`, `zone`, `release`, `load`."""
        unknown = changes.keys() - {"metadata", "services", "zone", "release", "load"}
        if unknown:
            raise ConfigurationError(f"of a node these cannot be changed: {', '.join(sorted(unknown))}")
        self._node.serving.home.run(lambda: self._node.update(**changes))

    # ------------------------------------------------------------------ who is there

    def nodes(self) -> tuple[NodeView, ...]:
        """All nodes that are known, this one first; lost ones for a while, too."""
        return self.directory.nodes()

    def lookup(self, service: str) -> tuple[NodeView, ...]:
        """The nodes that serve *service* and are not lost."""
        return tuple(view for view in self.nodes() if service in view.services and view.state != "lost")

    def watch(self, function: Watcher) -> Watcher:
        """Call `function(before, after)` with the `NodeView`s of each node that comes, changes or goes; `None` for one
        that was not known before, or is not any more. One after another; it may block. Of more than 1,024 that wait for
        it the oldest are left out, and the log says so."""
        check_callable("a watcher", function)
        self._watchers.append(function)
        return function

    def await_service(self, service: str, timeout: float) -> NodeView:
        """A node that serves *service* and can be called, as soon as there is one.

        Raises:
            TimeoutError: There was none within *timeout* seconds.
        """
        deadline, services = Deadline(timeout), self.directory.services
        while True:
            changed = services.changed()
            ready = {one.node for one in services.instances(service) if one.ready(time.monotonic())}
            found = next((view for view in self.nodes() if view.id in ready), None)
            if found is not None:
                return found
            changed.wait(deadline.remaining())

    def _changed(self, before: NodeView | None, after: NodeView | None) -> None:
        """Told apart: this greenlet may be a handler's, whose connection may end."""
        if self._watchers:
            self._teller.tell(self._watchers, before, after)

    def _peer_stats(self, seconds: float) -> dict[str, Any]:
        return gather_stats({link.node: link.connection for link in self._node.links}, seconds)

    # ---------------------------------------------------------------------- calling

    @property
    def _calls(self) -> ServiceCalls:
        if self._made_calls is None:
            parts = self._node.serving.parts
            self._made_calls = ServiceCalls(
                self.directory.services, parts.home, policy=self._policy, policies=self._policies,
                zone=self._node.settings.zone, budget=self._retries, seconds=parts.timeouts.request,
                observer=parts.observer,
            )  # fmt: skip
        return self._made_calls

    def call(self, service: str | None = None, path: str = "/", payload: Any = None, **options: Any) -> Any:
        """Ask one instance of *service*, or the node `node=`, and wait for the reply.

        Args:
            options: node, timeout, headers, key, idempotent, idempotency_key, balance, fail_fast, and what they raise:
                see `ServiceCalls.call`.
        """
        return self._calls.call(service, path, payload, **options)

    def spawn(self, service: str | None = None, path: str = "/", payload: Any = None, **options: Any) -> Future:
        """As `call`, in the background: returns at once with a future."""
        return self._calls.spawn(service, path, payload, **options)

    def notify(self, service: str | None = None, path: str = "/", payload: Any = None, **options: Any) -> bool:
        """Send one instance a message that is not answered; see `ServiceCalls.notify`."""
        return self._calls.notify(service, path, payload, **options)

    def stream(self, service: str | None = None, path: str = "/", payload: Any = None, **options: Any) -> ItemStream:
        """Open a stream to one instance; see `ServiceCalls.stream`."""
        return self._calls.stream(service, path, payload, **options)

    def gather(self, path: str, payload: Any = None, **options: Any) -> Gathering:
        """Ask all nodes, or all instances of `service=`, and iterate over the answers as they come.

        Args:
            options: service, timeout, stall, max_n, headers; see `ServiceCalls.gather`.
        """
        return self._calls.gather(path, payload, **options)

    def service(self, name: str, *, balance: Balance | None = None) -> Service:
        """A service, to be called by path alone."""
        return Service(self, name, balance)

    # ----------------------------------------------------------------------- topics

    def publish(self, topic: str, payload: Any = None, **options: Any) -> Published:
        """Publish to all subscribers in the mesh; see `WebMeshServer.publish`."""
        return self.server.publish(topic, payload, **options)

    def subscribe(self, pattern: str, function: S | None = None, **options: Any) -> Any:
        """Call *function* with what is published anywhere in the mesh; before the start. Without it, a decorator. See
        `WebMeshServer.subscribe`."""
        decorate = self.server.subscribe(pattern, **options)
        return decorate if function is None else decorate(function)

    def __repr__(self) -> str:
        return f"<WebMesh {self._node.settings.name or ''} {self.id} nodes={len(self.nodes())}>"


def _checked_server(server: WebMeshServer | None) -> WebMeshServer:
    from webmesh.webmesh_server import WebMeshServer

    if server is not None and server.begun:
        raise ConfigurationError("the server listens already: make its WebMesh before listen()")
    return WebMeshServer() if server is None else server


class Service:
    """One service of a mesh: `mesh.service("inventory").call("/stock/42")`."""

    def __init__(self, mesh: WebMesh, name: str, balance: Balance | None) -> None:
        self.name = name
        self._mesh = mesh
        self._options: dict[str, Any] = {} if balance is None else {"balance": balance}

    def call(self, path: str, payload: Any = None, **options: Any) -> Any:
        """See `WebMesh.call`."""
        return self._mesh.call(self.name, path, payload, **self._options | options)

    def spawn(self, path: str, payload: Any = None, **options: Any) -> Future:
        """See `WebMesh.spawn`."""
        return self._mesh.spawn(self.name, path, payload, **self._options | options)

    def notify(self, path: str, payload: Any = None, **options: Any) -> bool:
        """See `WebMesh.notify`."""
        return self._mesh.notify(self.name, path, payload, **self._options | options)

    def stream(self, path: str, payload: Any = None, **options: Any) -> ItemStream:
        """See `WebMesh.stream`."""
        return self._mesh.stream(self.name, path, payload, **self._options | options)

    def gather(self, path: str, payload: Any = None, **options: Any) -> Gathering:
        """See `WebMesh.gather`; of this service's instances."""
        return self._mesh.gather(path, payload, service=self.name, **options)
