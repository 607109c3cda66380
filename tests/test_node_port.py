"""NodePort: the mesh as its engine sees it."""

from __future__ import annotations

import pytest

from tests.mesh_nodes import Node
from tests.running import wait_for
from webmesh.exceptions import ConnectionClosed, PermissionDenied
from webmesh.node_port import NodePort
from webmesh.protocol.leadership import View
from webmesh.webmesh_client import WebMeshClient


def test_nodes_ask_and_tell_each_other() -> None:
    """By their ids; whoever is not there is told apart from one that does not answer."""
    heard: list[object] = []
    one, other = Node("one"), Node("other")
    port, its = NodePort(one.node), NodePort(other.node)
    its.answer(
        other.server.router,
        {"$engine": lambda node, said: [node, said], "$work": lambda node, said: heard.append((node, said))},
    )
    assert View() == port.view() and [] == port.linked() and not port.expects
    with other, one:
        one.hub(one.node.diallers.seed, other.url)
        assert wait_for(lambda: other.id in one.hub(port.view).reachable)
        assert [other.id] == one.hub(port.linked)
        assert [one.id, 5] == one.hub(port.ask, other.id, "$engine", 5, 5.0)
        assert one.hub(port.tell, other.id, "$work", "w")
        assert wait_for(lambda: [(one.id, "w")] == heard)
        assert not one.hub(port.tell, "nobody", "$work", "w")
        with pytest.raises(ConnectionClosed):
            one.hub(port.ask, "nobody", "$engine", 5, 5.0)


def test_only_nodes_are_answered() -> None:
    """A client may call routes, and not the engine."""
    node = Node("one")
    NodePort(node.node).answer(node.server.router, {"$engine": lambda who, said: said})
    with node, WebMeshClient(node.url) as client, pytest.raises(PermissionDenied):
        client.call("$engine", 1)


def test_one_that_has_left_is_dead_and_not_reachable() -> None:
    """So that a majority does not wait for it."""
    with Node("one") as one:
        port = NodePort(one.node)
        with Node("other", one.url) as other:
            assert wait_for(lambda: one.hub(port.view).reachable)
        assert wait_for(lambda: View(frozenset(), frozenset({other.id})) == one.hub(port.view))
