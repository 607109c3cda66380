"""What the end of a connection, or of an attempt to make one, means for the next attempt.

Pure. Decides whether a client comes back, whether it was asked to wait, and whether another address is the better one.
The delays are `backoff`'s. Close codes: docs/PROTOCOL.md section 5.
"""

from __future__ import annotations

from dataclasses import dataclass

from webmesh.exceptions import (
    Cancelled, ConfigurationError, ConnectFailed, ConnectionClosed, DeadlineExceeded, HandlerFailed, HandshakeRejected,
    PermissionDenied, RemoteError, ReplyLost, RequestTimeout, Unauthenticated,
)  # fmt: skip

TRY_LATER = 1.0
"""Seconds that 1013 and 4013 ask for at least: a close frame has no room for a number."""

_LEAVING = {1000, 1001, 1012, 4001}
"""The server goes, or is done with us: whoever else there is may be the better address."""
_OVERLOADED = {1013, 4013}
_LOGIN_STATUSES = {401, 403}
_PASSING_STATUSES = {408, 425, 429}
"""Those of 400 to 499 that say nothing against the request itself."""


@dataclass(frozen=True, slots=True)
class Comeback:
    """What to do next."""

    reason: str
    """Fixed words, never the peer's: for logs, labels and events."""
    final: bool = False
    """It makes no sense to try again: the same would come of it."""
    asked: float | None = None
    """Seconds that the server asked to wait."""
    elsewhere: bool = False
    """Another address, if there is one, before this one."""


_PASSING_ERRORS = Cancelled, DeadlineExceeded, HandlerFailed
"""What says nothing about the next hello: a server whose own code failed may have got well by then."""


def after_close(code: int) -> Comeback:
    """What the close code of a connection that was in use means."""
    reason = f"closed with {code}"
    if 4500 <= code <= 4999:
        return Comeback(reason, final=True)
    if code in _OVERLOADED:
        return Comeback(reason, asked=TRY_LATER, elsewhere=True)
    return Comeback(reason, elsewhere=code in _LEAVING)


def after_failure(error: Exception, *, ever_connected: bool) -> Comeback:
    """What a failed attempt means.

    Args:
        ever_connected: Whether this client has had a connection. If not, a 404 means that the address is wrong; if
            so, that a proxy in between does not know its server for the moment.
    """
    if isinstance(error, HandshakeRejected):
        return _after_status(error, ever_connected)
    if isinstance(error, ConnectionClosed | ReplyLost):  # while it said hello
        return after_close(error.code)
    if isinstance(error, Unauthenticated | PermissionDenied):
        return Comeback("login refused", final=True)
    if isinstance(error, ConfigurationError):
        return Comeback("cannot be dialled", final=True)
    if isinstance(error, ConnectFailed):
        return Comeback("unreachable", elsewhere=True)
    if isinstance(error, RequestTimeout):
        return Comeback("no answer to hello", elsewhere=True)
    if isinstance(error, RemoteError):
        if not error.retryable and not isinstance(error, _PASSING_ERRORS):
            return Comeback(f"hello refused with {type(error).code}", final=True)
        return Comeback("hello refused", asked=error.retry_after, elsewhere=True)
    return Comeback("attempt failed")


def _after_status(error: HandshakeRejected, ever_connected: bool) -> Comeback:
    status = error.status
    reason = f"rejected with {status}" if status else "no WebSocket answer"
    if status in _LOGIN_STATUSES:
        return Comeback(reason, final=True)
    hopeless = 300 <= status < 500 and status not in _PASSING_STATUSES
    return Comeback(reason, final=hopeless and not ever_connected, asked=error.retry_after, elsewhere=True)


def may_answer_elsewhere(error: HandshakeRejected) -> bool:
    """Whether another server of the same service may say yes where this one has said no."""
    return error.status not in _LOGIN_STATUSES
