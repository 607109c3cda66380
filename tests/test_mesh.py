"""WebMesh: services call each other by name, topics go everywhere, and what a program sees of the others."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import ExitStack
from functools import partial
from itertools import pairwise
from typing import Any

import gevent
import pytest

from tests.mesh_nodes import QUICK
from tests.running import PATIENCE, wait_for
from webmesh.brokers.mesh import MeshBroker
from webmesh.brokers.mesh_questions import DOUBTFUL, NOT_THE_LEADER
from webmesh.exceptions import (
    ConfigurationError, HandlerFailed, LocalProtocolError, RouteNotFound, ServiceNotFound, Unavailable,
)  # fmt: skip
from webmesh.mesh import WebMesh
from webmesh.node_port import NodePort
from webmesh.webmesh_client import WebMeshClient
from webmesh.webmesh_server import WebMeshServer


class Meshes:
    """Makes nodes, each of which has the first one for a seed."""

    def __init__(self) -> None:
        self._stack = ExitStack()
        self._first: WebMesh | None = None
        self.heard: list[tuple[str, str, Any]] = []
        self.events: list[tuple[str, str]] = []

    def __call__(self, name: str | None, *, listens: bool = True, broker: Any = None, **options: Any) -> WebMesh:
        server = WebMeshServer(name=name)
        server.topic("kept/**", history=100, retain=True)
        server.on("/who", idempotent=True)(lambda payload, path, client: name)
        server.on("/add")(lambda payload, path, client: payload["a"] + payload["b"])
        server.on("/count")(lambda payload, path, client: iter(range(payload)))
        server.on("/ask")(lambda payload, path, client: mesh.call(payload, "/who"))
        seeds = () if self._first is None else (self._first.server.url,)
        mesh = WebMesh(server if listens else None, *seeds, gossip=QUICK, broker=broker, **options)
        if listens:
            mesh.subscribe("**", lambda payload, topic, message: self._hear(name, payload, topic, message))
        mesh.start(**({"port": 0} if listens else {}))
        self._stack.callback(mesh.close, 0)
        self._first = self._first or mesh
        return mesh

    def _hear(self, name: str | None, payload: Any, topic: str, message: Any) -> None:
        if message.event is None:
            self.heard.append((str(name), topic, payload))
        else:
            self.events.append((str(name), message.event))

    def close(self) -> None:
        self._stack.close()


@pytest.fixture
def meshed() -> Iterator[Meshes]:
    made = Meshes()
    yield made
    made.close()


def test_a_service_is_called_by_its_name_whoever_serves_it(meshed: Meshes) -> None:
    """From a node, from a program that only calls, from a handler; and one's own service like any other."""
    shop, stock = meshed("shop"), meshed("stock")
    caller = meshed(None, listens=False)
    for mesh in (shop, stock, caller):
        mesh.await_service("stock", PATIENCE)
        assert "stock" == mesh.call("stock", "/who") == mesh.service("stock").call("/who")
    caller.await_service("shop", PATIENCE)
    assert "stock" == caller.call("shop", "/ask", "stock")
    assert 5 == caller.spawn("stock", "/add", {"a": 2, "b": 3}).result(PATIENCE)
    assert [0, 1, 2] == list(caller.stream("stock", "/count", 3)) == list(caller.service("stock").stream("/count", 3))
    assert caller.notify("stock", "/who") and caller.service("stock").notify("/who")
    assert "stock" == caller.service("stock").spawn("/who").result(PATIENCE)


def test_errors_are_those_of_the_service(meshed: Meshes) -> None:
    """And a name that nobody has is told apart."""
    one = meshed("one")
    with pytest.raises(RouteNotFound):
        one.call("one", "/nothing")
    with pytest.raises(HandlerFailed):
        one.call("one", "/add", {})
    with pytest.raises(ServiceNotFound):
        one.call("nobody", "/who", fail_fast=True)
    with pytest.raises(TimeoutError):
        one.await_service("nobody", 0.05)


def test_one_node_or_all_of_them_can_be_asked(meshed: Meshes) -> None:
    """By its id; and with who answered what."""
    one, other = meshed("one"), meshed("other")
    one.await_service("other", PATIENCE)
    assert "other" == one.call(node=other.id, path="/who") and "one" == one.call(node=one.id, path="/who")
    answers = {answer.node: answer.value for answer in one.gather("/who", timeout=PATIENCE)}
    assert {one.id: "one", other.id: "other"} == answers
    assert [other.id] == [answer.node for answer in one.service("other").gather("/who")]


