"""What becomes of a call when an instance fails, is slow, has no room, or goes: sent again where it may be, never twice
otherwise."""

from __future__ import annotations

import threading
from typing import Any

import pytest

from tests.fleet import SERVICE, Fleet, first, fleet
from tests.running import PATIENCE, wait_for
from webmesh.call_policy import CallPolicy
from webmesh.exceptions import (
    Aborted, HandlerFailed, InvalidArgument, Overloaded, ReplyLost, RequestTimeout, Unavailable,
)  # fmt: skip
from webmesh.options import RetryBudget
from webmesh.testing import FakeClock
from webmesh.webmesh_server import WebMeshServer


class Runs:
    """Which instance has begun what; `/hold` waits on the instances that are named, and `/raise` raises there."""

    def __init__(self, busy: str = "a", error: Exception | None = None) -> None:
        self.release = threading.Event()
        self.begun: list[str] = []
        self._busy = busy
        self.error = error

    def register(self, server: WebMeshServer, name: str) -> None:
        """For `fleet`."""

        @server.on("/hold")
        def hold(payload: Any, path: str, client: object) -> Any:
            return self._hold(name)

        @server.on("/hold/<int:number>", idempotent=True)
        def hold_again(payload: Any, path: str, client: object, number: int) -> Any:
            return self._hold(name)

        @server.on("/raise")
        def fail(payload: Any, path: str, client: object) -> Any:
            self.begun.append(name)
            if name in self._busy and self.error is not None:
                raise self.error
            return name

    def _hold(self, name: str) -> str:
        self.begun.append(name)
        if name in self._busy:
            self.release.wait(PATIENCE)
        return name


def lose_reply(group: Fleet, runs: Runs, path: str = "/hold", **options: Any) -> Any:
    """A call whose first instance is cut off while it works on it; its future."""
    policy = options.pop("policy", None) or CallPolicy(balance=first("a"))
    future = group.calls(policy).spawn(SERVICE, path, **options)
    assert wait_for(lambda: runs.begun)
    group.cut("a")
    return future


@pytest.mark.row(74)
def test_a_call_that_may_have_run_is_not_sent_again() -> None:
    """Whoever else could answer it."""
    runs = Runs()
    with fleet("ab", runs.register) as group:
        try:
            with pytest.raises(ReplyLost) as caught:
                lose_reply(group, runs).result(PATIENCE)
        finally:
            runs.release.set()
    assert (True, ["a"]) == (caught.value.started, runs.begun)


@pytest.mark.row(74)
def test_an_idempotent_call_goes_to_another_instance() -> None:
    """When the one that had it is gone."""
    runs = Runs()
    with fleet("ab", runs.register) as group:
        try:
            assert "b" == lose_reply(group, runs, idempotent=True).result(PATIENCE)
        finally:
            runs.release.set()
        assert [("/hold", "reply lost")] == group.observer.named("call_retried")
    assert ["a", "b"] == runs.begun


def test_routes_that_are_idempotent_are_learnt() -> None:
    """From the instances themselves, with the first call, so that nobody has to say it again."""
    runs = Runs()
    with fleet("ab", runs.register) as group:
        calls = group.calls(CallPolicy(balance=first("a")))
        calls.call(SERVICE, "/raise")
        runs.begun.clear()
        assert wait_for(lambda: group.instances["a"].routes.route("/hold/7") == "/hold/<int:number>")
        try:
            future = calls.spawn(SERVICE, "/hold/7")
            assert wait_for(lambda: runs.begun)
            group.cut("a")
            assert "b" == future.result(PATIENCE)
        finally:
            runs.release.set()


def test_a_key_is_not_taken_to_a_server_that_does_not_know_it() -> None:
    """Each remembers its own: the call waits for the process that has it, and its time ends."""
    runs = Runs()
    with fleet("ab", runs.register) as group:
        try:
            with pytest.raises((ReplyLost, RequestTimeout)):
                lose_reply(group, runs, idempotency_key=True, timeout=0.5).result(PATIENCE)
        finally:
            runs.release.set()
    assert ["a"] == runs.begun


def test_a_key_finds_its_process_again() -> None:
    """Over a new link, and what ran there answers; it does not run again."""
    runs = Runs()
    with fleet("ab", runs.register) as group:
        try:
            future = lose_reply(group, runs, idempotency_key="order 7")
            assert wait_for(lambda: group.observer.named("call_retried"))
            group.link("a")
        finally:
            runs.release.set()
        assert "a" == future.result(PATIENCE)
    assert ["a"] == runs.begun


def test_a_key_is_not_taken_to_the_next_process_of_its_node() -> None:
    """That has another epoch, and does not know what the former one has run."""
    runs = Runs()
    with fleet("ab", runs.register) as group:
        try:
            future = lose_reply(group, runs, idempotency_key="order 7", timeout=1.0)
            assert wait_for(lambda: group.observer.named("call_retried"))
            group.instances["a"].epoch = 1
            group.link("a")
            with pytest.raises((ReplyLost, RequestTimeout)):
                future.result(PATIENCE)
        finally:
            runs.release.set()
    assert ["a"] == runs.begun


