"""Native threads for blocking handlers."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextvars import Context, ContextVar, copy_context

import gevent
import pytest
from gevent import monkey

from tests.running import NATIVE_SLEEP, wait_for
from webmesh.exceptions import Overloaded
from webmesh.execution import Executor, feed, in_own_greenlet

native_lock = monkey.get_original("_thread", "allocate_lock")
native_ident = monkey.get_original("_thread", "get_ident")
VARIABLE: ContextVar[str] = ContextVar("variable", default="unset")


@pytest.fixture
def executor() -> Iterator[Executor]:
    made = Executor(2, 3)
    yield made
    made.close(5)


class Gate:
    """Holds pool threads until it is opened; a native lock, which works in patched processes too."""

    def __init__(self) -> None:
        self._lock = native_lock()
        self._lock.acquire()

    def wait(self) -> int:
        self._lock.acquire(True, 10)
        self._lock.release()
        return native_ident()

    def open(self) -> None:
        self._lock.release()


def test_a_function_runs_in_another_thread_and_its_result_comes_back(executor: Executor):
    """The hub goes on meanwhile."""
    assert native_ident() != executor.run(copy_context(), native_ident)


def test_what_a_function_raises_is_raised_in_the_caller(executor: Executor, capsys: pytest.CaptureFixture[str]):
    """And gevent prints nothing of it: it is the caller's to handle."""
    with pytest.raises(ZeroDivisionError):
        executor.run(copy_context(), lambda: 1 / 0)

    assert "" == capsys.readouterr().err


@pytest.mark.row(49)
def test_sys_exit_in_a_function_ends_no_thread(executor: Executor):
    """SystemExit comes to the caller, and the pool serves on."""
    for _ in range(5):
        with pytest.raises(SystemExit):
            executor.run(copy_context(), exit, 3)

    assert 1 == executor.run(copy_context(), lambda: 1)


def test_a_function_sees_the_context_that_it_was_given(executor: Executor):
    """gevent's pool alone would give it an empty one."""
    VARIABLE.set("mine")
    context = copy_context()
    VARIABLE.set("other")

    assert "mine" == executor.run(context, VARIABLE.get)


@pytest.mark.row(83)
def test_beyond_pool_and_queue_calls_are_refused_at_once(executor: Executor):
    """Two threads, three waiting; the sixth is told, not kept."""
    gate = Gate()
    running = [gevent.spawn(executor.run, copy_context(), gate.wait) for _ in range(5)]
    gevent.sleep(0)
    assert 5 == executor.taken

    with pytest.raises(Overloaded, match="2 threads are busy and 3 calls wait"):
        executor.run(copy_context(), gate.wait)

    gate.open()
    gevent.joinall(running, 10, raise_error=True)
    assert 2 >= len({greenlet.value for greenlet in running})
    assert 0 == executor.taken


@pytest.mark.row(83, 95)
def test_a_caller_that_leaves_keeps_its_thread_counted_until_it_is_free(executor: Executor):
    """The thread works on, so its place is not given away twice."""
    gate = Gate()
    leaving = gevent.spawn(executor.run, copy_context(), gate.wait)
    gevent.sleep(0.01)

    leaving.kill()

    assert 1 == executor.abandoned
    assert 1 == executor.taken
    gate.open()
    with gevent.Timeout(10):
        while executor.taken:
            gevent.sleep(0.01)


@pytest.mark.row(95)
def test_a_caller_that_is_killed_in_the_queue_gives_its_place_back(executor: Executor):
    """It never got a thread, so nothing runs for it."""
    gate, ran = Gate(), []
    running = [gevent.spawn(executor.run, copy_context(), gate.wait) for _ in range(2)]
    gevent.sleep(0.01)
    waiting = gevent.spawn(executor.run, copy_context(), ran.append, 1)
    gevent.sleep(0.01)

    waiting.kill()
    gate.open()
    gevent.joinall(running, 10, raise_error=True)

    with gevent.Timeout(10):
        while executor.taken:
            gevent.sleep(0.01)
    assert not executor.full


