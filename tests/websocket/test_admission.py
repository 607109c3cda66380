"""Who gets a place, and who loses one."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from webmesh.websocket.admission import Admission


def arrivals(admission: Admission[str], *names: str) -> list[str | None]:
    return [admission.arrive(name) for name in names]


@pytest.mark.row(1)
def test_the_oldest_newcomer_loses_its_place_at_the_cap():
    """Whoever has waited longest without a word is dropped, never the one that has just come."""
    admission: Admission[str] = Admission(connections=10, spare=10, handshakes=2)

    dropped = arrivals(admission, "a", "b", "c", "d")

    assert [None, None, "a", "b"] == dropped
    assert 2 == admission.newcomers


def test_newcomers_share_what_connections_leave():
    """As connections grow, newcomers shrink to the spare places, and no further."""
    admission: Admission[str] = Admission(connections=2, spare=1, handshakes=10)
    for name in ("a", "b"):
        admission.arrive(name)
        assert admission.admit(name)

    assert [None, "c", "d"] == arrivals(admission, "c", "d", "e")


def test_no_more_connections_than_allowed():
    """One beyond the bound stays a newcomer, who can be told 503; when one ends there is room again."""
    admission: Admission[str] = Admission(connections=1, spare=5, handshakes=5)
    arrivals(admission, "a", "b")

    assert admission.admit("a")
    assert not admission.admit("b")
    admission.end()
    assert admission.admit("b")


def test_whoever_lost_its_place_cannot_become_a_connection():
    """A peer that was dropped just as its request became whole is not served: its socket is about to close."""
    admission: Admission[str] = Admission(connections=5, spare=5, handshakes=1)
    arrivals(admission, "a", "b")

    assert not admission.admit("a")
    assert 0 == admission.connections


def test_a_refused_connection_is_a_newcomer_again():
    """It waits until its answer is read, may be dropped for others meanwhile, and takes no connection's place."""
    admission: Admission[str] = Admission(connections=1, spare=1, handshakes=1)
    admission.arrive("a")
    admission.admit("a")
    admission.arrive("b")

    assert "b" == admission.dismiss("a")
    assert 0 == admission.connections
    assert "a" == admission.arrive("c")


def test_leaving_frees_the_place_once():
    """A newcomer that goes makes room; one that was dropped before has nothing to give back."""
    admission: Admission[str] = Admission(connections=5, spare=5, handshakes=1)
    arrivals(admission, "a", "b")

    admission.leave("a")
    admission.leave("b")

    assert 0 == admission.newcomers
    assert admission.arrive("c") is None


def test_drain_names_every_newcomer():
    """A closing listener drops all that have not become connections."""
    admission: Admission[str] = Admission(connections=5, spare=5, handshakes=5)
    arrivals(admission, "a", "b", "c")
    admission.admit("b")

    assert ["a", "c"] == admission.drain()
    assert (0, 1) == (admission.newcomers, admission.connections)


@given(
    st.tuples(st.integers(1, 6), st.integers(1, 4), st.integers(1, 8)),
    st.lists(
        st.tuples(st.sampled_from(["arrive", "admit", "dismiss", "leave", "end"]), st.integers(0, 30)), max_size=80
    ),
)
def test_the_bounds_hold_whatever_happens(bounds, steps):
    """No order of events makes more connections or newcomers than allowed, nor a negative number of them."""
    most, spare, handshakes = bounds
    admission: Admission[int] = Admission(most, spare, handshakes)
    connections: set[int] = set()

    for step, key in steps:
        if step == "arrive" and key not in connections:
            admission.arrive(key)
        elif step == "admit" and key not in connections and admission.admit(key):
            connections.add(key)
        elif step == "dismiss" and key in connections:
            connections.remove(key)
            admission.dismiss(key)
        elif step == "end" and key in connections:
            connections.remove(key)
            admission.end()
        elif step == "leave":
            admission.leave(key)

        assert len(connections) == admission.connections <= most
        assert 0 <= admission.newcomers <= handshakes
        assert admission.connections + admission.newcomers <= admission.capacity


@pytest.mark.row(1)
def test_who_has_most_newcomers_loses_its_oldest_first():
    """One address that fills the places pays for them itself; those that came before it keep theirs."""
    admission: Admission[str] = Admission(connections=10, spare=10, handshakes=4)
    admission.arrive("honest", "a")
    admission.arrive("alone")

    dropped = [admission.arrive(f"flood {number}", "b") for number in range(4)]

    assert [None, None, "flood 0", "flood 1"] == dropped
    assert "flood 2" == admission.arrive("another", "c")


def test_where_nobody_has_more_than_others_the_oldest_goes():
    """Many addresses with one newcomer each are as good as none: age decides."""
    admission: Admission[str] = Admission(connections=10, spare=10, handshakes=2)

    dropped = [admission.arrive(name, group) for name, group in [("x", "a"), ("y", None), ("z", "b"), ("w", "c")]]

    assert [None, None, "x", "y"] == dropped


def test_a_group_has_a_bound_of_its_own():
    """Though there are places left, its oldest is dropped; those of others are not touched."""
    admission: Admission[str] = Admission(connections=10, spare=10, handshakes=10, group_handshakes=2)

    dropped = [admission.arrive(name, group) for name, group in [("x", "a"), ("1", "b"), ("2", "b"), ("3", "b")]]

    assert [None, None, None, "1"] == dropped
    assert ["x", "2", "3"] == admission.drain()


def test_whoever_turns_out_to_belong_elsewhere_changes_its_group():
    """A proxy's connection counts for the client once it is known whose it is."""
    admission: Admission[str] = Admission(connections=10, spare=10, handshakes=3)
    admission.arrive("x")
    for name in ("1", "2"):
        admission.arrive(name)
        admission.arrive(name, "b")

    assert "1" == admission.arrive("y")


@given(
    st.integers(1, 6), st.integers(1, 4),
    st.lists(
        st.tuples(st.sampled_from(["arrive", "admit", "leave"]), st.integers(0, 9), st.sampled_from([None, *"abc"])),
        max_size=80,
    ),
)  # fmt: skip
def test_the_largest_group_pays(handshakes, most_of_group, steps):
    """Whatever came and went before: who is dropped is the oldest of a group that nobody's exceeds, or of its own at
    that one's bound."""
    admission: Admission[int] = Admission(100, 100, handshakes, most_of_group)
    present: dict[int, str | None] = {}

    for step, key, group in steps:
        if step == "arrive":
            present.pop(key, None)
            present[key] = group
            expected = who_goes(present, group, handshakes, most_of_group)
            dropped = admission.arrive(key, group)
            assert dropped in expected if expected else dropped is None
            present.pop(dropped, None)
        else:
            (admission.leave if step == "leave" else admission.admit)(key)
            present.pop(key, None)
        assert len(present) == admission.newcomers


def who_goes(present: dict[int, str | None], group: str | None, most: int, most_of_group: int) -> list[int]:
    """Those that may be dropped, told without any bookkeeping."""
    members = {name: [key for key, own in present.items() if own == name] for name in {*present.values()} - {None}}
    if len(members.get(group, ())) > most_of_group:
        return members[group][:1]
    if len(present) <= most:
        return []
    largest = max((len(keys) for keys in members.values()), default=1)
    if largest == 1:
        return [next(iter(present))]
    return [keys[0] for keys in members.values() if len(keys) == largest]
