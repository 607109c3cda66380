"""`ServiceDirectory`: which instances there are, for those who make calls, and news of it.

Decides nothing: whoever knows the nodes (the mesh) writes here, from one hub; calls read it from any thread. What is
told is only that something has changed.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from webmesh.instances import Instance
from webmesh.websocket.hub import Completion


class Directory(Protocol):
    """What calls ask."""

    def instances(self, service: str) -> Sequence[Instance]:
        """All known ones of a service, usable or not."""

    def node(self, node: str) -> Instance | None:
        """A node, whatever it offers."""

    def nodes(self) -> Sequence[Instance]:
        """All known nodes, one instance for each."""

    def changed(self) -> Completion[None]:
        """Succeeds with the next change of any of this, or of the state of an instance."""


class ServiceDirectory:
    """A directory that is written by hand."""

    def __init__(self) -> None:
        self._services: dict[str, tuple[Instance, ...]] = {}
        self._nodes: dict[str, Instance] = {}
        self._change: Completion[None] = Completion()

    def add(self, instance: Instance) -> None:
        """One more instance; with a service of `""` only its node, for calls to that by its id.

        Another one of the same node and service is replaced: it was another process, or has other facts.
        """
        service, node = instance.service, instance.node
        if service:
            rest = tuple(one for one in self._services.get(service, ()) if one.node != node)
            self._services[service] = (*rest, instance)
        known = self._nodes.get(node)
        if known is None or not service or known.service in ("", service):
            self._nodes[node] = instance
        self.tell()

    def remove(self, node: str, service: str | None = None) -> None:
        """The node offers this service no longer; `None`: it has gone, with all that it offered."""
        for name in tuple(self._services) if service is None else (service,):
            rest = tuple(one for one in self._services.get(name, ()) if one.node != node)
            if rest:
                self._services[name] = rest
            else:
                self._services.pop(name, None)
        if service is None:
            self._nodes.pop(node, None)
        self.tell()

    def tell(self) -> None:
        """Something has changed, as the connection of an instance or its state: whoever waits looks again."""
        change, self._change = self._change, Completion()
        change.succeed(None)

    def instances(self, service: str) -> Sequence[Instance]:
        """See `Directory`."""
        return self._services.get(service, ())

    def services(self) -> dict[str, Sequence[Instance]]:
        """All services, each with its instances."""
        return dict(self._services)

    def node(self, node: str) -> Instance | None:
        """See `Directory`."""
        return self._nodes.get(node)

    def nodes(self) -> Sequence[Instance]:
        """See `Directory`."""
        return tuple(self._nodes.values())

    def changed(self) -> Completion[None]:
        """See `Directory`."""
        return self._change
