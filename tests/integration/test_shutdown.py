"""Story: a server ends when it is told to, from wherever, whatever its peers and handlers are doing."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import gevent
import pytest
from gevent.socket import create_connection
from websockets.exceptions import ConnectionClosed as PeerClosed
from websockets.sync.client import connect

from tests.processes import ENVIRONMENT, run_program, run_python
from tests.running import NATIVE_SLEEP, PATIENCE, Census, connected, native_threads, running, wait_for
from webmesh.exceptions import (
    Cancelled, ConnectFailed, ConnectionClosed, HandshakeRejected, ReplyLost, TransportError, Unavailable,
)  # fmt: skip
from webmesh.options import Timeouts
from webmesh.testing import RecordingObserver
from webmesh.webmesh_client import WebMeshClient
from webmesh.webmesh_server import WebMeshServer

EACH_PLACE = pytest.mark.parametrize("blocking", [None, True, False], ids=["default", "thread", "greenlet"])
LONG = Timeouts(close=PATIENCE * 6, drain=PATIENCE * 6)
"""So that whatever waits for itself fails its test."""


def catch(function: Callable[..., Any], *args: Any, **options: Any) -> Any:
    """What *function* returns or raises."""
    try:
        return function(*args, **options)
    except Exception as error:
        return error


def stopped(server: WebMeshServer) -> bool:
    return "closed" in repr(server)


# -------------------------------------------------------- from within the server


@pytest.mark.row(92, 93)
@EACH_PLACE
def test_a_handler_closes_its_server(blocking: bool | None) -> None:
    """It returns at once, its own answer is delivered, and then the server ends."""
    census = Census()
    server = WebMeshServer(timeouts=LONG)

    @server.on("/close", blocking=blocking)
    def close(payload: Any, path: str, client: Any) -> str:
        server.close()
        server.close(0)
        return "closing"

    server.listen(port=0)
    server.await_started()
    with WebMeshClient(server.url, session=False) as client:
        assert "closing" == client.call("/close", timeout=PATIENCE)
        assert 4001 == client.connect().wait_closed(PATIENCE).code if client.connected else True
        assert wait_for(lambda: stopped(server))
    server.close()
    assert {} == census.grown()


@pytest.mark.row(93)
@EACH_PLACE
@pytest.mark.parametrize("where", ["plain handler", "middleware", "stream"])
def test_other_code_of_the_program_closes_it(where: str, blocking: bool | None) -> None:
    """Wherever it runs in the server."""
    census = Census()
    server = WebMeshServer(timeouts=LONG)

    def closes(*args: Any) -> Any:
        server.close()
        return args[1](args[0]) if where == "middleware" else None

    def closes_after_an_item(payload: Any, path: str, client: Any) -> Iterator[int]:
        yield 1
        server.close()
        yield 2

    server.on("/", blocking=blocking)(lambda payload, path, client: "answer")
    server.on("/stream", blocking=blocking)(closes_after_an_item)
    server.websocket("/plain", blocking=blocking)(closes)
    if where == "middleware":
        server.middleware(closes)
    server.listen(port=0)
    server.await_started()
    with WebMeshClient(server.url, session=False) as client:
        if where == "plain handler":
            with connect(f"{server.url}/plain") as peer, pytest.raises(PeerClosed):
                peer.recv(PATIENCE)
        elif where == "stream":
            assert [1, 2] == list(client.stream("/stream", timeout=PATIENCE))
        else:
            assert "answer" == client.call("/", timeout=PATIENCE)
        assert wait_for(lambda: stopped(server))
    server.close()
    assert {} == census.grown()


@pytest.mark.row(93)
@pytest.mark.parametrize("event", ["on_connect", "on_disconnect"])
def test_a_callback_closes_it(event: str) -> None:
    """With the connection that it is told of."""
    census = Census()
    server = WebMeshServer(timeouts=LONG)
    getattr(server, event)(lambda *args: server.close())
    server.listen(port=0)
    server.await_started()
    client = WebMeshClient(server.url, session=False)
    connection = client.connect()
    if event == "on_disconnect":
        connection.close()
    connection.wait_closed(PATIENCE)
    assert wait_for(lambda: stopped(server))
    client.close()
    server.close()
    assert {} == census.grown()


@pytest.mark.row(93)
def test_a_handler_of_one_server_closes_another() -> None:
    """That is no end of its own, so it waits for it as anybody does."""
    first, second = WebMeshServer(), WebMeshServer()
    first.on("/")(lambda payload, path, client: (second.close(), stopped(second))[1])
    with connected(second, session=False) as other, connected(first, session=False) as client:
        assert other.connected
        assert client.call("/", timeout=PATIENCE) is True


# ------------------------------------------------------------------- under load


@pytest.mark.row(92)
def test_calls_in_progress_are_answered_and_no_others() -> None:
    """Fifty that run get their answers; those that come meanwhile are told to go elsewhere, and so are new peers."""
    server, entered, release = WebMeshServer(), threading.Semaphore(0), threading.Event()

    @server.on("/slow", blocking=False)
    def slow(payload: int, path: str, client: Any) -> int:
        entered.release()
        while not release.is_set():
            gevent.sleep(0.002)
        return payload

    with running(server), native_threads(1) as spawn:
        client, newcomer = WebMeshClient(server.url, session=False), WebMeshClient(server.url, session=False)
        futures = [client.spawn("/slow", number, timeout=PATIENCE) for number in range(50)]
        for _ in futures:
            assert entered.acquire(timeout=PATIENCE)
        closing = spawn(server.close)
        assert wait_for(lambda: not server.listening)
        assert isinstance(catch(client.call, "/slow", timeout=PATIENCE), Unavailable)
        refused = catch(newcomer.connect)
        assert isinstance(refused, HandshakeRejected) and refused.status == 503 and refused.retry_after == 1
        release.set()
        assert list(range(50)) == [future.result() for future in futures]
        closing.get()
        assert isinstance(catch(newcomer.connect), ConnectFailed)
        client.close()
        newcomer.close()


@pytest.mark.row(92)
def test_every_call_under_load_is_answered_or_refused() -> None:
    """Callers that never pause see nothing but answers, refusals and ends that say what became of the call."""
    server, answered = WebMeshServer(), []
    server.on("/")(lambda payload, path, client: payload)
    outcomes: list[Any] = []

    def ask_on(client: WebMeshClient) -> None:
        number = 0
        while True:
            outcome = catch(client.call, "/", number, timeout=PATIENCE)
            if outcome != number:
                outcomes.append(outcome)
                return
            answered.append(number)
            number += 1

    with running(server), native_threads(4) as spawn:
        clients = [WebMeshClient(server.url, fail_fast=True, session=False) for _ in range(4)]
        asking = [spawn(ask_on, client) for client in clients]
        assert wait_for(lambda: len(answered) > 200)
        server.close()
        for job in asking:
            job.get()
        for client in clients:
            client.close()

    assert 4 == len(outcomes)
    wrong = [one for one in outcomes if not isinstance(one, Unavailable | ReplyLost | TransportError)]
    assert [] == wrong


@pytest.mark.row(92)
@pytest.mark.parametrize("blocking", [True, False], ids=["thread", "greenlet"])
@pytest.mark.parametrize("cancel", ["raise", "never"])
def test_a_handler_that_is_stuck_does_not_hold_up_the_end(cancel: str, blocking: bool) -> None:
    """It is cancelled, or ended, or left behind in its thread; its caller is told."""
    census = Census()
    server, entered, release = WebMeshServer(timeouts=Timeouts(close=0.1)), threading.Event(), threading.Event()

    @server.on("/stuck", blocking=blocking, cancel=cancel)
    def stuck(payload: Any, path: str, client: Any) -> None:
        entered.set()
        while not release.is_set():
            NATIVE_SLEEP(0.005) if blocking else gevent.sleep(0.005)

    with connected(server, session=False) as client:
        future = client.spawn("/stuck", timeout=PATIENCE)
        client.notify("/stuck")
        assert wait_for(entered.is_set)
        server.close(0)
        assert isinstance(catch(future.result), ReplyLost | Cancelled)
        assert () == server.connections
    release.set()
    assert {} == census.grown()


@pytest.mark.row(28, 67, 92)
def test_peers_that_do_not_read_do_not_hold_up_the_end() -> None:
    """A stream into a socket that nobody empties, a plain handler likewise, and one that never answers the close."""
    census = Census()
    server = WebMeshServer(timeouts=Timeouts(close=0.2))

    @server.on("/flood")
    def flood(payload: Any, path: str, client: Any) -> Iterator[str]:
        while True:
            yield "x" * 65536

    @server.websocket("/flood")
    def plain_flood(connection: Any) -> None:
        while True:
            connection.send(b"x" * 65536)

    upgrade = (
        "Host: localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
        "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n"
    )
    request = b'{"path":"/flood","id":1}'
    with running(server):
        peers = [create_connection(("127.0.0.1", server.port)) for _ in range(3)]
        peers[0].sendall(f"GET / HTTP/1.1\r\n{upgrade}Sec-WebSocket-Protocol: webmesh.v1.json\r\n\r\n".encode())
        peers[0].sendall(bytes([0x81, 0x80 | len(request), 0, 0, 0, 0]) + request)
        peers[1].sendall(f"GET /flood HTTP/1.1\r\n{upgrade}\r\n".encode())
        peers[2].sendall(f"GET / HTTP/1.1\r\n{upgrade}\r\n".encode())
        assert wait_for(lambda: len(server.connections) == 3)
        assert wait_for(lambda: sum(one._stream.queued > 100_000 for one in server.connections) == 2)
        server.close(0.1)
        assert () == server.connections
        for peer in peers:
            peer.close()
    assert {} == census.grown()


def test_silent_newcomers_do_not_hold_up_the_end() -> None:
    """Connected, and no request yet."""
    server = WebMeshServer(timeouts=LONG)
    with running(server):
        newcomers = [create_connection(("127.0.0.1", server.port)) for _ in range(5)]
        assert wait_for(lambda: server._begun.listener.newcomers == 5)
        server.close()
        for newcomer in newcomers:
            assert b"" == newcomer.recv(100)
            newcomer.close()


@pytest.mark.row(92)
def test_the_address_is_free_again() -> None:
    """At once, for the next process."""
    first = WebMeshServer()
    with connected(first, session=False) as client:
        client.call("$info", timeout=PATIENCE)
        port = first.port
        first.close()
        with running(WebMeshServer(), port=port):
            assert client.call("$info", timeout=PATIENCE)


# ----------------------------------------------------------------------- signals


SERVE = """
import os, signal, sys, threading, time
from webmesh import WebMeshServer

