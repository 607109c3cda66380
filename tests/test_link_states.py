"""The states of a link: who is told, in which order, and what a function of the program cannot hold up."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextvars import copy_context
from typing import Any

import gevent
import pytest

from tests.running import PATIENCE, wait_for
from webmesh.callbacks import Callbacks
from webmesh.execution import Executor
from webmesh.link_states import EVENTS, LinkEvent, LinkStates
from webmesh.observer import NO_OBSERVER
from webmesh.testing import RecordingObserver


@pytest.fixture
def states() -> Iterator[LinkStates]:
    executor = Executor(1, EVENTS)
    states = LinkStates(NO_OBSERVER)
    states.start(Callbacks(executor, copy_context(), blocking=False, seconds=PATIENCE))
    yield states
    states.leave()
    executor.close(PATIENCE)


def event(state: str, **details: Any) -> LinkEvent:
    return LinkEvent(state=state, reason="a reason", url="ws://x", **details)


def test_before_the_first_use_it_is_idle() -> None:
    """And what happens before anything can be called is still kept as the state."""
    states = LinkStates(NO_OBSERVER)
    assert "idle" == states.state
    states.functions.append(lambda event: pytest.fail("called"))
    states.change(event("connecting"))
    assert "connecting" == states.state


def test_functions_are_told_in_order_and_one_after_another(states: LinkStates) -> None:
    """However long one takes; the link does not wait for them."""
    told: list[str] = []

    def slow(event: LinkEvent) -> None:
        gevent.sleep(0.01)
        told.append(event.state)

    states.functions.extend([slow, lambda event: told.append(event.state.upper())])
    for name in ("connecting", "connected", "lost"):
        states.change(event(name))
    assert ([], "lost") == (told, states.state)
    states.finish(PATIENCE)
    assert ["connecting", "CONNECTING", "connected", "CONNECTED", "lost", "LOST"] == told


def test_one_that_hangs_loses_the_oldest(states: LinkStates) -> None:
    """What it has not been told is bounded, and the present state is always the last of it."""
    told: list[int] = []
    gate = gevent.event.Event()
    states.functions.append(lambda event: (gate.wait(PATIENCE), told.append(event.attempt)))
    states.change(event("waiting", attempt=-1))
    gevent.sleep(0)  # it hangs in this one
    for number in range(EVENTS + 5):
        states.change(event("waiting", attempt=number))
    gate.set()
    states.finish(PATIENCE)
    assert [-1, *range(5, EVENTS + 5)] == told


def test_one_that_fails_holds_up_nothing(states: LinkStates, caplog: pytest.LogCaptureFixture) -> None:
    """It is logged."""
    told: list[str] = []

    def failing(event: LinkEvent) -> None:
        raise SystemExit

    states.functions.extend([failing, lambda event: told.append(event.state)])
    states.change(event("lost"))
    states.change(event("connected"))
    states.finish(PATIENCE)
    assert ["lost", "connected"] == told
    assert 2 == [record.message for record in caplog.records].count("callback failed")


def test_the_end_does_not_wait_for_ever(states: LinkStates) -> None:
    """For a function that does."""
    states.functions.append(lambda event: gevent.sleep(PATIENCE * 10))
    states.change(event("closed"))
    with gevent.Timeout(PATIENCE):
        states.finish(0.01)
    assert wait_for(lambda: states._teller is None)


def test_the_observer_and_the_log_are_told_in_fixed_words(caplog: pytest.LogCaptureFixture) -> None:
    """The error, which may hold a peer's text, goes to the program only."""
    observer = RecordingObserver()
    states = LinkStates(observer)
    with caplog.at_level(logging.DEBUG, "webmesh.client"):
        states.change(event("gave_up", error=ConnectionError("a peer's text")))
    assert [("ws://x", "gave_up", "a reason")] == observer.named("link_changed")
    (record,) = caplog.records
    assert logging.WARNING == record.levelno
    assert "a peer's text" not in str(vars(record))
