"""Work of groups on a node: who gets it, what the engine is told, and what is handed on."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

import pytest

from tests.brokers.contract import until
from tests.topic_fakes import CountingSerializer, fake_peer
from webmesh.acknowledged import Answer, Desk, Letter
from webmesh.brokers.base import GroupName, Keep, Places
from webmesh.brokers.memory import MemoryBroker
from webmesh.exceptions import Aborted, BrokerUnavailable, FailedPrecondition, NotFound, Overloaded
from webmesh.group_members import PeerMember
from webmesh.group_work import MOST_LEFT, GroupWork, GroupWorks
from webmesh.protocol.publication import Publication
from webmesh.testing import FakeClock, RecordingObserver
from webmesh.topic_options import TopicOptions, TopicTable

PATTERN = ("safe", "*")


class FakeMember:
    """Keeps what it is given."""

    patient = True
    bounded = True

    def __init__(self, name: str | None = None) -> None:
        self.name = name
        self.here = self.begun = True
        self.free = True
        self.got: list[tuple[Any, int]] = []
        self.answers: list[Answer | None] = []
        self.gaps: list[str] = []

    def ready(self, in_hand: int, window: int) -> bool:
        return self.free and in_hand < window

    def load(self, in_hand: int) -> int:
        return in_hand

    def hand(self, letter: Letter, attempt: int, answer: Answer | None, *, now: float) -> None:
        self.got.append((letter.publication.payload, attempt))
        self.answers.append(answer)

    def gap(self, reason: str, lost: int | None = None) -> None:
        self.gaps.append(reason if lost is None else f"{reason}: {lost}")

    def done(self, number: int = 0) -> None:
        answer = self.answers[number]
        assert answer is not None
        answer(None)


class Engine(MemoryBroker):
    """In memory; writes down what it is told of groups."""

    def __init__(self, clock: FakeClock) -> None:
        super().__init__(clock)
        self.told: list[Any] = []
        self.down = False

    def join(
        self, group: GroupName, window: int, *, durable: bool, ttl: float | None = None, places: Sequence[Places] = ()
    ) -> None:
        if self.down:
            raise BrokerUnavailable("nobody answers")
        self.told.append((window, durable))
        super().join(group, window, durable=durable, ttl=ttl, places=places)

    def leave(self, group: GroupName) -> None:
        self.told.append("leave")
        super().leave(group)


class Node:
    """A sink with groups alone."""

    def __init__(self) -> None:
        self.clock = FakeClock()
        self.engine = Engine(self.clock)
        self.observer = RecordingObserver()
        self.table = TopicTable()
        self.table.add("safe/**", TopicOptions(ack=True, window=2, groups=MOST_LEFT + 5))
        desk = Desk(self.clock, self.observer, lambda letter, attempts, then: then(), clock=self.clock)
        self.groups = GroupWorks(self.engine, self.table, desk)
        self.engine.start(self)

    def deliver(self, publication: Publication) -> None:
        raise AssertionError("nobody subscribes")

    def work(self, group: GroupName, publication: Publication, token: Any) -> None:
        self.groups.work(group, publication, token)

    def lost(self, group: GroupName, count: int) -> None:
        self.groups.lost(group, count)

    def gap(self, reason: str) -> None:
        self.groups.gap(reason)

    def health(self, up: bool, reason: str) -> None:
        raise AssertionError("it is always up")

    def join(self, *members: FakeMember, pattern: tuple[str, ...] = PATTERN) -> GroupWork:
        work = self.groups.of(pattern, "g")
        for member in members:
            work.join(member)
        self.groups.settle(work)
        return work

    def publish(self, topic: str, *payloads: Any, **options: Any) -> None:
        keep = Keep(ack=self.table.of(tuple(topic.split("/"))).ack)
        for payload in payloads:
            self.engine.publish(Publication(topic, payload, **options), keep)


@pytest.fixture
def node() -> Node:
    return Node()


def test_the_engine_is_told_of_the_first_and_the_last(node: Node):
    """And of every change between them: it gives as much as all members together take."""
    first, second = FakeMember(), FakeMember()
    work = node.join(first)
    work.join(second)
    work.changed()
    work.leave(first)
    work.leave(second)
    assert [(2, True), (4, True), (2, True), "leave"] == node.engine.told
    assert 0 == len(node.groups)


@pytest.mark.parametrize(
    ("pattern", "durable"),
    [(("safe", "a"), True), (("**",), True), (("*", "a", "b"), True), (("jobs", "*"), False), (("*",), False)],
)
def test_a_group_is_durable_if_it_may_get_what_must_be_acknowledged(
    node: Node, pattern: tuple[str, ...], durable: bool
):
    """Whatever else it gets."""
    node.join(FakeMember(), pattern=pattern)
    assert durable is node.engine.told[0][1]


def test_an_engine_that_cannot_is_not_joined(node: Node):
    """The next member tries again."""
    member = FakeMember()
    node.engine.down = True
    with pytest.raises(BrokerUnavailable):
        node.join(member)
    node.engine.down = False
    node.join()
    assert [(2, True)] == node.engine.told


def test_work_goes_to_who_has_least(node: Node):
    """At most its window, and what is more waits for the first who has room."""
    first, second = FakeMember(), FakeMember()
    node.join(first, second)
    node.publish("safe/a", *range(6))
    assert [2, 2] == [len(first.got), len(second.got)]
    first.done()
    assert 3 == len(first.got)
    assert sorted([number for number, _ in first.got + second.got]) == list(range(5))


def test_one_that_is_not_ready_gets_nothing(node: Node):
    """It keeps its place."""
    first, second = FakeMember(), FakeMember()
    first.free = False
    node.join(first, second)
    node.publish("safe/a", 0, 1, 2)
    assert ([], [(0, 1), (1, 1)]) == (first.got, second.got)
    first.free = True
    node.publish("safe/a", 3)
    assert [(2, 1), (3, 1)] == first.got


def test_plain_work_is_done_when_it_is_handed_over(node: Node):
    """Nobody is asked to acknowledge it."""
    member = FakeMember()
    node.join(member, pattern=("jobs", "*"))
    node.publish("jobs/a", *range(100))
    assert list(range(100)) == [payload for payload, _ in member.got]
    assert {None} == set(member.answers)


def test_who_leaves_hands_its_work_on(node: Node):
    """Before what waits, as another attempt."""
    first, second = FakeMember(), FakeMember()
    second.free = False
    work = node.join(first, second)
    node.publish("safe/a", 0, 1, 2)
    assert [(0, 1), (1, 1)] == first.got
    second.free = True
    work.leave(first)
    assert [(0, 2), (1, 2)] == second.got
    second.done()
    assert (2, 1) == second.got[-1]


def test_an_acknowledgement_of_who_has_left_counts(node: Node):
    """It was handled: the one who got it next may answer or not."""
    first, second = FakeMember(), FakeMember()
    work = node.join(first)
    node.publish("safe/a", 0)
    work.join(second)
    work.leave(first)
    assert [(0, 2)] == second.got
    first.done()
    second.answers[0](Aborted("too late"))  # type: ignore[misc]
    assert 0 == len(work.deliveries)


def test_a_durable_group_of_which_all_are_away_leaves_the_work_to_others(node: Node):
    """And has it again when one is back, which is told that it is not the first attempt."""
    member = FakeMember()
    work = node.join(member)
    node.publish("safe/a", 0)
    member.here = False
    work.away(member)
    assert "leave" == node.engine.told[-1]
    assert 1 == len(node.groups)
    node.publish("safe/a", 1)
    member.here = True
    work.changed()
    assert [(0, 1), (0, 2), (1, 1)] == member.got


def test_who_comes_after_the_last_is_told_of_earlier_attempts(node: Node):
    """As long as that is remembered: for a bounded number of groups."""
    node.join(member := FakeMember())
    node.publish("safe/a", 0)
    node.groups.of(PATTERN, "g").leave(member)
    node.join(member := FakeMember())
    assert [(0, 2)] == member.got
    node.groups.of(PATTERN, "g").leave(member)
    for number in range(MOST_LEFT):
        other = FakeMember()
        work = node.groups.of(("safe", str(number)), "g")
        work.join(other)
        node.groups.settle(work)
        node.publish(f"safe/{number}", 0)
        work.leave(other)
    node.join(member := FakeMember())
    assert 1 == member.got[0][1]


def test_only_its_own_publisher(node: Node):
    """Who wants no echo gets none; where no other member is, nobody gets it."""
    own, other = FakeMember("p"), FakeMember("q")
    work = node.join(own)
    node.publish("safe/a", 0, publisher="p", exclude_self=True)
    assert ([], 0) == (own.got, len(work.deliveries))
    work.join(other)
    work.changed()
    node.publish("safe/a", 1, publisher="p", exclude_self=True)
    assert ([], [(1, 1)]) == (own.got, other.got)


def test_what_is_worthless_by_now_is_not_given(node: Node):
    """Its time went on while it waited."""
    member = FakeMember()
    member.free = False
    work = node.join(member)
    node.publish("safe/a", 0, ttl=5.0)
    node.publish("safe/a", 1)
    node.clock.advance(5.0)
    member.free = True
    work.pump()
    assert [(1, 1)] == member.got
    assert ("refused", "delivery", "expired") in node.observer.events


def test_a_gap_is_told_where_the_engine_keeps_nothing(node: Node):
    """Durable groups get what they missed."""
    plain, safe = FakeMember(), FakeMember()
    node.join(safe)
    node.join(plain, pattern=("jobs", "*"))
    node.gap("lost")
    assert (["lost"], []) == (plain.gaps, safe.gaps)


def test_groups_that_a_topic_reaches(node: Node):
    """Those with members on this node."""
    node.join(FakeMember())
    node.join(FakeMember(), pattern=("**",))
    assert [2, 1] == [node.groups.count(tuple(topic.split("/"))) for topic in ("safe/a", "jobs/a")]
    assert 2 == len(list(node.groups))


@pytest.mark.row(70)
def test_a_peer_that_hangs_hands_its_work_on(node: Node):
    """It is looked at now and then; when it answers again it takes part again."""
    one, stream = fake_peer(CountingSerializer())
    work = node.groups.of(PATTERN, "g")
    member = PeerMember(one, work, 7)
    one.follow(member)
    work.join(member)
    node.groups.settle(work)
    node.publish("safe/a", 0)
    assert [] == stream.sent
    member.begin()
    assert [(0, [7])] == [(message["data"], message["subs"]) for message in stream.sent]
    stream.stalled = True
    node.publish("safe/a", 1)
    node.join(other := FakeMember())
    one.tick()
    assert {(0, 2), (1, 1)} == set(other.got)
    stream.stalled = False
    other.free = False
    node.publish("safe/a", 2)
    assert 2 == stream.payloads[-1]


def test_a_peer_is_told_of_a_gap(node: Node):
    """By the pattern of its group."""
    one, stream = fake_peer(CountingSerializer())
    member = PeerMember(one, node.groups.of(("jobs", "*"), "g"), 7)
    member.work.join(member)
    node.gap("lost")
    expected = {"topic": "jobs/*", "event": "gap", "data": {"reason": "lost", "pattern": True}, "subs": [7]}
    assert [expected] == stream.sent


@pytest.mark.row(99)
def test_what_the_engine_gives_twice_is_done_once(node: Node):
    """It may take this node for dead while that still has it."""
    member = FakeMember()
    work = node.join(member)
    for _ in range(2):
        work.work(Publication("safe/a", 0), "token")
    assert [(0, 1)] == member.got
    member.done()
    work.work(Publication("safe/a", 0), "token")
    assert 2 == len(member.got)


def test_an_engine_that_could_not_be_told_is_told_later(node: Node):
    """When it is looked at again: the member gets what it has for it."""
    member = FakeMember()
    node.engine.down = True
    work = node.groups.of(PATTERN, "g")
    work.join(member)
    work.changed()
    assert [] == node.engine.told
    node.engine.down = False
    node.groups.tick()
    node.groups.tick()
    assert [(2, True)] == node.engine.told


def test_the_end_leaves_everything_with_the_engine(node: Node):
    """What comes after it, as a late acknowledgement, changes nothing."""
    member = FakeMember()
    node.join(member)
    node.publish("safe/a", 0, 1)
    node.groups.end()
    member.done()
    again = FakeMember()
    node.groups = GroupWorks(node.engine, node.table, Desk(node.clock, node.observer, lambda *_: None))
    node.engine.leave(GroupName(PATTERN, "g"))
    node.join(again)
    assert [0, 1] == [payload for payload, _ in again.got]


@pytest.mark.parametrize("seed", range(5))
def test_whoever_comes_goes_and_fails(node: Node, seed: int):
    """Everything is done once somebody stays and answers."""
    chance = random.Random(seed)
    members: list[FakeMember] = []
    done: set[Any] = set()
    published = 0

    def act() -> None:
        member = chance.choice(members)
        number = chance.randrange(len(member.got)) if member.got else None
        if number is not None and chance.random() < 0.7:
            done.add(member.got[number][0])
            member.done(number)
        else:
            node.groups.of(PATTERN, "g").leave(member)
            members.remove(member)

    for _ in range(300):
        if not members or chance.random() < 0.1:
            members.append(FakeMember())
            node.join(members[-1])
        node.publish("safe/a", published)
        published += 1
        act()
    node.join(last := FakeMember())
    for member in members:
        node.groups.of(PATTERN, "g").leave(member)
    answered = 0
    while answered < len(last.got):
        done.add(last.got[answered][0])
        last.done(answered)
        answered += 1
    assert set(range(published)) == done
    assert 0 == len(node.groups.of(PATTERN, "g").deliveries)


def test_a_peer_makes_no_more_groups_than_there_may_be(node: Node):
    """Durable ones stay when their members have gone; those that are there go on, and the program's own begin."""
    node.table.add("few/*", TopicOptions(ack=True, groups=2))

    def join(name: str, member: FakeMember, pattern: tuple[str, ...] = ("few", "*")) -> GroupWork:
        work = node.groups.of(pattern, name)
        work.join(member)
        try:
            node.groups.settle(work)
        finally:
            work.leave(member)
        return work

    join("a", FakeMember())
    join("b", FakeMember())
    for pattern in [("few", "*"), ("few", "x"), ("**",)]:
        with pytest.raises(Overloaded, match="2 groups on few"):
            join("c", FakeMember(), pattern)
    join("a", FakeMember())
    own = FakeMember()
    own.bounded = False
    join("own", own)
    assert 1 == node.groups.drop(GroupName(("few", "*"), "a")) + 1
    assert ["b", "own"] == [one.name for one in node.engine.groups()]


