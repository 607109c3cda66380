"""Futures in the order in which they are done."""

from __future__ import annotations

from contextvars import copy_context

import gevent
import pytest

from webmesh.arrivals import Arrivals
from webmesh.call import CURRENT, Call
from webmesh.deadline import Deadline
from webmesh.exceptions import Cancelled
from webmesh.websocket.future import Future
from webmesh.websocket.hub import Completion


def future() -> tuple[Future, Completion[object]]:
    completion: Completion[object] = Completion(gevent.get_hub())
    return Future("/a", completion, Deadline(None), None, lambda: None), completion


def test_they_come_as_they_are_done() -> None:
    """Not as they were begun, and each once."""
    arrivals: Arrivals[str] = Arrivals()
    (one, first), (two, second) = future(), future()
    arrivals.expect(one, "one")
    arrivals.expect(two, "two")

    second.succeed(2)
    assert "two" == arrivals.take(5.0)
    first.fail(ValueError())
    assert "one" == arrivals.take(5.0)
    assert arrivals.take(0.01) is None


def test_one_that_is_done_already() -> None:
    """Is there at once."""
    arrivals: Arrivals[str] = Arrivals()
    one, completion = future()
    completion.succeed(None)
    arrivals.expect(one, "one")
    assert "one" == arrivals.take(5.0)


def test_the_wait_ends_with_the_call_that_it_is_for() -> None:
    """As every wait of a handler does."""
    call = Call("/a", None, {}, None)  # type: ignore[arg-type]
    context = copy_context()
    context.run(CURRENT.set, call)
    waiting = gevent.spawn(context.run, Arrivals[str]().take, 5.0)
    gevent.sleep(0)
    for inner in call.interrupt():
        inner.cancel()
    with pytest.raises(Cancelled):
        waiting.get(timeout=5.0)
