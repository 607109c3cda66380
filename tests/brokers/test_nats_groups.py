"""A group's messages at one node."""

import itertools
from collections.abc import Callable

import gevent
import pytest

from tests.brokers.contract import WORK, RecordingSink, message, until
from webmesh.brokers import one_node
from webmesh.brokers.nats_groups import NodeGroup
from webmesh.brokers.nats_link import Message
from webmesh.exceptions import BrokerUnavailable

RAW = Message("jobs.1", "", b"", {})


class OtherNodes:
    """The nodes beyond this one: `takes` says of each offer whether one has room."""

    def __init__(self) -> None:
        self.takes: Callable[[Message], bool] = lambda message: False
        self.taken: list[str] = []
        self.handed: list[str] = []
        self.acknowledged: list[tuple[int, int]] = []
        self.listening = True

    def listen(self, group, *, room):
        self.listening = room

    def offer(self, group, message):
        gevent.sleep(0)
        taken = self.takes(message)
        if taken:
            self.taken.append(message.subject)
        return taken

    def hand_over(self, group, message):
        self.handed.append(message.subject)

    def acknowledge(self, group, delivery):
        self.acknowledged.append(delivery)


@pytest.fixture
def others() -> OtherNodes:
    return OtherNodes()


@pytest.fixture
def sink() -> RecordingSink:
    return RecordingSink()


def grouped(others: OtherNodes, sink: RecordingSink, window: int = 1) -> NodeGroup:
    return NodeGroup(WORK, sink, others, window=window, durable=True, next_token=itertools.count().__next__)


def put(group: NodeGroup, number: int) -> None:
    group.put(message("jobs/1", number), message=RAW._replace(subject=str(number)))


def payloads(sink: RecordingSink) -> list[int]:
    return [publication.payload for _, publication, _ in sink.given]


def test_members_get_them_in_order_as_they_have_room(others: OtherNodes, sink: RecordingSink):
    """And the node says whether it has room for others' messages."""
    group = grouped(others, sink, 2)
    for number in range(4):
        put(group, number)
    assert [0, 1] == payloads(sink)
    assert not others.listening
    for _, _, token in list(sink.given):
        group.done(token)
        group.done(token)
    assert [0, 1, 2, 3] == payloads(sink)
    for _, _, token in sink.given[2:]:
        group.done(token)
    assert others.listening
    group.close()


def test_what_waits_goes_to_a_node_with_room_the_newest_first(others: OtherNodes, sink: RecordingSink):
    """What no other node takes stays, in its order."""
    others.takes = lambda message: message.subject in ("2", "3")
    group = grouped(others, sink)
    for number in range(4):
        put(group, number)
    until(lambda: ["3", "2"] == others.taken)
    group.done(sink.given[0][2])
    group.done(sink.given[1][2])
    assert [0, 1] == payloads(sink)
    group.close()


def test_what_is_being_offered_is_given_to_nobody_else(others: OtherNodes, sink: RecordingSink):
    """Nor overtaken by what came after it."""
    asked, answer = gevent.event.Event(), gevent.event.AsyncResult()

    def takes(message: Message) -> bool:
        asked.set()
        return answer.get()

    others.takes = takes
    group = grouped(others, sink)
    put(group, 0)
    put(group, 1)
    asked.wait(10)
    put(group, 2)
    group.done(sink.given[0][2])
    assert [0] == payloads(sink)
    answer.set_exception(BrokerUnavailable("lost"))
    until(lambda: [0, 1] == payloads(sink))
    group.close()


def test_closing_hands_on_what_is_not_done(others: OtherNodes, sink: RecordingSink):
    """But for what the server keeps: it gives that to others by itself."""
    group = grouped(others, sink, 3)
    put(group, 0)
    group.put(message("jobs/1", 1), delivery=(7, 0))
    group.put(message("jobs/1", 2), delivery=(8, 0))
    put(group, 3)
    group.done(sink.given[1][2])
    group.close()
    assert (["0", "3"], [(7, 0)]) == (others.handed, others.acknowledged)
    put(group, 4)
    assert 4 == len(sink.given)


@pytest.mark.parametrize("takes", [True, False])
def test_what_is_being_offered_when_it_closes_goes_to_one_node(others: OtherNodes, sink: RecordingSink, takes: bool):
    """To who takes it, or to any other."""
    asked, answer = gevent.event.Event(), gevent.event.AsyncResult()

    def decide(message: Message) -> bool:
        asked.set()
        return answer.get()

    others.takes = decide
    group = grouped(others, sink, 0)
    put(group, 0)
    asked.wait(10)
    group.close()
    answer.set(takes)
    until(lambda: others.taken or others.handed)
    assert ["0"] == [*others.taken, *others.handed]


def test_a_full_group_drops_the_oldest_that_nobody_acknowledges(
    others: OtherNodes, sink: RecordingSink, monkeypatch: pytest.MonkeyPatch
):
    """What the server keeps is bounded by the window that was asked for."""
    monkeypatch.setattr(one_node, "GROUP_BACKLOG", 2)
    group = grouped(others, sink, 0)
    group.put(message("jobs/1", 0), delivery=(7, 0))
    for number in range(1, 4):
        put(group, number)
    group.set_window(9)
    assert ([0, 3], [(WORK, 2, 0)]) == (payloads(sink), sink.losses)
    group.close()
    assert ["3"] == others.handed


def test_work_that_is_done_at_once_needs_no_depth(others: OtherNodes):
    """However much waits."""

    class Quick(RecordingSink):
        def work(self, name, publication, token):
            super().work(name, publication, token)
            group.done(token)

    quick = Quick()
    group = grouped(others, quick, 0)
    for number in range(3000):
        put(group, number)
    group._window = 1
    group._give()
    assert 3000 == len(quick.given)
    group.close()
