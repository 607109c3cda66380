"""What may be said of topics, and what holds for one."""

import math
from typing import Any

import pytest

from webmesh.brokers.base import Keep
from webmesh.exceptions import ConfigurationError
from webmesh.topic_options import DEFAULT, TopicOptions, TopicTable


def test_the_most_specific_pattern_counts():
    """Alone: nothing is put together from several."""
    table = TopicTable()
    wide, narrow, exact = TopicOptions(history=1, retain=True), TopicOptions(history=2), TopicOptions(history=3)
    for pattern, options in (("a/**", wide), ("a/*", narrow), ("a/b", exact)):
        table.add(pattern, options)
    assert exact is table.of(("a", "b"))
    assert narrow is table.of(("a", "c"))
    assert wide is table.of(("a", "b", "c"))
    assert DEFAULT is table.of(("b",))
    assert 3 == len(table.all())


def test_of_one_pattern_is_spoken_once():
    """The second time is a mistake: which one should hold?"""
    table = TopicTable()
    table.add("a/*", TopicOptions())
    with pytest.raises(ConfigurationError, match="before"):
        table.add("a/*", TopicOptions(history=1))


@pytest.mark.parametrize("pattern", ["", "a//b", "**/a", 5])
def test_what_is_no_pattern_is_refused(pattern: Any):
    """At registration, not with the first message."""
    with pytest.raises(ConfigurationError):
        TopicTable().add(pattern, TopicOptions())


@pytest.mark.parametrize(
    "options",
    [
        {"history": -1}, {"history": True}, {"history": 1.5}, {"history_bytes": 0}, {"history_bytes": 1.5},
        {"ttl": 0}, {"ttl": -1}, {"window": 0},
        {"slow_peer": "wait"}, {"slow_peer": "never"}, {"dead_letter": "dead"},
        {"groups": -1}, {"groups": 1.5}, {"group_ttl": 0}, {"group_ttl": True}, {"group_ttl": math.inf}, {"ack": 1},
        {"redelivery": 5}, {"dead_letter": "dead/*", "ack": True},
    ],
)  # fmt: skip
def test_options_that_make_no_sense_are_refused(options: dict[str, Any]):
    """Each with what it must be."""
    with pytest.raises(ConfigurationError):
        TopicOptions(**options)


def test_what_is_kept_is_said_to_the_engine():
    """In the words of its contract."""
    options = TopicOptions(history=5, history_bytes=1000, ttl=2.5, retain=True, ack=True)
    assert Keep(history=5, ttl=2.5, retain=True, ack=True, history_bytes=1000) == options.keep
    assert not DEFAULT.keep.numbered
