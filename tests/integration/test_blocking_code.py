"""Story: ordinary blocking code serves calls, and whoever it holds up is nobody but its own caller."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import gevent
import gevent.socket
import pytest
from gevent import monkey
from websockets.sync.client import connect

from tests.processes import run_program
from tests.running import NATIVE_THREAD, PATCHED, PATIENCE, connected, running, wait_for
from webmesh.exceptions import Overloaded
from webmesh.message_serializers import StandardJsonSerializer
from webmesh.options import Limits
from webmesh.webmesh_client import WebMeshClient
from webmesh.webmesh_server import WebMeshServer

MODES = pytest.mark.parametrize(
    "patch", ["", "from gevent import monkey; monkey.patch_all()\n"], ids=["plain", "patched"]
)


class Gate:
    """Blocks native threads until it is opened, as C code does that knows nothing of gevent."""

    def __init__(self) -> None:
        self._lock = monkey.get_original("_thread", "allocate_lock")()
        self._lock.acquire()
        self.inside: list[int] = []

    def handler(self, payload: Any, path: str, client: Any) -> Any:
        self.inside.append(NATIVE_THREAD())
        self._lock.acquire()
        self._lock.release()
        return payload

    def open(self) -> None:
        if self._lock.locked():
            self._lock.release()


@contextmanager
def gate() -> Iterator[Gate]:
    made = Gate()
    try:
        yield made
    finally:
        made.open()


# -------------------------------------------------------------------- sleepers


@pytest.mark.row(81)
def test_a_handler_that_sleeps_delays_nothing_on_its_connection() -> None:
    """Neither calls nor pings nor streams nor cancels; written with the standard library alone."""
    server, release, entered = WebMeshServer(), threading.Event(), threading.Event()

    @server.on("/sleep")
    def sleep(payload: Any, path: str, client: Any) -> str:
        entered.set()
        while not release.is_set():
            time.sleep(0.01)
        return "slept"

    server.on("/")(lambda payload, path, client: payload)
    server.on("/count")(lambda payload, path, client: iter(range(payload)))
    with connected(server) as client:
        sleeper = client.spawn("/sleep", timeout=PATIENCE)
        assert wait_for(entered.is_set)
        assert list(range(20)) == [client.call("/", number, timeout=PATIENCE) for number in range(20)]
        assert list(range(200)) == list(client.stream("/count", 200, timeout=PATIENCE))
        given_up = client.spawn("/sleep", timeout=PATIENCE)
        given_up.cancel()
        assert not sleeper.done()
        release.set()
        assert "slept" == sleeper.result()


@pytest.mark.row(81)
def test_a_handler_that_sleeps_delays_no_ping() -> None:
    """The peer would think that we are dead."""
    server = WebMeshServer(serializer_type=StandardJsonSerializer)
    release, entered = threading.Event(), threading.Event()

    @server.on("/sleep")
    def sleep(payload: Any, path: str, client: Any) -> None:
        entered.set()
        while not release.is_set():
            time.sleep(0.01)

    with running(server), connect(server.url) as peer:
        peer.send('{"path": "/sleep", "id": 1}')
        assert wait_for(entered.is_set)
        assert peer.ping().wait(PATIENCE)
        release.set()
        assert '{"id":1,"data":null}' == peer.recv(PATIENCE)


def test_sleepers_run_side_by_side() -> None:
    """Thirty handlers that wait for each other all get there."""
    server, barrier = WebMeshServer(), threading.Barrier(30)
    server.on("/")(lambda payload, path, client: barrier.wait(PATIENCE) >= 0)
    with connected(server) as client, WebMeshClient(server.url) as other:
        futures = [one.spawn("/", timeout=PATIENCE) for one in (client, other) for _ in range(15)]
        assert [True] * 30 == [future.result() for future in futures]


# ------------------------------------------------------------- native threads


@pytest.mark.row(81)
def test_a_handler_that_blocks_in_c_delays_no_other_connection() -> None:
    """It has a native thread of its own, in a patched process too."""
    server = WebMeshServer()
    with gate() as held:
        server.on("/block", blocking=True)(held.handler)
        server.on("/", blocking=False)(lambda payload, path, client: NATIVE_THREAD())
        with connected(server) as client, WebMeshClient(server.url) as other:
            blocked = [client.spawn("/block", number, timeout=PATIENCE) for number in range(3)]
            assert wait_for(lambda: len(held.inside) == 3)
            hub = other.call("/", timeout=PATIENCE)
            assert hub == client.call("/", timeout=PATIENCE)
            assert hub not in held.inside
            assert PATCHED is (hub == NATIVE_THREAD())
            assert 3 == len(set(held.inside))
            held.open()
            assert [0, 1, 2] == [future.result() for future in blocked]


@pytest.mark.row(83)
def test_the_thousand_and_first_blocking_call_is_refused_at_once() -> None:
    """While the others wait: 32 run, 968 are queued; all get their answers, and then there is room again."""
    server = WebMeshServer()
    with gate() as held, ExitStack() as opened:
        server.on("/block", blocking=True)(held.handler)
        opened.enter_context(running(server))
        clients = [opened.enter_context(WebMeshClient(server.url)) for _ in range(5)]
        futures = [clients[number % 5].spawn("/block", number, timeout=PATIENCE * 2) for number in range(1000)]
        executor = server._begun.parts.executor
        assert wait_for(lambda: executor.taken == 1000)

        with pytest.raises(Overloaded, match="32 threads are busy and 968 calls wait for one"):
            clients[0].call("/block", timeout=PATIENCE)

        assert 32 == len(held.inside)
        assert not any(future.done() for future in futures)
        held.open()
        assert list(range(1000)) == [future.result() for future in futures]
        assert "again" == clients[0].call("/block", "again", timeout=PATIENCE)
        assert wait_for(lambda: executor.taken == 0)


@pytest.mark.row(67, 83)
@pytest.mark.parametrize("streams", [True, False], ids=["streams", "calls"])
def test_one_peer_leaves_threads_to_the_others(streams: bool) -> None:
    """However many slow calls it makes, and streams that it does not read; its own run one after another."""
    server = WebMeshServer(limits=Limits(threads=4, threads_per_connection=2))

    def unread(payload: Any, path: str, client: Any) -> Iterator[int]:
        held.inside.append(1)
        yield from range(1000)

    with gate() as held:
        server.on("/block", blocking=True)(unread if streams else held.handler)
        server.on("/", blocking=True)(lambda payload, path, client: payload)
        with connected(server) as greedy, WebMeshClient(server.url) as other:
            taken: list[Any] = []
            for number in range(10):
                taken.append(
                    greedy.stream("/block", credit=1) if streams else greedy.spawn("/block", number, timeout=PATIENCE)
                )
            executor = server._begun.parts.executor
            assert wait_for(lambda: executor.taken == 10 and len(held.inside) == 2)
            assert list(range(50)) == [other.call("/", number, timeout=PATIENCE) for number in range(50)]
            assert (10, 2) == (executor.taken, len(held.inside))
            held.open()
            if streams:
                for stream in taken:
                    stream.close()
            else:
                assert list(range(10)) == [future.result() for future in taken]
            assert wait_for(lambda: executor.taken == 0)


@pytest.mark.row(83)
def test_names_are_resolved_while_all_threads_are_busy() -> None:
    """gevent resolves in threads of its own, which are not those of handlers."""
    server = WebMeshServer(limits=Limits(threads=2, thread_queue=1))
    with gate() as held:
        server.on("/block", blocking=True)(held.handler)

        @server.on("/resolve", blocking=False)
        def resolve(payload: str, path: str, client: Any) -> int:
            return len(gevent.socket.getaddrinfo(payload, 80))

        with connected(server) as client:
            blocked = [client.spawn("/block", timeout=PATIENCE) for _ in range(3)]
            assert wait_for(lambda: server._begun.parts.executor.full)
            assert client.call("/resolve", "localhost", timeout=PATIENCE) > 0
            with WebMeshClient(server.url.replace("127.0.0.1", "localhost")) as by_name:
                assert by_name.call("/resolve", "localhost", timeout=PATIENCE) > 0
            held.open()
            for future in blocked:
                future.result()


@pytest.mark.row(83)
def test_a_caller_that_gives_up_in_the_queue_is_not_run() -> None:
    """Its place in the queue is free again; those that a thread has, or is about to take, run to their end."""
    server = WebMeshServer(limits=Limits(threads=1, thread_queue=2))
    with gate() as held:
        server.on("/block", blocking=True)(held.handler)
        with connected(server) as client:
            executor = server._begun.parts.executor
            kept = [client.spawn("/block", "runs", timeout=PATIENCE), client.spawn("/block", "next", timeout=PATIENCE)]
            assert wait_for(lambda: executor.taken == 2)
            given_up = client.spawn("/block", "waits", timeout=PATIENCE)
            assert wait_for(lambda: executor.full)
            given_up.cancel()
            assert wait_for(lambda: not executor.full)
            kept.append(client.spawn("/block", "last", timeout=PATIENCE))
            assert wait_for(lambda: executor.full)
            held.open()
            assert ["runs", "next", "last"] == [future.result() for future in kept]
            assert 3 == len(held.inside)


# ---------------------------------------------------------------------- logging


LOGGING = """
import logging, threading, time
from webmesh import WebMeshClient, WebMeshServer
from webmesh.observability.logs import set_up_logging

