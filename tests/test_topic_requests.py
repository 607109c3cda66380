"""What a client asks of its node about topics, and publishes there."""

from __future__ import annotations

from typing import Any

from tests.running import wait_for
from tests.test_client_topics import script


def test_who_is_present_can_be_asked() -> None:
    """Whole, or only how many."""
    with script() as node:
        counts = {"keys": 2, "connections": 3}
        node.answers["$presence"] = lambda data: counts if "counts" in data else {"ann": [1, 2]}
        assert {"ann": [1, 2]} == node.topics.requests.presence("room", None)
        assert (2, 3) == node.topics.requests.presence_counts("room", None)
        node.answers["$presence"] = lambda data: None
        asks = node.topics.requests
        assert ({}, (0, 0)) == (asks.presence("room", None), asks.presence_counts("room", None))


def test_publications_carry_an_id_by_which_they_are_published_once() -> None:
    """The program's, or one of this client's making; none where nothing is confirmed. And whose they are."""
    with script() as node:

        def publish(headers: dict[str, str], *, confirm: bool) -> Any:
            return node.topics.requests.publish(
                "a", 1, headers, own=True, confirm=confirm, timeout=None, fail_fast=None
            )

        assert 7 == publish({}, confirm=True).offset
        publish({"dedupe-id": "mine"}, confirm=True)
        assert publish({}, confirm=False) is None
        assert wait_for(lambda: len(node.came) == 3)
        first, second, third = (headers for _, _, headers in node.came)
        assert 32 == len(first["dedupe-id"])
        assert ("mine", None) == (second["dedupe-id"], third.get("dedupe-id"))
        own = node.topics.requests.own
        assert {own.mark} == {headers["excluded"] for headers in (first, second, third)}
        assert own.has("a", "e", 7)
