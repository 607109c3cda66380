"""When a last will fires, and when not."""

import pytest
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule
from hypothesis import strategies as st

from webmesh.protocol.wills import (
    GOODBYE, KICKED, LOST, REASONS, TIMEOUT, UNCLEAN, Will, Wills, checked_reasons,
)  # fmt: skip


def will(name: str = "a", delay: float = 0.0, on: frozenset[str] = UNCLEAN) -> Will:
    return Will(name, "gone", {"who": name}, on=on, delay=delay)


def holding(*those: Will) -> Wills:
    wills = Wills()
    for one in those:
        wills.set(one)
    return wills


def ids(fired) -> list[tuple[str, str]]:
    return [(one.will.id, one.reason) for one in fired]


@pytest.mark.row(80)
@pytest.mark.parametrize("reason", [LOST, KICKED])
def test_a_link_that_ends_without_a_goodbye_fires_it_once(reason: str):
    """At once where it has no delay, and never again."""
    wills = holding(will())
    assert wills.next_due() is None

    wills.leave(reason, 10.0)

    assert 10.0 == wills.next_due()
    assert [("a", reason)] == ids(wills.fire(10.0))
    assert [] == wills.fire(99.0) == wills.end(TIMEOUT)
    assert 0 == len(wills)


@pytest.mark.row(80)
def test_a_goodbye_discards_it():
    """Who leaves on purpose leaves nothing behind, unless a will asks for that."""
    wills = holding(will("a"), will("b", on=frozenset({GOODBYE})))
    wills.leave(GOODBYE, 1.0)
    assert [("b", GOODBYE)] == ids(wills.fire(1.0))
    assert [] == wills.end(GOODBYE)


@pytest.mark.row(80)
def test_a_resume_within_the_delay_cancels_it():
    """It stays set, for the next loss."""
    wills = holding(will(delay=5.0))
    wills.leave(LOST, 0.0)
    assert [] == wills.fire(4.9)

    wills.resume()

    assert wills.next_due() is None
    assert [] == wills.fire(100.0)
    wills.leave(LOST, 200.0)
    assert [("a", LOST)] == ids(wills.fire(205.0))


def test_the_sessions_end_comes_before_a_longer_delay():
    """Nothing of a session outlives it."""
    wills = holding(will("a", delay=60.0), will("b", on=frozenset({TIMEOUT})), will("c", on=frozenset({KICKED})))
    wills.leave(LOST, 0.0)
    assert [("a", LOST), ("b", TIMEOUT)] == ids(wills.end(TIMEOUT))
    assert 0 == len(wills)


def test_the_earliest_comes_first():
    """Whatever the order in which they were set."""
    wills = holding(will("late", delay=3.0), will("soon", delay=1.0))
    wills.leave(LOST, 0.0)
    assert 1.0 == wills.next_due()
    assert [("soon", LOST), ("late", LOST)] == ids(wills.fire(5.0))


def test_a_will_is_replaced_and_revoked_by_its_id():
    """One by one; the others stay."""
    wills = holding(will("a"), will("b"), Will("a", "other", None))
    assert wills.revoke("b")
    assert not wills.revoke("b")
    wills.leave(LOST, 0.0)
    assert ["other"] == [one.will.topic for one in wills.fire(0.0)]


def test_one_that_is_revoked_while_it_waits_does_not_fire():
    """Whoever may, such as an administrator, can take it back until it is published."""
    wills = holding(will(delay=5.0))
    wills.leave(LOST, 0.0)
    wills.revoke("a")
    assert [] == wills.fire(9.0)
    assert wills.next_due() is None


def test_the_reasons_are_checked():
    """None given means every end but a goodbye."""
    assert UNCLEAN == checked_reasons(None)
    assert {LOST, GOODBYE} == checked_reasons([LOST, GOODBYE])
    for wrong in ([], ["lost", "bored"]):
        with pytest.raises(ValueError, match="lost, timeout, kicked, goodbye"):
            checked_reasons(wrong)


class Sessions(RuleBasedStateMachine):
    """Whatever happens in whatever order, no will fires twice for one loss, and none after a goodbye it is not for."""

    def __init__(self) -> None:
        super().__init__()
        self.wills, self.now, self.fired, self.away, self.left = Wills(), 0.0, [], False, None

    @rule(name=st.sampled_from("ab"), delay=st.integers(0, 3), on=st.sets(st.sampled_from(REASONS), min_size=1))
    def set(self, name, delay, on):
        self.wills.set(will(name, float(delay), frozenset(on)))
        self.fired = [one for one in self.fired if one != name]

    @rule(reason=st.sampled_from([LOST, KICKED, GOODBYE]))
    def leave(self, reason):
        if not self.away:
            self.wills.leave(reason, self.now)
            self.away, self.left = True, reason

    @rule()
    def resume(self):
        self.wills.resume()
        self.away = False

    @rule(seconds=st.integers(0, 5))
    def wait(self, seconds):
        self.now += seconds
        for one in self.wills.fire(self.now):
            assert self.away
            assert self.left == one.reason
            assert one.reason in one.will.on
            assert one.will.id not in self.fired
            self.fired.append(one.will.id)

    @invariant()
    def nothing_is_overdue_that_nobody_waits_for(self):
        assert self.away or self.wills.next_due() is None


TestSessions = Sessions.TestCase