def test_a_loss_waits_for_a_member_that_can_be_told(node: Node):
    """One that is away, or has no answer to its request yet, is told later; each that is there, once."""
    member, away = FakeMember(), FakeMember()
    member.begun = away.here = False
    work = node.join(member, away)
    node.groups.lost(work.name, 2)
    node.groups.lost(work.name, 3)
    assert [] == member.gaps + away.gaps
    member.begun = True
    work.tell_lost()
    work.tell_lost()
    assert (["not taken: 5"], []) == (member.gaps, away.gaps)


def test_a_loss_that_nobody_was_told_of_is_told_to_who_comes_next(node: Node):
    """The member for which it was meant has gone before."""
    member, later = FakeMember(), FakeMember()
    member.begun = False
    work = node.join(member)
    node.groups.lost(work.name, 2)
    work.leave(member)
    node.join(later).tell_lost()
    assert ["not taken: 2"] == later.gaps


def test_a_group_that_is_not_there_cannot_be_dropped(node: Node):
    """Nor one that has members."""
    with pytest.raises(NotFound):
        node.groups.drop(GroupName(PATTERN, "g"))
    node.join(FakeMember())
    with pytest.raises(FailedPrecondition):
        node.groups.drop(GroupName(PATTERN, "g"))


def test_what_a_member_does_not_want_does_not_hold_up_what_follows(node: Node):
    """The other one is busy: its messages wait for it, in order, and the publisher gets the next that is for it."""
    one, busy = FakeMember("one"), FakeMember("busy")
    busy.free = False
    node.join(one, busy)
    node.publish("safe/x", *(f"own {number}" for number in range(1, 6)), publisher="one", exclude_self=True)
    node.publish("safe/x", 1, 2)
    until(lambda: len(one.got) == 2)
    assert [(1, 1), (2, 1)] == one.got
    busy.free = True
    one.done(0)
    until(lambda: len(busy.got) == 2)
    busy.done(0)
    busy.done(1)
    until(lambda: len(busy.got) == 4)
    assert ["own 1", "own 2", "own 3", "own 4"] == [payload for payload, _ in busy.got]


def test_the_engine_gives_no_more_than_usual_once_nothing_is_passed_over(node: Node):
    """What waits here for somebody else is beyond the window of those who work, and bounded."""
    one, busy = FakeMember("one"), FakeMember("busy")
    busy.free = False
    work = node.join(one, busy)
    node.publish("safe/x", *range(5), publisher="one", exclude_self=True)
    until(lambda: work.joined > 4)
    busy.free = True
    work.pump()
    for number in range(5):
        until(lambda: len(busy.got) > number)  # noqa: B023
        busy.done(number)
    until(lambda: work.joined == 4)
    assert list(range(5)) == [payload for payload, _ in busy.got]
