"""Story: servers die, restart, drain and refuse, and a client deals with it, as docs/CLIENT.md says."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import gevent
import pytest
from gevent.server import StreamServer

from tests.processes import ENVIRONMENT
from tests.running import PATIENCE, Census, connected, native_threads, running, wait_for
from webmesh import known_routes
from webmesh.exceptions import (
    ConnectFailed, HandshakeRejected, LinkRefused, ReplyLost, TransportError, Unavailable,
)  # fmt: skip
from webmesh.link_states import LinkEvent
from webmesh.options import Backoff, Timeouts
from webmesh.testing import FaultProxy, RecordingObserver
from webmesh.webmesh_client import WebMeshClient
from webmesh.webmesh_server import WebMeshServer

QUICK = Backoff(first=0.02, maximum=0.1)

PROGRAM = """
import os, sys, time
from webmesh import WebMeshServer

server = WebMeshServer()
server.on("/pid", idempotent=True)(lambda payload, path, client: os.getpid())
server.on("/sleep")(lambda payload, path, client: time.sleep(payload))
server.listen(port=int(sys.argv[1]))
server.await_started()
print(server.port, flush=True)
sys.stdin.read()
"""


class Process:
    """A server in a process of its own, that can be killed."""

    def __init__(self, port: int = 0) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-c", PROGRAM, str(port)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=ENVIRONMENT, text=True,
        )  # fmt: skip
        assert self._process.stdout is not None
        self.port = int(self._process.stdout.readline())
        self.pid = self._process.pid
        self.url = f"ws://127.0.0.1:{self.port}"

    def send(self, number: signal.Signals) -> None:
        self._process.send_signal(number)

    def kill(self) -> None:
        """As by `kill -9`: no goodbye, no close frame."""
        self._process.kill()
        self._process.wait(PATIENCE)
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                pipe.close()


@contextmanager
def processes(*ports: int) -> Iterator[list[Process]]:
    """Servers; whoever starts another one appends it."""
    all_of_them = [Process(port) for port in ports]
    try:
        yield all_of_them
    finally:
        for process in all_of_them:
            process.kill()


@contextmanager
def client_of(url: Any, **options: Any) -> Iterator[tuple[WebMeshClient, list[LinkEvent]]]:
    """A client that comes back quickly, and what it told of its link."""
    client, events = WebMeshClient(url, **({"backoff": QUICK} | options)), []
    client.on_state(events.append)
    try:
        yield client, events
    finally:
        client.close()


def states(events: list[LinkEvent]) -> list[str]:
    return [event.state for event in events]


def catch(function: Callable[..., Any], *args: Any, **options: Any) -> Any:
    try:
        return function(*args, **options)
    except Exception as error:
        return error


# ---------------------------------------------------------------- killed servers


@pytest.mark.row(70)
def test_a_server_that_is_killed_and_restarted_under_calls() -> None:
    """Idempotent calls see nothing of it; one that may have run and must not twice ends at once, and says so."""
    observer = RecordingObserver()
    with processes(0) as servers, client_of(servers[0].url, observer=observer) as (client, events):
        pids: list[int] = []
        stop = threading.Event()

        def ask() -> None:
            while not stop.is_set():
                pids.append(client.call("/pid", idempotent=True, timeout=PATIENCE * 2))

        with native_threads(4) as spawn:
            asking = [spawn(ask) for _ in range(3)]
            sleeping = spawn(partial(catch, client.call, "/sleep", PATIENCE * 3, timeout=PATIENCE * 4))
            assert wait_for(lambda: len(pids) > 100)
            servers[0].kill()
            lost = sleeping.get()
            servers.append(Process(servers[0].port))
            assert wait_for(lambda: servers[1].pid in pids)
            stop.set()
            for job in asking:
                job.get()

    assert isinstance(lost, ReplyLost)
    assert lost.started
    assert {servers[0].pid, servers[1].pid} == set(pids)
    assert ["connecting", "connected", "lost", "waiting"] == states(events)[:4]
    assert "connected" in states(events)[4:]
    assert {"reply lost", "not sent"} >= {reason for _, reason in observer.named("call_retried")}


@pytest.mark.row(70)
def test_a_server_that_is_stopped_is_found_by_its_silence() -> None:
    """Its kernel still answers; it does not. When it goes on, the client is there again."""
    timeouts = Timeouts(ping_interval=0.1, liveness=0.4, connect=1)
    with processes(0) as servers, client_of(servers[0].url, timeouts=timeouts) as (client, events):
        client.connect()
        servers[0].send(signal.SIGSTOP)
        assert wait_for(lambda: "closed with 4012" in [event.reason for event in events])
        servers[0].send(signal.SIGCONT)
        assert servers[0].pid == client.call("/pid", timeout=PATIENCE)


def test_a_second_address_takes_over() -> None:
    """At once, and it is the first one asked from then on."""
    with processes(0, 0) as servers:
        first, second = servers
        with client_of([first.url, second.url]) as (client, events):
            assert first.pid == client.call("/pid", timeout=PATIENCE)
            first.kill()
            assert second.pid == client.call("/pid", timeout=PATIENCE, idempotent=True)
            assert [first.url, second.url] == [event.url for event in events if event.state == "connected"]
            servers.append(Process(first.port))
            assert wait_for(lambda: client.connected)
            client.connect().abort()
            assert second.pid == client.call("/pid", timeout=PATIENCE, idempotent=True)


def test_a_client_may_be_there_before_its_server() -> None:
    """Its calls wait; no order of starting is needed."""
    with processes(0) as servers:
        port = servers[0].port
        servers[0].kill()
        with client_of(f"ws://127.0.0.1:{port}") as (client, events), native_threads(1) as spawn:
            early = spawn(partial(client.call, "/pid", timeout=PATIENCE))
            assert wait_for(lambda: "waiting" in states(events))
            servers.append(Process(port))
            assert servers[1].pid == early.get()


def test_calls_end_within_their_time_where_no_server_comes() -> None:
    """And say that nothing was sent; who does not want to wait does not."""
    with processes(0) as servers:
        servers[0].kill()
        with client_of(servers[0].url) as (client, _):
            with pytest.raises(ConnectFailed, match=r"no connection within 0\.1 s.*Connection refused"):
                client.call("/pid", timeout=0.1)
            with pytest.raises(ConnectFailed, match="there is no connection now"):
                client.call("/pid", fail_fast=True)
            assert isinstance(catch(client.notify, "/pid", fail_fast=True), ConnectFailed)
        with client_of(servers[0].url, fail_fast=True) as (client, _), pytest.raises(ConnectFailed):
            client.call("/pid")


# --------------------------------------------------------------- servers that refuse


@contextmanager
def answering(*answers: bytes) -> Iterator[tuple[str, list[int]]]:
    """A server that gives the nth connection the nth answer, the last one for ever; and what it was asked."""
    asked: list[int] = []

    def handle(sock: Any, address: object) -> None:
        head = b""
        while b"\r\n\r\n" not in head and (piece := sock.recv(4096)):
            head += piece
        if head:
            asked.append(1)
            sock.sendall(answers[min(len(asked), len(answers)) - 1])

    server = StreamServer(("127.0.0.1", 0), handle)
    server.start()
    try:
        yield f"ws://127.0.0.1:{server.server_port}", asked
    finally:
        server.stop()


def response(status: str, *headers: str) -> bytes:
    return "\r\n".join([f"HTTP/1.1 {status}", "Content-Length: 0", *headers, "", ""]).encode()


@pytest.mark.parametrize("status", ["401 Unauthorized", "403 Forbidden"])
def test_a_refused_login_is_not_tried_again(status: str) -> None:
    """However many calls there are: an endless login loop locks accounts. `connect` is the program's own decision."""
    with answering(response(status)) as (url, asked), client_of(url) as (client, events):
        for _ in range(5):
            with pytest.raises(LinkRefused) as caught:
                client.call("/", timeout=PATIENCE)
            assert int(status[:3]) == caught.value.status
            assert isinstance(caught.value.__cause__, HandshakeRejected)
        assert wait_for(lambda: "gave_up" in states(events))
        assert (1, "gave_up") == (len(asked), client.state)
        with pytest.raises(HandshakeRejected):
            client.connect()
        assert 2 == len(asked)


