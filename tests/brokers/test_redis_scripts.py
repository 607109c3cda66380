"""The scripts by themselves: what they do in one step, asked of a real Redis."""

from __future__ import annotations

import os

import pytest

from tests.brokers.redis_servers import RedisServer, needs_redis
from webmesh.brokers.redis_scripts import SCRIPTS

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
    return server.ask("EVAL", SCRIPTS[script], len(keys), *keys, *arguments)


def publish(
    server: RedisServer, key: str, *, topic="t", known="-", newest=0, history=5, ttl="", version="0", groups=(),
    body="body", most="",
):  # fmt: skip
    names = ["topics", "retained", "seen", "answers", "groups", "log", "nodes", "lost", *groups]
    keys = [f"{key}{name}" for name in names]
    return run(
        server, "publish", keys, version, topic, body, f"{key}live", history, ttl, "", 0, "", 1000, 10, 10, 10,
        os.urandom(6).hex(), "n.1", known, newest, f"{key}log:", key, f"{key}plain:", most,
    )  # fmt: skip


def test_all_of_them_compile(server: RedisServer) -> None:
    """Redis takes each."""
    for text in SCRIPTS.values():
        assert 40 == len(server.ask("SCRIPT", "LOAD", text))


def test_who_knows_other_groups_publishes_nothing(server: RedisServer, key: str) -> None:
    """The table has a version, and the publication names the one that it was matched by."""
    assert [b"stale"] == publish(server, key, version="3")
    assert 0 == server.ask("EXISTS", f"{key}topics")


def kept(server: RedisServer, key: str) -> list[int]:
    return [int(entry.partition(b"-")[0]) for entry, _ in server.ask("XRANGE", f"{key}log", "-", "+")]


def test_a_log_is_bounded_in_bytes_whatever_has_gone_of_it(server: RedisServer, key: str) -> None:
    """By its number, its time, an operator; also with entries that do not say how large they are, or say nonsense."""
    for _ in range(4):
        publish(server, key, body="x" * 10)
    publish(server, key, body="x" * 10, most=25)
    assert [1, 2, 3, 4, 5] == kept(server, key)
    publish(server, key, body="x" * 10, most=25)
    assert [2, 3, 4, 5, 6] == kept(server, key)
    publish(server, key, body="x" * 10, most=25)
    assert [6, 7] == kept(server, key)
    server.ask("XDEL", f"{key}log", "6-0")
    publish(server, key, body="x" * 10, most=25)
    assert [7, 8] == kept(server, key)
    server.ask("XTRIM", f"{key}log", "MAXLEN", "0")
    for number, wrong in enumerate(("nan", "inf", "-5", "1e300", "x"), 8):
        server.ask("XADD", f"{key}log", f"{number}-1", "a", "1", "u", "", "m", "x" * 50, "b", wrong)
        assert publish(server, key, body="x" * 10, most=25)[1].startswith(b"%d " % (number + 1))
    for _ in range(4):
        publish(server, key, body="x" * 10, most=25)
    assert [16, 17] == kept(server, key)
    publish(server, key, body="x" * 100, most=25)
    assert 1 == len(kept(server, key))


def test_numbers_are_never_given_twice(server: RedisServer, key: str) -> None:
    """A Redis that has lost what a node has seen counts in a new epoch."""
    first, second = (publish(server, key)[1].split() for _ in range(2))
    assert ([b"1", b"2"], first[1]) == ([first[0], second[0]], second[1])
    assert [b"3", first[1]] == publish(server, key, known=first[1], newest=2)[1].split()
    number, epoch = publish(server, key, known=first[1], newest=9)[1].split()
    assert b"4" == number
    assert epoch != first[1]


def test_a_log_without_its_numbers_is_dropped(server: RedisServer, key: str) -> None:
    """As when Redis was told to throw keys away: what is left cannot be placed."""
    publish(server, key)
    publish(server, key)
    server.ask("DEL", f"{key}topics")
    assert b"1" == publish(server, key)[1].split()[0]
    assert 1 == server.ask("XLEN", f"{key}log")


def test_a_log_ends_with_its_time(server: RedisServer, key: str) -> None:
    """By itself, when nobody publishes any more; its number does not."""
    publish(server, key, ttl=60000)
    assert 0 < server.ask("PTTL", f"{key}log") <= 60000
    publish(server, key)
    assert -1 == server.ask("PTTL", f"{key}log")


def test_forget_leaves_what_came_meanwhile(server: RedisServer, key: str) -> None:
    """A retained value is taken away only while it is the one that was seen."""
    server.ask("HSET", key, "t", "new")
    assert 0 == run(server, "forget", [key], "t", "old")
    assert 1 == run(server, "forget", [key], "t", "new")


def test_nodes_that_are_long_dead_are_forgotten(server: RedisServer, key: str) -> None:
    """The table of nodes has an end; who was dead is told so."""
    server.ask("HSET", key, "dead", "1")
    assert 0 == run(server, "beat", [key], "me", 60000)
    assert 1 == run(server, "beat", [key], "me", 60000)
    assert [b"me"] == server.ask("HKEYS", key)


def test_a_dead_nodes_passing_group_is_swept(server: RedisServer, key: str) -> None:
    """One that is durable stays."""
    for durable in (0, 1):
        group, stream = f"g{durable}", f"{key}work{durable}"
        keys = [f"{key}groups", stream, f"{key}nodes"]
        run(server, "join", [*keys, f"{key}lasts"], group, durable, "dead", 0, "")
        run(server, "leave", [*keys, f"{key}lost", f"{key}plain"], group, "")
    assert [b"", b"g1"] == sorted(server.ask("HKEYS", f"{key}groups"))
    assert [0, 1] == [server.ask("EXISTS", f"{key}work{durable}") for durable in (0, 1)]


def test_a_bad_entry_among_the_nodes_stops_nobody(server: RedisServer, key: str) -> None:
    """What is no time counts as long over, and is removed."""
    server.ask("HSET", key, "x", "garbage", "me", "garbage")
    assert 0 == run(server, "beat", [key], "me", 60000)
    assert [b"me"] == server.ask("HKEYS", key)


@pytest.mark.parametrize("field", ["t", "$floor"])
def test_what_is_no_number_begins_another_epoch(server: RedisServer, key: str, field: str) -> None:
    """Once: nobody knows which numbers were given, so none of them counts any more."""
    first = publish(server, key)[1].split()
    server.ask("HSET", f"{key}topics", field, "garbage")
    assert b"garbage" not in run(server, "history", [f"{key}topics", f"{key}log"], "t", "-", "+", 9, 0, "e")
    publications = [publish(server, key, topic=topic)[1].split() for topic in ("t", "new")]
    assert first[1] != publications[0][1] == publications[1][1]


def test_a_bad_time_in_a_log_is_over(server: RedisServer, key: str) -> None:
    """It stops neither who reads nor who publishes."""
    server.ask("XADD", f"{key}log", "1-0", "a", "1", "u", "garbage", "m", "x")
    assert [0] == run(server, "kept", [f"{key}log"])


def test_a_publication_that_cannot_be_handed_out_takes_no_number(server: RedisServer, key: str) -> None:
    """A script that fails undoes nothing, so the types of what it writes to are looked at first."""
    server.ask("SET", f"{key}work", "x")
    with pytest.raises(Exception, match="WRONGTYPE"):
        publish(server, key, groups=("work",))
    assert [0, 0] == [server.ask("EXISTS", f"{key}{name}") for name in ("topics", "log")]
