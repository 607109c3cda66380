"""What a client's arguments become: what it asks its node."""

from __future__ import annotations

from typing import Any

import pytest

from webmesh.exceptions import BadPattern, ConfigurationError
from webmesh.messages import HistoryPage, Position
from webmesh.topic_client import TopicClient


class Notes:
    """In the place of `ClientTopics`: notes what it is asked."""

    def __init__(self) -> None:
        self.log: list[Any] = []
        self.requests = self

    def __getattr__(self, name: str) -> Any:
        def note(*args: Any, **options: Any) -> Any:
            self.log.append((name, args, options))
            return HistoryPage([], 0, "")

        return note


@pytest.fixture
def client() -> Any:
    made = TopicClient()
    made._topics = Notes()  # type: ignore[assignment]
    return made


def test_a_subscription_asks_for_what_it_was_given(client: Any) -> None:
    """Only for that."""
    client.subscribe("a")
    client.subscribe("a", group="g", since=3)
    client.subscribe("a", since=(4, "e"), presence=True, announce="me")
    client.subscribe("a", since="last", announce=("me", {"n": 1}))

    requests = [(args[0], args[1]) for _, args, _ in client._topics.log]

    assert [
        ({"pattern": "a"}, None),
        ({"pattern": "a", "group": "g"}, 3.0),
        ({"pattern": "a", "presence": True, "announce": {"key": "me", "meta": None}}, Position(4, "e")),
        ({"pattern": "a", "announce": {"key": "me", "meta": {"n": 1}}}, "last"),
    ] == requests


@pytest.mark.parametrize("since", [0, -1, True, float("inf"), "first", (1,), ("1", "e"), (-1, "e"), {}])
def test_a_past_that_makes_no_sense_is_refused(client: Any, since: Any) -> None:
    """With what makes some."""
    with pytest.raises(ConfigurationError, match="since is"):
        client.subscribe("a", since=since)


def test_what_needs_a_topic_is_refused_for_a_pattern(client: Any) -> None:
    """The node would refuse it too."""
    for options in ({"presence": True}, {"announce": "me"}, {"since": Position(1, "e")}):
        with pytest.raises(ConfigurationError, match="need a topic"):
            client.subscribe("a/*", **options)
    for name in ("publish", "history", "presence", "presence_counts", "set_will"):
        with pytest.raises(BadPattern):
            getattr(client, name)("a/*")
    assert [] == client._topics.log


def test_publish_options_become_headers(client: Any) -> None:
    """With the publisher's own."""
    client.publish("a", 1, ttl=0.5, dedupe_id="d", conflate_key="c", key="k", exclude_self=True, headers={"x": "y"})
    ((_, args, options),) = client._topics.log
    assert ("a", 1) == args[:2]
    assert {
        "x": "y", "ttl-ms": "500", "dedupe-id": "d", "conflate-key": "c", "key": "k", "exclude-self": "true",
    } == args[2]  # fmt: skip
    assert options["own"]


def test_history_asks_for_what_it_was_given(client: Any) -> None:
    """Only for that."""
    client.history("a")
    client.history("a", limit=3, since=Position(1, "e"), reverse=True)
    assert [{}, {"limit": 3, "since": {"offset": 1, "epoch": "e"}, "reverse": True}] == [
        args[1] for _, args, _ in client._topics.log
    ]
