"""Callbacks: where they run, for how long, and that nothing they do ends anything else."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterator
from contextvars import ContextVar, copy_context
from functools import partial
from types import SimpleNamespace
from typing import Any

import gevent
import pytest

from tests.running import PATIENCE, wait_for
from webmesh.call import CURRENT
from webmesh.callbacks import EVENTS, Callbacks, Teller
from webmesh.exceptions import Cancelled
from webmesh.execution import Executor

VARIABLE: ContextVar[str] = ContextVar("variable", default="unset")


@pytest.fixture
def executor() -> Iterator[Executor]:
    executor = Executor(2, 2)
    yield executor
    executor.close(PATIENCE)


@pytest.fixture(params=[True, False], ids=["threads", "greenlets"])
def callbacks(request: pytest.FixtureRequest, executor: Executor) -> Callbacks:
    VARIABLE.set("before")
    return Callbacks(executor, copy_context(), blocking=request.param, seconds=PATIENCE)


def test_all_are_called_in_order_with_what_is_told(callbacks: Callbacks) -> None:
    """One after another: the second may rely on the first."""
    told: list[Any] = []
    callbacks.tell([lambda *args: told.append(("a", *args)), lambda *args: told.append(("b", *args))], 1, 2)
    assert [("a", 1, 2), ("b", 1, 2)] == told


def raises() -> None:
    raise ZeroDivisionError("broken")


def exits() -> None:
    sys.exit(1)


def times_out() -> None:
    with gevent.Timeout(0):
        gevent.sleep(PATIENCE)


@pytest.mark.row(93)
@pytest.mark.parametrize("failing", [raises, exits, times_out])
def test_what_one_raises_is_logged_and_the_next_is_called(
    callbacks: Callbacks, failing: Callable[[], None], caplog: pytest.LogCaptureFixture
) -> None:
    """Once, with the traceback and with which of them it was."""
    told: list[int] = []
    callbacks.tell([failing, lambda: told.append(1)])

    (record,) = caplog.records
    assert [1] == told
    assert "callback failed" == record.message
    assert failing.__name__ in record.callback  # type: ignore[attr-defined]
    assert record.exc_info


@pytest.mark.row(93)
@pytest.mark.parametrize("blocking", [True, False])
def test_one_that_hangs_is_left_after_a_time(
    executor: Executor, blocking: bool, caplog: pytest.LogCaptureFixture
) -> None:
    """In a greenlet it is interrupted, although it swallows every Exception; in a thread it goes on alone."""
    release, told = threading.Event(), []

    def hang() -> None:
        try:
            # A greenlet waits with gevent's sleep, since in a plain process the event would stop the hub.
            release.wait(PATIENCE) if blocking else gevent.sleep(PATIENCE)
        except Exception:
            gevent.sleep(PATIENCE)

    Callbacks(executor, copy_context(), blocking=blocking, seconds=0.05).tell([hang, lambda: told.append(1)])

    assert [1] == told
    assert ["callback failed"] == [record.message for record in caplog.records]
    release.set()
    assert wait_for(lambda: not executor.taken)


def test_the_end_of_the_greenlet_that_tells_is_not_swallowed(executor: Executor) -> None:
    """A connection whose greenlet is ended does not go on to the next callback."""
    told: list[str] = []
    callbacks = Callbacks(executor, copy_context(), blocking=False, seconds=PATIENCE)
    teller = gevent.spawn(callbacks.tell, [lambda: gevent.sleep(PATIENCE), lambda: told.append("next")])
    gevent.sleep(0)

    teller.kill()

    assert [] == told


def test_each_gets_a_copy_of_the_context(callbacks: Callbacks) -> None:
    """It finds what was set before serving began, and what it sets the next one does not see."""
    seen: list[str] = []

    def look_and_set() -> None:
        seen.append(VARIABLE.get())
        VARIABLE.set("from a callback")

    callbacks.tell([look_and_set, look_and_set])

    assert ["before", "before"] == seen


@pytest.mark.parametrize(("given_up", "logged"), [(True, []), (False, ["callback failed"])])
def test_the_end_of_the_call_that_tells_is_no_failure(
    callbacks: Callbacks, given_up: bool, logged: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    """As where a connection ends while its `$hello` tells of it; that of a call which the function makes is one."""
    told: list[str] = []
    call: Any = SimpleNamespace(cancelled=given_up)

    def tell() -> None:
        CURRENT.set(call)
        callbacks.tell([partial(gevent.sleep, 0.2), lambda: told.append("next")])

    teller = gevent.spawn(tell)
    gevent.sleep(0.01)
    gevent.get_hub().loop.run_callback(teller.throw, Cancelled("the connection has ended"))
    teller.join(PATIENCE)

    assert ["next"] == told
    assert logged == [record.message for record in caplog.records]


def test_a_teller_waits_for_nobody_and_says_when_it_leaves_something_out(
    callbacks: Callbacks, caplog: pytest.LogCaptureFixture
) -> None:
    """The newest are told; a function that never ends costs no more memory than so many."""
    told: list[int] = []
    teller = Teller(lambda: callbacks)
    for number in range(EVENTS + 3):
        teller.tell([told.append], number)
    assert ["events left out: a function of the program is too slow for them"] * 3 == caplog.messages
    assert wait_for(lambda: EVENTS == len(told))
    assert list(range(3, EVENTS + 3)) == told
