"""Story: clients see who is on a topic, on one node and on several that share an engine, through losses and kills."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.brokers.redis_servers import RedisServer, needs_redis
from tests.running import connected, running, wait_for
from webmesh import node_lease
from webmesh.options import Backoff
from webmesh.webmesh_client import WebMeshClient
from webmesh.webmesh_server import WebMeshServer

QUICK = Backoff(first=0.001, maximum=0.01)


def with_rooms(**options: object) -> WebMeshServer:
    server = WebMeshServer(**options)  # type: ignore[arg-type]
    server.topic("room/*", presence=True)
    return server


def cut(client: WebMeshClient) -> None:
    """Lose the connection without a word."""
    connection = client._keeper.connection
    if connection is not None:
        connection.abort()


def test_clients_see_each_other_come_and_go() -> None:
    """By `state`, which is kept up to date; a client that loses its connection and is back stays."""
    server = with_rooms()
    with connected(server, backoff=QUICK) as alice, WebMeshClient(server.url, backoff=QUICK) as bob:
        seen = alice.subscribe("room/a", presence=True, announce=("alice", {"at": 1}))
        assert {"alice": [{"at": 1}]} == seen.state
        bob.subscribe("room/a", announce="bob")
        everybody = {"alice": [{"at": 1}], "bob": [None]}
        assert wait_for(lambda: seen.state == everybody)
        assert everybody == bob.presence("room/a") == server.presence("room/a")
        assert (2, 2) == bob.presence_counts("room/a") == server.presence_counts("room/a")
        cut(bob)
        cut(alice)
        with WebMeshClient(server.url) as carol:
            carol.subscribe("room/a", announce="carol")
            assert wait_for(lambda: seen.state == everybody | {"carol": [None]})
        assert wait_for(lambda: seen.state == everybody)


def test_a_client_that_must_begin_anew_is_present_again() -> None:
    """At a server that was started again, and so knows no session."""
    first = with_rooms()
    with running(first):
        port = first.port
        client = WebMeshClient(first.url, backoff=QUICK)
        seen = client.subscribe("room/a", presence=True, announce="alice")
    try:
        with running(with_rooms(), port=port) as second:
            assert wait_for(lambda: second.presence("room/a") == {"alice": [None]})
            assert wait_for(lambda: seen.state == {"alice": [None]})
    finally:
        client.close()


@needs_redis
@pytest.mark.row(98)
def test_presence_holds_across_nodes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who is on one node is seen on the others, and those of a node that goes are seen to go."""
    monkeypatch.setattr(node_lease, "BEAT", 0.1)
    redis = RedisServer(tmp_path / "redis").start()
    try:
        one, other = with_rooms(broker=redis.url), with_rooms(broker=redis.url)
        with connected(one, backoff=QUICK) as alice:
            seen = alice.subscribe("room/a", presence=True, announce="alice")
            with connected(other) as bob:
                theirs = bob.subscribe("room/a", presence=True, announce="bob")
                everybody = {"alice": [None], "bob": [None]}
                assert wait_for(lambda: seen.state == everybody)
                assert wait_for(lambda: theirs.state == everybody)
                assert everybody == one.presence("room/a")
            assert wait_for(lambda: seen.state == {"alice": [None]})
    finally:
        redis.stop()


@pytest.mark.row(80)
def test_a_clients_wills_fire_for_each_loss() -> None:
    """It tells all of them with each hello, also with one that goes on with its session."""
    server = WebMeshServer()
    server.topic("status/*", history=10)
    with connected(server, backoff=QUICK) as client:
        client.set_will("status/a", "gone")
        for count in (1, 2):
            cut(client)
            assert wait_for(lambda count=count: len(client.history("status/a").items) == count)
    assert wait_for(lambda: not server.connections)