def test_a_client_that_is_kicked_stays_away() -> None:
    """Close codes from 4500 on are final, also for those who wait at that moment."""
    server = WebMeshServer()
    opened: list[Any] = []
    server.on_connect(opened.append)
    server.on("/kick")(lambda payload, path, client: client.close(4503, "kicked", timeout=0))
    with running(server), client_of(server.url) as (client, events):
        assert isinstance(catch(client.call, "/kick", timeout=PATIENCE), ReplyLost)
        with pytest.raises(LinkRefused, match="4503") as caught:
            client.call("/kick", timeout=PATIENCE)
        assert 4503 == caught.value.code
        assert wait_for(lambda: "gave_up" in states(events))
        assert 1 == len(opened)
        assert client.connect().open


@pytest.mark.row(76)
def test_a_delay_that_the_server_asks_for_is_obeyed() -> None:
    """`Retry-After` of a 503 is the least that the client waits."""
    refusal = response("503 Service Unavailable", "Retry-After: 1")
    with answering(refusal) as (url, asked), client_of(url) as (client, events), native_threads(1) as spawn:
        waiting = spawn(partial(catch, client.call, "/", timeout=PATIENCE))
        assert wait_for(lambda: len(asked) == 2)
        delays = [event.delay for event in events if event.delay is not None]
        assert 1 <= delays[0] <= 2
        client.close()
        assert isinstance(waiting.get(), TransportError)


