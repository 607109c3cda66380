"""MeshDirectory: what calls and programs know of nodes follows what is known of them."""

from __future__ import annotations

from typing import Any

from tests.mesh_nodes import Node
from tests.running import wait_for
from webmesh.mesh_directory import MeshDirectory


def test_instances_come_with_their_links_and_go_with_their_nodes() -> None:
    """One for each service; its figures last as long as its process."""
    one = Node("one")
    directory = MeshDirectory(one.node)
    told: list[tuple[Any, Any]] = []
    directory.watchers.append(lambda before, after: told.append((before, after)))
    with one:
        with Node("other", one.url, services=("other", "more")) as other:
            assert wait_for(lambda: directory.services.instances("more"))
            (instance,) = directory.services.instances("more")
            assert wait_for(lambda: instance.connection is not None and instance.connection.open)
            assert (other.id, "more") == (instance.node, instance.service)
            assert {one.id, other.id} == {view.id for view in directory.nodes()}
            other.hub(lambda: other.node.update(zone="west"))
            assert wait_for(lambda: "west" == instance.zone)
            assert instance is directory.services.instances("more")[0]
        assert wait_for(lambda: not directory.services.instances("more") and instance.draining)
        assert [one.id] == [view.id for view in directory.nodes()] == [one.node for one in directory.services.nodes()]
    assert any(before is None and after.id == other.id for before, after in told)
    assert any(after is None and before.id == other.id for before, after in told)


def test_a_node_that_comes_back_is_another_instance() -> None:
    """What its former life was like says nothing of it."""
    one = Node("one")
    directory = MeshDirectory(one.node)
    with one:
        with Node("other", one.url, id="same"):
            assert wait_for(lambda: directory.services.instances("other"))
            (before,) = directory.services.instances("other")
        with Node("other", one.url, id="same"):
            assert wait_for(lambda: any(now is not before for now in directory.services.instances("other")))
            assert before.epoch < directory.services.instances("other")[0].epoch


def test_one_that_is_lost_is_shown_and_not_called() -> None:
    """For a while."""
    one = Node("one")
    directory = MeshDirectory(one.node)
    with one, Node("other", one.url) as other:
        assert wait_for(lambda: directory.services.instances("other"))
        one.hub(lambda: one.node.membership.refused(other.id, 1e9))
        one.hub(directory.look)
        assert "lost" == directory.nodes()[1].state and not directory.services.instances("other")
        assert "lost" == directory.entries()[0]["state"]