server = WebMeshServer()
entered = threading.Event()


@server.on("/slow")
def slow(payload, path, client):
    client.notify("/entered")
    time.sleep(0.2)
    return "finished"


def stop(number, frame):
    os.write(1, b"signal\\n")  # print is not for handlers that interrupt each other
    server.close()


{install}
server.listen(port=0)
server.await_started()
print(server.url, flush=True)
try:
    server.serve_forever()
except KeyboardInterrupt:
    print("interrupted")
print(server)
"""
MODES = pytest.mark.parametrize("before", [(), ("-m", "gevent.monkey")], ids=["plain", "patched"])


@contextmanager
def serving_process(before: tuple[str, ...], install: str, folder: Any) -> Iterator[tuple[Any, str]]:
    script = folder / "serve.py"
    script.write_text(SERVE.format(install=install))
    process = subprocess.Popen(
        [sys.executable, *before, str(script)], env=ENVIRONMENT, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    try:
        assert process.stdout is not None
        yield process, process.stdout.readline().strip()
    finally:
        process.kill()
        process.communicate()


@MODES
@pytest.mark.row(91, 92)
@pytest.mark.parametrize("times", [1, 3])
def test_a_signal_handler_closes_the_server(before: tuple[str, ...], times: int, tmp_path: Any) -> None:
    """As programs do: it runs in the middle of anything. The call in progress is answered, the process ends with 0."""
    install = "for number in (signal.SIGTERM, signal.SIGINT): signal.signal(number, stop)"
    with serving_process(before, install, tmp_path) as (process, url):
        client, entered = WebMeshClient(url, session=False), threading.Event()
        client.on("/entered")(lambda payload, path, connection: entered.set())
        future = client.spawn("/slow", timeout=PATIENCE)
        assert wait_for(entered.is_set)
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGTERM)[:times]:
            process.send_signal(number)
        assert "finished" == future.result()
        client.close()
        printed, errors = process.communicate(timeout=PATIENCE)
    assert ("", 0) == (errors, process.returncode)
    assert printed.endswith("<WebMeshServer closed>\n")


@MODES
@pytest.mark.row(91)
def test_an_interrupt_ends_serve_forever(before: tuple[str, ...], tmp_path: Any) -> None:
    """Ctrl-C without any handler: the server has closed when the exception reaches the program."""
    with serving_process(before, "", tmp_path) as (process, url):
        with WebMeshClient(url, session=False) as client:
            client.call("$info", timeout=PATIENCE)
            process.send_signal(signal.SIGINT)
            assert 4001 == client.connect().wait_closed(PATIENCE).code if client.connected else True
        printed, errors = process.communicate(timeout=PATIENCE)
    assert "interrupted\n<WebMeshServer closed>\n" == printed
    assert 0 == process.returncode, errors


ELSEWHERE = """
import os, signal, threading
from webmesh import WebMeshServer

