"""The watchdog: which code it names, when, and when it keeps still."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import gevent
import pytest
from gevent.hub import get_hub

from tests.processes import run_program, run_python
from tests.running import NATIVE_SLEEP, PATCHED, PATIENCE, Census, connected, native_threads, running, wait_for
from webmesh import watchdog
from webmesh.observer import NO_OBSERVER
from webmesh.options import Timeouts
from webmesh.testing import RecordingObserver
from webmesh.watchdog import Watch, WatchedHub
from webmesh.webmesh_client import WebMeshClient
from webmesh.webmesh_server import WebMeshServer

HOLD = 0.4
"""Seconds that a handler holds the hub: far more than is allowed, on a busy machine too."""

POLL = 0.02
TURN = 0.001
"""Seconds that surely take a turn of the loop: one of 0 may end within the same turn."""


FORK = """
import os, webmesh
from webmesh import watchdog

def count(): return len(watchdog._WATCHDOG.hubs)

first = webmesh.WebMeshServer()
first.listen(port=0)
first.await_started()
print("parent", count(), flush=True)
child = os.fork()
if child == 0:
    print("child", count(), flush=True)
    second = webmesh.WebMeshServer()
    second.listen(port=0)
    with second:
        print("child", count(), flush=True)
    os._exit(0)
os.waitpid(child, 0)
first.close()
"""


EXIT = """
import time, webmesh

server, begun = webmesh.WebMeshServer(watchdog=False), []

@server.on("/hold", blocking=False)
def hold(payload, path, client):
    begun.append(True)
    until = time.monotonic() + 1.5
    while time.monotonic() < until: pass

server.listen(port=0)
server.await_started()
client = webmesh.WebMeshClient(server.url, watchdog=False)
client.spawn("/hold")
while not begun: time.sleep(0.01)
"""


def burn(seconds: float) -> None:
    """Hold the hub with Python code."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        pass


def burn_in_c(seconds: float) -> None:
    """Hold the hub, and keep all other threads from running."""
    until = time.monotonic() + seconds
    size = 2_000_000
    while time.monotonic() < until:
        sum(range(size))
        size *= 2


@contextmanager
def holding(hold: Callable[[float], None], **options: Any) -> Iterator[tuple[RecordingObserver, WebMeshClient]]:
    observer = RecordingObserver()
    server = WebMeshServer(observer=observer, **options)

    @server.on("/hold/<name>", blocking=False)
    def handle(payload: Any, path: str, client: Any, name: str) -> None:
        hold(HOLD)

    server.on("/quick", blocking=False)(lambda payload, path, client: payload)
    with connected(server, watchdog=False) as client:
        yield observer, client


def held(observer: RecordingObserver) -> list[tuple[Any, ...]]:
    return observer.named("hub_held")


@pytest.fixture(autouse=True)
def nobody_else() -> None:
    """A server that another test has left behind is not watched here, nor do lines count that others have written."""
    watchdog._LINES = watchdog._Lines()
    watchdog._WATCHDOG.hubs.clear()
    watchdog._WATCHDOG.ring()
    assert wait_for(lambda: watchdog._WATCHDOG._unclaimed)


# ------------------------------------------------------------- whole servers


@pytest.mark.row(81)
@pytest.mark.parametrize("hold", [burn, NATIVE_SLEEP, burn_in_c], ids=["python", "sleep", "c"])
def test_a_handler_that_holds_the_hub_is_named(hold: Callable[[float], None], caplog: Any) -> None:
    """Its route, the time and the line, to the observer and in the log; nothing of the payload."""
    with caplog.at_level(logging.WARNING, "webmesh"), holding(hold) as (observer, client):
        client.call("/hold/secret-path", "secret-payload", timeout=PATIENCE)
        assert wait_for(lambda: held(observer))

        where, seconds, stack = held(observer)[0]
        assert "/hold/<name>" == where
        assert HOLD * 0.7 < seconds
        assert "test_watchdog.py" in stack and "hold(HOLD)" in stack
        assert wait_for(lambda: caplog.records)
        record = caplog.records[0]
        assert (logging.WARNING, "/hold/<name>") == (record.levelno, record.route)
        assert "hold(HOLD)" in record.stack_info
        assert "secret" not in f"{record.getMessage()}{record.stack_info}{vars(record)}{stack}"


@pytest.mark.row(81)
def test_a_hold_is_told_once() -> None:
    """However long it lasts; the next one is told again."""
    with holding(burn) as (observer, client):
        for number in (1, 2):
            client.call("/hold/a", timeout=PATIENCE)
            assert wait_for(lambda number=number: number == len(held(observer)))


@pytest.mark.row(81)
def test_peers_are_not_taken_for_lost_since_nobody_listened() -> None:
    """A hold longer than `Timeouts.liveness` costs the others their time, not their connections."""
    times = Timeouts(ping_interval=0.1, liveness=0.3)
    with holding(lambda seconds: NATIVE_SLEEP(1.0), timeouts=times) as (observer, client):
        with WebMeshClient(client.url, watchdog=False) as other:
            connection = other.connect()
            other.call("/quick", timeout=PATIENCE)
            client.call("/hold/a", timeout=PATIENCE)
            other.call("/quick", timeout=PATIENCE)
            assert wait_for(lambda: held(observer))
            assert connection is other.connect()