handler = set_up_logging("info", "text")
log = logging.getLogger("shop")
server = WebMeshServer()
start = threading.Barrier(4)


@server.on("/thread", blocking=True)
def in_thread(payload, path, client):
    for number in range(100):
        log.info("from thread %d", number)
    return "thread"


@server.on("/greenlet", blocking=False)
def in_greenlet(payload, path, client):
    import gevent

    for number in range(100):
        log.info("from greenlet %d", number)
        gevent.sleep(0)
    return "greenlet"


server.listen(port=0)
server.await_started()
with WebMeshClient(server.url) as client:
    futures = [client.spawn(path, timeout=30) for _ in range(4) for path in ("/thread", "/greenlet")]
    print([future.result() for future in futures])
server.close()
handler.flush()
"""


@MODES
@pytest.mark.row(83, 85)
def test_threads_and_greenlets_log_through_one_handler(patch: str) -> None:
    """Four of each, by the handler that the command line installs; they finish, in both kinds of processes."""
    assert f"{['thread', 'greenlet'] * 4}\n" == run_program(patch + LOGGING)


STANDARD_LOGGING = """
import logging, sys, threading
from webmesh import WebMeshClient, WebMeshServer

logging.basicConfig(level=logging.INFO, stream=sys.stdout, format="%(message)s")
log = logging.getLogger("shop")
server = WebMeshServer()


