"""MeshNode: nodes that find each other, link once, tell of themselves and notice each other's end."""

from __future__ import annotations

from typing import Any

import pytest

from tests.mesh_nodes import Node, meshed
from tests.running import wait_for
from webmesh.auth import Credentials, Identity
from webmesh.discovery.base import Discovery, Found
from webmesh.exceptions import AlreadyExists, PermissionDenied, WebMeshError
from webmesh.webmesh_client import WebMeshClient
from webmesh.webmesh_server import WebMeshServer


def all_linked(*nodes: Node) -> bool:
    return all(len(nodes) - 1 == len(one.linked()) for one in nodes)


def test_nodes_that_know_one_seed_are_all_linked_once() -> None:
    """Whoever is told of by another is dialled; one connection for each pair, and either side calls over it."""
    with Node("a") as a, Node("b", a.url) as b, Node("c", a.url) as c, Node("d", b.url) as d:
        nodes = (a, b, c, d)
        assert wait_for(lambda: all_linked(*nodes))
        assert wait_for(lambda: [3] * 4 == [len(one.server.connections) for one in nodes])
        for one in nodes:
            others = sorted({"a", "b", "c", "d"} - {one.server.name})
            assert others == one.linked()
            assert others == [one.ask(name, "/who") for name in others]


def test_a_node_that_cannot_be_dialled_is_called_over_the_link_it_has_dialled() -> None:
    """As behind NAT: it says no address, and dials whom it hears of."""
    with Node("a") as a, Node("b", a.url) as b, Node("hidden", a.url, advertise=()) as hidden:
        assert wait_for(lambda: all_linked(a, b, hidden))
        assert "hidden" == b.ask("hidden", "/who")
        assert () == b.node.membership.members[hidden.id].record.addresses


def test_both_seeds_of_each_other_end_up_with_one_link() -> None:
    """Both dial at once; one connection stays."""
    with Node("b") as b, Node("a", b.url) as a:
        b.hub(b.node.diallers.seed, a.url)
        assert wait_for(lambda: all_linked(a, b))
        assert wait_for(lambda: 1 == len(a.server.connections) == len(b.server.connections))
        assert "b" == a.ask("b", "/who") and "a" == b.ask("a", "/who")


def test_its_own_address_among_the_seeds_is_let_be() -> None:
    """Every node of a deployment may have the same list."""
    with Node("a") as a:
        a.hub(a.node.diallers.seed, a.url)
        with Node("b", a.url) as b:
            assert wait_for(lambda: all_linked(a, b))
            assert ["b"] == a.linked()


def test_a_node_that_drains_says_so_at_once_and_one_that_has_left_is_gone() -> None:
    """Nothing is to be routed to it, and nobody looks for it."""
    with Node("a") as a:
        seen: list[str] = []
        with Node("b", a.url) as b:
            assert wait_for(lambda: all_linked(a, b))
            a.node.watchers.append(lambda: seen.append(a.states()["b"]))
        assert "draining" in seen and wait_for(lambda: "left" == a.states()["b"] and not a.linked())


def test_a_node_whose_process_is_gone_is_lost_at_once() -> None:
    """Its address refuses: that is proof, and no majority counts it any more."""
    with Node("a") as a, Node("b", a.url) as b, Node("c", a.url) as c:
        assert wait_for(lambda: all_linked(a, b, c))
        b.hub(b.end)
        assert wait_for(lambda: "lost" == a.states()["b"] and "lost" == c.states()["b"])
        assert a.node.membership.members[b.id].proven and 2 == a.node.membership.known_count


def test_a_node_that_comes_back_under_its_id_is_the_later_one() -> None:
    """Its former incarnation loses, and the link is made anew."""
    with Node("a") as a:
        with Node("b", a.url, id="the-same") as b:
            assert wait_for(lambda: all_linked(a, b))
            first = a.node.membership.members["the-same"].record.epoch
        with Node("b", a.url, id="the-same") as again:
            assert wait_for(lambda: all_linked(a, again) and "ok" == a.states()["b"])
            assert first < a.node.membership.members["the-same"].record.epoch


@pytest.mark.parametrize(
    "other, joins", [(b"the secret of this mesh", True), (b"that of another mesh", False), (None, False)]
)
def test_only_who_knows_the_secret_joins(other: bytes | None, joins: bool) -> None:
    """The others learn nothing of who is there."""
    with Node("a", secret=b"the secret of this mesh") as a, Node("b", a.url, secret=other) as b:
        if joins:
            assert wait_for(lambda: all_linked(a, b))
        else:
            assert not wait_for(a.linked, 0.5)
            assert not b.linked() and not b.states() and not a.states()


