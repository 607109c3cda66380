"""The observer: every hook is there to be overridden and does nothing until it is."""

from __future__ import annotations

import inspect

import gevent
import pytest

from webmesh.observer import NO_OBSERVER, GuardedObserver, Observer, guarded, paired
from webmesh.testing import RecordingObserver

HOOKS = [name for name, _ in inspect.getmembers(Observer, inspect.isfunction) if not name.startswith("_")]


@pytest.mark.parametrize("name", HOOKS)
def test_base_ignores_what_happens(name: str) -> None:
    """A program without an observer pays for an empty call and no more."""
    hook = getattr(NO_OBSERVER, name)
    arguments = [object() for _ in inspect.signature(hook).parameters]

    assert hook(*arguments) is None


@pytest.mark.parametrize("name", HOOKS)
def test_hook_says_when_it_is_called(name: str) -> None:
    """Whoever writes an observer reads what each hook means."""
    assert inspect.getdoc(getattr(Observer, name))


def test_one_hook_can_be_overridden_alone() -> None:
    """An observer that counts refusals need not know the other hooks."""

    class Counter(Observer):
        def __init__(self) -> None:
            self.seen: list[tuple[str, str]] = []

        def refused(self, kind: str, reason: str) -> None:
            self.seen.append((kind, reason))

    counter = Counter()
    counter.refused("route", "unknown")
    counter.connection_opened(object())

    assert [("route", "unknown")] == counter.seen


class Raising(Observer):
    """Every hook fails."""

    def __init__(self, error: type[BaseException] = ZeroDivisionError) -> None:
        self._error = error

    def __getattribute__(self, name: str) -> object:
        if name.startswith("_"):
            return super().__getattribute__(name)

        def fail(*args: object) -> None:
            raise error

        error = self._error

        return fail


CALLS = [
    ("connection_opened", (object(),)),
    ("connection_closed", (object(), 1000, "bye")),
    ("handshake_refused", ("10.0.0.1:5", 400, "bad")),
    ("request_finished", ("/a", "ok", 0.1)),
    ("handler_failed", ("/a", "incident", ValueError())),
    ("refused", ("message", "late")),
    ("link_changed", ("ws://a", "lost", "no pong")),
    ("session_changed", ("resumed", "")),
    ("login_finished", ("1.2.3.4:5", "expired")),
    ("peer_stalled", ("connection", True)),
    ("call_retried", ("/a", "unavailable")),
    ("call_hedged", ("/a",)),
    ("instance_ejected", ("stock", "node", "failed again", 5.0)),
    ("breaker_changed", ("stock", "/a", "open")),
    ("published", (3,)),
    ("will_fired", ("a/b", "lost")),
    ("hub_held", ("/a", 0.3, "stack")),
]


@pytest.mark.row(93)
@pytest.mark.parametrize(("hook", "args"), CALLS)
def test_an_observer_that_raises_ends_nothing(hook: str, args: tuple[object, ...], caplog: pytest.LogCaptureFixture):
    """Hooks run inside the hub: what a program's own raises is logged and forgotten."""
    getattr(guarded(Raising()), hook)(*args)

    assert ["observer failed"] == [record.message for record in caplog.records]


@pytest.mark.parametrize("error", [gevent.Timeout, gevent.GreenletExit])
def test_what_ends_a_greenlet_does_not_leave_a_hook(error: type[BaseException]) -> None:
    """It would end the connection that the hook was told of."""
    guarded(Raising(error)).refused("message", "late")


@pytest.mark.parametrize(("hook", "args"), CALLS)
def test_a_guarded_observer_gets_everything(hook: str, args: tuple[object, ...]):
    """Nothing is lost or changed on the way."""
    observer = RecordingObserver()

    getattr(guarded(observer), hook)(*args)

    kept = args[:2] if hook == "request_finished" else args
    assert [(hook, *kept)] == observer.events


def test_guarding_twice_adds_nothing():
    """And the no-op base needs no guard."""
    once = guarded(RecordingObserver())

    assert once is guarded(once)
    assert NO_OBSERVER is guarded(NO_OBSERVER)


def test_every_hook_is_guarded():
    """A new hook must not be forgotten."""
    hooks = {name for name, hook in vars(Observer).items() if callable(hook) and not name.startswith("_")}

    assert hooks == {hook for hook, _ in CALLS}
    assert hooks <= set(vars(GuardedObserver))


def test_a_pair_tells_both_everything() -> None:
    """In order, whichever hook it is; `NO_OBSERVER` needs no pair."""
    first, second = RecordingObserver(), RecordingObserver()
    pair = paired(first, second)
    for name in HOOKS:
        arguments = inspect.signature(getattr(NO_OBSERVER, name)).parameters
        getattr(pair, name)(*arguments)

    assert first.events == second.events
    assert HOOKS == [event[0] for event in first.events]
    assert first is paired(first, NO_OBSERVER) is paired(NO_OBSERVER, first)
