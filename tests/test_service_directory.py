"""A directory that is written by hand."""

from __future__ import annotations

from tests.instance_fakes import Link
from webmesh.instances import Instance
from webmesh.service_directory import ServiceDirectory


def made(node: str, service: str, epoch: int = 0) -> Instance:
    return Instance(node, service, Link(), epoch=epoch)


def test_instances_by_service_and_nodes_by_id() -> None:
    """A node that offers two services is one node."""
    directory = ServiceDirectory()
    stock, prices, other = made("a", "stock"), made("a", "prices"), made("b", "stock")
    for one in (stock, prices, other):
        directory.add(one)

    assert [stock, other] == list(directory.instances("stock"))
    assert {"stock": (stock, other), "prices": (prices,)} == directory.services()
    assert ["a", "b"] == [one.node for one in directory.nodes()]
    assert directory.node("b") is other
    assert (directory.node("c"), ()) == (None, directory.instances("routes"))


def test_a_node_without_services() -> None:
    """Can be called by its id."""
    directory = ServiceDirectory()
    node = made("a", "")
    directory.add(node)
    assert (node, ()) == (directory.node("a"), directory.instances(""))
    directory.add(made("a", "stock"))
    assert directory.node("a") is not None


def test_a_newer_one_replaces_the_older() -> None:
    """There is one instance of a service on each node."""
    directory = ServiceDirectory()
    directory.add(made("a", "stock"))
    again = made("a", "stock", epoch=1)
    directory.add(again)
    assert [again] == list(directory.instances("stock"))
    assert directory.node("a") is again


def test_what_is_removed_is_gone() -> None:
    """One service of a node, or the whole of it."""
    directory = ServiceDirectory()
    for service in ("stock", "prices"):
        directory.add(made("a", service))
    directory.remove("a", "stock")
    assert ((), 1) == (directory.instances("stock"), len(directory.instances("prices")))
    directory.remove("a")
    assert ((), (), {}) == (directory.instances("prices"), directory.nodes(), directory.services())


def test_each_change_is_told() -> None:
    """To whoever asked before it."""
    directory = ServiceDirectory()
    for change in (lambda: directory.add(made("a", "stock")), lambda: directory.remove("a"), directory.tell):
        bell = directory.changed()
        assert not bell.done
        change()
        assert bell.done
