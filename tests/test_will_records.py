"""Wills as an engine keeps them."""

from __future__ import annotations

from typing import Any

import pytest

from webmesh.auth import Identity
from webmesh.protocol.wills import GOODBYE, FiredWill, Will
from webmesh.will_records import (
    StoredWills, key_of, new_note, node_of, read_record, read_rest, rest_record, session_key,
)  # fmt: skip

STORED = StoredWills(
    "node", [Will("a", "t/a", {"x": 1}, frozenset({GOODBYE}), 2.0, {"key": "k"}, 7), Will("b", "t/b", None, number=8)],
    "alice", frozenset({"r"}), {8: "lost"},
)  # fmt: skip


def test_a_record_is_read_as_it_was_written():
    """Whose they are, which of them are being fired and why."""
    read = read_record(STORED.to_record())
    assert STORED == read
    assert Identity("alice", frozenset({"r"})) == read.identity
    assert [FiredWill(Will("b", "t/b", None, number=8), "lost")] == read.fired


def test_nobody_has_no_identity():
    """On a server without logins."""
    assert StoredWills("node", []).identity is None


@pytest.mark.row(97)
@pytest.mark.parametrize(
    "change",
    [
        {"node": 1}, {"wills": 1}, {"wills": [1]}, {"wills": [{"id": "a", "topic": "a"}]}, {"subject": ""},
        {"subject": 1}, {"roles": "r"}, {"roles": None}, {"roles": [1]},
    ],
)  # fmt: skip
def test_what_comes_from_an_engine_may_be_a_strangers(change: Any):
    """Then there is no will in it, and nothing is raised."""
    assert read_record(STORED.to_record() | change) is None


def test_a_note_says_who_has_what_of_which_session_in_hand():
    """There may be several of one session."""
    assert ("other", STORED) == read_rest(rest_record("other", STORED))
    one, another = new_note("session"), new_note("session")
    assert one != another
    assert "session" == key_of(one) == key_of(another)


@pytest.mark.row(97)
@pytest.mark.parametrize("note", [None, 1, {}, {"node": "n"}, {"node": 1, "rest": STORED.to_record()},
                                  {"node": "n", "rest": {}}])  # fmt: skip
def test_a_strangers_note_says_nothing(note: Any):
    """And raises nothing."""
    assert read_rest(note) is None


@pytest.mark.row(97)
def test_whose_a_record_is_can_be_told_without_reading_it():
    """Also where the rest makes no sense."""
    assert ["node", "n"] == [node_of(STORED.to_record()), node_of({"node": "n", "wills": 1})]
    assert [None] * 4 == [node_of(record) for record in (None, [], {}, {"node": 1})]


@pytest.mark.parametrize("wrong", [{"number": "7"}, {"number": None}, {"reason": "death"}, {"reason": 1}])
def test_a_strange_will_among_others_makes_the_record_strange(wrong: Any):
    """All or nothing."""
    record = STORED.to_record()
    record["wills"][0] |= wrong
    assert read_record(record) is None


def test_a_sessions_name_there_is_no_secret():
    """It differs with the session and with the server's run, and tells neither."""
    names = {session_key(session, epoch) for session in ("s1", "s2") for epoch in ("e1", "e2")}
    assert 4 == len(names)
    assert all(len(name) == 32 and "s1" not in name for name in names)
    assert session_key("s1", "e1") == session_key("s1", "e1")
