"""Live messages and groups, whatever keeps them."""

import pytest

from tests.brokers.contract import KEPT, PLAIN, WORK, RecordingSink, message
from webmesh.brokers import one_node
from webmesh.brokers.base import Keep
from webmesh.brokers.memory import MemoryBroker
from webmesh.exceptions import Overloaded
from webmesh.testing import FakeClock


@pytest.fixture
def sink() -> RecordingSink:
    return RecordingSink()


@pytest.fixture
def broker(sink: RecordingSink, monkeypatch: pytest.MonkeyPatch) -> MemoryBroker:
    monkeypatch.setattr(one_node, "GROUP_BACKLOG", 3)
    made = MemoryBroker(FakeClock())
    made.start(sink)
    return made


def test_a_full_group_drops_its_oldest(broker: MemoryBroker, sink: RecordingSink):
    """Where nothing must be acknowledged a group that does not keep up gets the newest."""
    broker.join(WORK, 1, durable=False)
    for number in range(6):
        broker.publish(message("jobs/x", number), PLAIN)
    while sink.given and len(sink.given) < 5:
        token = sink.given[-1][2]
        broker.done(WORK, token)
        if sink.given[-1][2] == token:
            break
    assert [0, 3, 4, 5] == [publication.payload for _, publication, _ in sink.given]


def test_a_full_group_refuses_what_must_be_acknowledged(broker: MemoryBroker, sink: RecordingSink):
    """Nothing that was accepted may be dropped, so it is not accepted."""
    broker.join(WORK, 1, durable=True)
    keep = Keep(ack=True)
    for number in range(4):
        broker.publish(message("jobs/x", number), keep)
    with pytest.raises(Overloaded):
        broker.publish(message("jobs/x", 4), keep)
    broker.done(WORK, sink.given[0][2])
    assert broker.publish(message("jobs/x", 4), keep).offset == 5


def test_a_node_that_is_done_at_once_is_given_the_next_without_end(
    broker: MemoryBroker, monkeypatch: pytest.MonkeyPatch
):
    """However many wait, the stack does not grow with them."""
    done: list[int] = []

    class Quick(RecordingSink):
        def work(self, group, publication, token):
            done.append(publication.payload)
            broker.done(group, token)

    monkeypatch.setattr(one_node, "GROUP_BACKLOG", 5000)
    broker.join(WORK, 1, durable=True)
    for number in range(3000):
        broker.publish(message("jobs/x", number), KEPT)
    broker.leave(WORK)
    broker._sink = Quick()
    broker.join(WORK, 1, durable=True)
    assert list(range(3000)) == done


def test_groups_are_bounded(broker: MemoryBroker, monkeypatch: pytest.MonkeyPatch):
    """Those that are there go on; one that ends makes room."""
    monkeypatch.setattr(one_node, "MOST_GROUPS", 2)
    durable, passing, third = (WORK._replace(name=name) for name in ("durable", "passing", "third"))
    broker.join(durable, 1, durable=True)
    broker.leave(durable)
    broker.join(passing, 1, durable=False)
    with pytest.raises(Overloaded):
        broker.join(third, 1, durable=False)
    broker.join(durable, 1, durable=True)
    broker.leave(passing)
    broker.join(third, 1, durable=False)
