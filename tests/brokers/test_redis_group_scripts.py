"""The scripts of groups by themselves, asked of a real Redis."""

from __future__ import annotations

import os

import pytest

from tests.brokers.redis_servers import RedisServer, needs_redis
from webmesh.brokers.redis_group_scripts import GROUP_SCRIPTS

pytestmark = [needs_redis, pytest.mark.once]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory):
    made = RedisServer(tmp_path_factory.mktemp("redis")).start()
    yield made
    made.stop()


@pytest.fixture
def key() -> str:
    return os.urandom(4).hex()


def run(server: RedisServer, script: str, keys: list[str], *arguments: object):
    return server.ask("EVAL", GROUP_SCRIPTS[script], len(keys), *keys, *arguments)


def join(server: RedisServer, key: str, *, lease: int, ttl: object) -> None:
    keys = [f"{key}{name}" for name in ("groups", "work:g", "nodes", "lasts")]
    run(server, "join", keys, "g", 1, "node", lease, ttl)


def end(server: RedisServer, key: str) -> list[object]:
    keys = [f"{key}{name}" for name in ("groups", "lasts", "lost")]
    return run(server, "end", keys, f"{key}work:", f"{key}plain:", 10)


def test_a_group_whose_node_goes_on_does_not_end(server: RedisServer, key: str) -> None:
    """Its time begins anew with each word of a node that has members, and is no shorter than that node's lease."""
    join(server, key, lease=0, ttl=0)
    join(server, key, lease=60_000, ttl=1)
    assert [] == end(server, key)
    join(server, key, lease=0, ttl="")
    assert [] == end(server, key)


def test_a_group_that_ends_leaves_the_count_of_its_work(server: RedisServer, key: str) -> None:
    """And nothing else; the table of groups has another version."""
    join(server, key, lease=0, ttl=0)
    server.ask("XADD", f"{key}work:g", "*", "t", "x")
    server.ask("ZADD", f"{key}plain:g", "1", "1-0")
    assert [b"g", 1] == end(server, key)
    assert [] == end(server, key)
    assert b"1" == server.ask("HGET", f"{key}lost", "g")
    assert [b"", b"2"] == server.ask("HGETALL", f"{key}groups")
    assert 0 == server.ask("EXISTS", f"{key}work:g", f"{key}plain:g", f"{key}lasts")


def test_what_others_have_written_there_stops_nobody(server: RedisServer, key: str) -> None:
    """A group whose end cannot be written down has none; a count that is none is not told."""
    server.ask("SET", f"{key}lasts", "x")
    join(server, key, lease=60_000, ttl=1)
    assert [] == end(server, key)
    keys = [f"{key}{name}" for name in ("work:g", "nodes", "lost", "plain:g")]
    server.ask("HSET", f"{key}lost", "g", "many")
    assert 0 == run(server, "take", keys, "node", 1, 0, 0, "g")[2]
    server.ask("SET", f"{key}lost", "x")
    assert 0 == run(server, "take", keys, "node", 1, 0, 0, "g")[2]


def test_what_was_lost_is_told_to_one_node(server: RedisServer, key: str) -> None:
    """That has room for what comes after it."""
    join(server, key, lease=60_000, ttl="")
    server.ask("HSET", f"{key}lost", "g", "3")
    keys = [f"{key}{name}" for name in ("work:g", "nodes", "lost", "plain:g")]
    assert [0, 3, 0] == [run(server, "take", keys, "node", room, 0, 0, "g")[2] for room in (0, 1, 1)]


def test_a_group_begins_only_in_the_table_that_was_counted(server: RedisServer, key: str) -> None:
    """Whoever was not the first counts again; a group that is there already needs no room."""

    def begin(group: str, version: str) -> int:
        keys = [f"{key}groups", f"{key}work:{group}", f"{key}nodes", f"{key}lasts"]
        return run(server, "join", keys, group, 1, "node", 1000, "", version)

    assert [1, 0, 1, 1] == [begin("g", "0"), begin("h", "0"), begin("g", "0"), begin("h", "1")]
