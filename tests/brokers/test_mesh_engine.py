"""MeshEngine: what the leader does for all nodes; the whole is looked at in `test_mesh`."""

from __future__ import annotations

from typing import Any

import pytest

from tests.brokers.contract import WORK, message
from webmesh.brokers import mesh_messages
from webmesh.brokers.base import GroupName, Keep
from webmesh.brokers.mesh_engine import MeshEngine
from webmesh.brokers.mesh_messages import group_to_wire, keep_to_wire, publication_to_wire
from webmesh.exceptions import InvalidArgument
from webmesh.protocol.publication import Publication
from webmesh.testing import FakeClock


class Outlet:
    """Writes down where things go."""

    def __init__(self) -> None:
        self.delivered: list[Publication] = []
        self.given: list[tuple[str, Any]] = []
        self.told: list[tuple[str, int]] = []

    def deliver(self, publication: Publication) -> None:
        self.delivered.append(publication)

    def work(self, node: str, group: GroupName, publication: Publication, token: int) -> None:
        self.given.append((node, publication.payload))

    def lost(self, node: str, group: GroupName, count: int) -> None:
        self.told.append((node, count))


@pytest.fixture
def outlet() -> Outlet:
    return Outlet()


@pytest.fixture
def engine(outlet: Outlet) -> MeshEngine:
    return MeshEngine(outlet, clock=FakeClock())


def publish(engine: MeshEngine, payload: Any, keep: Keep = Keep(ack=True), topic: str = "jobs/x") -> Any:
    wire = publication_to_wire(message(topic, payload), 0.0)
    return engine.ask("p", {"op": "publish", "publication": wire, "keep": keep_to_wire(keep)})


def join(engine: MeshEngine, node: str, window: int = 2, *, durable: bool = True) -> None:
    said = {"op": "join", "group": group_to_wire(WORK), "window": window, "durable": durable}
    engine.ask(node, said)


def test_work_is_shared_by_nodes_and_taken_from_those_that_are_gone(engine: MeshEngine, outlet: Outlet) -> None:
    """What they have not done goes to others, first."""
    join(engine, "a")
    join(engine, "b")
    for number in range(4):
        publish(engine, number)
    assert {"a": 2, "b": 2} == {node: [n for n, _ in outlet.given].count(node) for node in "ab"}
    mine = [payload for node, payload in outlet.given if node == "a"]
    del outlet.given[:]
    engine.gone("a")
    engine.gone("never")
    assert [] == outlet.given  # the other one's window is full
    join(engine, "b", 9)
    assert sorted(mine) == sorted(payload for _, payload in outlet.given)


def test_a_durable_group_waits_for_its_next_member(engine: MeshEngine, outlet: Outlet) -> None:
    """Wherever that is."""
    join(engine, "a")
    engine.gone("a")
    publish(engine, 1)
    assert [] == outlet.given and [WORK] == engine.durable
    join(engine, "b")
    assert [("b", 1)] == outlet.given


def test_only_who_has_work_may_say_that_it_is_done(engine: MeshEngine, outlet: Outlet) -> None:
    """Another node's word does not count."""
    join(engine, "a", 1)
    join(engine, "b", 1)
    publish(engine, 0)
    (node, _), other = outlet.given[0], {"a": "b", "b": "a"}[outlet.given[0][0]]
    engine.ask(other, {"op": "done", "group": group_to_wire(WORK), "token": 0})
    engine.gone(node)
    assert [(node, 0), (other, 0)] == outlet.given


def test_a_page_costs_what_it_holds(engine: MeshEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    """However many values are retained; together the pages are all of them, in the order of their topics."""
    monkeypatch.setattr(mesh_messages, "PART_SIZE", 2000)
    for number in range(500):
        publish(engine, number, Keep(retain=True, history=0), topic=f"jobs/{number * 7 % 500:03}")
    looked_at: list[str] = []
    expired = Publication.expired
    monkeypatch.setattr(Publication, "expired", lambda one, now: looked_at.append(one.topic) or expired(one, now))
    found: list[str] = []
    more, pages = True, 0
    while more:
        said = {"op": "retained", "pattern": "jobs/*", "after": found[-1] if found else None}
        looked_at.clear()
        part = engine.ask("p", said)
        items, more, pages = part["items"], part["more"], pages + 1
        assert len(items) <= len(looked_at) <= len(items) + 1
        found += [topic for topic, _ in items]
    assert pages > 5
    assert [f"jobs/{number:03}" for number in range(500)] == found


def test_records_come_in_pages_too(engine: MeshEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    """In the order of their keys; what is over, or was claimed, is in none, and is kept no longer."""
    monkeypatch.setattr(mesh_messages, "PART_SIZE", 100)
    for number in range(60):
        key, ttl = f"{number * 7 % 60:02}", 1.0 if number < 5 else 9.0
        engine.ask("p", {"op": "put", "table": "t", "key": key, "value": number, "ttl": ttl})
    engine._clock.advance(2.0)  # type: ignore[attr-defined]
    assert 5 == engine.ask("p", {"op": "claim", "table": "t", "key": "35"})
    assert engine.ask("p", {"op": "claim", "table": "t", "key": "35"}) is None
    found: list[str] = []
    more, pages = True, 0
    while more:
        part = engine.ask("p", {"op": "records", "table": "t", "after": found[-1] if found else None})
        found, more, pages = [*found, *(key for key, _ in part["items"])], part["more"], pages + 1
    gone = {f"{number * 7 % 60:02}" for number in range(6)}
    assert [f"{number:02}" for number in range(60) if f"{number:02}" not in gone] == found
    assert 3 == pages and len(found) == len(engine._storage._records["t"])
    for key in found:
        engine.ask("p", {"op": "claim", "table": "t", "key": key})
    assert {} == engine._storage._records == engine._storage._record_keys


@pytest.mark.parametrize(
    "said",
    [
        {}, {"op": "x"}, {"op": "publish"}, {"op": "publish", "publication": 5, "keep": {}}, {"op": "history"},
        {"op": "join", "group": ["a", "g"], "window": "x", "durable": True},
        {"op": "join", "group": ["a", "g"], "window": -5, "durable": True}, {"op": "done", "group": 5, "token": 1},
        {"op": "join", "group": ["a", "g"], "window": 1, "durable": True, "ttl": {}},
        {"op": "join", "group": ["a", "g"], "window": 1, "durable": True, "ttl": -1},
        {"op": "put", "table": "t", "key": "k", "value": 1, "ttl": "x"}, {"op": "topics", "pattern": 5},
        {"op": "put", "table": 5, "key": "k", "value": 1, "ttl": 5}, {"op": "records", "table": 5},
        {"op": "put", "table": "t", "key": 5, "value": 1, "ttl": 5}, {"op": "claim", "table": "t", "key": 5},
        {"op": "history", "topic": 5, "since": [None, None, None]},
        {"op": "history", "topic": "a", "since": [None, None, None], "most": -1},
        {"op": "retained", "pattern": "a", "after": 5}, {"op": "topics", "pattern": "a", "after": {}},
    ],
)  # fmt: skip
def test_what_makes_no_sense_is_refused_and_harms_nobody(engine: MeshEngine, said: dict[str, Any]) -> None:
    """It came from another node."""
    with pytest.raises(InvalidArgument):
        engine.ask("p", said)
    engine.gone("p")
    assert 1 == publish(engine, 1)[0]
    assert {"items": [], "more": False} == engine.ask("p", {"op": "records", "table": "t"})
