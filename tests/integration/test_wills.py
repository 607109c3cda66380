"""Story: peers and servers are killed, and each last will is published once: by the server, by another one of the
same engine, or by the server itself when it is back."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.brokers.nats_server import SERVER as NATS
from tests.brokers.nats_server import NatsServer
from tests.brokers.redis_servers import RedisServer, needs_redis
from tests.processes import ENVIRONMENT
from tests.running import PATIENCE, running, wait_for
from tests.topic_peer import TopicPeer, topic_peer
from webmesh.webmesh_server import WebMeshServer

SERVER = """
import os, signal, sys
from webmesh import WebMeshServer, Timeouts
from webmesh import node_lease
from webmesh.brokers.one_node import OneNodeBroker

url, session, die = sys.argv[1:]
node_lease.LEASE, node_lease.BEAT, node_lease.SLOW, node_lease.WAIT = 1.0, 0.1, 1.0, 1.5


def dying(name, inner):
    def step(self, what, *args):
        found = inner(self, what, *args)
        if die == name + " " + (what if isinstance(what, str) else what.topic):
            os.kill(os.getpid(), signal.SIGKILL)
        return found
    return step


for name in ("put", "claim", "publish"):
    setattr(OneNodeBroker, name, dying(name, getattr(OneNodeBroker, name)))

server = WebMeshServer(broker=url, timeouts=Timeouts(session=float(session)))
server.topic("status/*", history=100)
server.listen(port=0)
server.await_started()
print(server.url, flush=True)
server.serve_forever()
"""
MODES = pytest.mark.parametrize("before", [(), ("-m", "gevent.monkey")], ids=["plain", "patched"])
needs_nats = pytest.mark.skipif(NATS is None, reason="needs nats-server")
KILLS = ["put wills-firing", "claim wills", "publish status/gone", "claim wills-firing"]
"""Where a server dies on the way from a loss to what is published for it."""

Start = Callable[..., "Served"]


class Served:
    """A server in a process of its own."""

    def __init__(self, folder: Path, before: tuple[str, ...], engine: str, session: float, die: str) -> None:
        (folder / "serve.py").write_text(SERVER)
        self.process = subprocess.Popen(
            [sys.executable, *before, "serve.py", engine, str(session), die],
            env=ENVIRONMENT, cwd=folder, text=True, stdout=subprocess.PIPE,
        )  # fmt: skip
        assert self.process.stdout is not None
        self.url = self.process.stdout.readline().strip()

    @contextmanager
    def peer(self, **said: Any) -> Iterator[TopicPeer]:
        with topic_peer(self, **said) as peer:  # type: ignore[arg-type]  # its URL is all that is needed
            yield peer

    def kill(self) -> None:
        self.process.kill()
        self.process.wait(PATIENCE)

    def fired(self, topic: str) -> list[tuple[Any, str]]:
        """What was published there, and why."""
        with self.peer() as peer:
            return [(one["data"], one["headers"]["will"]) for one in peer.ask("$history", {"topic": topic})["items"]]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Starts servers, and ends them."""
    begun: list[Served] = []

    def begin(
        before: tuple[str, ...] = (), engine: str = "sqlite:///topics.db", session: float = 30.0, die: str = ""
    ) -> Served:
        begun.append(Served(tmp_path, before, engine, session, die))
        return begun[-1]

    yield begin
    for served in begun:
        served.process.kill()
        served.process.communicate()


def will(name: str, **more: Any) -> dict[str, Any]:
    return {"id": "w", "topic": f"status/{name}", "data": name} | more


@MODES
@pytest.mark.once
@pytest.mark.row(80)
def test_a_restarted_server_fires_for_those_who_do_not_come_back(start: Start, before: tuple[str, ...]) -> None:
    """Killed with its peers' links. Who names its session to it again has been there all the time."""
    first = start(before)
    with first.peer(wills=[will("gone")]), first.peer(wills=[will("back")]) as back:
        with first.peer(wills=[will("left")]) as left:
            left.ask("$goodbye")
        first.kill()

    second = start(before, session=1.0)
    with second.peer(resume=back.resume, wills=[will("back", data="new")]) as again:
        assert not again.greeting["resumed"]
        assert wait_for(lambda: second.fired("status/gone"))
        assert ([], []) == (second.fired("status/back"), second.fired("status/left"))
    assert [("gone", "lost")] == second.fired("status/gone")
    assert wait_for(lambda: [("new", "lost")] == second.fired("status/back"))  # lost since: its own new one


