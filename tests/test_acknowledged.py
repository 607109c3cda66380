"""Deliveries that must be acknowledged: attempts, waits, and their end."""

from __future__ import annotations

from typing import Any

import pytest

from tests.running import wait_for
from webmesh.acknowledged import HAND_OVERS, Acknowledged, Answer, Desk, Letter
from webmesh.exceptions import Aborted, EncodeError
from webmesh.protocol.deliveries import Redelivery
from webmesh.protocol.publication import Publication
from webmesh.testing import FakeClock, RecordingObserver
from webmesh.topic_options import TopicOptions

OPTIONS = TopicOptions(ack=True, redelivery=Redelivery(first=10.0, factor=2.0, attempts=3))


class Member:
    def __init__(self, *, patient: bool = False) -> None:
        self.patient = patient
        self.got: list[tuple[Any, int]] = []
        self.answers: list[Answer] = []
        self.breaks = False

    def hand(self, letter: Letter, attempt: int, answer: Answer | None, *, now: float) -> None:
        if self.breaks:
            raise EncodeError("no form for it")
        assert answer is not None
        self.got.append((letter.publication.payload, attempt))
        self.answers.append(answer)


class Table(Acknowledged):
    """Gives everything to one member, *window* at a time. Its clock stands still."""

    def __init__(self, *, window: int = 10, patient: bool = False) -> None:
        self.clock = FakeClock()
        self.buried: list[tuple[Any, int, str]] = []
        self.done: list[Any] = []
        self.member = Member(patient=patient)
        self.window = window
        self.observer = RecordingObserver()
        super().__init__(Desk(self.clock, self.observer, self._bury, self.clock))

    def _bury(self, letter: Letter, attempts: int, then: Any) -> None:
        self.buried.append((letter.publication.payload, attempts, letter.reason))
        then()

    def choose(self, letter: Letter) -> Member | None:
        return self.member if self.deliveries.pending(self.member) < self.window else None

    def settled(self, letter: Letter) -> None:
        self.done.append(letter.publication.payload)

    def put(self, *payloads: Any) -> None:
        for payload in payloads:
            self.add(Letter(Publication("a", payload), OPTIONS))

    def later(self, seconds: float) -> None:
        """Move the clock, and look at what is late, as its timer does."""
        self.clock.advance(seconds)
        self._late()


@pytest.fixture
def table() -> Any:
    made = Table()
    yield made
    made.end()


def test_silence_is_followed_by_another_attempt(table: Table) -> None:
    """After a wait that grows, until there were enough: then it is given up."""
    table.put("x")
    table.later(9.9)
    assert [("x", 1)] == table.member.got
    table.later(0.1)
    table.later(19.9)
    assert [("x", 1), ("x", 2)] == table.member.got
    table.later(0.1)
    table.later(40.0)
    assert ([("x", 3, "not acknowledged in time")], ["x"]) == (table.buried, table.done)


def test_an_error_waits_as_long(table: Table) -> None:
    """From when it came; the last one ends it at once, and says why."""
    table.put("x")
    table.clock.advance(5.0)
    table.member.answers[0](Aborted("no"))
    table.later(9.9)
    assert 1 == len(table.member.got)
    table.later(0.1)
    table.member.answers[1](Aborted("no"))
    table.later(20.0)
    table.member.answers[2](ValueError("secret"))
    assert [("x", 3, "ValueError")] == table.buried


def test_only_the_newest_attempt_can_fail_and_any_can_succeed(table: Table) -> None:
    """What an earlier one says of its failure is known already; that it was handled is not."""
    table.put("x")
    table.later(10.0)
    table.member.answers[0](Aborted("no"))
    table.later(20.0)
    assert 3 == len(table.member.got)
    table.member.answers[0](None)
    table.member.answers[1](None)
    assert (["x"], 0) == (table.done, len(table.deliveries))
    table.later(1000.0)
    assert ([], 3) == (table.buried, len(table.member.got))


def test_what_waits_goes_out_when_there_is_room() -> None:
    """In order, as many at a time as the member takes."""
    table = Table(window=2)
    table.put(0, 1, 2, 3)
    assert [0, 1] == [payload for payload, _ in table.member.got]
    table.member.answers[1](None)
    assert 2 == table.member.got[-1][0]
    table.member.answers[0](None)
    assert 3 == table.member.got[-1][0]
    table.end()


def test_a_function_that_runs_is_not_called_again() -> None:
    """However long it takes; only its failure makes another attempt."""
    table = Table(patient=True)
    table.put("x")
    table.later(1e6)
    assert [("x", 1)] == table.member.got
    table.member.answers[0](Aborted("no"))
    table.later(10.0)
    assert [("x", 1), ("x", 2)] == table.member.got
    table.end()


def test_what_kills_whoever_takes_it_is_given_up(table: Table) -> None:
    """Its subscriber neither fails nor is silent: it goes away, each time."""
    table.put("x")
    most = HAND_OVERS * OPTIONS.redelivery.attempts
    for _ in range(most):
        table.deliveries.leave(table.member)
        table.pump()
    assert most == len(table.member.got)
    assert [("x", most)] == [(payload, attempts) for payload, attempts, _ in table.buried]


def test_what_cannot_be_written_for_a_member_is_a_failed_attempt(table: Table) -> None:
    """It may be written for another one."""
    table.member.breaks = True
    table.put("x")
    table.member.breaks = False
    table.later(10.0)
    assert [("x", 2)] == table.member.got
    assert ("refused", "delivery", "not encodable") in table.observer.events


def test_it_wakes_itself() -> None:
    """The hub's timer looks at what is late; one that was set for later gives way."""
    table = Table()
    table.desk = Desk(table.clock, table.observer, table._bury)
    slow, quick = OPTIONS, TopicOptions(ack=True, redelivery=Redelivery(first=0.001, attempts=2))
    for options in (slow, quick):
        table.add(Letter(Publication("a", options is quick), options))
    assert wait_for(lambda: table.buried)
    assert [(True, 2)] == [(payload, attempts) for payload, attempts, _ in table.buried]
    assert [(False, 1), (True, 1), (True, 2)] == table.member.got
    table.end()


def test_after_the_end_nothing_happens(table: Table) -> None:
    """What was not settled is nobody's business here any more."""
    forgotten: list[str] = []
    letter = Letter(Publication("a", "x"), OPTIONS, forget=[lambda: forgotten.append("x")])
    table.add(letter)
    table.end()
    table.member.answers[0](None)
    table.member.answers[0](Aborted("no"))
    table.pump()
    assert ([], ["x"], 1) == (table.done, forgotten, len(table.member.got))
