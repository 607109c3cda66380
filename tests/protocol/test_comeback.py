"""What an end means for the next attempt: come back or not, when, and where."""

from __future__ import annotations

import pytest

from webmesh.exceptions import (
    ConfigurationError, ConnectFailed, ConnectionClosed, DeadlineExceeded, HandlerFailed, HandshakeRejected,
    InvalidArgument, PermissionDenied, ReplyLost, RequestTimeout, Unauthenticated, Unavailable,
)  # fmt: skip
from webmesh.protocol.comeback import TRY_LATER, after_close, after_failure, may_answer_elsewhere


@pytest.mark.parametrize("code", [4500, 4501, 4503, 4504, 4505, 4700, 4999])
def test_codes_from_4500_on_are_final(code: int) -> None:
    """Coming back would end the same way, for ever."""
    assert after_close(code).final


@pytest.mark.parametrize("code", [1000, 1001, 1002, 1006, 1009, 1011, 1012, 1013, 3000, 4000, 4001, 4008, 4012, 4499])
def test_all_other_codes_are_not(code: int) -> None:
    """The reason says which it was."""
    assert not after_close(code).final
    assert f"closed with {code}" == after_close(code).reason


@pytest.mark.row(76)
@pytest.mark.parametrize("code", [1013, 4013])
def test_an_overloaded_server_asks_for_a_delay(code: int) -> None:
    """A close frame cannot say how long, so a number of ours stands for it."""
    assert TRY_LATER == after_close(code).asked


@pytest.mark.parametrize("code", [1000, 1001, 1012, 1013, 4001, 4013])
def test_who_leaves_is_left(code: int) -> None:
    """Another address comes first, where there is one."""
    assert after_close(code).elsewhere
    assert not after_close(1006).elsewhere


@pytest.mark.parametrize("ever", [True, False])
@pytest.mark.parametrize("status", [401, 403])
def test_a_refused_login_is_final(status: int, ever: bool) -> None:
    """The same token gets the same answer, from every server of the service."""
    assert after_failure(HandshakeRejected(status, "no"), ever_connected=ever).final
    assert not may_answer_elsewhere(HandshakeRejected(status, "no"))


@pytest.mark.parametrize("status", [301, 400, 404, 426])
def test_a_request_that_never_worked_is_final(status: int) -> None:
    """The URL or the serializer is wrong. But a proxy says the same to a client of a server that is away just now."""
    rejected = HandshakeRejected(status, "no")
    assert after_failure(rejected, ever_connected=False).final
    assert not after_failure(rejected, ever_connected=True).final


@pytest.mark.row(76)
@pytest.mark.parametrize("status", [0, 408, 425, 429, 500, 502, 503, 504])
def test_what_passes_is_tried_again_after_the_delay_asked_for(status: int) -> None:
    """Also by a client that was never connected."""
    comeback = after_failure(HandshakeRejected(status, "no", retry_after=7.0), ever_connected=False)
    assert (False, 7.0) == (comeback.final, comeback.asked)


@pytest.mark.parametrize("error, final", [
    (ConnectFailed("here", ["refused"]), False),
    (RequestTimeout("$hello", 1.0), False),
    (ConnectionClosed(1006), False),
    (ConnectionClosed(4500), True),
    (ReplyLost("$hello", started=True, code=1006), False),
    (ReplyLost("$hello", started=True, code=4500), True),
    (Unauthenticated("who?"), True),
    (PermissionDenied("you?"), True),
    (InvalidArgument("a will"), True),
    (DeadlineExceeded("slow"), False),
    (Unavailable("later", retry_after=2.0), False),
    (HandlerFailed("the handler failed"), False),
    (ConfigurationError("no such thing"), True),
    (KeyError("a token that could not be made"), False),
])  # fmt: skip
def test_failures_of_an_attempt(error: Exception, final: bool) -> None:
    """A refused login and a mistake of the program's own are final; what the network does is not."""
    comeback = after_failure(error, ever_connected=True)
    assert (final, getattr(error, "retry_after", None)) == (comeback.final, comeback.asked)
