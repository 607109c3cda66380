"""MeshCouncil: ballots that are really sent; who leads is told once for each change."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.brokers.contract import until
from tests.brokers.mesh_net import Net, Port
from webmesh.brokers.mesh_council import MeshCouncil


class Node:
    """A council over a port."""

    def __init__(self, net: Net) -> None:
        self.port = Port(net, f"n{len(net.ports)}", len(net.ports) + 1)
        net.ports[self.port.me] = self.port
        self.told: list[str | None] = []
        self.council = MeshCouncil(self.port, self.told.append)
        self.port.handlers = {"$lead": self.council.received, "$resign": self.council.resigned}


@pytest.fixture
def net() -> Iterator[Net]:
    made = Net()
    yield made
    for port in made.ports.values():
        port.reader.kill()


def test_one_alone_leads_from_its_start(net: Net) -> None:
    """Nothing is waited for."""
    node = Node(net)
    node.council.start()
    assert node.council.leads and ["n0"] == node.told and "n0" == node.council.await_leader(0.0)
    node.council.stop()
    assert not node.council.leads


def test_nodes_come_to_one_leader_and_to_the_next_when_it_resigns(net: Net) -> None:
    """Each change is told."""
    nodes = [Node(net), Node(net), Node(net)]
    for node in nodes:
        node.council.start()
    until(lambda: all(node.council.leader == "n0" for node in nodes))
    until(lambda: 3 == len(nodes[0].council.leadership.council.voters))
    nodes[0].council.stop()
    net.leave("n0")
    until(lambda: nodes[1].council.leader == nodes[2].council.leader and nodes[1].council.leader in ("n1", "n2"))
    assert nodes[1].told[-1] == nodes[1].council.leader
    for node in nodes[1:]:
        node.council.stop()


def test_nobody_is_waited_for_longer_than_was_said(net: Net) -> None:
    """A half that is too small has none."""
    nodes = [Node(net), Node(net)]
    for node in nodes:
        node.council.start()
    until(lambda: all(node.council.leader == "n0" for node in nodes))
    until(lambda: 2 == len(nodes[0].council.leadership.council.voters))
    net.cut.add(frozenset(("n0", "n1")))
    until(lambda: nodes[0].council.leader is None and nodes[1].council.leader is None)
    assert nodes[0].council.await_leader(0.1) is None and None is nodes[0].told[-1]
    for node in nodes:
        node.council.stop()


def test_a_node_that_has_nobody_to_look_for_still_pauses_between_two_attempts_to_lead(net: Net) -> None:
    """It is told once that it need not wait: else terms grow with each tick, and a healed mesh comes to no leader."""
    council = Node(net).council
    council._waits = True
    council._tick()
    council.leadership._ask_at = far = float("inf")
    council._tick()
    assert far == council.leadership._ask_at
