"""The answer to a call that is on its way."""

from __future__ import annotations

from typing import Any

import gevent
import pytest
from gevent.hub import get_hub

from tests.websocket.interleaving import NativeThread, native
from tests.websocket.loopback import PATIENCE, until
from webmesh.deadline import Deadline
from webmesh.exceptions import Cancelled, ConnectionClosed, DeadlineExceeded, RemoteError, ReplyLost, RequestTimeout
from webmesh.websocket.future import Future
from webmesh.websocket.hub import Completion


class Asked:
    """A call to which the test gives the answer."""

    def __init__(self, seconds: float | None = PATIENCE) -> None:
        self.completion: Completion[Any] = Completion(get_hub())
        self.abandoned = 0
        self.future = Future("/slow", self.completion, Deadline(seconds), seconds, self._abandon)

    def _abandon(self) -> None:
        self.abandoned += 1

    def wait_for(self, waiters: int) -> None:
        """Let the hub turn until so many wait for the answer."""
        until(lambda: waiters == len(self.completion._wakers))


def test_the_reply_is_the_result():
    """For all who ask, before and after it has come."""
    asked = Asked()
    waiters = [gevent.spawn(asked.future.result) for _ in range(2)]
    threads = [NativeThread(asked.future.result) for _ in range(2)]
    asked.wait_for(4)
    assert not asked.future.done()

    asked.completion.succeed("reply")

    assert asked.future.done()
    assert ["reply"] * 5 == [
        asked.future.result(), *(waiter.get(timeout=PATIENCE) for waiter in waiters), *(each.join() for each in threads)
    ]  # fmt: skip
    assert 0 == asked.abandoned


@pytest.mark.parametrize(
    "error",
    [RemoteError("no"), ReplyLost("/slow", started=True), DeadlineExceeded("too late"), RequestTimeout("/slow", 1)],
    ids=lambda error: type(error).__name__,
)
@pytest.mark.parametrize("timeout", [None, 5])
def test_an_error_is_raised_and_nothing_is_given_up(error: Exception, timeout: float | None):
    """The call has ended by itself: there is nothing to cancel, also where the error is a timeout."""
    asked = Asked()
    asked.completion.fail(error)

    for _ in range(2):
        with pytest.raises(type(error)) as raised:
            asked.future.result(timeout)
        assert error is raised.value
    assert 0 == asked.abandoned


def test_who_waits_for_a_while_leaves_the_call_alone():
    """The call goes on, and can be waited for again."""
    asked = Asked()
    with pytest.raises(TimeoutError) as raised:
        asked.future.result(0.01)
    with pytest.raises(TimeoutError):
        native(asked.future.result, 0)
    assert not isinstance(raised.value, RequestTimeout)
    assert 0 == asked.abandoned

    asked.completion.succeed("reply")

    assert "reply" == asked.future.result(0)


@pytest.mark.parametrize("timeout", [None, 60], ids=["as long as it lasts", "longer"])
def test_the_calls_own_time_ends_it(timeout: float | None):
    """The peer is told, once, and everybody sees the same: the path and the time."""
    asked = Asked(0.01)
    for wait in (asked.future.result, lambda timeout: native(asked.future.result, timeout)):
        with pytest.raises(RequestTimeout, match="'/slow' within 0.01 s"):
            wait(timeout)

    assert 1 == asked.abandoned
    assert asked.future.done()


def test_a_call_without_end_is_waited_for_without_end():
    """`None` is no time limit anywhere."""
    asked = Asked(None)
    waiter = gevent.spawn(asked.future.result)
    asked.wait_for(1)
    with pytest.raises(TimeoutError):
        asked.future.result(0.01)
    asked.completion.succeed("reply")

    assert "reply" == waiter.get(timeout=PATIENCE)


def test_a_reply_that_meets_the_end_of_the_time_counts():
    """Whose time it is makes no difference."""
    for seconds, timeout in ((0, None), (PATIENCE, 0)):
        asked = Asked(seconds)
        waiter = gevent.spawn(asked.future.result, timeout)
        # It is set before the waiter's timer, which has expired already, wakes it.
        get_hub().loop.run_callback(asked.completion.succeed, "reply")
        waiter.join(PATIENCE)

        assert ("reply", 0) == (waiter.value, asked.abandoned)