def test_keys_that_all_share_go_anywhere() -> None:
    """As the policy says: then any of them knows what has run."""
    runs = Runs()
    with fleet("ab", runs.register) as group:
        try:
            policy = CallPolicy(balance=first("a"), shared_keys=True)
            assert "b" == lose_reply(group, runs, idempotency_key=True, policy=policy).result(PATIENCE)
        finally:
            runs.release.set()


def test_what_was_surely_not_begun_goes_to_another_instance() -> None:
    """Whatever it does: as when a link has ended before."""
    runs = Runs(busy="")
    with fleet("ab", runs.register) as group:
        calls = group.calls(CallPolicy(balance=first("a")))
        group.cut("a")
        assert {"b"} == {calls.call(SERVICE, "/hold") for _ in range(5)}
    assert ["b"] * 5 == runs.begun


def test_a_closing_server_is_left_for_another_one() -> None:
    """It refuses what it has not begun, and that is no failure for anybody."""
    runs = Runs(busy="")
    with fleet("ab", runs.register) as group:
        calls = group.calls(CallPolicy(balance=first("a")))
        assert "a" == calls.call(SERVICE, "/hold")
        group.servers["a"].close(0)
        assert {"b"} == {calls.call(SERVICE, "/hold") for _ in range(5)}


@pytest.mark.parametrize("error", [Overloaded(retry_after=60.0), Unavailable(retry_after=60.0), Overloaded()])
def test_overload_steers_to_others(error: Exception) -> None:
    """An instance that has no room gets nothing new for as long as it says, and is not left out for it."""
    runs = Runs(error=error)
    with fleet("ab", runs.register) as group:
        clock = FakeClock()
        calls = group.calls(CallPolicy(balance=first("a")), clock=clock)

        assert {"b"} == {calls.call(SERVICE, "/raise", idempotent=True) for _ in range(10)}

        assert ["a", *"b" * 10] == runs.begun
        assert [] == group.observer.named("instance_ejected")
        clock.advance(30.0)  # `rest_longest`: no longer than that, whatever it says
        calls.call(SERVICE, "/raise", idempotent=True)
        assert 2 == runs.begun.count("a")


@pytest.mark.parametrize("error", [HandlerFailed(), InvalidArgument(), Aborted()])
def test_what_the_handler_says_is_not_asked_again(error: Exception) -> None:
    """Elsewhere it would say the same."""
    runs = Runs(error=error)
    with fleet("ab", runs.register) as group, pytest.raises(type(error)):
        group.calls(CallPolicy(balance=first("a"))).call(SERVICE, "/raise", idempotent=True)
    assert ["a"] == runs.begun


@pytest.mark.parametrize(("options", "most"), [
    ({}, 4), ({"budget": None}, 1), ({"budget": RetryBudget(tokens=2)}, 1),
])  # fmt: skip
def test_attempts_are_bounded(options: dict[str, Any], most: int) -> None:
    """By number and by budget, and the last error is marked so that others do not try again either."""
    runs = Runs(busy="ab", error=Overloaded())
    with fleet("ab", runs.register) as group, pytest.raises(Overloaded) as caught:
        group.calls(CallPolicy(attempts=4), **options).call(SERVICE, "/raise", idempotent=True)
    assert (most, True) == (len(runs.begun), caught.value.exhausted)


def test_an_instance_that_fails_is_left_out() -> None:
    """After five failures in a row; the observer is told."""
    runs = Runs(error=HandlerFailed())
    with fleet("ab", runs.register) as group:
        clock = FakeClock()
        calls = group.calls(CallPolicy(balance=first("a"), breaker_calls=1000), clock=clock)
        for _ in range(5):
            with pytest.raises(HandlerFailed):
                calls.call(SERVICE, "/raise")
        assert {"b"} == {calls.call(SERVICE, "/raise") for _ in range(5)}
        assert [(SERVICE, "a", "failures in a row", 5.0)] == group.observer.named("instance_ejected")

        clock.advance(5.0)
        runs.error = None
        assert "a" == calls.call(SERVICE, "/raise")
        assert not group.instances["a"].proving


def test_the_breaker_opens_and_tries() -> None:
    """When a route fails everywhere, calls fail at once; one tries after a while, and closes it when it succeeds."""
    runs = Runs(busy="ab", error=HandlerFailed())
    with fleet("ab", runs.register) as group:
        clock = FakeClock()
        calls = group.calls(CallPolicy(breaker_calls=4), clock=clock)
        for _ in range(4):
            with pytest.raises(HandlerFailed):
                calls.call(SERVICE, "/raise")
        with pytest.raises(Unavailable, match="failed too often") as caught:
            calls.call(SERVICE, "/raise")
        assert (4, 2.0) == (len(runs.begun), caught.value.retry_after)

        clock.advance(2.0)
        with pytest.raises(HandlerFailed):
            calls.call(SERVICE, "/raise")
        clock.advance(3.9)
        with pytest.raises(Unavailable):
            calls.call(SERVICE, "/raise")
        clock.advance(0.1)
        runs.error = None
        assert calls.call(SERVICE, "/raise") in "ab"
        assert calls.call(SERVICE, "/raise") in "ab"
        states = [state for _, _, state in group.observer.named("breaker_changed")]
        assert ["open", "open", "closed"] == states


