"""Nodes of a mesh without a network: ports whose messages are written and read as on the wire."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from typing import Any

import gevent
from gevent.event import Event

from webmesh.brokers.mesh import MeshBroker
from webmesh.exceptions import ConnectionClosed, ReplyLost, RequestTimeout
from webmesh.message_serializers import MessagePackSerializer
from webmesh.options import Limits
from webmesh.protocol.leadership import View


class Net:
    """All ports; links can be cut, and nodes killed."""

    def __init__(self) -> None:
        self.ports: dict[str, Port] = {}
        self.cut: set[frozenset[str]] = set()
        self.killed: set[str] = set()

    def add(self, broker: MeshBroker, name: str | None = None) -> Port:
        """A node more, linked to all."""
        port = Port(self, name or f"n{len(self.ports)}", len(self.ports) + 1)
        port.handlers = broker.attach(port)
        self.ports[port.me] = port
        return port

    def leave(self, name: str) -> None:
        """It has stopped."""
        self.killed.add(name)
        self.changed()

    def passes(self, one: str, other: str) -> bool:
        return not self.killed & {one, other} and frozenset((one, other)) not in self.cut

    def changed(self) -> None:
        for name, port in self.ports.items():
            if name not in self.killed:
                for watcher in tuple(port.watchers):
                    watcher()


class Port:
    """One node's `MeshPort`."""

    def __init__(self, net: Net, me: str, founded: int) -> None:
        self.net, self.me, self.founded = net, me, founded
        self.expects = founded > 1
        self.watchers: list[Callable[[], None]] = []
        self.handlers: dict[str, Callable[[str, Any], Any]] = {}
        self.sent: list[tuple[str, str]] = []
        self._serializer = MessagePackSerializer(Limits())
        self._inbox: deque[tuple[str, str, Any]] = deque()
        self._come = Event()
        self.reader = gevent.spawn(self._read)

    def linked(self) -> list[str]:
        return [name for name in self.net.ports if name != self.me and self.net.passes(self.me, name)]

    def epoch(self, node: str) -> int:
        return self.net.ports[node].founded

    def view(self) -> View:
        return View(frozenset(self.linked()), frozenset(self.net.killed))

    def ask(self, node: str, path: str, payload: Any, timeout: float) -> Any:
        if not self.net.passes(self.me, node):
            raise ConnectionClosed(1006, "cut")
        self.sent.append((node, path))
        data = self._serializer.serialize(payload)
        job = gevent.spawn(self._answer, node, path, data)
        job.join(timeout)
        if not job.ready():
            raise RequestTimeout(path, timeout)
        if not self.net.passes(self.me, node):
            raise ReplyLost(path, started=True, code=1006, reason="cut")
        kind, value = job.value
        if kind == "error":
            raise value
        return self._serializer.deserialize(value)

    def _answer(self, node: str, path: str, data: bytes) -> tuple[str, Any]:
        gevent.sleep(0)
        try:
            answer = self.net.ports[node].handlers[path](self.me, self._serializer.deserialize(data))
            return "value", self._serializer.serialize(answer)
        except Exception as error:  # as it would come over the wire
            return "error", error

    def tell(self, node: str, path: str, payload: Any) -> bool:
        if not self.net.passes(self.me, node):
            return False
        self.sent.append((node, path))
        other = self.net.ports[node]
        other._inbox.append((self.me, path, self._serializer.serialize(payload)))
        other._come.set()
        return True

    def tell_all(self, nodes: Iterable[str], path: str, payload: Any) -> None:
        for node in nodes:
            self.tell(node, path, payload)

    def _read(self) -> None:
        while True:
            while self._inbox:
                sender, path, data = self._inbox.popleft()
                if self.net.passes(self.me, sender):
                    self.handlers[path](sender, self._serializer.deserialize(data))
            self._come.clear()
            self._come.wait()
