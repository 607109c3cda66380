"""Presence across the nodes of one engine."""

from __future__ import annotations

from typing import Any

import pytest

from tests.will_nodes import SharedBroker
from webmesh.brokers.memory import MemoryBroker, MemoryStorage
from webmesh.exceptions import BrokerUnavailable
from webmesh.node_lease import LEASE, NodeLease
from webmesh.presence_exchange import TABLE, PresenceExchange
from webmesh.testing import FakeClock, RecordingObserver
from webmesh.topic_presence import TopicPresence


class Node:
    """What of a node has to do with it."""

    def __init__(self, storage: MemoryStorage, clock: FakeClock) -> None:
        self.broker = SharedBroker(storage, clock)
        self.lease = NodeLease(self.broker)
        self.topics: dict[str, TopicPresence] = {}
        self.exchange = PresenceExchange(self.broker, self.lease, self.topics)

    def topic(self, name: str) -> TopicPresence:
        if name not in self.topics:
            self.topics[name] = TopicPresence(name, RecordingObserver(), self.exchange.changed)
            self.exchange.fill(self.topics[name])
        return self.topics[name]

    def come(self, name: str, key: str, meta: Any = None) -> None:
        self.topic(name).come((self.lease.node, key), key, meta, local=True)

    def go(self, name: str, key: str) -> None:
        self.topic(name).go((self.lease.node, key), local=True)


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def nodes(clock: FakeClock) -> list[Node]:
    storage = MemoryStorage()
    made = [Node(storage, clock) for _ in range(2)]
    look(made)
    return made


def look(nodes: list[Node]) -> None:
    for _ in range(2):
        for node in nodes:
            node.lease.beat()


def test_who_is_on_one_node_is_seen_on_the_others(nodes: list[Node]):
    """Who comes, and who goes, within a look or two."""
    one, other = nodes
    other.come("t", "here")
    for keys in (["a"], ["a", "b"]):
        one.come("t", keys[-1], 1)
        look(nodes)
        assert {"here": [None]} | {key: [1] for key in keys} == other.topic("t").members.state()
        assert other.topic("t").members.state() == one.topic("t").members.state()
    one.go("t", "a")
    look(nodes)
    assert {"here": [None], "b": [1]} == other.topic("t").members.state()
    one.go("t", "b")
    look(nodes)
    assert {"here": [None]} == other.topic("t").members.state()
    one.come("t", "b", 2)
    look(nodes)
    assert {"here": [None], "b": [2]} == other.topic("t").members.state()


def test_who_is_asked_for_a_topic_reads_what_others_have_told(nodes: list[Node]):
    """Only then: most nodes have nothing to do with most topics."""
    one, other = nodes
    one.come("t", "a", 1)
    look(nodes)
    assert {} == other.topics
    other.exchange.refresh("t")
    assert {"a": [1]} == other.topic("t").members.state()


def test_a_dead_nodes_members_go_with_its_lease(nodes: list[Node], clock: FakeClock):
    """And those of one that has left on purpose, at once."""
    one, other = nodes
    other.topic("t")
    one.come("t", "a")
    look(nodes)
    assert {"a": [None]} == other.topic("t").members.state()
    clock.advance(LEASE)
    other.lease.beat()
    assert {} == other.topic("t").members.state()
    look(nodes)  # it was only slow
    assert {"a": [None]} == other.topic("t").members.state()


@pytest.mark.row(96)
def test_what_the_engine_has_lost_is_told_again(nodes: list[Node], clock: FakeClock):
    """And what could not be told while it was away."""
    one, other = nodes
    other.topic("t")
    one.come("t", "a")
    one.broker.failing["put"] = [None, BrokerUnavailable("away")]
    look(nodes)
    assert {"a": [None]} == other.topic("t").members.state()
    one.broker._storage._records.clear()  # type: ignore[attr-defined]
    look(nodes)
    assert 1 == len(one.broker.records(TABLE))
    assert {"a": [None]} == other.topic("t").members.state()


def test_nothing_is_read_while_nothing_is_new(nodes: list[Node]):
    """Looks cost what the leases cost."""
    one, other = nodes
    other.topic("t")
    one.come("t", "a")
    look(nodes)
    other.broker.failing["records"] = [None, BrokerUnavailable("was read")]
    other.lease.beat()
    assert 1 == len(other.broker.failing["records"])


@pytest.mark.row(97)
@pytest.mark.parametrize("record", [None, {}, {"version": 1, "topic": "t", "members": {"a": 1}},
                                    {"version": 1, "topic": "u", "members": {}}, {"version": "1", "topic": "t"},
                                    {"version": 1, "topic": "t", "members": {"a": [1, None]}}])  # fmt: skip
def test_records_that_nobody_of_us_has_written_count_for_nothing(nodes: list[Node], record: Any):
    """Nor do facts."""
    one, other = nodes
    other.topic("t")
    one.come("t", "a")
    one.lease.beat()
    (key,) = one.broker.records(TABLE)
    one.broker.put(TABLE, key, record, 100.0)
    other.lease.beat()
    assert {} == other.topic("t").members.state()
    one.lease.facts["presence"] = 7
    one.lease.beat()
    other.lease.beat()
    assert {} == other.topic("t").members.state()


def test_an_engine_for_one_node_is_told_nothing():
    """There is nobody to tell."""
    broker = MemoryBroker()
    lease = NodeLease(broker)
    topics: dict[str, TopicPresence] = {}
    exchange = PresenceExchange(broker, lease, topics)
    topics["t"] = TopicPresence("t", RecordingObserver(), exchange.changed)
    topics["t"].come((lease.node, "a"), "a", 1, local=True)
    lease.beat()
    assert {} == broker.records(TABLE)
