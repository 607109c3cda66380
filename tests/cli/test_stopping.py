"""Signals: the first asks, the second forces, a broken pipe kills nobody."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator

import gevent
import pytest

from webmesh.cli.stopping import StopSignals

from tests.processes import ENVIRONMENT, run_program

PATCH = "from gevent import monkey; monkey.patch_all()\n"
both_modes = pytest.mark.parametrize("patch", ["", PATCH], ids=["plain", "patched"])


@pytest.fixture(autouse=True)
def restored_handlers() -> Iterator[None]:
    """Handlers as they were, whatever a test leaves."""
    numbers = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGPIPE, signal.SIGUSR1)
    before = [(number, signal.getsignal(number)) for number in numbers]
    yield
    for number, handler in before:
        signal.signal(number, handler)


@pytest.mark.row(91)
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_wait_returns_the_signal(number):
    """A signal that comes before or during the wait ends it, and is told."""
    with StopSignals(force=pytest.fail) as signals:
        os.kill(os.getpid(), number)
        assert number is signals.wait()

    with StopSignals(force=pytest.fail) as signals:
        gevent.spawn_later(0.01, os.kill, os.getpid(), number)
        assert number is signals.wait()


@pytest.mark.row(91)
def test_the_second_signal_forces():
    """Whichever of the two it is, the second one calls the way out."""
    forced: list[int] = []
    with StopSignals(forced.append) as signals:
        os.kill(os.getpid(), signal.SIGTERM)
        signals.wait()
        assert [] == forced
        os.kill(os.getpid(), signal.SIGINT)
        signals.wait()

    assert [signal.SIGINT] == forced


def test_a_hangup_counts_for_nothing():
    """SIGHUP is told each time and forces nothing."""
    with StopSignals(force=pytest.fail) as signals:
        for _ in range(3):
            os.kill(os.getpid(), signal.SIGHUP)
            assert signal.SIGHUP is signals.wait()


def test_an_ignored_hangup_stays_ignored():
    """Under nohup a closed terminal does not stop the server."""
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    with StopSignals(force=pytest.fail) as signals:
        os.kill(os.getpid(), signal.SIGHUP)
        os.kill(os.getpid(), signal.SIGTERM)

        assert signal.SIGTERM is signals.wait()


def test_other_signals_of_the_program_are_not_ours():
    """A handler of the user's own for another signal runs, and ends no wait."""
    seen: list[int] = []
    signal.signal(signal.SIGUSR1, lambda number, frame: seen.append(number))
    with StopSignals(force=pytest.fail) as signals:
        os.kill(os.getpid(), signal.SIGUSR1)
        gevent.spawn_later(0.01, os.kill, os.getpid(), signal.SIGTERM)

        assert signal.SIGTERM is signals.wait()
    assert [signal.SIGUSR1] == seen


@pytest.mark.row(91)
def test_a_broken_pipe_is_ignored():
    """SIGPIPE stays ignored, even where user code has set it to kill."""
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    with StopSignals(force=pytest.fail):
        os.kill(os.getpid(), signal.SIGPIPE)

        assert signal.SIG_IGN is signal.getsignal(signal.SIGPIPE)
    assert signal.SIG_DFL is signal.getsignal(signal.SIGPIPE)


def test_handlers_and_descriptors_are_given_back():
    """After it, the process has the handlers and the descriptors that it had before."""
    def state() -> tuple[object, ...]:
        handlers = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)]
        wakeup = signal.set_wakeup_fd(-1)
        signal.set_wakeup_fd(wakeup)
        return handlers, wakeup, len(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else 0

    gevent.sleep(0)  # the hub's own descriptors are there from here on
    before = state()
    with StopSignals(force=pytest.fail):
        assert before != state()

    assert before == state()


@pytest.mark.row(91)
def test_the_hub_turns_during_the_wait():
    """Other greenlets of the main thread run while it waits for a signal."""
    turns: list[int] = []

    def turn() -> None:
        for number in range(3):
            turns.append(number)
            gevent.sleep(0)
        os.kill(os.getpid(), signal.SIGTERM)

    with StopSignals(force=pytest.fail) as signals:
        gevent.spawn(turn)
        signals.wait()

    assert [0, 1, 2] == turns


@pytest.mark.row(91)
@both_modes
def test_a_signal_to_another_thread_ends_the_wait(patch):
    """The system may hand a signal to any native thread; the main thread hears of it at once."""
    program = patch + """
import os, signal
from gevent import monkey
from webmesh.cli.stopping import StopSignals
start_thread = monkey.get_original("_thread", "start_new_thread")
get_ident = monkey.get_original("_thread", "get_ident")
with StopSignals(print) as signals:
    start_thread(lambda: signal.pthread_kill(get_ident(), signal.SIGTERM), ())
    print(signals.wait().name)
"""
    assert "SIGTERM\n" == run_program(program)


@pytest.mark.row(91)
@both_modes
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_the_second_signal_ends_a_process_that_is_stuck(patch, number):
    """A greenlet that never gives the hub back cannot keep the process alive."""
    program = patch + """
import os, gevent
from webmesh.cli.stopping import StopSignals
def burn():
    print("burning", flush=True)
    while True:
        pass
with StopSignals(lambda number: os._exit(128 + number)) as signals:
    gevent.spawn(burn)
    signals.wait()
"""
    process = subprocess.Popen([sys.executable, "-c", program], env=ENVIRONMENT, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert "burning\n" == process.stdout.readline()
    process.stdout.close()
    watchdog = threading.Timer(30, process.kill)
    watchdog.start()

    while process.poll() is None:  # two signals that come close together may be one
        process.send_signal(number)
        try:
            process.wait(0.05)
        except subprocess.TimeoutExpired:
            pass
    watchdog.cancel()

    assert 128 + number == process.returncode


@pytest.mark.row(91)
@both_modes
def test_the_second_signal_is_heard_while_the_hub_is_idle(patch):
    """While the main greenlet waits for something else, as for calls to finish, the second signal works too."""
    program = patch + """
import os, gevent
from webmesh.cli.stopping import StopSignals
with StopSignals(lambda number: os._exit(128 + number)) as signals:
    print("ready", flush=True)
    signals.wait()
    print("draining", flush=True)
    gevent.sleep(60)
"""
    process = subprocess.Popen([sys.executable, "-c", program], env=ENVIRONMENT, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert "ready\n" == process.stdout.readline()
    process.send_signal(signal.SIGTERM)
    assert "draining\n" == process.stdout.readline()
    process.send_signal(signal.SIGINT)

    assert 130 == process.wait(30)
    process.stdout.close()
