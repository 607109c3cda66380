"""What is read of the past, whoever has written it."""

from __future__ import annotations

import os

import pytest

from tests.brokers.contract import KEPT, RETAINED, RecordingSink, message
from tests.brokers.redis_servers import RedisServer, needs_redis
from webmesh.brokers import redis_past
from webmesh.brokers.base import Keep, Since
from webmesh.brokers.redis import RedisBroker

pytestmark = needs_redis


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory):
    made = RedisServer(tmp_path_factory.mktemp("redis")).start()
    yield made
    made.stop()


@pytest.fixture
def prefix() -> str:
    return os.urandom(4).hex()


@pytest.fixture
def broker(server: RedisServer, prefix: str):
    made = RedisBroker(f"{server.url}?prefix={prefix}")
    made.start(RecordingSink())
    yield made
    made.stop()


def test_pages_make_one_history(broker: RedisBroker, monkeypatch: pytest.MonkeyPatch):
    """Forwards, backwards, by time, from a number on: as if it were read in one go."""
    monkeypatch.setattr(redis_past, "PAGE", 3)
    for number in range(1, 11):
        epoch = broker.publish(message(payload=number), Keep(history=100)).epoch

    def read(since: Since, **options):
        found = broker.history("a/b", since, **options)
        return found.complete, [p.payload for p in found.items]
    assert (True, list(range(1, 11))) == read(Since())
    assert (True, list(range(5, 11))) == read(Since(4, epoch))
    assert (True, list(range(1, 6))) == read(Since(), most=5)
    assert (True, [10, 9, 8, 7]) == read(Since(), most=4, reverse=True)
    assert (True, list(range(10, 3, -1))) == read(Since(3, epoch), reverse=True)
    assert (True, list(range(1, 11))) == read(Since(seconds=60.0))
    assert (True, []) == read(Since(seconds=1e-9))


def test_large_messages_are_read_a_few_at_a_time(broker: RedisBroker, monkeypatch: pytest.MonkeyPatch):
    """Others want answers of the same Redis meanwhile."""
    monkeypatch.setattr(redis_past, "PAGE_SIZE", 5000)
    monkeypatch.setattr(redis_past, "FIRST_PAGE", 1)
    for number in range(1, 11):
        broker.publish(message(payload=[number, "x" * 2000]), Keep(history=100))
    run, counts = broker._past._run, []

    def count(*arguments):
        counts.append(arguments[5])
        return run(*arguments)
    monkeypatch.setattr(broker._past, "_run", count)
    assert list(range(1, 11)) == [p.payload[0] for p in broker.history("a/b", Since()).items]
    assert [1, 2, 2] == counts[:3]


def test_what_is_cut_off_while_it_is_read_is_told(broker: RedisBroker, monkeypatch: pytest.MonkeyPatch):
    """A history with a hole is worse than none."""
    monkeypatch.setattr(redis_past, "PAGE", 2)
    for number in range(1, 6):
        epoch = broker.publish(message(payload=number), KEPT).epoch
    run, calls = broker._past._run, []

    def run_late(*arguments):
        calls.append(arguments)
        if len(calls) == 2:
            for number in range(6, 11):
                broker.publish(message(payload=number), KEPT)
        return run(*arguments)
    monkeypatch.setattr(broker._past, "_run", run_late)
    found = broker.history("a/b", Since(0, epoch))
    assert ([], False) == (found.items, found.complete)


@pytest.mark.row(98)
def test_what_strangers_wrote_is_left_out(broker: RedisBroker, server: RedisServer, prefix: str):
    """Counted, and everything else is read."""
    broker.publish(message(payload=1), KEPT)
    broker.publish(message(payload=1), RETAINED)
    server.ask("XADD", f"{{{prefix}}}:log:a/b", "2-0", "m", "nonsense")
    server.ask("XADD", f"{{{prefix}}}:log:a/b", "3-7", "a", "5", "u", "", "m", "nonsense")
    server.ask("HSET", f"{{{prefix}}}:retained", "x", "nonsense", "a//b", "nonsense")
    assert [1] == [p.payload for p in broker.history("a/b", Since()).items]
    assert [1] == [p.payload for p in broker.retained(("**",))]
    assert 4 == broker.refused


def test_a_retained_value_whose_time_is_over_makes_room(broker: RedisBroker, server: RedisServer, prefix: str):
    """It is taken away by who finds it."""
    broker.publish(message(ttl_ms="1"), RETAINED)
    broker._offset_of_clock += 10
    assert [] == list(broker.retained(("a", "*")))
    assert 0 == server.ask("HLEN", f"{{{prefix}}}:retained")
