"""CopiedStorage: whoever does the same has the same, from the beginning or from a whole state."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.brokers.contract import WORK, message
from webmesh.brokers.base import Keep, Since
from webmesh.brokers.copied_storage import CopiedStorage
from webmesh.exceptions import InvalidArgument
from webmesh.message_serializers import MessagePackSerializer
from webmesh.options import Limits
from webmesh.testing import FakeClock

KEEPS = (Keep(history=3), Keep(retain=True), Keep(history=5, ttl=50.0, retain=True), Keep(ack=True))
TOPICS = ("a/b", "a/c", "jobs/x")

ACTS = st.lists(
    st.one_of(
        st.tuples(st.just("keep"), st.sampled_from(TOPICS), st.sampled_from(KEEPS), st.integers(0, 5)),
        st.tuples(st.just("work"), st.integers(0, 9)),
        st.tuples(st.just("done"), st.integers(0, 9)),
        st.tuples(st.just("group"), st.sampled_from([None, 5.0])),
        st.tuples(st.sampled_from(["told", "drop"])),
        st.tuples(st.just("put"), st.sampled_from("kl"), st.integers(0, 3)),
        st.tuples(st.just("claim"), st.sampled_from("kl")),
        st.tuples(st.just("wait"), st.floats(0, 30)),
    ),
    max_size=30,
)


def act(storage: CopiedStorage, clock: FakeClock, what: str, *rest: Any) -> None:
    now = clock()
    if what == "keep":
        topic, keep, number = rest
        publication = message(topic, number, dedupe_id=f"{topic}{number}")
        if storage.remembered(publication, now) is None:
            publication.at = now
            storage.keep(publication, keep, now)
    elif what == "work":
        publication = message("jobs/x", rest[0])
        publication.at = now
        storage.keep(publication, Keep(ack=True), now, [(WORK, rest[0])], [(WORK, rest[0] - 3)] * (rest[0] > 6))
    elif what == "done":
        storage.drop_work(WORK, rest[0])
    elif what == "group":
        storage.keep_group(WORK, rest[0], now)
    elif what == "told":
        storage.told_lost(WORK)
    elif what == "drop":
        storage.drop_group(WORK)
    elif what == "put":
        storage.put("t", rest[0], {"v": rest[1]}, now + 20.0)
    elif what == "claim":
        storage.claim("t", rest[0], now)
    else:
        clock.advance(rest[0])


def seen(storage: CopiedStorage, clock: FakeClock) -> Any:
    """All that can be asked for, with ages for times."""
    now = clock()

    def told(publications: Any) -> list[Any]:
        return [(one.topic, one.payload, one.offset, one.epoch, round(now - one.at, 3)) for one in publications]

    logs = {}
    for topic in TOPICS:
        found = storage.history(topic, Since(), now, most=None, reverse=False)
        logs[topic] = told(found.items), found.offset, found.epoch
    groups = [
        (name, [(token, *told([one]), ack) for token, one, ack in work], ttl, round(now - (left or now), 3), lost)
        for name, work, ttl, left, lost in storage.open()
    ]
    ids = [message(topic, dedupe_id=f"{topic}{number}") for topic in TOPICS for number in range(6)]
    return (
        logs, sorted(told(storage.retained(("**",), now))), groups, dict(storage.records("t", now)),
        [storage.remembered(one, now) for one in ids], sorted(storage.topics(("**",), now)),
    )  # fmt: skip


@given(ACTS, ACTS)
def test_copies_by_operation_and_by_whole_state_are_alike(before: list[Any], after: list[Any]) -> None:
    """Over the wire, with clocks that have nothing in common."""
    clock, other_clock = FakeClock(), FakeClock()
    other_clock.advance(12_345.0)
    serializer = MessagePackSerializer(Limits())
    sent: list[Any] = []
    storage = CopiedStorage(clock, lambda operation: sent.append(serializer.serialize(operation)))
    beside, later = CopiedStorage(other_clock), CopiedStorage(other_clock)
    for operation in storage.whole():
        beside.apply(operation)

    def play(acts: list[Any], *copies: CopiedStorage) -> None:
        for what, *rest in acts:
            time = clock()
            act(storage, clock, what, *rest)
            other_clock.advance(clock() - time)
            for data in sent:
                for copy in copies:
                    copy.apply(serializer.deserialize(data))
            del sent[:]

    play(before, beside)
    for operation in storage.whole():
        later.apply(serializer.deserialize(serializer.serialize(operation)))
    play(after, beside, later)
    assert seen(storage, clock) == seen(beside, other_clock) == seen(later, other_clock)


WIRE = {"topic": "a", "age": 0.0, "data": 1}


@pytest.mark.parametrize(
    "operation",
    [
        ["begin", 5, 0], ["begin", "e", -1], ["begin", "e", 2**60], ["log", 5, 9, None, 1],
        ["log", "b", "9", None, 1], ["log", "b", 9, {}, 1], ["log", "b", 9, None, -1], ["log", "b", 9, None, 1, "x"],
        ["entry", "a", {"topic": "a"}], ["entry", "never", WIRE], ["retained", 5],
        ["seen", "a", 5, 0.0, [1, "e", False]], ["seen", "a", "d", 0.0, [1]],
        ["seen", "a", "d", "x", [1, "e", False]], ["put", "t", 5, 1, 5.0], ["put", "t", "k", 1, "x"],
        ["put", "t", "k", 1, float("nan")], ["claim", 5, "k"], ["group", ["a", "g"], {}, None],
        ["group", ["a", "g"], 5.0, "x"], ["work", ["a", "g"], -1, []], ["work", ["a", "g"], 0, [["1", WIRE, True]]],
        ["keep", WIRE, {"history": -1}, [], []], ["keep", WIRE, {"history": 9}, [[["a", "g"], "1"]], []], ["x"], [],
        "x",
    ],
)  # fmt: skip
def test_an_operation_that_makes_no_sense_leaves_nothing_behind(operation: Any) -> None:
    """Whoever leads next leads with it: what is of the wrong kind in it would fail then."""
    copy = CopiedStorage()
    copy.apply(["log", "a", 9, None, 1])
    before = list(copy.whole())
    with pytest.raises((InvalidArgument, LookupError, TypeError, ValueError)):
        copy.apply(operation)
    assert before == list(copy.whole())
