"""The engine in memory: the contract, and its bounds."""

import pytest

from tests.brokers.contract import KEPT, PLAIN, WORK, BrokerContract, RecordingSink, message
from webmesh.brokers import one_node
from webmesh.brokers.base import Keep, Since
from webmesh.brokers.memory import MemoryBroker
from webmesh.exceptions import Overloaded
from webmesh.testing import FakeClock


class TestMemory(BrokerContract):
    """By a clock that does not wait."""

    @pytest.fixture(autouse=True)
    def _clock(self):
        self.clock = FakeClock()

    def open_broker(self, number: int) -> MemoryBroker:
        return MemoryBroker(self.clock)

    def pass_time(self, seconds: float) -> None:
        self.clock.advance(seconds)


@pytest.fixture
def sink() -> RecordingSink:
    return RecordingSink()


@pytest.fixture
def broker(sink: RecordingSink) -> MemoryBroker:
    made = MemoryBroker(FakeClock())
    made.start(sink)
    return made


@pytest.mark.row(86)
def test_the_number_of_topics_is_bounded(broker: MemoryBroker, monkeypatch: pytest.MonkeyPatch):
    """Whoever may publish can name as many as it likes: the next one is refused, those that are there go on."""
    monkeypatch.setattr(one_node, "MOST_TOPICS", 2)
    keep = Keep(history=1, retain=True)
    for topic in ("a", "b"):
        broker.publish(message(topic), keep)
    with pytest.raises(Overloaded):
        broker.publish(message("c"), keep)
    assert 2 == broker.publish(message("a"), keep).offset
    assert [] == broker.retained(("c",))


@pytest.mark.row(86)
def test_dedupe_ids_are_forgotten_by_time_and_number(broker: MemoryBroker, monkeypatch: pytest.MonkeyPatch):
    """A table that peers fill has an end."""
    monkeypatch.setattr(one_node, "DEDUPE_MOST", 2)
    for name in "abcd":
        broker.publish(message(dedupe_id=name), KEPT)
    assert 2 == len(broker._storage._seen)
    assert not broker.publish(message(dedupe_id="a"), KEPT).duplicate
    broker.clock.advance(one_node.DEDUPE_WINDOW)
    assert not broker.publish(message(dedupe_id="d"), KEPT).duplicate
    assert 1 == len(broker._storage._seen)


def test_a_group_without_room_drops_its_oldest(broker: MemoryBroker, sink, monkeypatch: pytest.MonkeyPatch):
    """Where nothing must be acknowledged."""
    monkeypatch.setattr(one_node, "GROUP_BACKLOG", 2)
    broker.join(WORK, 1, durable=False)
    for number in range(5):
        broker.publish(message("jobs/1", number), PLAIN)
    for _ in range(3):
        broker.done(WORK, sink.given[-1][2])
    assert [0, 3, 4] == [publication.payload for _, publication, _ in sink.given]


def test_work_that_must_be_acknowledged_is_never_dropped(broker, sink, monkeypatch: pytest.MonkeyPatch):
    """Its publisher is refused instead, and nothing is numbered."""
    monkeypatch.setattr(one_node, "GROUP_BACKLOG", 1)
    keep = Keep(ack=True, history=10)
    broker.join(WORK, 1, durable=True)
    for number in range(2):
        broker.publish(message("jobs/1", number), keep)
    with pytest.raises(Overloaded):
        broker.publish(message("jobs/1", 2), keep)
    assert 2 == broker.history("jobs/1", Since()).offset


def test_work_that_is_done_at_once_needs_no_depth(broker: MemoryBroker):
    """However much waits: a node that finishes each in the call that gives it is given the next by a loop."""

    class Quick(RecordingSink):
        def work(self, group, publication, token):
            super().work(group, publication, token)
            broker.done(group, token)

    broker.join(WORK, 1, durable=True)
    broker.leave(WORK)
    for number in range(5000):
        broker.publish(message("jobs/1", number), PLAIN)
    broker.stop()
    quick = Quick()
    broker.start(quick)
    broker.join(WORK, 1, durable=True)
    assert 5000 == len(quick.given)
