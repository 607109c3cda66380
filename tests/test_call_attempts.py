"""Calls that are sent again: how often, within which time, and what is raised at last; without a network."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

from tests.running import PATIENCE
from webmesh.call_attempts import CallAttempts, Terms
from webmesh.deadline import Deadline
from webmesh.exceptions import (
    NOT_STARTED, Cancelled, ConnectFailed, ConnectionClosed, HandlerFailed, Overloaded, ReplyLost, RequestTimeout,
    Unavailable,
)  # fmt: skip
from webmesh.known_routes import KnownRoutes
from webmesh.options import RetryBudget
from webmesh.testing import RecordingObserver
from webmesh.websocket.hub import HubThread

REPEATABLE, ONCE, UNKNOWN = Terms(True, False), Terms(False, False), Terms(None, False)
LOST = ReplyLost("/", started=True)


class Link:
    """Has a connection, or not."""

    closed = False

    def __init__(self) -> None:
        self.home = HubThread("link")
        self.connection: Any = SimpleNamespace(open=True, requests=(100, 0))
        self.keeper = self
        self.error: Exception | None = None
        self.waits: list[tuple[float, bool]] = []

    def wait(self, seconds: float, *, fail_fast: bool) -> Any:
        self.waits.append((seconds, fail_fast))
        if self.error is not None:
            raise self.error
        self.connection = SimpleNamespace(open=True, requests=(0, 0))
        return self.connection


class Case:
    """Attempts, and what each of them meets in turn."""

    def __init__(self, *outcomes: Any, budget: RetryBudget | None = RetryBudget()) -> None:
        self.link = Link()
        self.observer = RecordingObserver()
        self.routes = KnownRoutes()
        self.outcomes = list(outcomes)
        self.sent: list[float] = []
        self.attempts = CallAttempts(self.link, self.routes, budget, self.observer)  # type: ignore[arg-type]

    def send(self, connection: Any, seconds: float) -> Any:
        self.sent.append(seconds)
        outcome = self.outcomes.pop(0)
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    def run(self, terms: Terms = REPEATABLE, seconds: float | None = 10.0, path: str = "/") -> Any:
        return self.attempts.run(self.send, path, Deadline(seconds), terms)

    def spawned(self, terms: Terms) -> Any:
        return self.attempts.spawned(lambda *args: self.send(*args), "/", Deadline(10), terms, self.link.connection)

    @property
    def reasons(self) -> list[str]:
        return [reason for _, reason in self.observer.named("call_retried")]


def catch(function: Callable[..., Any], *args: Any) -> Any:
    try:
        return function(*args)
    except Exception as error:
        return error


@pytest.mark.row(74)
def test_a_repeatable_call_is_sent_until_it_is_answered() -> None:
    """Within its one deadline; the observer is told of each retry."""
    case = Case(LOST, Unavailable(), Overloaded(), "reply")
    assert "reply" == case.run()
    assert ["reply lost", "unavailable", "resource_exhausted"] == case.reasons
    assert sorted(case.sent, reverse=True) == case.sent


@pytest.mark.row(74)
@pytest.mark.parametrize("error", [LOST, Unavailable(), Overloaded()])
@pytest.mark.parametrize("terms", [ONCE, UNKNOWN])
def test_any_other_call_is_sent_once(terms: Terms, error: Exception) -> None:
    """Its caller gets what happened, at once."""
    case = Case(error)
    assert error is catch(case.run, terms)
    assert [] == case.reasons


@pytest.mark.parametrize("terms", [ONCE, UNKNOWN])
def test_what_was_surely_not_sent_is_sent_again_whatever_it_is(terms: Terms) -> None:
    """It cannot have run."""
    case = Case(ReplyLost("/", started=False), "reply")
    assert "reply" == case.run(terms)
    assert ["not sent"] == case.reasons


def test_a_route_that_is_known_to_be_idempotent_needs_no_word_of_the_caller() -> None:
    """Who says that it is not is believed; and a keyed call is repeatable whatever the route."""
    listing = [{"path": "/", "idempotent": True}]
    for terms, path, expected in (
        (UNKNOWN, "/", "reply"), (UNKNOWN, "/other", LOST), (ONCE, "/", LOST),
        (Terms(None, False, True), "/x", "reply"),
    ):  # fmt: skip
        case = Case(LOST, "reply")
        case.routes.learn(listing)
        assert expected == catch(case.run, terms, 10.0, path)


def test_five_attempts_are_the_most() -> None:
    """The last error is raised."""
    errors = [Unavailable(str(number)) for number in range(9)]
    case = Case(*errors)
    assert errors[4] is catch(case.run)
    assert 5 == len(case.sent)


def test_no_attempt_is_begun_that_would_be_too_late() -> None:
    """The server asked for more time than the call has: its answer is the result."""
    busy = Overloaded(retry_after=60)
    case = Case(busy)
    assert busy is catch(case.run)
    assert [] == case.reasons


def test_an_error_that_is_no_loss_ends_it() -> None:
    """The handler has answered."""
    failed = HandlerFailed()
    assert failed is catch(Case(LOST, failed).run)


def test_without_a_budget_nothing_is_sent_twice() -> None:
    """Neither where the program wants none, nor where it is spent."""
    assert LOST is catch(Case(LOST, "reply", budget=None).run)
    case = Case(*[LOST] * 9, budget=RetryBudget(tokens=4, ratio=0.001))
    assert LOST is catch(case.run)
    assert 2 == len(case.sent)


def test_a_connection_that_is_just_gone_is_no_attempt() -> None:
    """Nothing was sent, so any call goes to the next one."""
    case = Case(ConnectionClosed(1006), "reply")
    original = case.link.connection
    send = case.send

    def closing(connection: Any, seconds: float) -> Any:
        connection.open = connection is not original
        return send(connection, seconds)

    assert "reply" == case.attempts.run(closing, "/", Deadline(10), ONCE)
    assert ([], 1) == (case.reasons, len(case.link.waits))


def test_no_new_connection_shows_what_became_of_the_call() -> None:
    """That it may have run is the graver news; why it was not sent again is told as well."""
    case = Case(LOST)
    case.link.error = ConnectFailed("x", ["refused"])
    case.link.connection.open = False
    assert case.link.error is catch(case.run)
    case.link.connection.open = True
    send = case.send

    def losing(connection: Any, seconds: float) -> Any:
        connection.open = False
        return send(connection, seconds)

    error = catch(case.attempts.run, losing, "/", Deadline(10), REPEATABLE)
    assert LOST is error
    assert case.link.error is error.__cause__


def test_without_time_nothing_is_sent() -> None:
    """Nor waited for."""
    case = Case()
    case.link.connection.open = False
    assert isinstance(catch(case.run, REPEATABLE, 0.0), RequestTimeout)
    assert [] == case.link.waits


def test_a_spawned_call_that_was_not_begun_is_sent_again() -> None:
    """Whatever it is, as one that is waited for; once given up it is not."""
    for error in (ReplyLost("/", started=False), ConnectionClosed(1006), Unavailable(details=NOT_STARTED)):
        case = Case("reply")
        case.link.home.start()
        spawned = case.spawned(ONCE)
        case.link.home.run(spawned.fail, error)
        assert "reply" == spawned.wait(PATIENCE)

        given_up = case.spawned(ONCE)
        given_up.fail(Cancelled())
        case.link.home.run(given_up.fail, error)
        assert isinstance(catch(given_up.wait, PATIENCE), Cancelled)
        case.link.home.stop()
        assert 1 == len(case.sent)


def test_a_spawned_call_that_may_have_run_is_not_sent_again() -> None:
    """Nor is anything where the program wants no retries."""
    case = Case("reply")
    case.link.home.start()
    for error in (LOST, Unavailable(), HandlerFailed()):
        spawned = case.spawned(ONCE)
        case.link.home.run(spawned.fail, error)
        assert error is catch(spawned.wait, PATIENCE)
    case.link.home.stop()
    assert [] == case.sent
    assert None is Case(budget=None).spawned(ONCE)


def test_an_error_that_the_client_has_given_up_for_is_told_on_as_final() -> None:
    """After five attempts, or none for want of time or budget; not where a call was sent as once and for all."""
    spent = RetryBudget(tokens=1, ratio=0.001)
    for case, terms, final in (
        (Case(*[Unavailable() for _ in range(5)]), REPEATABLE, True),
        (Case(Unavailable(retry_after=60)), REPEATABLE, True),
        (Case(Unavailable(), budget=spent), REPEATABLE, True),
        (Case(Unavailable(details=NOT_STARTED), Unavailable()), ONCE, True),
        (Case(Unavailable()), ONCE, False), (Case(Unavailable(), budget=None), REPEATABLE, False),
    ):
        error = catch(case.run, terms)
        assert error.retryable
        assert {"code": "unavailable", "message": ""} | ({"retryable": False} if final else {}) == {
            key: value for key, value in error.to_wire().items() if key in ("code", "message", "retryable")
        }


@pytest.mark.row(92)
def test_the_next_attempt_goes_where_new_calls_go() -> None:
    """The link may have moved while the old connection is open for what was begun there: no attempt helps there."""
    case = Case(*[Unavailable(details=NOT_STARTED)] * 4, "reply")
    old = case.link.connection
    used: list[Any] = []

    def moving(connection: Any, seconds: float) -> Any:
        used.append(connection)
        case.link.connection = SimpleNamespace(open=True, requests=(0, 0))
        return "reply" if connection is not old else case.send(connection, seconds)

    assert "reply" == case.attempts.run(moving, "/", Deadline(10), ONCE, old)
    assert [True, False] == [connection is old for connection in used]
