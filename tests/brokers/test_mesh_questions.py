"""LeaderQuestions: who is asked again, and what is told of an answer that did not come."""

from __future__ import annotations

from typing import Any

import pytest

from webmesh.brokers import mesh_questions
from webmesh.brokers.mesh_questions import DOUBTFUL, NOT_THE_LEADER, Doubtful, LeaderQuestions
from webmesh.exceptions import (
    NOT_STARTED, BrokerError, BrokerUnavailable, ConnectionClosed, HandlerFailed, Overloaded, PermissionDenied,
    ReplyLost, RequestTimeout, RouteNotFound, Unavailable,
)  # fmt: skip


class Council:
    """Says who leads; each time the next one."""

    def __init__(self, *leaders: str | None) -> None:
        self.leaders = list(leaders)

    def await_leader(self, seconds: float) -> str | None:
        return self.leaders.pop(0) if len(self.leaders) > 1 else self.leaders[0]


class Port:
    """Answers in turn what it was given."""

    me = "me"

    def __init__(self, *answers: Any) -> None:
        self.answers = list(answers)
        self.asked: list[str] = []

    def ask(self, node: str, path: str, payload: Any, timeout: float) -> Any:
        self.asked.append(node)
        answer = self.answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer


def questions(council: Council, port: Port) -> LeaderQuestions:
    return LeaderQuestions(port, council, lambda node, said: ("own", node, said))  # type: ignore[arg-type]


def test_whoever_leads_is_asked_and_oneself_directly() -> None:
    """By the wire only where there is one."""
    port = Port(5)
    assert 5 == questions(Council("a"), port).ask({})
    assert ("own", "me", {}) == questions(Council("me"), port).ask({})
    assert ["a"] == port.asked


@pytest.mark.parametrize(
    "failure",
    [
        ConnectionClosed(1006, "x"), Unavailable("x", details=NOT_STARTED),
        Unavailable("x", details=NOT_THE_LEADER),
        ReplyLost("$engine", started=False, code=1006, reason="x"), RouteNotFound("x"), PermissionDenied("x"),
    ],
)  # fmt: skip
def test_what_surely_did_not_happen_is_asked_of_the_next_leader(failure: Exception) -> None:
    """Whether it may happen twice or not."""
    port = Port(failure, "answer")
    assert "answer" == questions(Council("a", "b"), port).ask({}, repeatable=False)
    assert ["a", "b"] == port.asked


@pytest.mark.parametrize(
    "failure",
    [
        ReplyLost("$engine", started=True, code=1006, reason="x"), RequestTimeout("$engine", 5.0),
        Unavailable("x", details=DOUBTFUL),
    ],
)  # fmt: skip
def test_what_may_have_happened_is_asked_again_only_where_that_does_no_harm(failure: Exception) -> None:
    """Otherwise whoever asked is told that nobody knows."""
    assert 1 == questions(Council("a"), Port(failure, 1)).ask({})
    with pytest.raises(Doubtful):
        questions(Council("a"), Port(failure, 1)).ask({}, repeatable=False)


@pytest.mark.parametrize("repeatable", [True, False])
def test_a_leader_that_fails_is_not_asked_in_vain_again(repeatable: bool) -> None:
    """Each time it would write down its failure; what has come of it nobody knows."""
    port = Port(HandlerFailed("the handler failed"), 1)
    with pytest.raises(Doubtful):
        questions(Council("a"), port).ask({}, repeatable=repeatable)
    assert ["a"] == port.asked


@pytest.mark.parametrize("refusal", [Overloaded("full"), Unavailable("the handler itself")])
def test_a_refusal_is_an_answer(refusal: Exception) -> None:
    """It is passed on as it is."""
    with pytest.raises(type(refusal)):
        questions(Council("a"), Port(refusal)).ask({})


def test_nobody_is_waited_for_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither for a leader nor for one that cannot be reached."""
    with pytest.raises(BrokerUnavailable, match="half"):
        questions(Council(None), Port()).ask({})
    monkeypatch.setattr(mesh_questions, "PATIENCE", 0.0)
    with pytest.raises(BrokerUnavailable, match="reached"):
        questions(Council("a"), Port(ConnectionClosed(1006, "x"))).ask({})


def test_parts_are_put_together() -> None:
    """Each asked for from behind the last one."""
    port = Port({"items": [["a", 1], ["b", 2]], "more": True}, {"items": [["c", 3]], "more": False})
    assert [["a", 1], ["b", 2], ["c", 3]] == list(questions(Council("x"), port).ask_parts({}))


@pytest.mark.parametrize(
    "answer",
    [
        None, [], {}, {"items": 5}, {"items": [1]}, {"items": [["a"]]}, {"items": [[1, 2]]},
        {"items": [], "more": True}, {"items": [["a", 1], ["", 2]], "more": True},
    ],
)
def test_parts_that_make_no_sense_end_in_an_error_of_the_engine(answer: Any) -> None:
    """A leader may be broken, or lie: nobody waits for its end for ever."""
    with pytest.raises(BrokerError):
        list(questions(Council("x"), Port(answer)).ask_parts({}))