@pytest.mark.row(89)
@pytest.mark.parametrize("in_thread", [False, True], ids=["greenlet", "thread"])
def test_cancelling_ends_all_waits(in_thread: bool):
    """From the hub or from any thread: the peer is told once, and who waits in a sleeping hub is woken."""
    asked = Asked(None)
    waiters = [gevent.spawn(asked.future.result) for _ in range(2)]
    thread = NativeThread(asked.future.result)
    asked.wait_for(3)
    for _ in range(2):
        native(asked.future.cancel) if in_thread else asked.future.cancel()

    with gevent.Timeout(PATIENCE):
        gevent.joinall(waiters)
    assert [Cancelled] * 2 == [type(waiter.exception) for waiter in waiters]
    with pytest.raises(Cancelled):
        thread.join()
    assert (1, True) == (asked.abandoned, asked.future.done())


def test_cancelling_comes_too_late_for_an_answer():
    """What has come stays; nobody is told anything."""
    asked = Asked()
    asked.completion.succeed("reply")
    asked.future.cancel()
    asked.future.expire()

    assert ("reply", 0) == (asked.future.result(), asked.abandoned)


def test_expiry_is_a_request_timeout():
    """For calls that nobody waits for: they would hold their place for ever."""
    asked = Asked(7.0)
    asked.future.expire()
    asked.future.expire()

    with pytest.raises(RequestTimeout, match="within 7 s"):
        asked.future.result()
    assert 1 == asked.abandoned


@pytest.mark.row(95)
def test_a_call_whose_only_waiter_goes_is_given_up():
    """Killed, or interrupted by a timeout of its own: nobody would take the answer."""
    asked = Asked()
    waiter = gevent.spawn(asked.future.result)
    asked.wait_for(1)
    waiter.kill()
    assert 1 == asked.abandoned

    asked = Asked()
    with pytest.raises(gevent.Timeout), gevent.Timeout(0.01):
        asked.future.result()
    assert 1 == asked.abandoned
    with pytest.raises(Cancelled):
        asked.future.result()


@pytest.mark.row(95)
def test_a_call_that_others_wait_for_goes_on():
    """One who is killed takes nothing from the rest, nor from a callback."""
    asked = Asked()
    killed, other = gevent.spawn(asked.future.result), gevent.spawn(asked.future.result)
    asked.wait_for(2)
    killed.kill()
    assert 0 == asked.abandoned
    asked.completion.succeed("reply")
    assert "reply" == other.get(timeout=PATIENCE)

    asked = Asked()
    seen: list[Any] = []
    asked.future.when_done(lambda future: seen.append(future.result(0)))
    killed = gevent.spawn(asked.future.result)
    asked.wait_for(2)
    killed.kill()
    asked.completion.succeed("reply")
    until(lambda: ["reply"] == seen)
    assert 0 == asked.abandoned


def test_a_callback_gets_the_future_in_the_hub():
    """Whether it is done before or after, and whoever ends it; once."""
    for end in ("completion.succeed", "future.cancel", "future.expire"):
        for early in (True, False):
            asked = Asked()
            seen: list[tuple[Any, bool]] = []

            def finish(asked: Asked = asked, end: str = end) -> None:
                owner, name = end.split(".")
                getattr(getattr(asked, owner), name)(*(["reply"] if name == "succeed" else []))

            if early:
                native(finish)
            asked.future.when_done(lambda future: seen.append((future, gevent.getcurrent() is get_hub())))
            if not early:
                native(finish)
            until(lambda: bool(seen))

            assert [(asked.future, True)] == seen


def test_giving_up_after_the_client_was_closed_is_no_error():
    """There is no peer left that could be told."""
    asked = Asked()

    def gone() -> None:
        raise ConnectionClosed(1001, "webmesh-client was closed")

    future = Future("/slow", asked.completion, Deadline(0.01), 0.01, gone)
    with pytest.raises(RequestTimeout):
        future.result()
    future.cancel()
