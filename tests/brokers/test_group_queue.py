"""What gives way in a group that is full."""

import pytest

from tests.brokers.contract import WORK, RecordingSink, message
from webmesh.brokers.group_queue import GroupQueue

MOST, MOST_BYTES = 3, 10


class Queue(GroupQueue):
    """Writes down what it says."""

    def __init__(self) -> None:
        super().__init__(WORK, lambda queue, token: self.ends.append(token), lambda queue: self.ends.append(-1))
        self.ends: list[int] = []
        self.sink = RecordingSink()

    def add(self, *payloads: int, ack: bool, size: int = 1) -> list[list[int] | None]:
        """What each displaced."""
        found = []
        for payload in payloads:
            displaced = self.makes_room(size, MOST, MOST_BYTES, ack=ack)
            if displaced is not None:
                self.put(message("jobs/1", payload), size, displaced, ack=ack)
            found.append(displaced)
        return found

    def members(self, window: int) -> None:
        self.open(self.sink, window, durable=True, ttl=None)

    @property
    def given(self) -> list[int]:
        return [publication.payload for _, publication, _ in self.sink.given]


@pytest.fixture
def queue() -> Queue:
    return Queue()


def test_the_oldest_that_need_not_be_acknowledged_goes_first(queue: Queue):
    """For either kind, wherever it stands."""
    queue.add(0, ack=True)
    queue.add(1, 2, ack=False)
    assert [[1]] == queue.add(3, ack=False)
    assert [[2], [3]] == queue.add(4, 5, ack=True)
    queue.members(9)
    assert ([0, 4, 5], [(WORK, 3, 0)]) == (queue.given, queue.sink.losses)


def test_what_need_not_be_acknowledged_is_lost_itself_where_nothing_else_may_go(queue: Queue):
    """Members or not."""
    queue.add(0, 1, 2, ack=True)
    assert [[3]] == queue.add(3, ack=False)
    queue.members(0)
    assert [[4]] == queue.add(4, ack=False)


def test_what_must_be_acknowledged_is_refused_while_there_are_members(queue: Queue):
    """Without any the oldest goes."""
    queue.members(0)
    assert [[], [], [], None] == queue.add(0, 1, 2, 3, ack=True)
    queue.close(5.0)
    assert [[0]] == queue.add(4, ack=True)
    queue.members(9)
    assert [1, 2, 4] == queue.given


def test_what_was_not_done_comes_first_again_and_keeps_its_kind(queue: Queue):
    """Given back, it is displaced by the same rule."""
    queue.add(0, 1, ack=False)
    queue.members(1)
    queue.close(0.0)
    queue.add(2, ack=True)
    assert [[0]] == queue.add(3, ack=True)
    queue.members(9)
    assert [0, 1, 2, 3] == queue.given


def test_it_lasts_for_its_time_without_members(queue: Queue):
    """One that has members has no end."""
    queue.open(queue.sink, 1, durable=True, ttl=10.0)
    assert float("inf") == queue.end
    queue.close(5.0)
    assert 15.0 == queue.end


def test_bytes_are_bounded_as_numbers_are(queue: Queue):
    """As many give way as a large one needs; where they are not enough nothing does."""
    queue.members(0)
    queue.add(0, ack=True, size=4)
    assert [[], []] == queue.add(1, 2, ack=False, size=3)
    assert [None] == queue.add(3, ack=True, size=7)
    assert [[3]] == queue.add(3, ack=False, size=7)
    assert [[1, 2]] == queue.add(4, ack=True, size=6)
    queue.close(5.0)
    assert [[0]] == queue.add(5, ack=True, size=4)
    queue.members(9)
    assert ([4, 5], [(WORK, 4, 0)]) == (queue.given, queue.sink.losses)


def test_one_that_is_larger_than_all_may_be_waits_alone(queue: Queue):
    """It could go nowhere else."""
    queue.members(0)
    assert [[], None] == queue.add(0, 1, ack=True, size=99)
    queue.members(1)
    queue.members(0)
    assert [[]] == queue.add(2, ack=True)
