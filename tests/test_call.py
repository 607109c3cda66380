"""Calls: their deadline, middleware around them, and the chain of services that they passed through."""

from __future__ import annotations

import gc
import weakref
from contextvars import copy_context
from typing import Any

import pytest

from webmesh.call import (
    CALL_CHAIN, CURRENT, SERVED_BY, Call, CallNext, chained, current_call, service_chain, serving_context,
)  # fmt: skip
from webmesh.exceptions import WebMeshError


def call(path: str = "/", payload: Any = None, *, seconds: float | None = None, **headers: str) -> Call:
    return Call(path, payload, headers, None, seconds=seconds)  # type: ignore[arg-type]


def handling(one: Call, function: Any, *args: Any) -> Any:
    """What *function* returns while *one* is handled."""
    context = copy_context()
    context.run(CURRENT.set, one)
    return context.run(function, *args)


# ---------------------------------------------------------------------- deadline


def test_a_deadline_begins_when_it_is_asked_for() -> None:
    """A handler that never asks pays no clock; asked again, it is the same one."""
    one = call(seconds=5)
    deadline = one.deadline
    remaining = deadline.remaining()
    assert remaining is not None and 4 < remaining <= 5
    assert deadline is one.deadline


def test_a_call_without_a_time_has_no_end() -> None:
    """As a stream for which nobody named one."""
    assert call().deadline.remaining() is None


@pytest.mark.parametrize("asked_before", [True, False])
def test_a_cancel_is_seen_in_the_deadline(asked_before: bool) -> None:
    """Whether the running code holds it already or asks later."""
    one = call()
    if asked_before:
        assert not one.deadline.cancelled

    one.cancel()

    assert one.cancelled
    assert one.deadline.cancelled


def test_a_call_has_no_items_unless_some_are_announced() -> None:
    """An empty series, not an error, and so each time it is asked for."""
    one = call()
    assert [] == list(one.items)
    assert [] == list(one.items) == list(call().items)


def test_a_repr_shows_path_and_id_only() -> None:
    """Payloads and headers may hold secrets."""
    one = Call("/a", "secret", {"authorization": "secret"}, None, request_id=7)  # type: ignore[arg-type]
    assert "<Call /a id=7>" == repr(one)


# -------------------------------------------------------------------- middleware


def tagged(tag: str) -> Any:
    def middleware(one: Call, call_next: CallNext) -> Any:
        one.payload.append(tag)
        return [tag, call_next(one)]

    return middleware


def test_middleware_is_chained_from_the_outside_in() -> None:
    """The first registered sees the call first and the result last."""
    one = call(payload=[])
    result = chained([tagged("a"), tagged("b")], lambda one: list(one.payload))(one)
    assert ["a", ["b", ["a", "b"]]] == result


def test_no_middleware_is_the_last_link_itself() -> None:
    """Nothing is wrapped, so nothing is paid."""

    def last(one: Call) -> Any:
        return one.path

    assert last is chained([], last)


def test_middleware_may_call_on_twice_or_never() -> None:
    """A retry, a cache."""
    entered: list[str] = []

    def last(one: Call) -> int:
        entered.append(one.path)
        return len(entered)

    assert 2 == chained([lambda one, call_next: call_next(one) and call_next(one)], last)(call())
    assert "cached" == chained([lambda one, call_next: "cached"], last)(call())
    assert ["/", "/"] == entered


def test_what_is_raised_passes_through_middleware() -> None:
    """Unless one catches it."""

    def fails(one: Call) -> None:
        raise ZeroDivisionError

    def catches(one: Call, call_next: CallNext) -> str:
        try:
            return str(call_next(one))
        except ZeroDivisionError:
            return "caught"

    with pytest.raises(ZeroDivisionError):
        chained([tagged("a")], fails)(call(payload=[]))
    assert "caught" == chained([catches, tagged("a")], fails)(call(payload=[]))


# ------------------------------------------------------------- the current call


def test_the_current_call_is_that_of_the_running_code() -> None:
    """Outside of a handler there is none, and the text says so."""
    one = call()
    assert one is handling(one, current_call)
    with pytest.raises(WebMeshError, match="no call is being handled here"):
        current_call()


def test_a_serving_context_names_whose_code_runs_in_it() -> None:
    """Also where one serves within a handler of another; the caller's own context stays as it was."""
    outer, inner = object(), object()

    within = serving_context(outer).run(serving_context, inner)

    assert frozenset({outer, inner}) == within.run(SERVED_BY.get)
    assert frozenset() == SERVED_BY.get()


def test_a_serving_context_keeps_its_owner_no_longer_than_itself() -> None:
    """A server that nobody holds any more can go."""

    class Owner:
        pass

    owner = Owner()
    context, seen = serving_context(owner), weakref.ref(owner)
    del owner, context
    gc.collect()
    assert seen() is None


# ------------------------------------------------------------- chain of services


@pytest.mark.parametrize(
    ("came_through", "service", "expected"),
    [
        (None, None, None),
        (None, "shop", "shop"),
        ("", "shop", "shop"),
        ("web", "shop", "web,shop"),
        ("web,shop", None, "web,shop"),
        (",,web,,", "shop", "web,shop"),
    ],
)
def test_a_chain_grows_by_each_service(came_through: str | None, service: str | None, expected: str | None) -> None:
    """Newest last; a program without a name adds nothing."""
    one = call() if came_through is None else call(**{CALL_CHAIN: came_through})
    assert expected == handling(one, service_chain, service, 16)


def test_outside_of_a_handler_a_chain_begins() -> None:
    """With the service that calls."""
    assert "shop" == service_chain("shop", 16)


def test_a_chain_ends_at_its_limit() -> None:
    """Services that call each other in a circle stop; the text shows the circle."""
    names = ",".join(["a", "b"] * 8)
    one = call(**{CALL_CHAIN: names})
    assert names == handling(one, service_chain, None, 16)
    with pytest.raises(RecursionError, match=f"17 services, 16 is the limit: {names},shop"):
        handling(one, service_chain, "shop", 16)