@pytest.mark.once
@pytest.mark.row(80)
@pytest.mark.parametrize("die", KILLS)
def test_a_server_that_dies_while_it_fires_a_will_has_fired_it_once(start: Start, die: str) -> None:
    """Wherever it dies between the loss and the end of what it does about it."""
    first = start(die=die)
    with first.peer(wills=[will("gone")]) as peer:
        peer.cut()
        assert -signal.SIGKILL == first.process.wait(PATIENCE)
    second = start(session=0.2)
    assert wait_for(lambda: second.fired("status/gone"))
    second.process.send_signal(signal.SIGTERM)  # what is being fired is waited for
    second.process.wait(PATIENCE)
    assert [("gone", "lost")] == start(session=0.2).fired("status/gone")


@pytest.mark.once
@pytest.mark.row(80)
def test_a_server_that_dies_with_a_sessions_wills_in_hand_loses_none_of_them(start: Start) -> None:
    """Killed when it had claimed them for the first that fires: the later ones are there again when it is."""
    first = start(die="claim wills")
    later = will("later", id="later", delay_ms=3_600_000)
    with first.peer(wills=[will("now"), later]) as peer:
        peer.cut()
        assert -signal.SIGKILL == first.process.wait(PATIENCE)
    second = start(session=0.2)
    assert wait_for(lambda: second.fired("status/later"))
    assert wait_for(lambda: [("now", "lost")] == second.fired("status/now"))
    assert [("later", "lost")] == second.fired("status/later")


@contextmanager
def engine(name: str, folder: Path) -> Iterator[str]:
    """A real server of an engine that several nodes share; its URL."""
    folder.mkdir()
    server = RedisServer(folder) if name == "redis" else NatsServer(folder)
    server.start()
    try:
        yield server.url
    finally:
        server.stop() if isinstance(server, RedisServer) else server.kill()


@pytest.mark.once
@pytest.mark.row(80, 98)
@pytest.mark.parametrize(
    ("name", "before"),
    [
        pytest.param("redis", (), marks=needs_redis, id="redis-plain"),
        pytest.param("redis", ("-m", "gevent.monkey"), marks=needs_redis, id="redis-patched"),
        pytest.param("nats", (), marks=needs_nats, id="nats-plain"),
    ],
)
def test_the_other_nodes_fire_the_wills_of_one_that_is_killed(
    start: Start, name: str, before: tuple[str, ...], tmp_path: Path
) -> None:
    """Each once, as soon as its lease is over; of peers that have come to another node, none."""
    with engine(name, tmp_path / name) as url:
        one, other, dead = (start(before, url) for _ in range(3))
        names = [f"n{number}" for number in range(8)]
        with one.peer() as watcher:
            watcher.subscribe("status/*")
            peers = [dead.peer(wills=[will(name, delay_ms=1000)]) for name in names]
            back = [peer.__enter__() for peer in peers][-1]
            dead.kill()
            with other.peer(resume=back.resume):
                heard = sorted(watcher.next()["data"] for _ in names[:-1])
                for peer in peers:
                    peer.__exit__(None, None, None)
        assert names[:-1] == heard
        for name in names[:-1]:
            assert [(name, "lost")] == one.fired(f"status/{name}")
        assert [] == one.fired("status/n7")


PEER = """
import json, sys
from websockets.sync.client import connect

with connect(sys.argv[1], subprotocols=["webmesh.v1.json"]) as socket:
    wills = [{"id": "w", "topic": "status/" + sys.argv[2], "data": "gone"}]
    socket.send(json.dumps({"path": "$hello", "id": 0, "data": {"wills": wills}}))
    socket.recv()
    print("armed", flush=True)
    sys.stdin.readline()
    socket.send(json.dumps({"path": "$goodbye"}))
"""


@pytest.mark.row(80)
def test_peers_that_are_killed_are_told_of_and_those_that_leave_are_not() -> None:
    """By a program that knows nothing but the protocol."""
    server = WebMeshServer()
    server.topic("status/*", history=100)
    with running(server), topic_peer(server) as watcher:
        watcher.subscribe("status/*")
        processes = [
            subprocess.Popen(
                [sys.executable, "-c", PEER, server.url, str(number)],
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
            )
            for number in range(4)
        ]  # fmt: skip
        for process in processes:
            assert process.stdout is not None
            assert "armed\n" == process.stdout.readline()
        for process in processes[:2]:
            process.communicate("\n")
        for process in processes[2:]:
            process.kill()
            process.communicate()
        assert ["status/2", "status/3"] == sorted(watcher.next()["topic"] for _ in range(2))
        assert wait_for(lambda: not server._begun.parts.wills._armed or len(server.connections) == 1)
        for number in range(2):
            assert [] == watcher.ask("$history", {"topic": f"status/{number}"})["items"]
