"""Which calls are sent again, after which delay, and how many of them.

Pure. The budget is gRPC's throttling: in an outage, when every call fails, retries would only multiply it. Sending
again is `call_attempts`' business.
"""

from __future__ import annotations

from collections.abc import Callable

from webmesh.exceptions import NOT_STARTED, ConnectionClosed, Overloaded, RemoteError, ReplyLost, Unavailable
from webmesh.options import RetryBudget

ATTEMPTS = 5
"""How often one call is sent at most, the first time included (gRPC's bound)."""

FIRST_DELAY = 0.1
"""Seconds below which the first retry is delayed at random; each further one twice as long."""
LONGEST_DELAY = 2.0
"""Where that ends: a call has seconds, not minutes."""

RETRIABLE = (ReplyLost, Unavailable, Overloaded)
"""What a call may be sent again after, if it may be sent again at all."""


class RetryTokens:
    """The budget of one client. Each failure takes a token, each call gives back a part of one.

    Used from many threads without a lock: a token lost between two of them does not matter.
    """

    __slots__ = ("_ratio", "left", "most")

    def __init__(self, budget: RetryBudget) -> None:
        self.most = budget.tokens
        self._ratio = budget.ratio
        self.left = self.most

    def made(self, calls: int) -> None:
        """So many calls were made since this was last told."""
        self.left = min(self.most, self.left + calls * self._ratio)

    def failed(self) -> bool:
        """A call has failed in a way that may be retried; whether there is budget for that."""
        self.left = max(0.0, self.left - 1)
        return self.left > self.most / 2


def retry_reason(error: Exception, *, repeatable: bool) -> str | None:
    """Why a call that ended so may be sent again, in fixed words; `None` when it may not.

    Args:
        repeatable: Whether running it twice does no harm, or an idempotency key keeps it from that.
    """
    if isinstance(error, ReplyLost):
        if not error.started:
            return "not sent"  # it surely never reached a handler, so any call may
        return "reply lost" if repeatable else None
    if isinstance(error, Unavailable | Overloaded) and error.retryable:
        if error.details == NOT_STARTED:
            return "not started"
        return error.code if repeatable else None
    return None


def exhausted(error: Exception) -> Exception:
    """*error* as what a client raises that has sent a call as often as it is going to."""
    if isinstance(error, RemoteError):
        error.exhausted = True
    return error


def surely_not_begun(error: BaseException) -> bool:
    """Whether a call that ended so has never reached a handler."""
    if isinstance(error, ConnectionClosed):
        return True  # what a request gets that cannot be sent
    return isinstance(error, Exception) and retry_reason(error, repeatable=False) is not None


def retry_delay(asked: float | None, attempt: int, random: Callable[[], float]) -> float:
    """Seconds until the next attempt.

    Args:
        asked: Seconds that the one who is asked again wants at least.
        attempt: The one that has failed, from 1.
        random: A number from 0 to below 1.
    """
    jitter: float = random() * min(LONGEST_DELAY, FIRST_DELAY * 2.0 ** (attempt - 1))
    return jitter if asked is None else asked + random() * max(jitter, 0.2 * asked)
