"""Which member of a group gets a message."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from webmesh.protocol.groups import Group


def group(*members: str, **pending: int) -> Group[str]:
    made: Group[str] = Group(lambda member: pending.get(member, 0))
    for member in reversed(members):
        made.join(member)
    return made


def test_the_least_busy_gets_it():
    """Whoever has the fewest messages in hand."""
    assert "b" == group("a", "b", "c", a=2, b=1, c=3).choose()


def test_equals_take_turns():
    """Each as often as the others."""
    members = group("a", "b", "c")
    assert ["a", "b", "c", "a"] == [members.choose() for _ in range(4)]


def test_who_has_nothing_in_hand_is_chosen_without_asking_the_others():
    """So a publication to an idle group costs the same, however large the group."""
    asked: list[int] = []
    members: Group[int] = Group(lambda member: asked.append(member) or 0)
    for member in range(1000):
        members.join(member)

    chosen = [members.choose() for _ in range(1000)]

    assert sorted(chosen) == list(range(1000))
    assert asked == chosen


def test_a_new_member_is_next():
    """It has had nothing yet."""
    members = group("a", "b")
    members.choose()
    members.join("c")
    members.join("c")
    assert ["c", "b", "a"] == [members.choose() for _ in range(3)]
    assert 3 == len(members)


def test_who_left_gets_nothing():
    """An empty group has nobody to choose."""
    members = group("a", "b")
    members.leave("a")
    members.leave("a")
    assert ["b", "b"] == [members.choose(), members.choose()]
    members.leave("b")
    assert members.choose() is None
    assert [] == list(members)


def test_the_publisher_can_be_left_out():
    """Also when it would be its turn, and when it is alone."""
    members = group("a", "b")
    assert "b" == members.choose(without="a")
    members.leave("b")
    assert members.choose(without="a") is None


@given(st.lists(st.integers(0, 4), min_size=1, max_size=60))
@pytest.mark.row(86)
def test_work_is_spread(finishing):
    """With members that finish at different times nobody ever has two more than the idlest."""
    pending = dict.fromkeys(range(3), 0)
    members: Group[int] = Group(pending.__getitem__)
    for member in pending:
        members.join(member)
    for finished in finishing:
        if finished in pending and pending[finished]:
            pending[finished] -= 1
        least = min(pending.values())
        chosen = members.choose()
        assert pending[chosen] == least
        pending[chosen] += 1
