"""Story: one client serves a whole program, whichever of its threads and greenlets ask."""

from __future__ import annotations

import threading
from typing import Any

import gevent
import pytest

from tests.processes import run_program, run_python
from tests.running import PATIENCE, connected, native_threads, running, wait_for
from webmesh.exceptions import RequestTimeout
from webmesh.message_serializers import StandardJsonSerializer
from webmesh.webmesh_client import WebMeshClient
from webmesh.webmesh_server import WebMeshServer

PATCH = "from gevent import monkey; monkey.patch_all()\n"
MODES = pytest.mark.parametrize("patch", ["", PATCH], ids=["plain", "patched"])


def service() -> WebMeshServer:
    server = WebMeshServer()
    server.on("/")(lambda payload, path, client: payload)
    server.on("/count")(lambda payload, path, client: iter(range(payload)))
    return server


def many_uses(client: WebMeshClient, who: str) -> list[Any]:
    """Everything that can be asked, several times."""
    answers: list[Any] = []
    for number in range(20):
        answers.append(client.call("/", [who, number], timeout=PATIENCE))
        future = client.spawn("/", [who, -number], timeout=PATIENCE)
        client.notify("/", None)
        if number % 5 == 0:
            answers.append(list(client.stream("/count", 30, credit=4, timeout=PATIENCE)))
        answers.append(future.result())
    return answers


def expected_of(who: str) -> list[Any]:
    answers: list[Any] = []
    for number in range(20):
        answers.append([who, number])
        if number % 5 == 0:
            answers.append(list(range(30)))
        answers.append([who, -number])
    return answers


@pytest.mark.row(89, 94)
@pytest.mark.parametrize("serializer", [None, StandardJsonSerializer])
def test_native_threads_and_greenlets_share_a_client(serializer: Any) -> None:
    """Each gets its own answers, over one connection; frames never mix."""
    options = {} if serializer is None else {"serializer_type": serializer}
    server = service()
    with connected(server, **options) as client, native_threads(6) as spawn:
        jobs = {f"thread {n}": spawn(many_uses, client, f"thread {n}") for n in range(6)}
        jobs |= {f"greenlet {n}": gevent.spawn(many_uses, client, f"greenlet {n}") for n in range(6)}
        for who, job in jobs.items():
            assert expected_of(who) == job.get()
        assert 1 == len(server.connections)


@pytest.mark.row(89)
def test_a_future_is_waited_for_by_anybody() -> None:
    """Made here, waited for in threads and greenlets, all at once."""
    server, release = WebMeshServer(), threading.Event()
    server.on("/")(lambda payload, path, client: release.wait(PATIENCE) and payload)
    with connected(server) as client, native_threads(4) as spawn:
        future = client.spawn("/", 7, timeout=PATIENCE)
        waiting = [spawn(future.result) for _ in range(4)] + [gevent.spawn(future.result) for _ in range(4)]
        assert not future.done()
        release.set()
        assert [7] * 8 == [job.get() for job in waiting]


@pytest.mark.row(89)
def test_a_stream_is_read_in_one_thread_and_fed_from_another() -> None:
    """And its end is asked for in a third."""
    server = WebMeshServer()

    @server.on("/")
    def double(payload: Any, path: str, client: Any) -> Any:
        from webmesh.call import current_call

        for item in current_call().items:
            yield 2 * item
        return "done"

    with connected(server) as client, native_threads(2) as spawn:
        stream = client.stream("/", items=True, credit=2, timeout=PATIENCE)

        def feed() -> None:
            for number in range(200):
                stream.send(number)
            stream.end()

        feeding, reading = spawn(feed), spawn(list, stream)
        assert [2 * number for number in range(200)] == reading.get()
        feeding.get()
        assert "done" == stream.result


@pytest.mark.row(89)
@pytest.mark.parametrize("made_there", [False, True])
def test_a_client_outlives_the_thread_that_used_it_first(made_there: bool) -> None:
    """Its connection does not live in that thread, in a patched process neither."""
    with running(service()) as server:
        clients = [WebMeshClient(server.url)]

        def use() -> Any:
            if made_there:
                clients[0] = WebMeshClient(server.url)
            return clients[0].call("/", 1, timeout=PATIENCE)

        with native_threads(1) as spawn:
            assert 1 == spawn(use).get()
        assert 2 == clients[0].call("/", 2, timeout=PATIENCE)
        clients[0].close()


@pytest.mark.row(89)
def test_a_handler_may_use_a_client_from_its_thread() -> None:
    """Each handler of one server asks another server by the same client."""
    inner, outer = service(), WebMeshServer()
    with running(inner):
        onward = WebMeshClient(inner.url)
        outer.on("/")(lambda payload, path, client: ["outer", onward.call("/", payload, timeout=PATIENCE)])
        with connected(outer) as client:
            futures = [client.spawn("/", number, timeout=PATIENCE) for number in range(50)]
            assert [["outer", number] for number in range(50)] == [future.result() for future in futures]
        assert 1 == len(inner.connections)
        onward.close()


@pytest.mark.row(95)
def test_callers_that_are_killed_leave_nothing_open() -> None:
    """A greenlet that is ended while it waits takes its call with it: the handler is cancelled, the table is empty."""
    server, cancelled = WebMeshServer(), threading.Semaphore(0)

    @server.on("/", blocking=False)
    def wait(payload: Any, path: str, client: Any) -> None:
        try:
            gevent.sleep(PATIENCE)
        finally:
            cancelled.release()

    with connected(server) as client:
        callers = [gevent.spawn(client.call, "/", timeout=PATIENCE) for _ in range(20)]
        connection = client.connect()
        assert wait_for(lambda: connection._conversation.session.open_requests == 20)  # type: ignore[union-attr]
        gevent.killall(callers)
        assert wait_for(lambda: connection._conversation.session.open_requests == 0)  # type: ignore[union-attr]
        for _ in callers:
            assert cancelled.acquire(timeout=PATIENCE)