def test_a_hold_that_does_not_end_is_told_while_it_lasts(monkeypatch: Any) -> None:
    """It may never end, so nobody else could tell."""
    monkeypatch.setattr(watchdog, "LONG", 0.2)
    seen: list[bool] = []

    def wait_to_be_told(seconds: float) -> None:
        until = time.monotonic() + PATIENCE
        while not held(observer) and time.monotonic() < until:
            NATIVE_SLEEP(0.01)
        seen.append(bool(held(observer)))

    with holding(wait_to_be_told) as (observer, client):
        client.call("/hold/a", timeout=2 * PATIENCE)
        assert [True] == seen
        client.call("/quick", timeout=PATIENCE)
        assert 1 == len(held(observer))


def test_a_client_is_watched_too() -> None:
    """Its handlers share a hub with its replies."""
    observer, server = RecordingObserver(), WebMeshServer(watchdog=False)
    server.on("/call-back")(lambda payload, path, peer: peer.call("/hold", timeout=PATIENCE))
    server.listen(port=0)
    server.await_started()
    client = WebMeshClient(server.url, observer=observer)
    client.on("/hold", blocking=False)(lambda payload, path, peer: burn(HOLD))
    with server, client:
        client.call("/call-back", timeout=PATIENCE)
        assert wait_for(lambda: held(observer))
        assert "/hold" == held(observer)[0][0]


def test_the_time_that_is_allowed_can_be_set() -> None:
    """By `Timeouts.hub_hold`."""
    with holding(burn, timeouts=Timeouts(hub_hold=60.0)) as (observer, client):
        client.call("/hold/a", timeout=PATIENCE)
        client.call("/quick", timeout=PATIENCE)
    assert [] == held(observer)


def test_it_can_be_switched_off() -> None:
    """Then there is no thread either."""
    with holding(burn, watchdog=False) as (observer, client):
        assert {} == watchdog._WATCHDOG.hubs
        client.call("/hold/a", timeout=PATIENCE)
    assert [] == held(observer)


def test_it_sleeps_while_the_hub_waits() -> None:
    """An idle process is not woken many times a second: the hub's next turn rings."""

    def armed() -> bool:
        until = time.monotonic() + PATIENCE
        while time.monotonic() < until:
            if all(hub.armed for hub in tuple(watchdog._WATCHDOG.hubs.values())):
                return True
            NATIVE_SLEEP(0.005)
        return False

    with running(WebMeshServer()), native_threads(1) as spawn:  # a look from here would turn a patched hub
        assert 1 == len(watchdog._WATCHDOG.hubs)
        assert spawn(armed).get()


def test_its_thread_ends_with_the_last_server() -> None:
    """Nothing is left; the next server starts it again."""
    census = Census()
    for _ in range(3):
        with holding(burn) as (_, client):
            client.call("/quick", timeout=PATIENCE)
    assert {} == watchdog._WATCHDOG.hubs
    assert {} == census.grown()


def test_a_forked_child_has_a_watchdog_of_its_own() -> None:
    """The thread is the parent's."""
    assert "parent 1\nchild 0\nchild 1\n" == run_program(FORK)


# ------------------------------------------------------------- one hub, by the clock


class Seen:
    """This thread's hub, looked at as the watchdog does. The loop turns only when the test lets it."""

    def __init__(self) -> None:
        gevent.sleep(TURN)
        self.observer = RecordingObserver()
        self.hub = WatchedHub(get_hub())
        self.hub.watches.append(Watch(self.observer, 0.1))
        self.now = 1000.0

    def look(self, after: float = POLL) -> None:
        """See what has become of it *after* so many seconds."""
        self.now += after
        self.hub.look(self.now, POLL)

    def looks(self, number: int) -> None:
        """See so many times."""
        for _ in range(number):
            self.look()

    def told(self) -> list[tuple[str, float]]:
        """What was told once the loop has turned."""
        gevent.sleep(TURN)
        self.look()
        gevent.sleep(TURN)
        return [(where, round(seconds, 3)) for where, seconds, _ in held(self.observer)]


@pytest.fixture
def seen() -> Iterator[Seen]:
    made = Seen()
    yield made
    made.hub.close()


def in_dispatch(call: Any, function: Callable[[], None]) -> None:
    """Run *function* below a frame such as `dispatch` has."""
    names: dict[str, Any] = {"__name__": "webmesh.dispatch"}
    exec("def serve(call, function):\n    function()", names)
    names["serve"](call, function)


class Handled:
    """A call of a route."""

    class route:
        """Its route."""

        pattern = "/a"


def test_less_than_is_allowed_is_no_hold(seen: Seen) -> None:
    """Up to the very limit."""
    seen.looks(5)
    assert [] == seen.told()


