"""A node's share of a group, with a Redis that answers what a test wants."""

from __future__ import annotations

from typing import Any

import gevent
import pytest

from tests.brokers.contract import WORK, message, until
from webmesh.brokers.base import GroupName
from webmesh.brokers.redis_groups import GroupTable, NodeGroup, group_text, read_group
from webmesh.brokers.redis_messages import BadMessage, Keys, body_limits, write_body
from webmesh.exceptions import BrokerUnavailable
from webmesh.options import Limits

LIMITS = body_limits(Limits(), 1000)
BODY = b"- - 5 a.1\n" + write_body(message(), LIMITS)


class Work:
    """A group's stream: answers `take` from `entries`, in what room there is."""

    def __init__(self) -> None:
        self.entries: list[list[Any]] = []
        self.own: list[list[Any]] = []
        self.told: list[bytes] = []
        self.asked = 0
        self.broken = False
        self.lost = 0

    def add(self, *numbers: int, data: bytes = BODY) -> None:
        self.entries += [[b"%d-0" % number, [b"t", b"jobs/1", b"m", data]] for number in numbers]

    def run(self, script: str, keys: list[str], node: str, room: int, rescue: int, own: int, group: str,
            *done: bytes) -> Any:  # fmt: skip
        self.asked += 1
        if self.broken:
            raise BrokerUnavailable("gone")
        self.told += done
        if own:
            return [0, self.own, 0]
        taken, self.entries = self.entries[:room], self.entries[room:]
        lost, self.lost = self.lost, 0
        return [0, taken, lost]


@pytest.fixture
def work() -> Work:
    return Work()


@pytest.fixture
def given() -> list[bytes]:
    return []


@pytest.fixture
def bad() -> list[Exception]:
    return []


@pytest.fixture
def group(work: Work, given: list[bytes], bad: list[Exception]):
    made = NodeGroup(
        WORK, "n", keys=Keys("w"), window=2, durable=True, ttl=None, limits=LIMITS, run=work.run,
        give=lambda group, publication, token: given.append(token),
        lost=lambda group, count: given.append(b"%d lost" % count),
        refused=lambda where, error: bad.append(error),
    )  # fmt: skip
    made.start()
    yield made
    made.close()


def test_no_more_is_taken_than_there_is_room(group: NodeGroup, work: Work, given: list[bytes]) -> None:
    """And what is done is told with the next look."""
    work.add(1, 2, 3, 4)
    group.wake()
    until(lambda: len(given) == 2)
    group.done(b"1-0")
    group.done(b"nobody's")
    until(lambda: given == [b"1-0", b"2-0", b"3-0"])
    assert [b"1-0"] == work.told


def test_what_is_done_is_told_again_after_an_outage(group: NodeGroup, work: Work, given: list[bytes]) -> None:
    """As often as needed: telling it twice does no harm."""
    work.add(1)
    group.wake()
    until(lambda: given)
    work.broken = True
    asked = work.asked
    group.done(b"1-0")
    until(lambda: work.asked > asked)
    gevent.sleep(0)
    work.broken = False
    assert [] == work.told
    group.wake()
    until(lambda: work.told == [b"1-0"])


def test_what_was_taken_and_never_heard_of_is_asked_for(group: NodeGroup, work: Work, given: list[bytes]) -> None:
    """An answer may be lost with its connection; what is held already is not given twice."""
    work.add(1)
    group.wake()
    until(lambda: given)
    work.own = [[b"%d-0" % number, [b"t", b"jobs/1", b"m", BODY]] for number in (1, 2)]
    group.wake(own=True)
    until(lambda: len(given) == 2)
    assert [b"1-0", b"2-0"] == given


@pytest.mark.row(98)
def test_what_nobody_can_read_is_done(group: NodeGroup, work: Work, given: list[bytes], bad: list[Exception]) -> None:
    """Or it would come again for ever."""
    work.add(1, data=b"nonsense")
    work.add(2)
    group.wake()
    until(lambda: given == [b"2-0"] and work.told == [b"1-0"])
    assert 1 == len(bad)


def test_who_leaves_tells_what_was_done(group: NodeGroup, work: Work, given: list[bytes]) -> None:
    """Even what could not be told before."""
    work.add(1)
    group.wake()
    until(lambda: given)
    work.broken = True
    group.done(b"1-0")
    gevent.sleep(0.01)
    assert [b"1-0"] == group.close()


@pytest.mark.row(98)
def test_the_table_of_groups(bad: list[Exception]) -> None:
    """Names groups by topics; what stands there and is none is counted."""
    found = [b"", b"7", b"a/*\x1fx", b"1", b"a/**\x1fy", b"0", b"\xff", b"1", b"none", b"1"]
    table = GroupTable(lambda *command: found, "k", lambda where, error: bad.append(error))
    table.read()
    assert ["a/*\x1fx", "a/**\x1fy"] == table.match(("a", "b"))
    assert ("7", ["a/**\x1fy"], 2) == (table.version, table.passing, len(bad))


def test_names() -> None:
    """Whatever stands in a group's name; what is none is refused."""
    for group in (WORK, GroupName(("a", "**"), "x/y \x1f z")):
        assert group == read_group(group_text(group))
    for text in ("a", "a//b\x1fx"):
        with pytest.raises(BadMessage):
            read_group(text)