def test_it_gives_up_after_the_time_that_the_program_set() -> None:
    """And tells those who call, at once."""
    with processes(0) as servers:
        servers[0].kill()
        backoff = Backoff(first=0.01, maximum=0.02, give_up_after=0.1)
        with client_of(servers[0].url, backoff=backoff) as (client, events):
            with pytest.raises(ConnectFailed, match="given up"):
                client.call("/pid", timeout=PATIENCE)
            assert wait_for(lambda: "gave_up" == states(events)[-1])


# ------------------------------------------------------------------- the network


@pytest.mark.row(71)
def test_a_network_that_resets_everything_leaves_nothing_behind() -> None:
    """Twenty cuts under load, wherever they fall: typed errors or answers, and afterwards nothing is left."""
    server = WebMeshServer()
    server.on("/", blocking=False)(lambda payload, path, client: payload)
    with running(server):
        census = Census()
        with FaultProxy(server) as proxy, client_of(proxy.url) as (client, _), native_threads(3) as spawn:
            outcomes: list[Any] = []
            stop = threading.Event()

            def ask(number: int) -> None:
                while not stop.is_set():
                    outcomes.append((number, catch(client.call, "/", number, timeout=PATIENCE, idempotent=True)))

            asking = [spawn(ask, number) for number in range(3)]
            for _ in range(20):
                before = len(outcomes)
                proxy.reset()
                assert wait_for(lambda before=before: len(outcomes) > before + 3)
            stop.set()
            for job in asking:
                job.get()
        wrong = [outcome for number, outcome in outcomes if outcome != number]
        assert [] == [error for error in wrong if not isinstance(error, ReplyLost | TransportError)]
        assert len(outcomes) - len(wrong) > 20
        assert {} == census.grown()


@pytest.mark.row(69, 74)
def test_a_reply_that_is_lost_after_the_work_was_done() -> None:
    """With a key the work is done once and its caller gets the reply all the same; without one it is told."""
    ran: list[Any] = []
    server = WebMeshServer()

    @server.on("/pay")
    def pay(payload: Any, path: str, client: Any) -> str:
        ran.append(payload)
        if len(ran) == 1 or payload == "plain":
            client.abort()
        return f"paid {payload}"

    with running(server), client_of(server.url) as (client, _):
        assert "paid keyed" == client.call("/pay", "keyed", idempotency_key=True, timeout=PATIENCE)
        assert ["keyed"] == ran
        lost = catch(client.call, "/pay", "plain", timeout=PATIENCE)
        assert isinstance(lost, ReplyLost)
        assert lost.started
        assert ["keyed", "plain"] == ran
        ran.clear()
        future = client.spawn("/pay", "spawned", idempotency_key="order 7", timeout=PATIENCE)
        assert "paid spawned" == future.result()
        assert ["spawned"] == ran