def test_calls_are_spread_and_go_on_when_an_instance_leaves(meshed: Meshes) -> None:
    """Nothing fails, and the others hear of it."""
    seen: list[tuple[str | None, str | None]] = []
    caller, first, second = meshed("caller"), meshed("twin"), meshed("twin")
    assert wait_for(lambda: 2 == len(caller.lookup("twin")))
    caller.watch(lambda before, after: seen.append((before and before.state, after and after.state)))
    assert wait_for(lambda: 2 == len({answer.node for answer in caller.service("twin").gather("/who") if answer.ok}))
    stop = threading.Event()
    failed: list[Exception] = []

    def ask() -> None:
        while not stop.is_set():
            try:
                caller.call("twin", "/who")
            except Exception as error:  # whatever it is, it is one too many
                failed.append(error)

    thread = threading.Thread(target=ask)
    thread.start()
    first.close()
    assert wait_for(lambda: [second.id] == [view.id for view in caller.lookup("twin")])
    stop.set()
    thread.join()
    assert [] == failed
    assert wait_for(lambda: ("ok", "draining") in seen and ("draining", None) in seen)


def test_a_watcher_that_blocks_holds_up_nobody_who_brings_news(meshed: Meshes) -> None:
    """It may be told within a handler, whose connection may end meanwhile; what it missed comes in its order."""
    mesh, go, seen = meshed("one"), threading.Event(), []

    def slow(before: Any, after: Any) -> None:
        go.wait(PATIENCE)
        seen.append((before, after))

    mesh.watch(slow)
    home = mesh.server._begun.parts.home
    views: list[Any] = ["a", "b", "c"]
    for before, after in pairwise(views):
        home.run(mesh._changed, before, after)
    assert [] == seen
    go.set()
    assert wait_for(lambda: [("a", "b"), ("b", "c")] == seen)


def test_what_is_published_at_one_node_is_heard_at_all(meshed: Meshes) -> None:
    """Once each; kept topics are numbered for all alike, and whoever comes late has the past."""
    names = ("a", "b", "c")
    a, b, c = (meshed(name) for name in names)
    assert wait_for(lambda: all(3 == len(mesh.nodes()) for mesh in (a, b, c)))
    for number, mesh in enumerate((a, b, c)):
        mesh.publish("loose/x", number)
        assert number + 1 == mesh.publish("kept/x", number).offset
    assert wait_for(lambda: 18 == len(meshed.heard))
    for name in names:
        assert [0, 1, 2] == sorted(message for who, topic, message in meshed.heard if (who, topic) == (name, "loose/x"))
        assert [0, 1, 2] == [message for who, topic, message in meshed.heard if (who, topic) == (name, "kept/x")]
    with WebMeshClient(b.server.url) as client:
        late: list[Any] = []
        client.subscribe("kept/*", lambda payload, topic, message: late.append(payload))
        assert wait_for(lambda: [2] == late)
        assert [0, 1, 2] == [item.payload for item in client.history("kept/x").items]


def test_nobody_is_told_of_a_gap_when_nodes_come_and_go_in_order(meshed: Meshes) -> None:
    """Nothing was lost: a node does not lead before it has heard of the leader, and one that leaves has sent all."""
    one = meshed("one")
    for number in range(3):
        other = meshed("other")
        other.await_service("one", PATIENCE)
        assert number + 1 == other.publish("kept/x", number).offset
        other.close()
        assert wait_for(lambda: 1 == len(one.nodes()))
    one.publish("loose/last")
    assert wait_for(lambda: ("one", "loose/last", None) in meshed.heard)
    assert [] == meshed.events


def test_the_others_are_seen_as_they_say_they_are(meshed: Meshes) -> None:
    """And as they say it later."""
    one, other = (
        meshed("one", zone="east", release="1.2", metadata={"color": "blue"}, services=("extra",)), meshed("other")
    )  # fmt: skip
    assert wait_for(lambda: 2 == len(other.nodes()))
    own, view = other.nodes()
    assert (True, "other") == (own.own, own.name)
    assert (one.id, "east", "1.2", {"color": "blue"}, "ok") == (
        view.id, view.zone, view.release, dict(view.metadata), view.state
    )  # fmt: skip
    assert ("one", "extra") == view.services and "dialled" == view.link and one.server.url in view.addresses
    one.update(metadata={"color": "red"}, services=("more",))
    assert wait_for(lambda: {"color": "red"} == dict(other.nodes()[1].metadata) and other.lookup("more"))
    assert not other.lookup("extra")
    with pytest.raises(ConfigurationError, match="epoch"):
        one.update(epoch=5)


def test_peers_and_their_counts_are_told_to_operators(meshed: Meshes) -> None:
    """By any node, of all."""
    one = meshed("one")
    meshed("other")
    one.await_service("other", PATIENCE)
    one.call("other", "/who")
    with WebMeshClient(one.server.url) as client:
        listed = {entry["node"]["name"]: entry for entry in client.call("$peers", {"stats": True})}
    assert {"one", "other"} == listed.keys()
    assert 1 == listed["other"]["stats"]["routes"]["/who"]["count"] and "ok" == listed["other"]["state"]
    assert one.id == listed["one"]["node"]["id"] == one.server.system.node["id"]


