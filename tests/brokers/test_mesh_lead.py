"""MeshLead: where the leader's deliveries go; with its copies it is looked at in `test_mesh`."""

from __future__ import annotations

from collections.abc import Iterable
from random import Random
from typing import Any

import gevent
import pytest

from tests.brokers.contract import WORK, message
from tests.running import PATIENCE
from webmesh.brokers.base import Keep
from webmesh.brokers.copied_storage import CopiedStorage
from webmesh.brokers.mesh_interest import MeshInterest
from webmesh.brokers.mesh_lead import MeshLead
from webmesh.brokers.mesh_messages import group_to_wire, keep_to_wire, publication_to_wire
from webmesh.exceptions import Unavailable
from webmesh.protocol.leadership import Leadership, View
from webmesh.protocol.publication import Publication
from webmesh.testing import FakeClock


class Port:
    """Nobody can be reached; writes down what would be sent."""

    me = "a"

    def __init__(self) -> None:
        self.told: list[tuple[str, str]] = []

    def view(self) -> View:
        return View()

    def tell(self, node: str, path: str, payload: Any) -> bool:
        self.told.append((node, path))
        return True

    def tell_all(self, nodes: Iterable[str], path: str, payload: Any) -> None:
        self.told.extend((node, path) for node in nodes)


@pytest.fixture
def made() -> Any:
    port, interest, here, clock = Port(), MeshInterest(), [], FakeClock()
    leadership = Leadership("a", 1, 0.0, Random(1).random)
    interest.told("b", [("jobs", "*")], [], all=True)
    interest.told("c", [("other",)], [], all=True)
    lead = MeshLead(
        port, leadership, CopiedStorage(clock), interest, lambda path, said: here.append((path, said)), clock=clock
    )  # type: ignore[arg-type]
    return lead, port, leadership, here


def publish(lead: MeshLead) -> Any:
    wire = publication_to_wire(message("jobs/x"), 0.0)
    return lead.ask("a", {"op": "publish", "publication": wire, "keep": keep_to_wire(Keep(history=5, ack=True))})


def test_deliveries_go_here_and_to_the_nodes_that_want_them(made: Any) -> None:
    """To each once; here as they are."""
    lead, port, _, here = made
    publish(lead)
    assert [("b", "$deliver")] == port.told
    ((path, said),) = here
    assert "$deliver" == path and isinstance(said, Publication)


@pytest.mark.parametrize("node", ["a", "b"])
def test_work_goes_to_the_node_that_has_members(made: Any, node: str) -> None:
    """This one included."""
    lead, port, _, here = made
    lead.ask(node, {"op": "join", "group": group_to_wire(WORK), "window": 5, "durable": True})
    publish(lead)
    assert [WORK] == lead.durable
    assert ("a" == node) == ("$work" in [path for path, _ in here])
    assert ("b" == node) == (("b", "$work") in port.told)
    lead.gone(node)


@pytest.mark.parametrize(("node", "answer"), [("a", None), ("b", "unavailable")])
def test_a_question_that_is_ended_while_it_waits_for_the_copies(made: Any, node: str, answer: str | None) -> None:
    """What asks here is over; another node is told that nobody knows what will become of it, and asks again."""
    lead, _, leadership, _ = made
    leadership.settled = False
    ends: list[str] = []

    def ask() -> None:
        try:
            lead.ask(node, {"op": "put", "table": "t", "key": "k", "value": 1, "ttl": 5.0})
        except Unavailable as error:
            ends.append(error.code)

    asking = gevent.spawn(ask)
    gevent.sleep(0)
    assert not asking.dead
    asking.kill(timeout=PATIENCE)
    assert asking.dead and ends == ([] if answer is None else [answer])
    lead.stop()


def test_one_that_lost_the_lead_says_that_it_cannot_tell(made: Any) -> None:
    """It may have been kept, or not."""
    lead, port, leadership, here = made
    leadership.settled = False
    lead.look()
    lead._copies._stopped = True
    with pytest.raises(Unavailable) as caught:
        publish(lead)
    assert {"started": True} == caught.value.details and [] == port.told and [] == here
    lead.stop()