@pytest.mark.row(89)
def test_timeouts_of_the_callers_own_pass_through() -> None:
    """`gevent.Timeout` around a call is the caller's; ours is a `TimeoutError`."""
    server, release = WebMeshServer(), threading.Event()
    server.on("/")(lambda payload, path, client: release.wait(PATIENCE))
    with connected(server) as client:
        with pytest.raises(gevent.Timeout), gevent.Timeout(0.02):
            client.call("/", timeout=PATIENCE)
        with pytest.raises((RequestTimeout, TimeoutError)):
            client.call("/", timeout=0.02)
        release.set()


OWN_HUB = """
import gevent
from webmesh import WebMeshClient, WebMeshServer

server = WebMeshServer()
server.on("/")(lambda payload, path, client: payload)
server.on("/slow")(lambda payload, path, client: payload)
server.listen(port=0)

turns = []


def tick():
    while True:
        turns.append(1)
        gevent.sleep(0.001)


def first_use(number):
    server.await_started()  # several greenlets of one hub wait for the same start
    return client.call("/", number, timeout=10)


ticker = gevent.spawn(tick)
server.await_started()
client = WebMeshClient(server.url)
jobs = [gevent.spawn(first_use, number) for number in range(8)]  # all of them find that it has not started
gevent.joinall(jobs, timeout=10, raise_error=True)
print([job.value for job in jobs])
futures = [client.spawn("/", number) for number in range(20)]
print(sum(future.result(10) for future in futures))
stream = client.stream("/slow", items=[1, 2, 3])
print(stream.result)
before = len(turns)
gevent.sleep(0.01)
print(len(turns) > before, len(server.connections))
gevent.joinall([gevent.spawn(client.close) for _ in range(3)], timeout=10, raise_error=True)
gevent.joinall([gevent.spawn(server.close) for _ in range(3)], timeout=10, raise_error=True)
print(client, server)
"""


@MODES
@pytest.mark.row(89, 90)
def test_a_program_with_a_hub_of_its_own(patch: str) -> None:
    """Greenlets of the main thread start, call and close together; none of them stops the others' hub."""
    lines = run_program(patch + OWN_HUB).splitlines()

    assert ["[0, 1, 2, 3, 4, 5, 6, 7]", "190", "None", "True 1"] == lines[:4]
    assert "closed> <WebMeshServer closed>" in lines[4]


FORGETFUL = """
from webmesh import WebMeshClient, WebMeshServer

server = WebMeshServer()
server.on("/")(lambda payload, path, client: payload)
server.listen(port=0)
server.await_started()
client = WebMeshClient(server.url)
print(client.call("/", "hi"))
stream = client.stream("/", 1)
"""


@MODES
def test_a_program_that_forgets_to_close_ends_all_the_same(patch: str) -> None:
    """With status 0 and without a word on standard error."""
    done = run_python("-c", patch + FORGETFUL)

    assert ("hi\n", "", 0) == (done.stdout, done.stderr, done.returncode)


@MODES
def test_peers_of_a_program_that_forgets_to_close_are_told(patch: str) -> None:
    """By the closing handshake, so that they know that nothing went wrong."""
    server, ends = service(), []
    server.on_disconnect(lambda connection, why: ends.append(why.code))
    with running(server):
        program = f"from webmesh import WebMeshClient\nclient = WebMeshClient({server.url!r})\nclient.call('/')"
        run_program(patch + program)
        assert wait_for(lambda: ends)
    assert [1000] == ends


CLOSED_FROM_WITHIN = """
import threading
from webmesh import WebMeshClient, WebMeshServer

closing = threading.Event()
server = WebMeshServer()


@server.on("/")
def close(payload, path, client):
    server.close()
    closing.set()


server.listen(port=0)
server.await_started()
client = WebMeshClient(server.url)
client.notify("/")
closing.wait(10)
print("over")
"""


@MODES
@pytest.mark.row(92)
def test_a_program_that_ends_while_its_server_closes_ends_in_peace(patch: str) -> None:
    """The thread that is just ending must not do so together with the interpreter."""
    for _ in range(3):
        done = run_python("-c", patch + CLOSED_FROM_WITHIN)
        assert ("over\n", "", 0) == (done.stdout, done.stderr, done.returncode)


STUCK = """
import threading, time
from webmesh import Timeouts, WebMeshClient, WebMeshServer

entered = threading.Event()
server = WebMeshServer()
server.on("/")(lambda payload, path, client: (entered.set(), time.sleep(0.3)))
server.listen(port=0)
server.await_started()
client = WebMeshClient(server.url)
future = client.spawn("/")
entered.wait(10)
"""


@MODES
@pytest.mark.row(92)
def test_a_program_that_ends_in_the_middle_of_a_call_ends_all_the_same(patch: str) -> None:
    """With status 0."""
    assert 0 == run_python("-c", patch + STUCK).returncode


@MODES
@pytest.mark.row(90)
def test_a_process_that_is_patched_between_import_and_use(patch: str) -> None:
    """`import webmesh` loads nothing that must be patched first; so a program may import it and then patch."""
    program = "import webmesh\n" + (patch or "import gevent\n") + "from webmesh import *\n" + FORGETFUL
    assert "hi\n" == run_program(program)
