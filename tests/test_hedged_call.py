"""One attempt on up to two instances; with real servers in test_service_attempts.py."""

from __future__ import annotations

import time
from typing import Any

import pytest

from tests.test_gathering import Asked
from webmesh.call_policy import CallPolicy
from webmesh.deadline import Deadline
from webmesh.exceptions import ConnectionClosed, InvalidArgument, ReplyLost, Unavailable
from webmesh.hedged_call import HedgedCall
from webmesh.instances import Instance
from webmesh.service_request import ServiceRequest
from webmesh.service_routes import ServiceState


class Attempt:
    """A hedged call of two instances whose answers are there already, or never come."""

    def __init__(self, first: Asked, second: Asked | None, seconds: float = 10.0) -> None:
        self.ended: dict[str, BaseException | None] = {}
        self._first = Instance("a", "stock", first)
        self._second = None if second is None else Instance("b", "stock", second)
        state = ServiceState(CallPolicy())
        self._request = ServiceRequest(
            "stock", None, "/", None, Deadline(seconds), None, None, "round-robin", True, False, False, state
        )

    def run(self, delay: float = 0.01) -> Any:
        def ended(instance: Instance, request: object, began: float, error: BaseException | None) -> None:
            self.ended[instance.node] = error

        try:
            return HedgedCall(self._request, lambda: self._second, ended, time.monotonic).run(self._first, delay)
        finally:
            assert set() == self._first.calls
            assert self._second is None or set() == self._second.calls


def answered(value: Any = None, error: Exception | None = None) -> Asked:
    link = Asked()
    if error is None:
        link.completion.succeed(value)
    else:
        link.completion.fail(error)
    return link


def test_a_quick_first_one() -> None:
    """The second is not asked."""
    attempt = Attempt(answered(1), answered(2))
    assert 1 == attempt.run(10.0)
    assert {"a": None} == attempt.ended


def test_a_slow_first_one() -> None:
    """It is told that nobody waits."""
    slow = Asked()
    attempt = Attempt(slow, answered(2))
    assert 2 == attempt.run()
    assert (True, None) == (slow.cancelled, attempt.ended["b"])


def test_an_error_of_one_leaves_the_other() -> None:
    """Only when both have failed the call has."""
    slow = Asked()
    attempt = Attempt(slow, answered(error=Unavailable()), 0.1)
    with pytest.raises(TimeoutError):
        attempt.run()
    assert isinstance(attempt.ended["b"], Unavailable)
    assert slow.cancelled


def test_an_error_before_it_was_time_for_the_second() -> None:
    """Is the end of the attempt: whether there is another one, others decide."""
    with pytest.raises(InvalidArgument):
        Attempt(answered(error=InvalidArgument()), answered(2)).run(10.0)


@pytest.mark.parametrize("second", [None, Asked(ConnectionClosed())])
def test_no_second_one(second: Asked | None) -> None:
    """Then the first is waited for."""
    with pytest.raises(TimeoutError):
        Attempt(Asked(), second, 0.1).run()


def test_a_link_that_has_ended() -> None:
    """Nothing was sent, which is told."""
    with pytest.raises(ConnectionClosed):
        Attempt(Asked(ConnectionClosed()), None).run()


def test_a_reply_that_is_lost() -> None:
    """Is told as any call's."""
    with pytest.raises(ReplyLost):
        Attempt(answered(error=ReplyLost("/", started=True)), None).run()
