"""The link: connections that are lost and come back."""

from __future__ import annotations

from typing import Any

import gevent
import pytest

from tests.brokers.contract import until
from tests.brokers.redis_servers import FakeRedis, RedisServer, needs_redis
from webmesh.brokers import redis_link
from webmesh.brokers.redis_link import RedisLink
from webmesh.brokers.redis_places import Address, Login, Place
from webmesh.exceptions import BrokerUnavailable
from webmesh.options import Backoff


class Owner:
    """Keeps what it is told."""

    def __init__(self) -> None:
        self.events: list[str] = []
        self.beats = 0
        self.fault: Exception | None = None

    def opened(self) -> None:
        self.events.append("opened")
        if self.fault is not None:
            raise self.fault

    def back(self, reason: str) -> None:
        self.events.append("back")

    def down(self, reason: str) -> None:
        self.events.append("down")

    def told(self, name: bytes, data: Any) -> None:
        self.events.append(name.decode())

    def beat(self) -> None:
        self.beats += 1


def make_link(address: Address, owner: Owner, **options: Any) -> RedisLink:
    defaults: dict[str, Any] = {"timeout": 5.0, "interval": 60.0, "backoff": Backoff(first=0.01)}
    return RedisLink(Place("server", (address,), Login()), owner, name="n", key="k", **{**defaults, **options})


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory):
    made = RedisServer(tmp_path_factory.mktemp("redis")).start()
    yield made
    made.stop()


@needs_redis
@pytest.mark.row(96)
def test_a_lost_connection_comes_back(server: RedisServer):
    """Either of the two; the owner is told that it was down and that it is back, once."""
    owner = Owner()
    link = make_link(server.address, owner)
    link.start()
    for kind in ("normal", "pubsub"):
        link.feed.add(["x"], [], 5.0)
        owner.events.clear()
        server.ask("CLIENT", "KILL", "TYPE", kind)
        until(lambda: "back" in owner.events)
        assert ["down", "opened", "back"] == owner.events
        assert link.up
    link.stop()
    assert not link.up


@needs_redis
def test_scripts_that_redis_forgot_are_sent_again(server: RedisServer):
    """An operator's SCRIPT FLUSH stops nothing."""
    link = make_link(server.address, Owner())
    link.start()
    server.ask("SCRIPT", "FLUSH")
    assert 1 == link.run("put", ["k"], "a", 1000, "v")
    link.stop()


@needs_redis
def test_it_says_that_it_is_alive(server: RedisServer):
    """Again and again."""
    owner = Owner()
    link = make_link(server.address, owner, interval=0.01)
    link.start()
    until(lambda: owner.beats > 2)
    link.stop()


def test_what_the_owner_cannot_do_ends_the_start():
    """Nothing stays open."""
    owner = Owner()
    owner.fault = BrokerUnavailable("no")
    with FakeRedis(lambda words: b"+OK\r\n") as address:
        link = make_link(address, owner)
        with pytest.raises(BrokerUnavailable):
            link.start()
        assert (False, None) == (link.up, link.feed)
        with pytest.raises(BrokerUnavailable):
            link.ask("PING")


@pytest.mark.row(97)
def test_patience_is_bounded(monkeypatch: pytest.MonkeyPatch):
    """In time, and in how many may have it at once."""
    monkeypatch.setattr(redis_link, "MOST_PATIENT", 2)
    link = make_link(Address("127.0.0.1", 1), Owner())
    waiting = [gevent.spawn(link.wait_up, 0.2) for _ in range(2)]
    gevent.sleep(0)
    assert not link.wait_up(0.2)
    assert not any(one.dead for one in waiting)
    gevent.joinall(waiting, raise_error=True)
    assert [False, False] == [one.value for one in waiting]
