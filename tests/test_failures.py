"""Failures: which error the asking side gets for what went wrong here."""

from __future__ import annotations

from typing import Any

import gevent
import pytest

from tests.test_handled_call import Peer, call_of
from webmesh.exceptions import NOT_STARTED, AlreadyExists, Cancelled, ConnectionClosed, RouteNotFound, Unavailable
from webmesh.failures import Failures
from webmesh.protocol.envelope import Notification, Request
from webmesh.testing import RecordingObserver

REQUEST = Request("/", 7, None)


class Place:
    """Failures on one connection, and what they say of it."""

    def __init__(self) -> None:
        self.observer = RecordingObserver()
        self.failures = Failures(self.observer)
        self.peer = Peer()
        self.peer.id = "c"  # type: ignore[attr-defined]

    def outcome(self, error: BaseException) -> Any:
        return self.failures.error_for(call_of(self.peer, REQUEST), error)


def test_a_handlers_own_error_is_the_answer() -> None:
    """As it is."""
    error = AlreadyExists("there is one")
    assert error is Place().outcome(error)


def test_no_error_of_a_handler_says_that_it_never_began() -> None:
    """Whoever it has asked may have said so of itself: the asking side would send this request again."""
    class Down(Unavailable):
        """With arguments of its own."""

        def __init__(self) -> None:
            super().__init__("later", details=dict(NOT_STARTED), retry_after=2.0)

    answer = Place().outcome(Down())
    assert {"code": "unavailable", "message": "later", "retry_after_ms": 2000} == answer.to_wire()


@pytest.mark.row(49)
def test_anything_else_is_an_incident() -> None:
    """Its text stays here; the id stands in both places."""
    place = Place()

    answer = place.outcome(ZeroDivisionError("secret"))

    assert "internal" == answer.code and "secret" not in str(answer.to_wire())
    assert [answer.details["incident"]] == [event[1] for event in place.observer.named("handler_failed")]


@pytest.mark.parametrize("error", [gevent.GreenletExit(), ConnectionClosed(1006, "gone")])
def test_the_end_of_the_connection_is_no_incident(error: BaseException) -> None:
    """Nobody is to blame for it; on an open connection it is the handler's fault."""
    place = Place()
    assert "internal" == place.outcome(error).code
    place.peer.open = False
    assert "cancelled" == place.outcome(error).code


def test_one_that_has_given_up_is_not_told_so() -> None:
    """It has freed the id; any other error is still sent, and dropped over there."""
    place = Place()
    call = call_of(place.peer, REQUEST)
    call.cancel()
    for answer in (Cancelled("given up"), AlreadyExists("there")):
        place.failures.answer(call, answer, answer)
    assert [{"id": 7, "error": {"code": "already_exists", "message": "there"}}] == place.peer.sent


@pytest.mark.row(92)
def test_what_cannot_be_told_any_more_is_counted() -> None:
    """The connection has ended."""
    place = Place()
    place.peer.open = False
    closed = ConnectionClosed(1006, "gone")
    place.failures.answer(call_of(place.peer, REQUEST), closed, Cancelled("gone"))
    assert ([], [("reply", "connection closed")]) == (place.peer.sent, place.observer.named("refused"))


def test_a_refusal_is_counted_and_a_notifications_is_not_sent() -> None:
    """What has no id has no answer."""
    place = Place()
    for request in (REQUEST, Notification("/", None)):
        place.failures.refuse(request, place.peer, RouteNotFound("no such route"))  # type: ignore[arg-type]
    assert [7] == [message["id"] for message in place.peer.sent]
    assert [("request", "unimplemented")] * 2 == place.observer.named("refused")