def test_what_a_thread_did_before_it_was_watched_is_no_hold(seen: Seen, monkeypatch: pytest.MonkeyPatch) -> None:
    """A program that has computed for long may make a server then."""
    monkeypatch.setattr(WatchedHub, "_cpu_time", lambda self: 900.0)
    seen.look()
    assert [] == seen.told()


def test_more_than_is_allowed_is_a_hold_of_nobody_in_particular(seen: Seen) -> None:
    """Code that belongs to no call: the stack says what it is."""
    seen.looks(8)
    assert [("hub", 0.16)] == seen.told()
    assert "test_more_than_is_allowed" in held(seen.observer)[0][2]


def test_a_turn_of_the_loop_begins_anew(seen: Seen) -> None:
    """What counts is the time without one."""
    for _ in range(10):
        seen.look()
        gevent.sleep(TURN)
    assert [] == seen.told()


def test_many_short_calls_in_one_turn_are_no_hold(seen: Seen) -> None:
    """None of them is to blame."""
    for _ in range(20):
        in_dispatch(Handled(), lambda: seen.looks(2))
    assert [] == seen.told()


def test_a_long_call_among_short_ones_is_the_one_that_is_named(seen: Seen) -> None:
    """With its own time only."""
    in_dispatch(Handled(), seen.look)
    in_dispatch(Handled(), lambda: seen.looks(2))
    in_dispatch(Handled(), lambda: seen.looks(8))
    assert [("/a", 0.16)] == seen.told()


@pytest.mark.row(87)
def test_a_process_that_was_stopped_blames_nobody(seen: Seen) -> None:
    """By SIGSTOP, a debugger, a suspended machine: the watchdog did not run either, and no processor time passed."""
    seen.look()
    seen.look()
    seen.look(after=3600)
    seen.look()
    assert [] == seen.told()


@pytest.mark.parametrize("module", ["pdb", "pydevd.frame"])
def test_a_debugger_is_no_hold(seen: Seen, module: str) -> None:
    """A person wants it."""
    names: dict[str, Any] = {"__name__": module}
    exec("def stopped(look):\n    for _ in range(9): look()", names)
    names["stopped"](seen.look)
    assert [] == seen.told()


def test_log_lines_about_holds_are_few() -> None:
    """The hook gets all; the log says how many it left out."""
    lines = watchdog._Lines()
    taken = [lines.take() for _ in range(watchdog.LINE_BURST + 5)]
    assert [0] * watchdog.LINE_BURST + [None] * 5 == taken
    lines._at -= 1 / watchdog.LINE_RATE
    assert 5 == lines.take()


def test_stopping_twice_or_unstarted_is_harmless() -> None:
    """As when a server could not start."""
    watch = Watch(NO_OBSERVER, 0.1)
    watch.stop()
    watch.start()
    watch.stop()
    watch.stop()
    assert {} == watchdog._WATCHDOG.hubs


class Raising(logging.Filter):
    """Raises *error* at the first record that it sees."""

    def __init__(self, error: Exception) -> None:
        super().__init__()
        self.errors = [error]

    def filter(self, record: logging.LogRecord) -> bool:
        if self.errors:
            raise self.errors.pop()
        return True


@pytest.mark.parametrize("error", [KeyError("x"), ValueError("x")], ids=["key", "value"])
def test_it_survives_what_a_programs_filter_raises(error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    """The watchdog is for the whole process; the next hold is told."""
    monkeypatch.setattr(watchdog, "_LINES", watchdog._Lines())
    raising = Raising(error)
    watchdog.logger.addFilter(raising)
    try:
        with holding(burn) as (observer, client):
            for number in (1, 2):
                client.call("/hold/a", timeout=PATIENCE)
                assert wait_for(lambda number=number: number == len(held(observer)))
            assert not raising.errors
    finally:
        watchdog.logger.removeFilter(raising)


def test_it_does_without_a_clock_for_each_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not every system has one."""
    monkeypatch.delattr(time, "pthread_getcpuclockid")
    with holding(burn) as (observer, client):
        client.call("/hold/a", timeout=PATIENCE)
        assert wait_for(lambda: held(observer))


def test_a_program_that_ends_while_a_hub_is_held_ends_quietly() -> None:
    """What is unwound then, in the hub's own thread, does not wait for that thread."""
    finished = run_python("-c", EXIT)
    assert (0, "") == (finished.returncode, finished.stderr)


@pytest.mark.row(81)
@pytest.mark.skipif(PATCHED, reason="handlers in a patched process are greenlets of the hub")
def test_a_thread_that_lets_nobody_run_is_named() -> None:
    """Code in C may keep the interpreter's lock, and with it the hub, which is idle itself."""
    observer = RecordingObserver()
    server = WebMeshServer(observer=observer)
    server.on("/hold", blocking=True)(lambda payload, path, client: sum(range(40_000_000)))
    with connected(server, watchdog=False) as client:
        for _ in range(10):  # a machine without a free processor blames nobody
            client.call("/hold", timeout=PATIENCE)
            if wait_for(lambda: held(observer), 0.5):
                break
        assert held(observer)
        assert {one[0] for one in held(observer)} <= {"/hold", "threads"}