@pytest.mark.row(74)
def test_routes_tell_whether_their_calls_may_be_sent_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a word of the caller's, once the client has learnt them; `idempotent=False` overrules them."""
    monkeypatch.setattr(known_routes, "LEARN_AFTER", 0.001)
    ran: list[str] = []
    server = WebMeshServer()

    def once_lost(payload: Any, path: str, client: Any) -> int:
        ran.append(path)
        if len(ran) == 1:
            client.abort()
        return len(ran)

    server.on("/read", idempotent=True)(once_lost)
    server.on("/write")(once_lost)
    server.on("/ready", blocking=False)(lambda payload, path, client: None)
    with running(server), client_of(server.url) as (client, _):
        client.call("/ready", timeout=PATIENCE)
        assert wait_for(lambda: client._attempts._routes.idempotent("/read"))
        assert 2 == client.call("/read", timeout=PATIENCE)
        for options, path in (({}, "/write"), ({"idempotent": False}, "/read")):
            ran.clear()
            assert isinstance(catch(client.call, path, timeout=PATIENCE, **options), ReplyLost)
            assert [path] == ran
        ran.clear()
        assert 2 == client.spawn("/read", timeout=PATIENCE).result()


def test_a_server_without_room_is_asked_again() -> None:
    """After the delay that it asks for, within the call's own time."""
    asked: list[float] = []
    observer = RecordingObserver()
    server = WebMeshServer()

    @server.on("/busy", blocking=False)
    def busy(payload: Any, path: str, client: Any) -> str:
        asked.append(time.monotonic())
        if len(asked) < 3:
            raise Unavailable("not now", retry_after=0.05)
        return "done"

    with running(server), client_of(server.url, observer=observer) as (client, _):
        assert "done" == client.call("/busy", idempotent=True, timeout=PATIENCE)
        assert [("/busy", "unavailable")] * 2 == observer.named("call_retried")
        assert all(later - earlier >= 0.05 for earlier, later in zip(asked, asked[1:], strict=False))
        asked.clear()
        assert isinstance(catch(client.call, "/busy", timeout=PATIENCE), Unavailable)


@pytest.mark.row(73)
def test_a_future_that_is_cancelled_between_two_attempts_sends_nothing_more() -> None:
    """Nobody wants the answer."""
    asked: list[int] = []
    server = WebMeshServer()

    @server.on("/busy", blocking=False)
    def busy(payload: Any, path: str, client: Any) -> None:
        asked.append(1)
        raise Unavailable("not now", retry_after=PATIENCE / 2)

    with running(server), client_of(server.url) as (client, _):
        future = client.spawn("/busy", idempotent=True, timeout=PATIENCE)
        assert wait_for(lambda: asked)
        future.cancel()
        late = client.spawn("/busy", idempotent=True, timeout=PATIENCE / 4)
        assert isinstance(catch(late.result), Unavailable)
    assert 2 == len(asked)


# ------------------------------------------------------------------------ draining


@pytest.mark.row(92)
def test_a_server_that_drains_sends_its_clients_elsewhere_without_a_failed_call() -> None:
    """What is open ends where it is, what is new goes to the alternate."""
    names = ["first", "second"]
    servers = [WebMeshServer(), WebMeshServer()]
    for name, server in zip(names, servers, strict=True):
        server.on("/name", blocking=False)(lambda payload, path, client, name=name: name)
        server.on("/slow", blocking=False)(lambda payload, path, client, name=name: gevent.sleep(0.3) or name)
    first, second = servers
    with running(second), running(first), client_of(first.url) as (client, events), native_threads(1) as spawn:
        client.call("$hello", {"node": {"id": "x"}}, timeout=PATIENCE)
        answers: list[Any] = []

        def ask() -> None:
            while "second" not in answers:
                answers.append(catch(client.call, "/name", timeout=PATIENCE))

        slow = client.spawn("/slow", timeout=PATIENCE)
        asking = spawn(ask)
        assert wait_for(lambda: answers)
        first.close(alternates=[second.url])
        asking.get()
        assert "first" == slow.result()
        assert set(names) == set(answers)
        assert second.url == [event.url for event in events if event.state == "connected"][-1]
        assert "lost" not in states(events)


