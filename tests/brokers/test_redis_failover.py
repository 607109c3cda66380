"""The engine on Redis where another server takes over: behind Sentinels, and in a Cluster."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import gevent
import pytest

from tests.brokers.contract import KEPT, WORK, RecordingSink, message, until
from tests.brokers.redis_servers import RedisServer, needs_redis, needs_sentinel
from webmesh.brokers.base import Keep, Since
from webmesh.brokers.redis import RedisBroker
from webmesh.exceptions import BrokerUnavailable
from webmesh.options import Backoff

pytestmark = [needs_redis, pytest.mark.once]

QUICK = Backoff(first=0.05, maximum=0.2)


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as made:
        yield made


def started(stack: ExitStack, server: RedisServer) -> RedisServer:
    stack.callback(server.stop)
    return server.start()


def publish_through(broker: RedisBroker, number: int, keep: Keep) -> int | None:
    """Publish until it is taken, as a publisher would that must not lose it."""
    with gevent.Timeout(20):
        while True:
            try:
                return broker.publish(message(payload=number, dedupe_id=str(number)), keep).offset
            except BrokerUnavailable:
                gevent.sleep(0.05)


@needs_sentinel
@pytest.mark.row(96)
def test_a_failover_by_sentinels(tmp_path: Path, stack: ExitStack) -> None:
    """The engine goes to the server that was made master; what had reached it is there, the gap is told."""
    first = started(stack, RedisServer(tmp_path / "first"))
    second = started(stack, RedisServer(tmp_path / "second", replicaof=f"127.0.0.1 {first.port}"))
    until(lambda: b"master_link_status:up" in second.ask("INFO", "replication"))
    lines = {
        "sentinel monitor main": f"127.0.0.1 {first.port} 1", "sentinel down-after-milliseconds main": "200",
        "sentinel failover-timeout main": "1000",
    }  # fmt: skip
    watching = started(stack, RedisServer(tmp_path / "watching", program="redis-sentinel", **lines))
    until(lambda: b"slaves=1" in watching.ask("INFO", "sentinel"))
    sink = RecordingSink()
    url = f"redis+sentinel://127.0.0.1:1,127.0.0.1:{watching.port}/main?timeout=1"
    broker = RedisBroker(url, backoff=QUICK)
    broker.start(sink)
    stack.callback(broker.stop)
    broker.want(("**",))
    keep = Keep(history=100)
    epoch = broker.publish(message(payload=0), keep).epoch
    first.ask("WAIT", 1, 5000)

    first.kill()
    until(lambda: not broker.up)
    assert 2 == publish_through(broker, 1, keep)

    assert [0, 1] == [p.payload for p in broker.history("a/b", Since(0, epoch)).items]
    assert sink.gaps
    until(lambda: sink.delivered[-1].payload == 1)


@needs_redis
def test_sentinels_that_know_no_such_service(tmp_path: Path, stack: ExitStack) -> None:
    """Starting says which."""
    if shutil.which("redis-sentinel") is None:
        pytest.skip("needs redis-sentinel")
    watching = started(stack, RedisServer(tmp_path, program="redis-sentinel"))
    with pytest.raises(BrokerUnavailable, match="'shop'"):
        RedisBroker(f"redis+sentinel://127.0.0.1:{watching.port}/shop").start(RecordingSink())


@pytest.fixture
def cluster(tmp_path: Path, stack: ExitStack) -> list[RedisServer]:
    """Three masters, and a replica of each."""
    servers = [
        started(stack, RedisServer(tmp_path / str(number), cluster_enabled="yes", cluster_node_timeout="500"))
        for number in range(6)
    ]
    program = shutil.which("redis-cli")
    assert program is not None
    addresses = [str(server.address) for server in servers]
    subprocess.run(
        [program, "--cluster", "create", *addresses, "--cluster-replicas", "1", "--cluster-yes"],
        check=True, capture_output=True, timeout=30,
    )  # fmt: skip
    until(lambda: all(b"cluster_state:ok" in server.ask("CLUSTER", "INFO") for server in servers))
    return servers


@pytest.mark.row(96)
def test_a_cluster(cluster: list[RedisServer], stack: ExitStack) -> None:
    """Live messages, history, groups and records; and when the server of our slot dies, its replica goes on."""
    hosts = ",".join(str(server.address) for server in cluster[:3])
    made = []
    for _ in range(2):
        sink = RecordingSink()
        broker = RedisBroker(f"redis+cluster://{hosts}?prefix=shop&timeout=1", backoff=QUICK)
        broker.start(sink)
        stack.callback(broker.stop)
        made.append((broker, sink))
    (one, _), (other, sink) = made
    other.want(("**",))
    other.join(WORK, 5, durable=True)
    keep = Keep(history=100, ack=True)
    epoch = one.publish(message(payload=0), keep).epoch
    one.publish(message("jobs/1", "work"), KEPT)
    one.put("wills", "a", 1, 60.0)
    until(lambda: len(sink.delivered) == 2 and sink.given)
    other.done(WORK, sink.given[0][2])
    assert 1 == other.claim("wills", "a")
    assert [0] == [p.payload for p in other.history("a/b", Since(0, epoch)).items]

    address = one._link._finder.find()
    owner = next(server for server in cluster if server.port == address.port)
    until(lambda: b"state=online" in owner.ask("INFO", "replication"))
    owner.ask("WAIT", 1, 5000)
    owner.kill()
    until(lambda: not one.up and not other.up)
    assert 2 == publish_through(one, 1, keep)
    until(lambda: other.up)
    publish_through(one, 2, keep)
    until(lambda: sink.delivered[-1].payload == 2)
    assert [0, 1, 2] == [p.payload for p in other.history("a/b", Since(0, epoch)).items]
