"""Who subscribes to what: ids, matches, and what the engine is told."""

from __future__ import annotations

from typing import Any

import pytest

from webmesh.exceptions import BrokerUnavailable
from webmesh.subscribers import Subscribers

A, STAR, REST = ("a", "b"), ("a", "*"), ("a", "**")


class Engine:
    """Counts how often each pattern is wanted."""

    def __init__(self) -> None:
        self.wanted: dict[tuple[str, ...], int] = {}
        self.down = False

    def want(self, pattern: tuple[str, ...]) -> None:
        if self.down:
            raise BrokerUnavailable("nobody answers")
        self.wanted[pattern] = self.wanted.get(pattern, 0) + 1

    def unwant(self, pattern: tuple[str, ...]) -> None:
        self.wanted[pattern] -= 1


@pytest.fixture
def engine() -> Engine:
    return Engine()


@pytest.fixture
def subscribers(engine: Any) -> Subscribers:
    return Subscribers(engine)


def test_a_topic_reaches_every_pattern_that_matches(subscribers: Subscribers):
    """The most specific first; a pattern that nobody subscribes to any more is not among them."""
    entries = [subscribers.enter(pattern) for pattern in (REST, A, STAR)]
    assert [A, STAR, REST] == [entry.pattern for entry in subscribers.match(("a", "b"))]
    assert [REST] == [entry.pattern for entry in subscribers.match(("a", "b", "c"))]
    subscribers.leave(entries[1])
    assert [STAR, REST] == [entry.pattern for entry in subscribers.match(("a", "b"))]


def test_equal_patterns_share_an_entry(subscribers: Subscribers, engine: Engine):
    """Which lasts as long as one of them; the engine is told of each."""
    first, second = subscribers.enter(A), subscribers.enter(A)
    assert first is second
    assert (1, {A: 2}) == (len(subscribers), engine.wanted)
    subscribers.leave(first)
    assert 1 == len(subscribers.match(A))
    subscribers.leave(second)
    assert (0, [], {A: 0}) == (len(subscribers), subscribers.match(A), engine.wanted)


def test_an_engine_that_cannot_leaves_nothing(subscribers: Subscribers, engine: Engine):
    """Neither a new pattern nor one more of a known one."""
    engine.down = True
    with pytest.raises(BrokerUnavailable):
        subscribers.enter(A)
    assert 0 == len(subscribers)
    engine.down = False
    subscribers.enter(A)
    engine.down = True
    with pytest.raises(BrokerUnavailable):
        subscribers.enter(A)
    assert 1 == next(iter(subscribers)).places


def test_the_ids_of_a_pattern_are_for_everybody(subscribers: Subscribers):
    """The first of each subscriber is the same, and its second; no other pattern has them."""
    one, other = subscribers.enter(A), subscribers.enter(STAR)
    first = subscribers.id_for(one, ())
    second = subscribers.id_for(one, {first})
    assert first == subscribers.id_for(one, ())
    assert second == subscribers.id_for(one, {first})
    assert first == subscribers.id_for(one, {second})
    assert 3 == len({first, second, subscribers.id_for(other, ())})


def test_an_id_is_never_another_patterns(subscribers: Subscribers):
    """Also after its own has ended: a delivery that is late must not pass for another's."""
    entry = subscribers.enter(A)
    number = subscribers.id_for(entry, ())
    subscribers.leave(entry)
    assert number != subscribers.id_for(subscribers.enter(A), ())
    assert number != subscribers.new_id()


def test_what_an_entry_reaches(subscribers: Subscribers):
    """Live subscriptions of peers and all others."""
    entry, peer, taker = subscribers.enter(A), object(), object()
    entry.peers[None, 1] = {peer: None}  # type: ignore[dict-item]
    entry.takers[taker] = None  # type: ignore[index]
    assert 2 == entry.count