@pytest.mark.row(83, 95)
def test_the_end_of_a_function_is_told_once_however_it_comes(executor: Executor):
    """When it is through, not when its caller leaves; and when it never begins."""
    gate, ended = Gate(), []
    leaving = gevent.spawn(executor.run, copy_context(), gate.wait, ended=lambda: ended.append("left"))
    others = [gevent.spawn(executor.run, copy_context(), gate.wait) for _ in range(4)]
    gevent.sleep(0.01)
    leaving.kill()
    assert [] == ended
    with pytest.raises(Overloaded):
        executor.run(copy_context(), gate.wait, ended=lambda: ended.append("refused"))
    assert ["refused"] == ended

    gate.open()
    gevent.joinall(others, 10, raise_error=True)
    with gevent.Timeout(10):
        while len(ended) < 2:
            gevent.sleep(0.01)
    assert ["refused", "left"] == ended


def test_closing_does_not_wait_for_a_function_that_hangs():
    """Its thread ends by itself; the server must not."""
    executor, gate = Executor(1, 0), Gate()
    hanging = gevent.spawn(executor.run, copy_context(), gate.wait)
    gevent.sleep(0.01)

    with gevent.Timeout(10):
        executor.close(0.05)

    gate.open()
    hanging.kill()


@pytest.mark.plain
def test_threads_that_log_and_lock_finish_in_an_unpatched_process():
    """Ordinary code with locks is what the threads of an unpatched process are for."""
    executor, lock, done = Executor(4, 100), threading.Lock(), []

    def work(number: int) -> None:
        for _ in range(50):
            with lock:
                done.append(number)

    workers = [gevent.spawn(executor.run, copy_context(), work, number) for number in range(8)]
    gevent.joinall(workers, 20, raise_error=True)
    executor.close(5)

    assert 400 == len(done)


def test_a_series_is_fed_from_one_thread(executor: Executor):
    """Database cursors demand it; the generator's own value comes back."""
    threads: set[int] = set()
    taken: list[int] = []

    def series() -> Iterator[int]:
        for number in range(5):
            threads.add(native_ident())
            yield number
        return "the end"

    assert "the end" == executor.run(copy_context(), feed, series(), taken.append)
    assert list(range(5)) == taken
    assert 1 == len(threads)


def test_a_series_that_nobody_takes_is_closed(executor: Executor):
    """Its `finally` runs, so cursors and files are given back."""
    closed = []

    def series() -> Iterator[int]:
        try:
            yield 1
            yield 2
        finally:
            closed.append(native_ident())

    def refuse(item: int) -> None:
        raise ConnectionError

    with pytest.raises(ConnectionError):
        executor.run(copy_context(), feed, series(), refuse)

    assert 1 == len(closed)
    assert native_ident() not in closed


def test_a_greenlet_of_its_own_hands_back_what_happens_in_it() -> None:
    """A result or an error; and it ends with whoever waits for it."""
    assert gevent.getcurrent() is not in_own_greenlet(gevent.getcurrent)
    with pytest.raises(ZeroDivisionError):
        in_own_greenlet(lambda: 1 // 0)
    inner: list[gevent.Greenlet] = []
    waiting = gevent.spawn(in_own_greenlet, lambda: (inner.append(gevent.getcurrent()), gevent.sleep(20)))
    gevent.sleep(0)
    gevent.sleep(0)
    waiting.kill()
    assert inner[0].dead


@pytest.mark.row(83)
def test_a_holder_has_its_share_of_the_threads() -> None:
    """What it wants beyond waits, and is counted; one that leaves while it waits gives back all that it had."""
    executor, running, released = Executor(4, 4, 2), [], []

    def work(name: str) -> None:
        running.append(name)
        while not released:
            NATIVE_SLEEP(0.002)

    mine = [gevent.spawn(executor.run, Context(), work, name, holder="me") for name in "abc"]
    assert wait_for(lambda: len(running) == 2)
    other = gevent.spawn(executor.run, Context(), work, "x", holder="other")
    assert wait_for(lambda: len(running) == 3)
    assert (4, "x") == (executor.taken, running[-1])
    ended: list[bool] = []
    waiting = gevent.spawn(executor.run, Context(), work, "d", holder="me", ended=lambda: ended.append(True))
    gevent.sleep(0.01)
    assert 5 == executor.taken
    waiting.kill()
    assert (4, [True]) == (executor.taken, ended)
    released.append(True)
    gevent.joinall([*mine, other], 10, raise_error=True)
    assert wait_for(lambda: executor.taken == 0) and "d" not in running
    executor.close(5)
