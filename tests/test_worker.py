"""Workers of one program, here as servers of one process that share a port."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tests.running import running, wait_for
from webmesh import WebMesh, WebMeshClient, WebMeshServer
from webmesh.exceptions import ConfigurationError, ConnectFailed, HandshakeRejected, LinkRefused, Unauthenticated
from webmesh.mesh_joins import NODE_ROLE
from webmesh.mesh_node import MeshNode
from webmesh.worker import await_fellows, fellow_links, join_workers
from webmesh.worker_ticket import WorkerTicket

SECRET = "0" * 64


def node_of(server: WebMeshServer) -> MeshNode:
    (node,) = [one for one in server.registered.extensions if isinstance(one, MeshNode)]
    return node


class Workers:
    """They share one port of the loopback."""

    def __init__(self, folder: Path, stack: ExitStack) -> None:
        self.folder = folder
        self._stack = stack
        self._lives = itertools.count(1)
        self.port = 0
        self.all: list[tuple[WebMeshServer, WorkerTicket]] = []

    def add(self, server: WebMeshServer) -> WebMeshServer:
        life = next(self._lives)
        ticket = WorkerTicket(
            slot=life, life=life, folder=str(self.folder), secret=SECRET, host="127.0.0.1", port=self.port,
            fellows=len(self.all),
        )  # fmt: skip
        join_workers(server, ticket)
        self._stack.enter_context(running(server, port=self.port, reuse_port=True))
        self.port = server.port or 0
        self.all.append((server, ticket))
        assert await_fellows(server, ticket)
        return server


@contextmanager
def workers(folder: Path) -> Iterator[Workers]:
    with ExitStack() as stack:
        yield Workers(folder, stack)


def make(**options: Any) -> WebMeshServer:
    server = WebMeshServer(name="shop", **options)
    server.topic("news/*", history=10)
    return server


def test_who_is_to_end_waits_for_nobody(tmp_path: Path) -> None:
    """As a worker that was told to end while it starts, after one that it looks for was killed."""
    with workers(tmp_path) as made:
        server = made.add(make())
        alone = replace(made.all[0][1], fellows=1)
        looks = iter([False, False, True])
        assert not await_fellows(server, alone, lambda: next(looks), 1000.0)
        assert not await_fellows(server, alone, seconds=0.05)


def test_workers_are_one_service(tmp_path: Path) -> None:
    """What is published at one is delivered at the others, and kept by all; the program sees none of their links."""
    with workers(tmp_path) as made:
        seen: list[object] = []
        servers = [make(), make(), make()]
        opened: list[object] = []
        for server in servers:
            server.on_connect(opened.append)
            made.add(server)
        assert 1 == len({server.url for server in servers})
        servers[2].publish("news/early", 1)
        clients = [WebMeshClient(servers[0].url) for _ in range(3)]
        with clients[0], clients[1], clients[2]:
            for client in clients:
                client.subscribe("news/*", lambda payload, topic, message: seen.append(payload), since=60)
            servers[1].publish("news/late", 2)
            assert wait_for(lambda: [1, 1, 1, 2, 2, 2] == sorted(seen))
            assert 3 == len(opened) == sum(len(server.connections) for server in servers)


def test_nobody_else_becomes_a_worker(tmp_path: Path) -> None:
    """The public address asks for the secret, and the folder is for this user alone."""
    with workers(tmp_path) as made:
        server = made.add(make())
        stranger = WebMesh(server.url, gossip=None)
        with stranger, WebMeshClient(server.url) as client:
            with pytest.raises(Unauthenticated):
                client.call("$join", {"node": {"id": "x", "epoch": 1}})
            assert 1 == len(stranger.nodes())
        assert 0o600 == (tmp_path / "1.sock").stat().st_mode & 0o777
        assert f"{tmp_path.name}.1" == node_of(server).settings.id


def test_workers_need_no_login_of_each_other(tmp_path: Path) -> None:
    """Where all others do; who has the role for that has come by the door."""
    with workers(tmp_path) as made:
        first, second = (made.add(make(authenticate=lambda credentials: None)) for _ in range(2))
        links = node_of(second).serving.home.run(fellow_links, node_of(second), made.all[1][1])
        assert ["1"] == list(links) and NODE_ROLE in links["1"].identity.roles
        with pytest.raises(LinkRefused), WebMeshClient(first.url) as client:
            client.call("/")


@pytest.mark.parametrize("epochs", [(1, 2), (2, 1)])
def test_of_one_that_is_being_replaced_the_successor_is_asked(epochs: tuple[int, int]) -> None:
    """In whichever order they were linked: whoever scrapes would get the figures of either, by turns."""
    ticket = WorkerTicket(slot=2, life=2, folder="/run/x", secret=SECRET)
    own = {"workers": ticket.group, "worker": 1}
    members = {
        str(epoch): SimpleNamespace(record=SimpleNamespace(epoch=epoch, metadata=own)) for epoch in epochs
    }
    links = [SimpleNamespace(node=str(epoch), connection=SimpleNamespace(open=True, epoch=epoch)) for epoch in epochs]
    node: Any = SimpleNamespace(links=links, membership=SimpleNamespace(members=members))
    assert {"1": 2} == {label: connection.epoch for label, connection in fellow_links(node, ticket).items()}
    next(link for link in links if link.node == "2").connection.open = False
    assert {"1": 1} == {label: connection.epoch for label, connection in fellow_links(node, ticket).items()}


def test_the_door_leads_to_the_mesh_only(tmp_path: Path) -> None:
    """Plain routes are for the program's own peers."""
    with workers(tmp_path) as made:
        server = make(mount="/mesh")
        server.websocket("/plain")(lambda connection: None)
        made.add(server)
        door = f"ws+unix://{str(tmp_path).replace('/', '%2F')}%2F1.sock"
        with pytest.raises(HandshakeRejected, match="404"), WebMeshClient(f"{door}/plain"):
            pass
        with WebMeshClient(f"{door}/mesh") as client:
            assert "shop" == client.call("$info")["name"]
            assert () == server.connections