def test_one_that_does_not_lead_says_so_over_the_wire_and_the_next_one_is_asked(meshed: Meshes) -> None:
    """In words that survive the wire, also where its engine does not run: nothing has happened there."""
    meshes = [meshed("a"), meshed("b")]
    meshes[1].await_service("a", timeout=PATIENCE)
    for mesh, other in zip(meshes, reversed(meshes), strict=True):
        broker = other.server.broker
        assert isinstance(broker, MeshBroker)
        ask = partial(
            mesh._node.serving.home.run, NodePort(mesh._node).ask, other.id, "$engine", {"op": "groups"}, PATIENCE
        )
        if not broker.council.leads:
            with pytest.raises(Unavailable) as caught:
                ask()
            assert NOT_THE_LEADER == caught.value.details
    for mesh, other in zip(meshes, reversed(meshes), strict=True):
        other._node.serving.home.run(other.server.broker.stop)
        with pytest.raises(Unavailable) as caught:
            mesh._node.serving.home.run(
                NodePort(mesh._node).ask, other.id, "$engine", {"op": "groups"}, PATIENCE
            )
        assert NOT_THE_LEADER == caught.value.details


def test_a_leader_that_ends_while_it_waits_for_copies_says_that_nobody_knows(
    meshed: Meshes, caplog: pytest.LogCaptureFixture
) -> None:
    """Its handler is ended with the node: whoever asked asks the next leader, and no failure is logged."""
    meshes = [meshed("a"), meshed("b")]
    meshes[1].await_service("a", timeout=PATIENCE)
    (lead,) = [mesh for mesh in meshes if mesh.server.broker.council.leads]
    (other,) = [mesh for mesh in meshes if mesh is not lead]

    def ended() -> None:
        raise gevent.GreenletExit  # as it is thrown into handlers at the end of a node

    lead._node.serving.home.run(setattr, lead.server.broker._engine._copies, "wait", ended)
    said = {"op": "put", "table": "t", "key": "k", "value": 5, "ttl": 60.0}
    with pytest.raises(Unavailable) as caught:
        other._node.serving.home.run(NodePort(other._node).ask, lead.id, "$engine", said, PATIENCE)
    assert DOUBTFUL == caught.value.details
    assert "handler failed" not in caplog.text


def test_a_mesh_is_settled_when_there_are_enough_copies(meshed: Meshes) -> None:
    """At three nodes, or all where there are fewer."""
    meshes = [meshed(name) for name in "abcd"]
    for mesh in meshes:
        broker, run = mesh.server.broker, mesh._node.serving.home.run
        assert isinstance(broker, MeshBroker)
        assert wait_for(lambda broker=broker, run=run: run(lambda: broker.settled))
        assert 3 <= len(broker.council.leadership.council.keepers)
    assert not MeshBroker().settled


def test_the_engine_is_the_mesh_s_own_unless_another_was_chosen(tmp_path: Any) -> None:
    """By the server or by the mesh."""
    assert isinstance(WebMesh(WebMeshServer()).server.broker, MeshBroker)
    kept = f"sqlite:///{tmp_path}/a.db"
    assert not isinstance(WebMesh(WebMeshServer(broker=kept)).server.broker, MeshBroker)
    assert not isinstance(WebMesh(WebMeshServer(), broker="memory://").server.broker, MeshBroker)


@pytest.mark.parametrize(
    "arguments, options",
    [
        (("http://a",), {}), ((), {"discovery": "ftp://x"}), ((), {"secret": "short"}), ((), {"advertise": "a:1"}),
        ((), {"metadata": {"a": []}}), ((), {"node_id": "x" * 99}), ((), {"services": ("x" * 99,)}),
    ],
)  # fmt: skip
def test_wrong_options_are_told_where_they_are_given(arguments: tuple[str, ...], options: dict[str, Any]) -> None:
    """Before anything listens."""
    with pytest.raises(ConfigurationError):
        WebMesh(WebMeshServer(), *arguments, **options)


def test_a_server_that_listens_already_cannot_be_meshed() -> None:
    """Its routes are closed."""
    with WebMeshServer() as server, pytest.raises(ConfigurationError, match="before listen"):
        WebMesh(server)


def test_nothing_is_called_before_the_start() -> None:
    """And the error says what is missing."""
    mesh = WebMesh(WebMeshServer())
    for use in (lambda: mesh.call("x", "/"), lambda: mesh.update(zone="x"), lambda: mesh.gather("/")):
        with pytest.raises(LocalProtocolError, match="start"):
            use()
    assert () == mesh.nodes()
