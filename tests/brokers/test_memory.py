"""The engine in memory: the contract, and its bounds."""

import gevent
import pytest

from tests.brokers.contract import KEPT, BrokerContract, BytesContract, RecordingSink, message
from webmesh.brokers import base, one_node
from webmesh.brokers.base import Keep, Since
from webmesh.brokers.memory import MemoryBroker, MemoryStorage
from webmesh.exceptions import Overloaded
from webmesh.protocol.publication import Publication
from webmesh.testing import FakeClock


class TestMemory(BrokerContract, BytesContract):
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
    assert [] == list(broker.retained(("c",)))


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


@pytest.mark.row(86)
def test_topics_that_ended_with_their_time_make_room(broker: MemoryBroker, monkeypatch: pytest.MonkeyPatch):
    """And no number is used twice: who stood at one of them is told that it has missed something."""
    monkeypatch.setattr(one_node, "MOST_TOPICS", 2)
    keep = Keep(history=5, ttl=10.0)
    first = [broker.publish(message("a"), keep) for _ in range(3)][-1]
    broker.publish(message("b"), keep)
    broker.clock.advance(20)
    broker.publish(message("c"), keep)
    broker.publish(message("a"), keep)
    assert ["a", "c"] == sorted(broker.topics(("*",)))
    assert not broker.history("a", Since(first.offset - 1, first.epoch)).complete
    assert broker.history("a", Since()).offset > first.offset


def test_retained_values_are_read_in_pages(monkeypatch: pytest.MonkeyPatch):
    """Others have their turn in between; what they take away is not found, what they leave is found once."""
    monkeypatch.setattr(base, "HOLD", -1.0)
    broker, went = MemoryBroker(FakeClock()), []
    broker.start(RecordingSink())
    for number in range(4 * base.SLICE):
        broker.publish(Publication(f"a/{number}", number), Keep(retain=True))

    def meanwhile() -> None:
        for number in range(0, 4 * base.SLICE, 2):
            broker.publish(Publication(f"a/{number}", None), Keep(retain=True))
        broker.publish(Publication("b", "new"), Keep(retain=True))
        went.append(True)

    other = gevent.spawn(meanwhile)
    found = [one.topic for one in broker.retained(("**",))]
    assert went
    other.join()
    assert len(found) == len(set(found))
    assert {f"a/{number}" for number in range(1, 4 * base.SLICE, 2)} <= set(found)
    assert len(found) < 4 * base.SLICE
    broker.stop()


@pytest.mark.row(86)
def test_records_that_are_over_go_though_nobody_lists_them() -> None:
    """With as many claims as there are records: each claim costs the same."""
    storage = MemoryStorage()
    for number in range(100):
        storage.put("t", f"{number}", number, 5.0 if number < 90 else 50.0)
    for number in range(90, 100):
        assert storage.claim("t", f"{number}", 10.0) == number
    assert 90 == len(storage._records["t"])
    for _ in range(90):
        assert storage.claim("t", "other", 10.0) is None
    assert {} == storage._records == storage._record_keys == storage._claims
