"""Real servers as instances of one service, for tests of calls to it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from tests.running import running
from webmesh.call_policy import CallPolicy
from webmesh.instances import Instance
from webmesh.service_calls import ServiceCalls
from webmesh.service_directory import ServiceDirectory
from webmesh.testing import RecordingObserver
from webmesh.webmesh_client import WebMeshClient
from webmesh.webmesh_server import WebMeshServer

SERVICE = "stock"


class Fleet:
    """Instances named a, b, c …, each a server of its own, with one link to each."""

    def __init__(self, stack: ExitStack, names: str, register: Callable[[WebMeshServer, str], object]) -> None:
        self._stack = stack
        self.directory = ServiceDirectory()
        self.observer = RecordingObserver()
        self.servers: dict[str, WebMeshServer] = {}
        self.instances: dict[str, Instance] = {}
        self.home: Any = None
        for name in names:
            server = WebMeshServer()
            register(server, name)
            self.servers[name] = stack.enter_context(running(server))
            self.instances[name] = Instance(name, SERVICE)
            self.link(name)
            self.directory.add(self.instances[name])

    def link(self, name: str) -> None:
        """A link to it, made anew."""
        client = WebMeshClient(self.servers[name].url, reconnect=False, retries=None)
        self._stack.callback(client.close)
        self.instances[name].connection = client.connect()
        self.home = self.home or client._link.home
        self.directory.tell()

    def cut(self, name: str) -> None:
        """The link ends without a word, as when the process is killed."""
        self.instances[name].connection.abort()

    def calls(self, policy: CallPolicy | None = None, **options: Any) -> ServiceCalls:
        """Calls to the fleet."""
        return ServiceCalls(
            self.directory, self.home, policy=policy, observer=self.observer, **({"seconds": 10.0} | options)
        )


@contextmanager
def fleet(names: str, register: Callable[[WebMeshServer, str], object]) -> Iterator[Fleet]:
    """So many servers; *register* gets each with its name, to add routes."""
    with ExitStack() as stack:
        yield Fleet(stack, names, register)


def first(name: str) -> Callable[[Any, str | None], Instance]:
    """A way to balance: this one, while it may be asked."""

    def choose(instances: Any, key: str | None) -> Instance:
        found: Instance = next((one for one in instances if one.node == name), instances[0])
        return found

    return choose