def test_a_worker_that_closes_leaves_its_peers_to_the_others(tmp_path: Path) -> None:
    """They come back to one that serves, and no call of theirs fails."""
    with workers(tmp_path) as made:
        servers = []
        for number in range(2):
            server = make()
            server.on("/who", idempotent=True)(lambda payload, path, client, number=number: number)
            servers.append(made.add(server))
        clients = [WebMeshClient(servers[0].url) for _ in range(12)]
        with ExitStack() as stack:
            for client in clients:
                stack.enter_context(client)
            assert {0, 1} >= {client.call("/who") for client in clients}
            servers[0].close()
            assert [1] * 12 == [client.call("/who", timeout=10) for client in clients]
        with pytest.raises(ConnectFailed):
            WebMeshClient(f"ws+unix://{str(tmp_path).replace('/', '%2F')}%2F1.sock").connect(timeout=2)


def test_a_node_of_a_mesh_becomes_one_node_for_each_worker(tmp_path: Path) -> None:
    """Each can be dialled by itself, at the host that its program says; other nodes link to all of them."""
    with workers(tmp_path) as made:
        meshes = []
        for _ in range(2):
            server = make()
            meshes.append(WebMesh(server, advertise="ws://localhost:4269", metadata={"rack": 5}))
            made.add(server)
        addresses = [mesh.nodes()[0].addresses for mesh in meshes]
        assert 2 == len({*addresses}) and all(url.startswith("ws://localhost:") for (url,) in addresses)
        assert not any(url.endswith((":4269", f":{made.port}")) for (url,) in addresses)
        with WebMesh(meshes[0].server.url) as other:
            assert wait_for(lambda: 2 == len([node for node in other.nodes() if node.link and node.name == "shop"]))
            assert {(5, 1), (5, 2)} == {
                (node.metadata["rack"], node.metadata["worker"]) for node in other.nodes() if node.name
            }


def test_an_engine_for_one_process_is_refused(tmp_path: Path) -> None:
    """Each worker would have topics of its own."""
    server = WebMeshServer(broker=f"sqlite:///{tmp_path}/topics.db")
    with pytest.raises(ConfigurationError, match="SqliteBroker"):
        Workers(tmp_path, ExitStack()).add(server)


def test_a_keyed_call_is_answered_from_memory_by_any_worker(tmp_path: Path) -> None:
    """A link that was lost comes back anywhere."""
    runs: list[int] = []
    with workers(tmp_path) as made:
        servers = []
        for number in range(2):
            server = make()
            server.on("/once")(lambda payload, path, client, number=number: runs.append(number) or number)
            servers.append(made.add(server))
        doors = [f"ws+unix://{str(tmp_path).replace('/', '%2F')}%2F{life}.sock" for life in (1, 2)]
        answers = []
        for door in doors:
            with WebMeshClient(door) as client:
                answers.append(client.call("/once", idempotency_key="k"))
        assert [0] == runs and [0, 0] == answers
        assert os.path.exists(tmp_path / "calls.db")