server = WebMeshServer()
signal.signal(signal.SIGTERM, lambda number, frame: server.close())
server.listen(port=0)
server.await_started()
threading.Timer(0.2, lambda: signal.pthread_kill(ident(), signal.SIGTERM)).start()
server.serve_forever()
print(server)
"""


@pytest.mark.row(91)
@pytest.mark.parametrize("mode", ["plain", "patched"])
def test_a_signal_that_another_thread_takes_is_handled_all_the_same(mode: str) -> None:
    """As the kernel likes to do when several come in a row; the main thread, which waits, is not woken by it."""
    patch = "from gevent import monkey; monkey.patch_all()\n" if mode == "patched" else ""
    taken_by = "from gevent.monkey import get_original\nident = get_original('_thread', 'get_ident')\n"
    assert "<WebMeshServer closed>\n" == run_program(patch + taken_by + ELSEWHERE)


@pytest.mark.patched
@pytest.mark.row(91)
def test_a_signal_handler_may_interrupt_any_greenlet_of_ours() -> None:
    """In a patched process it runs on top of whatever runs: it must not wait there for that to end."""
    class Interrupted(RecordingObserver):
        def connection_closed(self, connection: object, code: int, reason: str) -> None:
            os.kill(os.getpid(), signal.SIGUSR1)

    server = WebMeshServer(timeouts=LONG, observer=Interrupted())
    before = signal.signal(signal.SIGUSR1, lambda number, frame: server.close())
    try:
        server.listen(port=0)
        server.await_started()
        client = WebMeshClient(server.url, session=False)
        connection = client.connect()
        assert wait_for(lambda: server.connections)
        # The observer is told of the end in the greenlet that reads.
        connection.close()
        assert wait_for(lambda: stopped(server))
        client.close()
    finally:
        signal.signal(signal.SIGUSR1, before)


# -------------------------------------------------------------------------- forks


FORK = """
import os, sys, threading, time
from webmesh import LocalProtocolError, WebMeshClient, WebMeshServer