@server.on("/")
def handler(payload, path, client):
    for number in range(100):
        log.info("line")
    return "done"


server.listen(port=0)
server.await_started()
with WebMeshClient(server.url) as client:
    futures = [client.spawn("/", timeout=30) for _ in range(8)]
    print({future.result() for future in futures})
server.close()
"""


@MODES
@pytest.mark.row(83)
def test_handlers_log_by_the_standard_library(patch: str) -> None:
    """Where they run by default: eight at once, with locks that are made for that kind of process."""
    lines = run_program(patch + STANDARD_LOGGING).splitlines()

    assert 800 == lines.count("line")
    assert "{'done'}" in lines


# ------------------------------------------------------------------ legacy code


LEGACY = """
import sqlite3, threading

from webmesh import WebMeshClient, WebMeshServer


class Accounts:
    '''Knows nothing of WebMesh: blocks, locks, and keeps a connection per thread.'''

    def __init__(self, path):
        self.path, self.local, self.lock = path, threading.local(), threading.Lock()
        self.run("CREATE TABLE IF NOT EXISTS accounts (name TEXT PRIMARY KEY, money INTEGER)")

    def run(self, statement, *values):
        if not hasattr(self.local, "database"):
            self.local.database = sqlite3.connect(self.path, timeout=30, isolation_level=None)
        return self.local.database.execute(statement, values).fetchall()

    def open(self, name, money=0):
        self.run("INSERT INTO accounts VALUES (?, ?)", name, money)

    def pay(self, name, money):
        with self.lock:
            ((before,),) = self.run("SELECT money FROM accounts WHERE name = ?", name)
            self.run("UPDATE accounts SET money = ? WHERE name = ?", before + money, name)
            return before + money

    def balance(self, name):
        ((money,),) = self.run("SELECT money FROM accounts WHERE name = ?", name)
        return money


server = WebMeshServer()
server.mount("/accounts", Accounts("accounts.sqlite"))
server.listen(port=0)
server.await_started()
with WebMeshClient(server.url) as client:
    client.call("/accounts/open", {"name": "a"})
    futures = [client.spawn("/accounts/pay", ["a", 1], timeout=30) for _ in range(200)]
    print(sorted(future.result() for future in futures) == list(range(1, 201)))
    print(client.call("/accounts/balance", {"name": "a"}))
server.close()
"""


@MODES
def test_a_legacy_object_over_a_database_is_served(patch: str, tmp_path: Any) -> None:
    """Its locks hold, whichever mode the process is in: two hundred payments at once, none lost."""
    assert "True\n200\n" == run_program(patch + LEGACY, folder=tmp_path)
