"""Topics in the order of their names."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

import pytest

from tests.protocol.test_topic_trie import matches
from webmesh.protocol import topic_order
from webmesh.protocol.topic_order import TopicOrder
from webmesh.protocol.topics import ONE, REST

NAMES = st.sampled_from(["a", "a-", "a0", "b", "\N{SNOWMAN}"])  # some of them before, some behind `a/`
TOPICS = st.lists(NAMES, min_size=1, max_size=4).map("/".join)
PATTERNS = st.tuples(
    st.lists(NAMES | st.just(ONE), max_size=3), NAMES | st.sampled_from([ONE, REST])
).map(lambda parts: (*parts[0], parts[1]))  # fmt: skip


@pytest.fixture(autouse=True, scope="module")
def small():
    """Several blocks, and several looks at each, of few names."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(topic_order, "BLOCK", 3)
        patch.setattr(topic_order, "LOOK", 2)
        yield


def made(topics) -> TopicOrder:
    order = TopicOrder()
    for topic in topics:
        order.add(topic)
    return order


@given(st.lists(TOPICS, max_size=40), PATTERNS, st.none() | TOPICS)
def test_a_pattern_selects_the_topics_that_it_matches_in_order(topics, pattern, after):
    """Behind one of them or any other name, or from the first on."""
    found = [topic for some in made(topics).select(pattern, after) for topic in some]
    wanted = {topic for topic in topics if matches(pattern, tuple(topic.split("/")))}
    assert sorted(topic for topic in wanted if after is None or topic > after) == found


@given(st.lists(st.tuples(st.booleans(), TOPICS), max_size=60))
@pytest.mark.row(86)
def test_it_holds_what_was_put_and_not_taken(changes):
    """Twice is once, and what is taken leaves nothing."""
    order, table = TopicOrder(), set()
    for put, topic in changes:
        (order.add if put else order.remove)(topic)
        (table.add if put else table.discard)(topic)
    assert len(table) == len(order)
    assert sorted(table) == [topic for some in order.select((REST,)) for topic in some]
    for topic in table:
        order.remove(topic)
    assert [] == order._blocks == order._firsts


@given(st.sets(TOPICS, min_size=1, max_size=20), st.lists(st.tuples(st.booleans(), TOPICS), max_size=20))
def test_what_stays_is_found_once_whatever_comes_and_goes_meanwhile(topics, changes):
    """Others have their turn while somebody reads."""
    order, rest, found = made(topics), iter(changes), []
    for some in order.select((REST,)):
        found += some
        put, topic = next(rest, (True, "b"))
        (order.add if put else order.remove)(topic)
    touched = {topic for _, topic in changes} | {"b"}
    assert sorted(found) == found and len(set(found)) == len(found)
    assert topics - touched <= set(found) <= topics | touched


def test_a_search_leaps_over_what_cannot_match(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of what lies below each device it looks at a few names, whatever there is."""
    looks = []
    leap = topic_order._leap
    monkeypatch.setattr(topic_order, "_leap", lambda pattern, topic: looks.append(topic) or leap(pattern, topic))
    order = made(f"devices/{device}/values/{number}" for device in range(5) for number in range(200))
    order.add("devices/3/state")
    for pattern in (("devices", ONE, "state"), ("devices", ONE)):
        looks.clear()
        found = [topic for some in order.select(pattern) for topic in some]
        assert [topic for topic in ["devices/3/state"] if matches(pattern, tuple(topic.split("/")))] == found
        assert 5 <= len(looks) <= 20
