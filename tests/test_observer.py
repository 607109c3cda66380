"""The observer: every hook is there to be overridden and does nothing until it is."""

from __future__ import annotations

import inspect

import pytest

from webmesh.observer import NO_OBSERVER, Observer

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