@pytest.mark.row(92)
def test_a_spawned_call_that_a_draining_server_does_not_begin_runs_elsewhere() -> None:
    """As one that is waited for: nothing has come of it, so whatever it is it can do no harm."""
    servers = [WebMeshServer(), WebMeshServer()]
    for name, server in zip(["first", "second"], servers, strict=True):
        server.on("/name", blocking=False)(lambda payload, path, client, name=name: name)
    first, second = servers
    entered, release = threading.Event(), threading.Event()

    @first.on("/slow")
    def slow(payload: Any, path: str, client: Any) -> None:
        entered.set()
        release.wait(PATIENCE)

    observer = RecordingObserver()
    with running(second), connected(first, session=False, retries=None) as probe:
        client = WebMeshClient([first.url, second.url], session=False, observer=observer, backoff=QUICK)
        running_call = client.spawn("/slow", timeout=PATIENCE)
        assert wait_for(entered.is_set)
        with native_threads(1) as spawn:
            closing = spawn(first.close, PATIENCE)
            assert wait_for(lambda: isinstance(catch(probe.call, "/name"), Unavailable))
            late = client.spawn("/name", timeout=PATIENCE)
            retried = wait_for(lambda: ("/name", "not started") in observer.named("call_retried"))
            release.set()
            assert retried
            assert "second" == late.result()
            assert None is running_call.result()
            closing.get()
        client.close()


def test_a_server_that_drains_and_comes_back_is_waited_for() -> None:
    """It is the only one: calls made meanwhile wait for it."""
    def server() -> WebMeshServer:
        server = WebMeshServer()
        server.on("/", blocking=False)(lambda payload, path, client: payload)
        return server

    with running(server()) as first, client_of(first.url) as (client, events), native_threads(1) as spawn:
        client.call("/", timeout=PATIENCE)
        first.close()
        early = spawn(partial(client.call, "/", 1, timeout=PATIENCE))
        assert wait_for(lambda: "waiting" in states(events))
        with running(server(), port=first.port):
            assert 1 == early.get()


# -------------------------------------------------------------------------- states


def test_a_function_for_states_may_block_and_call() -> None:
    """It is not run by the connection's own greenlet."""
    server = WebMeshServer()
    server.on("/", blocking=False)(lambda payload, path, client: payload)
    with running(server):
        client = WebMeshClient(server.url, backoff=QUICK)
        told: list[Any] = []

        @client.on_state
        def function(event: LinkEvent) -> None:
            if event.state == "connected":
                told.append(client.call("/", "from a function", timeout=PATIENCE))

        assert "idle" == client.state
        client.connect()
        assert "connected" == client.state
        assert wait_for(lambda: told)
        client.connect().abort()
        assert wait_for(lambda: len(told) == 2)
        client.close()
        assert "closed" == client.state


def test_many_clients_of_a_server_that_dies_are_all_back() -> None:
    """Each by itself, without a call, and nobody in between gives up."""
    server = WebMeshServer()
    with running(server):
        with FaultProxy(server) as proxy:
            clients = [WebMeshClient(proxy.url, backoff=QUICK) for _ in range(20)]
            for client in clients:
                client.connect()
            before = [client.connect() for client in clients]
            proxy.reset()
            assert wait_for(lambda: all(not connection.open for connection in before))
            assert wait_for(lambda: all(client.connected for client in clients))
            for client in clients:
                client.close()


def test_with_reconnecting_off_nothing_happens_in_the_background() -> None:
    """The next use dials, once."""
    server = WebMeshServer()
    server.on("/", blocking=False)(lambda payload, path, client: payload)
    with connected(server, reconnect=False) as client:
        client.connect().abort()
        assert wait_for(lambda: client.state == "lost")
        assert 1 == client.call("/", 1, timeout=PATIENCE)
