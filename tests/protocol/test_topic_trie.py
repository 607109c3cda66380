"""Which patterns match a topic."""

from hypothesis import given
from hypothesis import strategies as st

import pytest

from webmesh.protocol.topic_trie import TopicTrie
from webmesh.protocol.topics import ONE, REST, specificity

NAMES = st.sampled_from("abc")
TOPICS = st.lists(NAMES, min_size=1, max_size=4).map(tuple)
PATTERNS = st.tuples(
    st.lists(NAMES | st.just(ONE), max_size=3), st.sampled_from(["a", "b", ONE, REST])
).map(lambda parts: (*parts[0], parts[1]))  # fmt: skip
CHANGES = st.lists(st.tuples(st.booleans(), PATTERNS, st.integers(0, 3)), max_size=40)


def matches(pattern: tuple[str, ...], topic: tuple[str, ...]) -> bool:
    """The rule, written down as it is spoken."""
    if pattern[-1] == REST:
        fixed = pattern[:-1]
        return len(topic) > len(fixed) and matches((*fixed, ONE), topic[: len(pattern)])
    return len(pattern) == len(topic) and all(p in (ONE, t) for p, t in zip(pattern, topic, strict=True))


def changed(changes: list[tuple[bool, tuple[str, ...], int]]) -> tuple[TopicTrie[int], dict]:
    """A trie after *changes*, and a plain table of what it should hold."""
    trie: TopicTrie[int] = TopicTrie()
    table: dict[tuple[tuple[str, ...], int], None] = {}
    for put, pattern, value in changes:
        if put:
            assert ((pattern, value) not in table) == trie.add(pattern, value)
            table[pattern, value] = None
        else:
            assert ((pattern, value) in table) == trie.remove(pattern, value)
            table.pop((pattern, value), None)
    return trie, table


@given(CHANGES, TOPICS)
def test_what_matches_is_what_a_look_at_every_pattern_finds(changes, topic):
    """Whatever was added and removed before; the most specific pattern's values first."""
    trie, table = changed(changes)

    found = trie.match(topic)

    expected = [(specificity(pattern), value) for pattern, value in table if matches(pattern, topic)]
    assert sorted(value for _, value in expected) == sorted(found)
    ranks = {}
    for pattern, value in table:
        if matches(pattern, topic):
            ranks.setdefault(specificity(pattern), []).append(value)
    assert [value for rank in sorted(ranks) for value in ranks[rank]] == found


@given(CHANGES)
def test_it_holds_what_was_put_and_not_taken(changes):
    """Its length, its items and each pattern's values agree."""
    trie, table = changed(changes)
    assert set(table) == set(trie)
    assert len(table) == len(trie)
    for pattern in {pattern for pattern, _ in table}:
        assert [value for at, value in table if at == pattern] == list(trie.at(pattern))


@given(CHANGES)
@pytest.mark.row(86)
def test_what_is_taken_leaves_nothing(changes):
    """Subscriptions come and go for months: no empty node stays on the way to where one was."""
    trie, table = changed(changes)
    for pattern, value in table:
        trie.remove(pattern, value)
    assert trie._root.empty
    assert 0 == len(trie)


@pytest.mark.row(50)
def test_a_search_looks_at_its_own_way_only():
    """A thousand times as many patterns beside the way cost no further step."""

    class Counting(dict):
        looks = 0

        def get(self, key, default=None):
            Counting.looks += 1
            return super().get(key, default)

    def looks_among(patterns: int) -> int:
        trie: TopicTrie[int] = TopicTrie()
        for number in range(patterns):
            trie.add(("orders", str(number), "created"), number)
            trie.add(("orders", str(number), REST), number)
        trie._root.below = Counting(trie._root.below)
        for node in trie._root.below.values():
            node.below = Counting(node.below)
            for lower in node.below.values():
                lower.below = Counting(lower.below)
        Counting.looks = 0
        assert [7, 7] == trie.match(("orders", "7", "created"))
        return Counting.looks

    assert looks_among(10) == looks_among(10_000)


def test_nothing_stands_where_no_pattern_is():
    """Asking for a pattern that was never added changes nothing."""
    trie: TopicTrie[int] = TopicTrie()
    assert () == trie.at(("a", REST)) == trie.at(("a",))
    assert not trie.remove(("a",), 1)
    assert [] == trie.match(("a",))