def test_where_peers_log_in_a_node_shows_its_token() -> None:
    """The role `node` is what makes it one."""

    def who(credentials: Credentials) -> Identity | None:
        return {"n": Identity("b", ["node"]), "c": Identity("client", ["user"])}.get(credentials.token or "")

    with Node("a", server=WebMeshServer(name="a", authenticate=who)) as a:
        a.node._joins._logins = lambda: True
        with Node("b", a.url, token=lambda: "n") as b, Node("c", a.url, token=lambda: "c") as c:
            assert wait_for(lambda: all_linked(a, b))
            assert not wait_for(c.linked, 0.3)


@pytest.mark.parametrize("path", ["$gossip", "$news"])
def test_a_stranger_s_word_of_nodes_is_not_heard(path: str) -> None:
    """Only nodes that have joined may tell of others."""
    liar = {"node": {"id": "x", "epoch": 1}}
    with Node("a") as a, WebMeshClient(a.url) as client, pytest.raises(PermissionDenied):
        client.call(path, {"news": [liar]} if path == "$gossip" else [liar])
    assert {} == a.states()


@pytest.mark.parametrize("said", [None, 5, [], {"news": 5}, {"probe": 5}, {"ask": {}}, {"probe": {"id": 1}}])
def test_gossip_that_makes_no_sense_harms_nobody(said: Any) -> None:
    """It is refused, and the sender stays what it is."""
    with Node("a") as a, Node("b", a.url) as b:
        assert wait_for(lambda: all_linked(a, b))
        try:
            b.ask("a", "$gossip", said)
        except WebMeshError as error:
            assert "invalid_argument" == getattr(error, "code", "")
        assert {"b": "ok"} == a.states() and {"a": "ok"} == b.states()


def test_an_id_whose_node_answers_is_nobody_else_s() -> None:
    """Whoever claims it with a later epoch would get its calls."""
    with Node("a") as a, Node("b", a.url) as b, WebMeshClient(a.url) as thief:
        assert wait_for(lambda: all_linked(a, b))
        claimed = b.node.me.to_wire() | {"epoch": b.node.me.epoch + 1000}
        with pytest.raises(AlreadyExists, match="answers"):
            thief.call("$join", {"node": claimed})
        assert "b" == a.ask("b", "/who") and {"b": "ok"} == a.states()


def test_a_token_that_cannot_be_made_now_is_made_later() -> None:
    """The program's function may fail; the node is dialled again all the same."""
    tries: list[int] = []

    def token() -> str:
        tries.append(1)
        if len(tries) < 3:
            raise RuntimeError("the vault is sealed")
        return "t"

    with Node("a") as a, Node("b", a.url, token=token) as b:
        assert wait_for(lambda: all_linked(a, b))
    assert 3 <= len(tries)


def test_one_that_has_only_a_source_looks_there_before_it_decides_alone() -> None:
    """What it kept meanwhile would be lost."""

    class Silent(Discovery):
        def start(self, found: Any) -> None:
            pass

        def stop(self) -> None:
            pass

    assert Node("a", discoveries=[Silent()]).node.expects and not Node("b").node.expects


def test_what_a_source_finds_is_dialled_and_it_hears_of_each_change() -> None:
    """Before it is asked, and whenever something is new; what it finds no longer is let be."""

    class Source(Discovery):
        def __init__(self) -> None:
            self.told: list[str] = []
            self.found: Any = None

        def announce(self, record: Any) -> None:
            self.told.append(f"{record.state} {record.zone}")

        def start(self, found: Any) -> None:
            self.told.append("start")
            self.found = found

        def stop(self) -> None:
            self.told.append("stop")

    source = Source()
    with Node("a") as a:
        with Node("b", discoveries=[source]) as b:
            assert wait_for(lambda: source.found is not None)
            assert ["ok None", "start"] == source.told
            b.hub(source.found, [Found((b.url, a.url))])
            assert wait_for(lambda: all_linked(a, b))
            b.hub(lambda: b.node.update(zone="west"))
            b.hub(source.found, [])
            assert wait_for(lambda: "ok west" == source.told[-1])
        assert ["draining west", "stop"] == source.told[-2:]


def test_a_second_process_of_the_same_id_is_told_of(caplog: pytest.LogCaptureFixture) -> None:
    """One of them has to go; which, only people know."""
    with Node("a") as a:
        later = a.node.me.changed(zone="elsewhere")
        for step in range(1, 6):
            claim = {"node": later.to_wire() | {"epoch": later.epoch + step * 1000}}
            a.hub(a.node.membership.merge, [claim], 1e9, "x")
        a.hub(a.node._look)
        a.hub(a.node._look)
    assert 1 == [record.getMessage() for record in caplog.records].count("another process has the id of this node")


def test_a_mesh_of_one_says_goodbye_without_waiting() -> None:
    """There is nobody to hear it."""
    with meshed(Node("a")):
        pass