served = []
server = WebMeshServer()


@server.on("/")
def handler(payload, path, client):
    served.append(payload)
    return os.getpid()


@server.on("/slow")
def slow(payload, path, client):
    client.notify("/entered")
    time.sleep(0.1)
    print("slow", os.getpid() == parent, flush=True)


server.listen(port=0)
server.await_started()
client = WebMeshClient(server.url, session=False)
entered = threading.Event()
client.on("/entered")(lambda payload, path, connection: entered.set())
parent = os.getpid()
assert client.call("/", 1) == parent
under_way = client.spawn("/slow")
entered.wait(10)

child = os.fork()
if child == 0:
    refused = 0
    uses = [
        lambda: client.call("/"), lambda: client.notify("/"), lambda: client.connect().call("/"),
        lambda: server.await_started() or server.connections[0].notify("/"),
    ]
    for use in uses:
        try:
            use()
        except LocalProtocolError as error:
            refused += "fork" in str(error)
    client.close()
    server.close()
    {linger}
    print("child refused", refused, "served", len(served), flush=True)
    own = WebMeshServer()
    own.on("/")(lambda payload, path, client: "own")
    own.listen(port=0)
    own.await_started()
    with WebMeshClient(own.url, session=False) as mine:
        print("child own", mine.call("/", timeout=10), flush=True)
    own.close()
    os._exit(0)

answers = {{client.call("/", number, timeout=10) for number in range(200)}}
for _ in range(20):
    with WebMeshClient(server.url, session=False) as other:
        answers.add(other.call("/", 0, timeout=10))