# --------------------------------------------------------------------------------- hedging

HEDGED = CallPolicy(balance=first("a"), hedge=0.02, hedge_share=1.0)


def test_a_slow_instance_is_overtaken() -> None:
    """The first reply counts; the other call is ended, and its instance is known to be slow."""
    runs = Runs()
    with fleet("ab", runs.register) as group:
        try:
            assert "b" == group.calls(HEDGED).call(SERVICE, "/hold", idempotent=True)
            assert 0 == sum(one.pending for one in group.instances.values())
            assert wait_for(lambda: group.instances["a"].connection.requests[1] == 0)
        finally:
            runs.release.set()
        assert [("/hold",)] == group.observer.named("call_hedged")
        assert group.instances["a"].latency >= 0.02
    assert ["a", "b"] == runs.begun


def test_a_quick_call_is_not_hedged() -> None:
    """There is nothing to overtake."""
    runs = Runs(busy="")
    with fleet("ab", runs.register) as group:
        policy = CallPolicy(balance=first("a"), hedge=PATIENCE, hedge_share=1.0)
        assert {"a"} == {group.calls(policy).call(SERVICE, "/hold", idempotent=True) for _ in range(5)}
        assert [] == group.observer.named("call_hedged")


@pytest.mark.parametrize(("policy", "options"), [
    (HEDGED, {"idempotent": False}), (HEDGED, {"idempotency_key": True}),
    (CallPolicy(balance=first("a"), hedge=0.02), {"idempotent": True}),
])  # fmt: skip
def test_what_is_not_hedged(policy: CallPolicy, options: dict[str, Any]) -> None:
    """What must not run twice, a key of which two servers would not know of each other; and what the budget denies."""
    runs = Runs()
    with fleet("ab", runs.register) as group:
        try:
            future = group.calls(policy).spawn(SERVICE, "/hold", **options)
            assert wait_for(lambda: runs.begun)
            with pytest.raises(TimeoutError):
                future.result(0.2)
        finally:
            runs.release.set()
        assert "a" == future.result(PATIENCE)
    assert ["a"] == runs.begun


def test_a_hedged_call_that_nobody_answers() -> None:
    """Ends in time, for both."""
    runs = Runs(busy="ab")
    with fleet("ab", runs.register) as group:
        try:
            with pytest.raises(TimeoutError):
                group.calls(HEDGED).call(SERVICE, "/hold", idempotent=True, timeout=0.3)
            assert 0 == sum(one.pending for one in group.instances.values())
        finally:
            runs.release.set()


def test_a_hedged_call_survives_the_loss_of_one() -> None:
    """The other one answers, without another attempt."""
    runs = Runs(busy="ab")
    with fleet("ab", runs.register) as group:
        try:
            future = group.calls(HEDGED).spawn(SERVICE, "/hold", idempotent=True)
            assert wait_for(lambda: len(runs.begun) == 2)
            group.cut("a")
        finally:
            runs.release.set()
        assert "b" == future.result(PATIENCE)


def test_a_cancelled_call_ends_everywhere() -> None:
    """Whoever gives up a call leaves nothing behind on either instance."""
    runs = Runs(busy="ab")
    with fleet("ab", runs.register) as group:
        try:
            future = group.calls(HEDGED).spawn(SERVICE, "/hold", idempotent=True)
            assert wait_for(lambda: len(runs.begun) == 2)
            future.cancel()
            assert wait_for(lambda: not any(one.pending for one in group.instances.values()))
            assert wait_for(lambda: not any(one.connection.requests[1] for one in group.instances.values()))
        finally:
            runs.release.set()


def test_a_cancelled_handler_waits_for_nobody() -> None:
    """And those who wait for the same news go on waiting."""
    begun: list[str] = []
    ended: list[BaseException] = []
    with fleet("a", Runs(busy="").register) as inner:
        inner.cut("a")
        calls = inner.calls()

        def register(server: WebMeshServer, name: str) -> None:
            @server.on("/outer")
            def outer(payload: Any, path: str, client: object) -> Any:
                begun.append(path)
                try:
                    return calls.call(SERVICE, "/hold")
                except BaseException as error:
                    ended.append(error)
                    raise

        with fleet("x", register) as group:
            other = calls.spawn(SERVICE, "/hold")
            future = group.calls().spawn(SERVICE, "/outer")
            assert wait_for(lambda: group.instances["x"].pending)
            assert wait_for(lambda: begun)
            future.cancel()
            assert wait_for(lambda: ended)
            assert not other.done()
            inner.link("a")
            assert "a" == other.result(PATIENCE)
