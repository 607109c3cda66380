"""Who is on a topic."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from webmesh.protocol.presence import Presence, PresenceDiff

STEPS = st.lists(
    st.tuples(st.sampled_from(["join", "leave", "tell"]), st.integers(0, 3), st.sampled_from("ab"), st.integers(0, 1)),
    max_size=40,
)


def counted(state: dict[str, list[int]]) -> dict[tuple[str, int], int]:
    """A state as how many of each key and meta there are."""
    found: dict[tuple[str, int], int] = {}
    for key, metas in state.items():
        for meta in metas:
            found[key, meta] = found.get((key, meta), 0) + 1
    return found


def test_a_key_has_one_meta_for_each_connection():
    """One user with two tabs is one key and two connections."""
    presence: Presence[int] = Presence()
    presence.join(1, "ann", {"tab": 1})
    presence.join(2, "ann", {"tab": 2})
    presence.join(3, "bob")
    assert {"ann": [{"tab": 1}, {"tab": 2}], "bob": [None]} == presence.state()
    assert (2, 3) == (presence.keys, presence.connections)


def test_a_key_goes_with_its_last_connection():
    """And leaves no entry."""
    presence: Presence[int] = Presence()
    presence.join(1, "ann")
    presence.join(2, "ann")
    presence.leave(1)
    assert {"ann": [None]} == presence.state()
    presence.leave(2)
    presence.leave(2)
    assert {} == presence.state()
    assert (0, 0) == (presence.keys, presence.connections)


def test_changes_are_told_together_and_once():
    """Joins and leaves since the last time; then nothing until something changes."""
    presence: Presence[int] = Presence()
    presence.join(1, "ann", 1)
    assert PresenceDiff({"ann": [1]}, {}) == presence.take_diff()
    assert not presence.take_diff()
    presence.join(2, "bob", 2)
    presence.leave(1)
    assert PresenceDiff({"bob": [2]}, {"ann": [1]}) == presence.take_diff()


def test_who_came_and_went_between_is_not_told():
    """Nor who went and came back the same; a flapping link makes no noise."""
    presence: Presence[int] = Presence()
    presence.join(1, "ann", 1)
    presence.take_diff()
    presence.join(2, "bob", 2)
    presence.leave(2)
    presence.leave(1)
    presence.join(1, "ann", 1)
    assert not presence.take_diff()


def test_another_meta_replaces_the_first():
    """The old one leaves and the new one joins."""
    presence: Presence[int] = Presence()
    presence.join(1, "ann", "typing")
    presence.take_diff()
    presence.join(1, "ann", "typing")
    assert not presence.take_diff()
    presence.join(1, "ann", "idle")
    assert PresenceDiff({"ann": ["idle"]}, {"ann": ["typing"]}) == presence.take_diff()
    assert {"ann": ["idle"]} == presence.state()


@given(STEPS)
@pytest.mark.row(86)
def test_state_and_diffs_tell_the_same(steps):
    """Who had the state and then every diff knows what the next state says; nothing is left at the end."""
    presence: Presence[int] = Presence()
    known: dict[tuple[str, int], int] = {}

    def tell() -> None:
        diff = presence.take_diff()
        for sign, part in ((-1, diff.left), (1, diff.joined)):
            for item, count in counted(part).items():
                known[item] = known.get(item, 0) + sign * count
        assert counted(presence.state()) == {item: count for item, count in known.items() if count}

    for act, member, key, meta in steps:
        assert counted(presence.told_state()) == {item: count for item, count in known.items() if count}
        if act == "join":
            presence.join(member, key, meta)
        elif act == "leave":
            presence.leave(member)
        else:
            tell()
    tell()
    for member in range(4):
        presence.leave(member)
    assert ({}, 0, 0) == (presence.state(), presence.keys, presence.connections)