_, status = os.waitpid(child, 0)
under_way.result(10)
answers.add(client.call("/", 1, timeout=10))
client.close()
server.close()
print("parent", answers == {{parent}}, status, flush=True)
"""
LINGER = {
    "plain": "import time; time.sleep(0.2)",
    "patched": "import gevent; gevent.sleep(0.2)",
}


@pytest.mark.row(88)
@pytest.mark.parametrize("mode", ["plain", "patched"])
def test_a_forked_child_can_neither_use_nor_disturb_what_its_parent_made(mode: str) -> None:
    """It is told so, however long it lives, and may make its own; every call of the parent is the parent's."""
    patch = "from gevent import monkey; monkey.patch_all()\n" if mode == "patched" else ""
    lines = run_program(patch + FORK.format(linger=LINGER[mode])).splitlines()

    assert ["child own own", "child refused 4 served 1", "parent True 0", "slow True"] == sorted(lines)


QUIET_CHILD = """
import os, sys
os.dup2(1, 2)
from webmesh import WebMeshClient, WebMeshServer

server = WebMeshServer()
server.on("/", blocking=False)(lambda payload, path, peer: payload)
server.listen(port=0)
server.await_started()
client = WebMeshClient(server.url)
client.call("/")
child = os.fork()
if child == 0:
    other = WebMeshClient(server.url)
    print(other.call("/", "child", timeout=10))
    other.close()
    sys.exit()
_, status = os.waitpid(child, 0)
print(client.call("/", "parent", timeout=10), status)
client.close()
server.close()
"""


@pytest.mark.row(88)
@pytest.mark.parametrize("mode", ["plain", "patched"])
def test_the_end_of_a_forked_child_is_quiet(mode: str) -> None:
    """What ends there with the hub is the parent's, and no failure."""
    patch = "from gevent import monkey; monkey.patch_all()\n" if mode == "patched" else ""
    assert "child\nparent 0\n" == run_program(patch + QUIET_CHILD)


LATE_CHILD = """
import os, socket, sys, time
from webmesh import WebMeshServer

server = WebMeshServer()
server.listen(port=0)
server.await_started()
port = server.port
ready, told = os.pipe()
child = os.fork()
if child == 0:
    os.write(told, b"x")
    time.sleep(30)
    os._exit(0)
os.read(ready, 1)
server.close()
again = WebMeshServer()
again.listen(port=port)
again.await_started()
again.close()
os.kill(child, 9)
print("free")
"""


@pytest.mark.row(88)
@pytest.mark.parametrize("mode", ["plain", "patched"])
def test_a_forked_child_does_not_keep_the_port(mode: str) -> None:
    """A worker that outlives the server would otherwise hold its address, and clients would hang there."""
    patch = "from gevent import monkey; monkey.patch_all()\n" if mode == "patched" else ""
    assert "free\n" == run_program(patch + LATE_CHILD)


def test_a_closed_server_and_client_can_be_left_to_a_child() -> None:
    """Nothing of theirs is there any more."""
    server = WebMeshServer()
    with connected(server, session=False) as client:
        client.call("$info", timeout=PATIENCE)
    with pytest.raises(ConnectionClosed):
        client.call("$info")
    child = os.fork()
    if child == 0:
        os._exit(0 if stopped(server) and isinstance(catch(client.call, "/"), ConnectionClosed) else 1)
    assert (child, 0) == os.waitpid(child, 0)


PROCESSES = """
import multiprocessing, subprocess
from webmesh import LocalProtocolError, WebMeshClient, WebMeshServer

client = None


def child(told):
    try:
        told.put("nothing inherited" if client is None else client.call("/"))
    except LocalProtocolError as error:
        told.put("refused" if "fork" in str(error) else str(error))


if __name__ == "__main__":
    server = WebMeshServer()
    server.on("/")(lambda payload, path, client: subprocess.run(["echo", "run"], capture_output=True, text=True).stdout)
    server.listen(port=0)
    server.await_started()
    client = WebMeshClient(server.url)
    print(client.call("/"), end="")
    for method in ("fork", "spawn"):
        context = multiprocessing.get_context(method)
        told = context.Queue()
        process = context.Process(target=child, args=(told,))
        process.start()
        print(method, told.get(timeout=20))
        process.join(20)
        print(process.exitcode)
    print(client.call("/"), end="")
    client.close()
    server.close()
    print(server.drained)
"""


@pytest.mark.row(88)
def test_multiprocessing_and_subprocess_work_beside_a_server(tmp_path: Any) -> None:
    """A child by fork is told that it cannot use what it inherited, one by spawn has inherited nothing."""
    (tmp_path / "processes.py").write_text(PROCESSES)
    printed = run_python("processes.py", folder=tmp_path).stdout
    assert ["run", "fork refused", "0", "spawn nothing inherited", "0", "run", "True"] == printed.splitlines()
