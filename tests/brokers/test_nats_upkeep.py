"""Durable groups on NATS: their records, their end, and their bound."""

import asyncio
import json
import time
from collections.abc import Iterator

import pytest

from tests.brokers.contract import WORK
from tests.brokers.nats_server import InLoop, new_prefix
from webmesh.brokers import nats_upkeep, one_node
from webmesh.brokers.base import GroupName
from webmesh.brokers.jetstream import JetStream
from webmesh.brokers.nats_records import Records
from webmesh.brokers.nats_topics import Topics
from webmesh.brokers.nats_upkeep import GROUPS, GroupUpkeep
from webmesh.brokers.nats_work import WorkFeed
from webmesh.exceptions import Overloaded


class Node:
    """One node's upkeep, and the feed of its group's work."""

    def __init__(self, in_loop: InLoop, prefix: str) -> None:
        self.in_loop, self.now, self.ended = in_loop, time.time(), []
        self.js = JetStream(in_loop.link, 1)
        self.topics = Topics(self.js, prefix)
        self.records = Records(self.js, f"{prefix}_records", prefix, self.topics.make_records)
        self.upkeep = GroupUpkeep(
            self.js, self.records, prefix, self.topics.work,
            ended=lambda group, lost: self.ended.append((group, lost)), patience=2.0, clock=lambda: self.now,
        )  # fmt: skip
        self.prefix = prefix

    def make_group(self, ttl: float | None) -> None:
        """A group that had a member once."""
        feed = WorkFeed(
            self.js, self.topics.work, self.prefix, WORK, window=1, lease=60.0, make_stream=self.topics.make_work,
            give=lambda message, delivery: None,
        )  # fmt: skip
        self.in_loop(feed.open())
        self.in_loop(feed.close())
        self.in_loop(self.upkeep.enter(WORK, ttl))

    def publish(self, *bodies: bytes) -> None:
        for body in bodies:
            self.in_loop(self.upkeep.check("jobs.1"))
            self.in_loop(self.js.publish(self.topics.work, f"{self.prefix}.work.jobs.1", body, {}))

    def held(self) -> int:
        return self.in_loop(self.js.api(f"STREAM.INFO.{self.topics.work}"))["state"]["messages"]


@pytest.fixture
def nodes(in_loop: InLoop) -> Iterator[tuple[Node, Node]]:
    prefix = new_prefix()
    yield Node(in_loop, prefix), Node(in_loop, prefix)


def test_a_group_ends_for_all_nodes_and_tells_one_what_it_lost(nodes: tuple[Node, Node], in_loop: InLoop):
    """Any of them ends it; its work is kept no longer."""
    one, other = nodes
    one.make_group(10.0)
    one.publish(b"a", b"b")
    other.now += 9.0
    assert [WORK] == in_loop(other.upkeep.names())
    other.now += 2.0
    assert [] == in_loop(other.upkeep.names())
    assert ([], [(WORK, 2)]) == (one.ended, other.ended)
    assert [2, 0] == [in_loop(one.upkeep.take_lost(WORK)) for _ in range(2)]
    assert 0 == one.held()


def test_a_group_with_members_goes_on(nodes: tuple[Node, Node], in_loop: InLoop):
    """Whatever its record says: they answer, on whichever node they are."""
    one, other = nodes
    one.make_group(10.0)
    in_loop(one.upkeep.join(WORK))
    other.now += 11.0
    assert [WORK] == in_loop(other.upkeep.names())
    in_loop(one.upkeep.leave(WORK))
    assert [WORK] == in_loop(other.upkeep.names())
    other.now += 11.0
    assert [] == in_loop(other.upkeep.names())


def test_a_full_group_makes_room_where_it_has_no_members(
    nodes: tuple[Node, Node], in_loop: InLoop, monkeypatch: pytest.MonkeyPatch
):
    """And refuses where it has; a node that did not see the others' publications looks before it believes that."""
    monkeypatch.setattr(one_node, "GROUP_BACKLOG", 3)
    one, other = nodes
    one.make_group(None)
    one.publish(b"a", b"b", b"c", b"d")
    assert (3, 1) == (one.held(), in_loop(one.upkeep.take_lost(WORK)))
    in_loop(other.upkeep.join(WORK))
    with pytest.raises(Overloaded):
        other.publish(b"e")
    assert 3 == one.held()


def test_what_strangers_write_is_no_group(nodes: tuple[Node, Node], in_loop: InLoop):
    """It is left out."""
    one, _ = nodes
    one.make_group(None)
    for number, wrong in enumerate([b"x", b"[]", b"{}", json.dumps({"p": "a//b", "n": "g", "u": 9e9}).encode(),
                                    json.dumps({"p": "a", "n": 5, "t": "x"}).encode()]):  # fmt: skip
        in_loop(one.records.put(GROUPS, str(number), wrong, 2.0))
    assert [WORK] == in_loop(one.upkeep.names())


def test_what_goes_on_is_said_in_time(nodes: tuple[Node, Node], in_loop: InLoop, monkeypatch: pytest.MonkeyPatch):
    """A group whose node is killed then lasts from about that moment on."""
    monkeypatch.setattr(nats_upkeep, "LOOK", 0.01)
    one, other = nodes
    one.make_group(10.0)
    one.now += 5.0
    told = asyncio.Event()
    enter = one.upkeep.enter

    async def enter_and_tell(group: GroupName, ttl: float | None) -> None:
        await enter(group, ttl)
        told.set()

    monkeypatch.setattr(one.upkeep, "enter", enter_and_tell)
    in_loop(one.upkeep.join(WORK))

    async def until_told() -> None:
        running = asyncio.create_task(one.upkeep.run(lambda: {WORK: 10.0}))
        async with asyncio.timeout(10):
            await told.wait()
        running.cancel()

    in_loop(until_told())
    in_loop(one.upkeep.leave(WORK))
    other.now += 14.0
    assert [WORK] == in_loop(other.upkeep.names())


def test_who_has_no_groups_asks_for_none(nodes: tuple[Node, Node], in_loop: InLoop, monkeypatch: pytest.MonkeyPatch):
    """Live messages need no JetStream, which may not be there, or not be allowed."""
    monkeypatch.setattr(nats_upkeep, "LOOK", 0.001)
    one, _ = nodes
    looks: list[object] = []

    async def note(joined: object) -> None:
        looks.append(joined)

    monkeypatch.setattr(one.upkeep, "_look", note)

    async def look_for_a_while() -> None:
        running = asyncio.create_task(one.upkeep.run(dict))
        for _ in range(20):
            await asyncio.sleep(0.002)
        assert [] == looks
        await one.upkeep.join(WORK)
        async with asyncio.timeout(10):
            while not looks:
                await asyncio.sleep(0.001)
        running.cancel()

    in_loop(look_for_a_while())
