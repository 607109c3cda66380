"""Subscriptions of one connection."""

from __future__ import annotations

import pytest

from tests.brokers.contract import until
from tests.brokers.redis_servers import FakeRedis, RedisServer, needs_redis
from webmesh.brokers.redis_feed import BATCH, Feed
from webmesh.brokers.redis_line import open_socket
from webmesh.brokers.redis_places import Address, Login


def open_feed(address: Address) -> tuple[Feed, list[tuple[bytes, bytes]], list[str]]:
    told: list[tuple[bytes, bytes]] = []
    lost: list[str] = []
    socket = open_socket(address, Login(), "test", 5.0)
    return Feed(socket, lost.append, lambda name, data: told.append((name, data))), told, lost


@needs_redis
def test_what_is_sent_comes_once(tmp_path):
    """However many subscriptions match; what is subscribed no longer comes no longer."""
    server = RedisServer(tmp_path).start()
    try:
        feed, told, lost = open_feed(server.address)
        feed.add(["a.b", "end"], ["a.*", "*.b"], 5.0)
        for data in ("1", "2", "2"):
            server.ask("PUBLISH", "a.b", data)
        until(lambda: len(told) == 3)
        feed.remove("a.b", pattern=False)
        feed.remove("*.b", pattern=True)
        feed.check(5.0)
        server.ask("PUBLISH", "a.b", "3")
        server.ask("PUBLISH", "c.b", "4")
        server.ask("PUBLISH", "end", "5")
        until(lambda: told[-1][1] == b"5")
        assert [b"1", b"2", b"2", b"3", b"5"] == [data for _, data in told]
        feed.close()
        assert [] == lost
    finally:
        server.stop()


@needs_redis
def test_many_are_subscribed_to_in_batches(tmp_path):
    """As after an outage."""
    server = RedisServer(tmp_path).start()
    try:
        feed, told, _ = open_feed(server.address)
        feed.add([f"n{number}" for number in range(3 * BATCH + 1)], [], 5.0)
        assert 1 == server.ask("PUBLISH", f"n{3 * BATCH}", "x")
        until(lambda: told)
        feed.close()
    finally:
        server.stop()


@pytest.mark.row(96)
def test_silence_is_loss():
    """Of a subscription that is not confirmed, and of one that is asked whether it is there."""
    for ask in (lambda feed: feed.add(["a"], [], 0.1), lambda feed: feed.check(0.1)):
        with FakeRedis(lambda words: b"") as address:
            feed, _, lost = open_feed(address)
            ask(feed)
            assert 1 == len(lost)
            assert feed.closed


def test_a_subscription_that_is_refused_is_told():
    """At once and with what Redis says, as of a user who may not subscribe."""
    with FakeRedis(lambda words: b"-NOPERM no permissions to access one of the channels\r\n") as address:
        feed, _, lost = open_feed(address)
        feed.add(["a"], [], 5.0)
        until(lambda: lost)
        assert "no permissions" in lost[0]


def test_who_waits_goes_on_when_it_ends():
    """The link comes back and subscribes again."""
    with FakeRedis(lambda words: None) as address:
        feed, _, lost = open_feed(address)
        feed.add(["a"], ["b*"], 5.0)
        until(lambda: lost)
        feed.remove("a", pattern=False)
