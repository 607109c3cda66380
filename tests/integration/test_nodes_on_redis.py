"""Story: two nodes share a Redis, and so their topics are the same; Redis dies under load and nothing is lost."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from tests.brokers.redis_servers import RedisServer, needs_redis
from tests.running import PATIENCE, running, wait_for
from webmesh.exceptions import WebMeshError
from webmesh.webmesh_client import WebMeshClient
from webmesh.webmesh_server import WebMeshServer

pytestmark = needs_redis


@pytest.fixture
def redis(tmp_path: Path) -> Iterator[RedisServer]:
    made = RedisServer(tmp_path / "redis", appendonly="yes", appendfsync="always").start()
    yield made
    made.stop()


@pytest.fixture
def clients(redis: RedisServer) -> Iterator[tuple[WebMeshClient, WebMeshClient]]:
    """One of each of two nodes."""
    with ExitStack() as stack:
        made = []
        for _ in range(2):
            server = WebMeshServer(broker=f"{redis.url}?lease=2&patience=3")
            server.topic("kept/**", history=10_000, retain=True)
            stack.enter_context(running(server))
            made.append(stack.enter_context(WebMeshClient(server.url)))
        yield made[0], made[1]


def test_what_is_published_at_one_node_is_heard_at_the_other(clients: tuple[WebMeshClient, WebMeshClient]) -> None:
    """In order, with numbers where the topic is kept; who comes late reads what was."""
    here, there = clients
    live = here.subscribe("kept/*")
    numbers = [there.publish("kept/a", number).offset for number in range(5)]
    assert [1, 2, 3, 4, 5] == numbers
    assert [0, 1, 2, 3, 4] == [live.next(PATIENCE).payload for _ in range(5)]
    late = here.subscribe("kept/a", since=60.0)
    assert [0, 1, 2, 3, 4] == [late.next(PATIENCE).payload for _ in range(5)]


def test_a_group_is_shared_by_the_nodes(clients: tuple[WebMeshClient, WebMeshClient]) -> None:
    """Each publication goes to one member, wherever it is."""
    heard: Counter[Any] = Counter()
    where: Counter[int] = Counter()
    for number, client in enumerate(clients):
        def work(payload: Any, topic: str, message: Any, number: int = number) -> None:
            heard[payload] += 1
            where[number] += 1
        client.subscribe("jobs/*", work, group="workers")
    for number in range(60):
        clients[0].publish(f"jobs/{number}", number)
    assert wait_for(lambda: len(heard) == 60)
    assert {1} == set(heard.values())
    assert 60 == sum(where.values())


@pytest.mark.row(96)
def test_a_subscriber_misses_nothing_when_redis_is_killed(
    redis: RedisServer, clients: tuple[WebMeshClient, WebMeshClient]
) -> None:
    """What was acknowledged on a topic that is kept arrives, in its order, also what pub/sub has lost."""
    here, there = clients
    heard: list[int] = []
    here.subscribe("kept/*", lambda payload, topic, message: message.event is None and heard.append(payload))
    taken: list[int] = []
    stop = threading.Event()

    def publish() -> None:
        number = 0
        while not stop.is_set():
            try:
                there.publish("kept/a", number)
            except WebMeshError:
                continue
            taken.append(number)
            number += 1

    publishing = threading.Thread(target=publish)
    publishing.start()
    try:
        for _ in range(2):
            enough = len(taken) + 50
            assert wait_for(lambda: len(taken) >= enough)  # noqa: B023
            redis.kill()
            redis.start()
        enough = len(taken) + 50
        assert wait_for(lambda: len(taken) >= enough)
    finally:
        stop.set()
        publishing.join(PATIENCE)
    assert wait_for(lambda: heard and heard[-1] >= taken[-1])
    assert set(taken) - set(heard) == set()
    assert sorted(heard) == heard
