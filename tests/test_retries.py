"""Which calls are sent again, when, and under which budget."""

from __future__ import annotations

import math

import pytest

from webmesh.exceptions import Aborted, DeadlineExceeded, HandlerFailed, Overloaded, ReplyLost, Unavailable
from webmesh.options import RetryBudget
from webmesh.retries import LONGEST_DELAY, RetryTokens, retry_delay, retry_reason

LOST = ReplyLost("/", started=True)
UNSENT = ReplyLost("/", started=False)


@pytest.mark.row(74)
@pytest.mark.parametrize("error, repeatable, reason", [
    (LOST, True, "reply lost"),
    (LOST, False, None),
    (UNSENT, True, "not sent"),
    (UNSENT, False, "not sent"),
    (Unavailable(), True, "unavailable"),
    (Unavailable(), False, None),
    (Overloaded(), True, "resource_exhausted"),
    (Overloaded(), False, None),
    (Unavailable(retryable=False), True, None),
    (Unavailable(details={"started": False}), False, "not started"),
    (Unavailable(details={"started": True}), False, None),
    (HandlerFailed(details={"started": False}), True, None),
    (Aborted(), True, None),
    (HandlerFailed(), True, None),
    (DeadlineExceeded(), True, None),
])  # fmt: skip
def test_what_is_sent_again(error: Exception, repeatable: bool, reason: str | None) -> None:
    """What may have run only if it may run twice; what surely has not, always; what the handler answered, never."""
    assert reason == retry_reason(error, repeatable=repeatable)


def test_delays_grow_and_are_random() -> None:
    """Full jitter below 0.1, 0.2, 0.4 … s."""
    almost = math.nextafter(1.0, 0.0)
    assert [0.1, 0.2, 0.4, 0.8] == [round(retry_delay(None, attempt, lambda: almost), 3) for attempt in range(1, 5)]
    assert LONGEST_DELAY == pytest.approx(retry_delay(None, 100, lambda: almost))
    assert 0 == retry_delay(None, 3, lambda: 0.0)


@pytest.mark.parametrize("number", [0.0, 0.999])
def test_a_delay_that_was_asked_for_is_kept(number: float) -> None:
    """And only a little more."""
    delay = retry_delay(3.0, 1, lambda: number)
    assert 3.0 <= delay <= 3.6


def test_an_outage_ends_the_retries() -> None:
    """When every call fails, no more than half of the tokens are spent, whatever is called meanwhile."""
    tokens = RetryTokens(RetryBudget(tokens=100, ratio=0.1))
    allowed = 0
    for _ in range(10_000):
        tokens.made(1)
        allowed += tokens.failed()
    assert 50 <= allowed <= 60


def test_what_succeeds_pays_for_what_fails() -> None:
    """One failure in twenty calls is always within the budget; and a long calm saves up no more than the budget."""
    tokens = RetryTokens(RetryBudget(tokens=10, ratio=0.1))
    for _ in range(1000):
        tokens.made(20)
        assert tokens.failed()
    tokens.made(1_000_000)
    assert 10 == tokens.left


def test_one_loss_of_a_full_connection_is_within_the_default() -> None:
    """A restart under load is what retries are for."""
    tokens = RetryTokens(RetryBudget())
    assert 1023 <= sum(tokens.failed() for _ in range(1024))
