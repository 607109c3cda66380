"""Messages that await their acknowledgement."""

import math
from typing import Any

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from webmesh.exceptions import ConfigurationError
from webmesh.protocol.deliveries import Deliveries, Redelivery

TWICE = Redelivery(first=1.0, factor=3.0, most=5.0, attempts=2)


def table(*messages: str, redelivery: Redelivery = TWICE, most: int = 100) -> Deliveries[str, str]:
    deliveries: Deliveries[str, str] = Deliveries(redelivery, most=most)
    for message in messages:
        deliveries.add(message)
    return deliveries


def test_messages_are_taken_in_order():
    """Each by one member; then nothing waits."""
    deliveries = table("a", "b")
    first, second = deliveries.take("x", 0.0), deliveries.take("y", 0.0)
    assert [("a", "x", 1), ("b", "y", 1)] == [(one.message, one.to, one.attempt) for one in (first, second)]
    assert deliveries.take("x", 0.0) is None
    assert (1, 1, 0) == (deliveries.pending("x"), deliveries.pending("y"), deliveries.pending("z"))


def test_an_acknowledged_message_is_gone():
    """Once, and only by who has it."""
    deliveries = table("a")
    number = deliveries.take("x", 0.0).number
    assert not deliveries.acknowledge(number, "y")
    assert deliveries.acknowledge(number, "x")
    assert not deliveries.acknowledge(number, "x")
    assert (0, 0) == (len(deliveries), deliveries.pending("x"))
    assert [] == deliveries.late(1e9)


def test_silence_is_followed_by_another_attempt():
    """After a wait that grows; the late acknowledgement of the first attempt's member no longer counts."""
    deliveries = table("a", "b")
    first = deliveries.take("x", 0.0)
    assert 1.0 == deliveries.next_late()
    assert [] == deliveries.late(0.9)
    assert [] == deliveries.late(1.0)
    assert not deliveries.acknowledge(first.number, "x")

    again = deliveries.take("y", 1.0)

    assert ("a", 2, "y", 4.0) == (again.message, again.attempt, again.to, again.due)
    assert "b" == deliveries.take("y", 1.0).message


@pytest.mark.parametrize(("attempt", "wait"), [(1, 1.0), (2, 3.0), (3, 5.0), (5000, 5.0)])
def test_waits_grow_to_a_bound(attempt: int, wait: float):
    """However often it has failed."""
    assert wait == TWICE.wait(attempt)


def test_what_was_tried_often_enough_is_a_dead_letter():
    """It is handed out, once, and no longer delivered."""
    deliveries = table("a")
    for at in (0.0, 1.0):
        deliveries.take("x", at)
        dead = deliveries.late(at + 3.0)
    assert ["a"] == [one.message for one in dead]
    assert (0, None) == (len(deliveries), deliveries.next_late())
    assert deliveries.take("x", 9.0) is None


def test_a_member_that_dies_hands_its_work_on():
    """At once, the oldest first, before what came later."""
    deliveries = table("a", "b", "c")
    for _ in range(2):
        deliveries.take("x", 0.0)
    assert 2 == deliveries.leave("x")
    assert 0 == deliveries.leave("x")
    assert ["a", "b", "c"] == [deliveries.take("y", 0.0).message for _ in range(3)]


def test_it_says_when_it_is_full():
    """Whoever adds decides what to do then."""
    deliveries = table("a", most=2)
    assert not deliveries.full
    deliveries.add("b")
    assert deliveries.full
    deliveries.acknowledge(deliveries.take("x", 0.0).number, "x")
    assert not deliveries.full


class Work(RuleBasedStateMachine):
    """Members come, go, answer and stay silent: every message is acknowledged once, dead, or still there."""

    def __init__(self) -> None:
        super().__init__()
        self.table: Deliveries[int, int] = Deliveries(Redelivery(first=1.0, attempts=3), most=1000)
        self.now, self.added, self.done, self.dead = 0.0, 0, [], []
        self.held: dict[int, dict[int, int]] = {member: {} for member in range(3)}

    @rule()
    def add(self):
        self.table.add(self.added)
        self.added += 1

    @rule(member=st.integers(0, 2))
    def take(self, member):
        delivery = self.table.take(member, self.now)
        if delivery is not None:
            for held in self.held.values():
                held.pop(delivery.number, None)
            self.held[member][delivery.number] = delivery.message

    @rule(member=st.integers(0, 2))
    def leave(self, member):
        self.table.leave(member)
        self.held[member].clear()

    @rule(seconds=st.sampled_from([0.5, 1.0, 9.0]))
    def wait(self, seconds):
        self.now += seconds
        for delivery in self.table.late(self.now):
            assert 3 == delivery.attempt
            self.dead.append(delivery.message)
            for held in self.held.values():
                held.pop(delivery.number, None)

    @precondition(lambda self: any(self.held.values()))
    @rule(data=st.data())
    def acknowledge(self, data):
        member, number = data.draw(st.sampled_from([(m, n) for m, held in self.held.items() for n in held]))
        message = self.held[member].pop(number)
        if self.table.acknowledge(number, member):
            self.done.append(message)

    @invariant()
    def nothing_is_lost_or_done_twice(self):
        assert self.added == len(self.done) + len(self.dead) + len(self.table)
        assert len(set(self.done + self.dead)) == len(self.done + self.dead)


TestWork = Work.TestCase


@pytest.mark.parametrize(
    "options",
    [{"first": 0}, {"first": -1.0}, {"first": True}, {"factor": 0}, {"most": math.inf}, {"most": "5"}, {"attempts": 0},
     {"attempts": 2.0}],
)  # fmt: skip
def test_what_makes_no_sense_is_no_redelivery(options: dict[str, Any]) -> None:
    """It is said where it is written, not with the first delivery that fails."""
    with pytest.raises(ConfigurationError, match=next(iter(options))):
        Redelivery(**options)


def test_what_is_skipped_waits_in_its_place() -> None:
    """Until it is looked at again; whatever came after it may go before."""
    deliveries = table("a", "b", "c")
    deliveries.skip()
    assert "b" == deliveries.take("m", 0.0).message
    assert 1 == deliveries.unskip()
    assert ["a", "c", None] == [one and one.message for one in (deliveries.take("m", 0.0) for _ in range(3))]
    assert 0 == deliveries.unskip()
