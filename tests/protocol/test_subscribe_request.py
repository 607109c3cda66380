"""What `$subscribe` may ask for."""

import pytest

from webmesh.exceptions import InvalidArgument
from webmesh.protocol.subscribe_request import (
    LAST, NAME_SIZE, Announced, SinceOffset, SubscribeRequest, read_since, read_subscribe,
)  # fmt: skip


def test_everything_but_the_pattern_can_be_left_out():
    """Then it gets what is live."""
    assert SubscribeRequest(("a", "*")) == read_subscribe({"pattern": "a/*"})


def test_all_of_it_is_read():
    """For a topic; unknown keys are another version's."""
    asked = {
        "pattern": "a/b", "since": {"offset": 3, "epoch": "e"}, "presence": True,
        "announce": {"key": "me", "meta": {"x": 1}}, "later": 1,
    }  # fmt: skip
    read = SubscribeRequest(("a", "b"), None, SinceOffset(3, "e"), True, Announced("me", {"x": 1}))
    assert read == read_subscribe(asked)


@pytest.mark.parametrize(("pattern", "topic"), [("a/b", "a/b"), ("a/*", None), ("a/**", None)])
def test_a_pattern_without_wildcards_is_a_topic(pattern: str, topic: str | None):
    """Some things only one topic has."""
    assert topic == read_subscribe({"pattern": pattern}).topic


@pytest.mark.parametrize(
    ("since", "read"),
    [(None, None), ("last", LAST), (5, 5.0), (0.5, 0.5), ({"offset": 0, "epoch": 7}, SinceOffset(0, "7"))],
)
def test_the_past_is_asked_for_by_place_or_time(since: object, read: object):
    """An epoch may be a number: it is compared as text."""
    assert read == read_since(since)


@pytest.mark.parametrize(
    "since", [0, -1, float("inf"), float("nan"), True, "first", [], {}, {"offset": -1, "epoch": "e"}, {"offset": 1}]
)
def test_what_is_no_place_or_time_is_refused(since: object):
    """With the three forms that there are."""
    with pytest.raises(InvalidArgument, match="since must be"):
        read_since(since)


@pytest.mark.parametrize("more", [{"since": "last"}, {"presence": True}, {"announce": {"key": "me"}}])
def test_a_group_has_no_past_and_no_presence(more: dict[str, object]):
    """Its members share what comes; whose past would it be?"""
    with pytest.raises(InvalidArgument, match="group"):
        read_subscribe({"pattern": "a", "group": "g"} | more)


@pytest.mark.parametrize("name", ["", "x" * (NAME_SIZE + 1), "a\nb", 5, None])
def test_names_are_short_and_printable(name: object):
    """They stand in logs and metrics; the error shows no more than an excerpt."""
    with pytest.raises(InvalidArgument, match="printable") as refused:
        read_subscribe({"pattern": "a", "announce": {"key": name}})
    assert len(str(refused.value)) < 400
