"""Nodes of a mesh in one process, each with a server of its own on the loopback."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from webmesh.mesh_node import MeshNode, NodeSettings
from webmesh.options import GossipSettings
from webmesh.webmesh_server import WebMeshServer

QUICK = GossipSettings(period=0.1, timeout=0.3, suspicion=0.3, spread=0.02)

_numbers = itertools.count(1)


class Node:
    """A server with a `MeshNode`."""

    def __init__(
        self, name: str, *seeds: str, server: WebMeshServer | None = None, discoveries: Any = (), **settings: Any
    ) -> None:
        self.server = server or WebMeshServer(name=name)
        self.server.on("/who")(lambda payload, path, client: name)
        self.node = MeshNode(
            NodeSettings(
                **{
                    "id": f"{name}-{next(_numbers)}", "epoch": time.time_ns() // 1_000_000, "name": name,
                    "services": (name,), "seeds": seeds, "gossip": QUICK,
                } | settings  # fmt: skip
            ),
            discoveries, self.server.router, lambda: False,
        )  # fmt: skip
        self.server.extend(self.node)
        self.id = self.node.settings.id

    def __enter__(self) -> Node:
        self.server.listen(port=0)
        self.server.await_started()
        return self

    def __exit__(self, *exc: object) -> None:
        self.server.close(0)

    @property
    def url(self) -> str:
        return self.server.url

    def hub(self, function: Callable[..., Any], *args: Any) -> Any:
        """What *function* returns in the server's hub."""
        return self.node.serving.home.run(function, *args)

    def end(self) -> None:
        """In the hub: be as if the process were killed. It dials nobody any more before its links end, or it would come
        back at once."""
        self.node._stopped = True
        self.node.diallers.stop()
        self.node.serving.listener.stop_accepting()
        for connection in self.server.connections:
            connection.abort()

    def states(self) -> dict[str, str]:
        """Other nodes by their names: what this one believes of them, or what they say."""
        members = tuple(self.node.membership.members.values())
        return {
            one.record.name: one.record.state if one.state == "ok" else one.state for one in members if one.record.name
        }

    def linked(self) -> list[str]:
        """The names of the nodes that it has a link to."""
        members = self.node.membership.members
        return sorted(members[link.node].record.name or "" for link in self.node.links if link.connection.open)

    def ask(self, name: str, path: str, payload: Any = None) -> Any:
        """Call a node by its name."""
        members = self.node.membership.members
        (link,) = [link for link in self.node.links if members[link.node].record.name == name]
        return link.connection.call(path, payload, timeout=10)


@contextmanager
def meshed(*nodes: Node) -> Iterator[None]:
    """While they run."""
    with ExitStack() as stack:
        for node in nodes:
            stack.enter_context(node)
        yield
