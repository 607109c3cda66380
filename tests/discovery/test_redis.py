"""A register in Redis, with a real server."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("redis", reason="redis-py is not installed: pip install 'webmesh-gevent[redis]'")

from tests.brokers.redis_servers import RedisServer, needs_redis  # noqa: E402
from tests.discovery.finding import Running  # noqa: E402
from webmesh.discovery.base import Found  # noqa: E402
from webmesh.discovery.redis import RedisDiscovery  # noqa: E402
from webmesh.exceptions import ConfigurationError  # noqa: E402
from webmesh.options import Backoff  # noqa: E402
from webmesh.protocol.node_record import NodeRecord  # noqa: E402

pytestmark = needs_redis
KEYS = "{webmesh:mesh}"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    """One for all tests that leave it alive."""
    made = RedisServer(tmp_path_factory.mktemp("redis")).start()
    yield made
    made.stop()


@pytest.fixture(autouse=True)
def _empty(server: RedisServer) -> None:
    server.ask("FLUSHALL")


def node(node_id: str, **parts: Any) -> NodeRecord:
    return NodeRecord(**{"id": node_id, "epoch": 5, "addresses": (f"ws://10.0.0.{ord(node_id[-1])}:4269",), **parts})


def discovery(server: RedisServer, record: NodeRecord | None = None, *, lease: float = 0.15, **options: Any) -> Any:
    made = RedisDiscovery(server.url, lease=lease, backoff=Backoff(first=0.01, maximum=0.05), **options)
    if record is not None:
        made.announce(record)
    return made


def found(*records: NodeRecord) -> list[Found]:
    return [Found(record.addresses, record) for record in records]


def test_nodes_find_each_other(server: RedisServer) -> None:
    """With their whole records; nobody finds itself."""
    one, other = node("a", name="shop", zone="x", metadata={"cpu": 2}), node("b")
    with Running(discovery(server, one)) as told_one, Running(discovery(server, other)) as told_other:
        told_one.wait(lambda told: told.found == found(other))
        told_other.wait(lambda told: told.found == found(one))


def test_what_a_node_says_anew_is_found(server: RedisServer) -> None:
    """As that it drains."""
    source = discovery(server, node("a"))
    with Running(source), Running(discovery(server)) as told:
        told.wait(lambda told: told.found == found(node("a")))
        source.announce(changed := node("a").changed(state="draining"))
        told.wait(lambda told: told.found == found(changed))


def test_a_node_that_stops_takes_its_entry_back(server: RedisServer) -> None:
    """At once, and nothing stays."""
    with Running(discovery(server, node("a"), lease=60.0)) as told:
        told.wait(lambda told: told.times == 1)
        assert 1 == server.ask("EXISTS", f"{KEYS}:a")

    assert [] == server.ask("KEYS", "*")


def test_the_entry_of_a_later_process_stays(server: RedisServer) -> None:
    """One that has the id by now."""
    later = json.dumps(node("a", epoch=6).to_wire())
    with Running(discovery(server, node("a"), lease=60.0)) as told:
        told.wait(lambda told: told.times == 1)
        server.ask("SET", f"{KEYS}:a", later)

    assert later.encode() == server.ask("GET", f"{KEYS}:a")


def test_a_lease_that_is_not_renewed_ends(server: RedisServer) -> None:
    """The node was killed; whoever notices cleans up after it."""
    server.ask("SET", f"{KEYS}:a", json.dumps(node("a").to_wire()), "PX", 300)
    server.ask("SADD", KEYS, "a")
    with Running(discovery(server)) as told:
        told.wait(lambda told: told.found == found(node("a")))
        told.wait(lambda told: told.found == [])

    assert [] == server.ask("SMEMBERS", KEYS)


def test_prefixes_keep_meshes_apart(server: RedisServer) -> None:
    """Nodes that share one find each other, no others."""
    with Running(discovery(server, node("a"), prefix="one")), Running(discovery(server, prefix="other")) as other, \
            Running(RedisDiscovery(f"{server.url}?prefix=one&lease=0.15")) as one:  # fmt: skip
        one.wait(lambda told: told.found == found(node("a")))
        assert [] == other.found


@pytest.mark.row(100)
def test_lying_entries_are_dropped_and_counted(server: RedisServer) -> None:
    """What is no record, whose id is another's, and addresses that are not allowed."""
    entries: dict[str, str | bytes] = {
        "a": json.dumps(node("a").to_wire()), "b": "nonsense", "c": json.dumps(node("x").to_wire()), "d": b"\xff\xfe",
        "e": "[" * 5000, "f": '"' + "x" * 20000 + '"',
        "g": json.dumps(node("g", addresses=("ws://127.0.0.1:22", "ws://169.254.169.254")).to_wire()),
        "h": json.dumps(node("h", addresses=()).to_wire()), "i": json.dumps(node("i", state="left").to_wire()),
    }  # fmt: skip
    for name, text in entries.items():
        server.ask("SET", f"{KEYS}:{name}", text)
        server.ask("SADD", KEYS, name)
    source = discovery(server, lease=60.0)
    with Running(source) as told:
        told.wait(lambda told: told.found == found(node("a")))

    assert 7 == source.dropped


@pytest.mark.row(100)
def test_an_allow_list_in_the_url(server: RedisServer) -> None:
    """The engine's other options stand beside it."""
    with Running(discovery(server, node("a"))), Running(discovery(server, node("b"))), \
            Running(RedisDiscovery(f"{server.url}?lease=0.15&allow=10.0.0.{ord('a')}")) as told:  # fmt: skip
        told.wait(lambda told: told.found == found(node("a")))


@pytest.mark.once
def test_an_outage_is_outlasted(tmp_path: Path) -> None:
    """Those who were found last still are; a new Redis, which knows nothing, is filled again."""
    own = RedisServer(tmp_path).start()
    try:
        with Running(discovery(own, node("a"))) as first, Running(discovery(own, node("b"))) as told:
            told.wait(lambda told: told.found == found(node("a")))
            first.wait(lambda told: told.found == found(node("b")))
            own.kill()
            times = told.times
            own.start()
            with Running(discovery(own)) as late:
                late.wait(lambda late: late.found == found(node("a"), node("b")))
            assert told.times >= times
            told.wait(lambda told: told.found == found(node("a")))
    finally:
        own.stop()


def test_a_redis_that_is_not_there_does_not_hold_the_start() -> None:
    """It is tried again until it is."""
    source = RedisDiscovery("redis://127.0.0.1:1", backoff=Backoff(first=0.01, maximum=0.02))
    source.announce(node("a"))
    with Running(source) as told:
        assert 0 == told.times


@pytest.mark.parametrize("url", ["redis://h:x", "redis://h?lease=0", "redis://h?colour=1", "redis://h?allow=x"])
def test_a_malformed_url_is_refused(url: str) -> None:
    """At once."""
    with pytest.raises(ConfigurationError):
        RedisDiscovery(url)
