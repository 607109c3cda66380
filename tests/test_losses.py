"""What a subscriber is told that it did not get."""

from __future__ import annotations

from webmesh.losses import MOST_TOPICS, Losses
from webmesh.protocol.publication import Publication


def test_each_topic_is_told_of_once():
    """Up to the newest publication that is missing there."""
    losses = Losses()
    losses.add(Publication("a", offset=1, epoch="e"), [1], "slow")
    losses.add(Publication("b"), [1, 2], "encoding")
    losses.add(Publication("a", offset=2, epoch="e"), [1], "slow")
    assert [
        {"topic": "a", "event": "gap", "data": {"reason": "slow"}, "subs": [1], "offset": 2, "epoch": "e"},
        {"topic": "b", "event": "gap", "data": {"reason": "encoding"}, "subs": [1, 2]},
    ] == losses.events(lambda sub: ("*",))


def test_beyond_a_number_of_topics_whole_patterns_are_told():
    """However many there are; of subscriptions that have ended nothing is."""
    losses = Losses()
    for number in range(MOST_TOPICS + 50):
        losses.add(Publication(f"a/{number}"), [number % 2], "slow")
    events = losses.events(lambda sub: ("a", "*") if sub else None)
    assert MOST_TOPICS + 1 == len(events)
    assert {"topic": "a/*", "event": "gap", "data": {"reason": "slow", "pattern": True}, "subs": [1]} == events[-1]


def test_each_subscription_is_told_of_its_own():
    """One topic may be lost to one of them, and later to another; one that has ended is told nothing."""
    losses = Losses()
    losses.add(Publication("a", offset=1, epoch="e"), [1, 2, 3], "slow")
    losses.add(Publication("a", offset=2, epoch="e"), [2], "encoding")
    losses.forget(3)
    events = losses.events(lambda sub: ("a",))
    assert [([1], 1, "slow"), ([2], 2, "encoding")] == [
        (event["subs"], event["offset"], event["data"]["reason"]) for event in events
    ]
