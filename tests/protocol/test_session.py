"""One conversation, driven by decoded messages alone."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings, strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from webmesh.exceptions import DataLoss, InvalidArgument, Overloaded, RemoteError, RouteNotFound
from webmesh.options import Limits
from webmesh.protocol import envelope
from webmesh.protocol.envelope import Notification, Request, TopicMessage
from webmesh.protocol.events import (
    Answered, CancelArrived, CreditArrived, Dropped, Failed, ItemArrived, ItemsEnded, Refused,
)  # fmt: skip
from webmesh.protocol.session import ACCEPTING_SIDE_IDS, LARGE, Answering, Session
from webmesh.testing import memory_pair

LIMITS = Limits(open_requests=4, invalid_messages=3, stream_credit=4)


def open_session(*, dialled: bool = True) -> Session:
    return Session(LIMITS, dialled=dialled)


def begin(session: Session, message: dict[str, Any]) -> Answering:
    request = session.receive(message)
    assert isinstance(request, Request)
    return session.begin(request, "owner")


# ----------------------------------------------------------------------- asking


def test_a_reply_goes_to_the_request_with_its_id():
    """Replies may come in any order."""
    session = open_session()
    first, _ = session.ask("/a", 1, "first")
    second, _ = session.ask("/b", 2, "second")

    assert Answered(second, "B") == session.receive({"id": second.id, "data": "B"})
    assert Answered(first, "A") == session.receive({"id": first.id, "data": "A"})
    assert 0 == session.open_requests


def test_the_two_sides_choose_ids_apart():
    """Items and credit carry an id of either side, so equal ids in both directions could not be told apart."""
    dialled, _ = open_session(dialled=True).ask("/", None, None)
    accepted, _ = open_session(dialled=False).ask("/", None, None)

    assert 0 == dialled.id
    assert ACCEPTING_SIDE_IDS == accepted.id


def test_a_request_says_only_what_it_needs():
    """Absent optional keys cost nothing on the wire."""
    _, message = open_session().ask("/a", "x", None)

    assert {"path": "/a", "id": 0, "data": "x"} == message


def test_a_request_carries_its_options():
    """Time left, headers, credit and the announcement of items travel in the request."""
    _, message = open_session().ask(
        "/a", None, None, timeout_ms=1500, headers={"k": "v"}, credit=8, stream=True
    )

    assert {
        "path": "/a", "id": 0, "timeout_ms": 1500, "headers": {"k": "v"}, "credit": 8, "stream": True,
    } == {key: value for key, value in message.items() if value is not None}  # fmt: skip


@pytest.mark.row(51)
def test_requests_beyond_the_limit_are_refused_at_once():
    """A peer that never answers cannot make us remember without end."""
    session = open_session()
    for _ in range(LIMITS.open_requests):
        session.ask("/", None, None)

    with pytest.raises(Overloaded, match="4 requests are open"):
        session.ask("/", None, None)


@pytest.mark.row(72)
def test_an_answer_to_an_unknown_id_is_dropped():
    """A late or invented reply wakes nobody."""
    session = open_session()
    waiting, _ = session.ask("/", None, None)

    for message in ({"id": 99, "data": 1}, {"id": "0", "data": 1}, {"id": 99, "error": {"code": "x", "message": ""}}):
        assert isinstance(session.receive(message), Dropped)
    assert Answered(waiting, 1) == session.receive({"id": waiting.id, "data": 1})


@pytest.mark.row(72)
def test_a_second_reply_is_dropped():
    """A duplicated reply never reaches another call."""
    session = open_session()
    request, _ = session.ask("/", None, None)
    session.receive({"id": request.id, "data": 1})

    assert Dropped("late reply") == session.receive({"id": request.id, "data": 2})


def test_an_error_answer_becomes_its_class():
    """The wire code decides; an unknown one stays a plain `RemoteError`."""
    session = open_session()
    for code, cls in (("unimplemented", RouteNotFound), ("from_the_future", RemoteError)):
        request, _ = session.ask("/", None, None)

        event = session.receive({"id": request.id, "error": {"code": code, "message": "no"}})

        assert isinstance(event, Failed)
        assert cls is type(event.error)
        assert code == event.error.code


@pytest.mark.row(73)
def test_an_abandoned_request_is_cancelled_and_its_reply_dropped():
    """Who gives up tells the other side, and what comes late is dropped."""
    session = open_session()
    request, _ = session.ask("/", None, None)

    assert {"id": request.id, "cancel": True} == session.abandon(request)
    assert Dropped("late reply") == session.receive({"id": request.id, "data": 1})


def test_abandoning_what_has_been_answered_sends_nothing():
    """There is nothing to cancel any more."""
    session = open_session()
    request, _ = session.ask("/", None, None)
    session.receive({"id": request.id, "data": 1})

    assert session.abandon(request) is None


# -------------------------------------------------------------------- answering


def test_requests_and_notifications_are_their_own_events():
    """The layer above runs them; the session keeps nothing of them."""
    session = open_session()

    assert isinstance(session.receive({"path": "/", "id": 1, "data": "x"}), Request)
    assert isinstance(session.receive({"path": "/", "data": "x"}), Notification)
    assert isinstance(session.receive({"topic": "a/b", "data": "x"}), TopicMessage)
    assert 0 == session.answering


@pytest.mark.row(72)
def test_an_id_may_not_be_used_twice_while_it_is_open():
    """Two handlers that answer under one id could not be told apart."""
    session = open_session()
    begin(session, {"path": "/", "id": 7})
    again = session.receive({"path": "/", "id": 7})

    with pytest.raises(InvalidArgument, match="id 7 is open already"):
        session.begin(again, "owner")  # type: ignore[arg-type]


def test_an_id_is_free_again_once_it_was_answered():
    """Ids are unique among the open requests only."""
    session = open_session()
    session.finish(begin(session, {"path": "/", "id": 7}))

    assert 7 == begin(session, {"path": "/", "id": 7}).id


def test_a_cancel_finds_the_request_that_is_answered():
    """And one that comes too late finds nothing."""
    session = open_session()
    answering = begin(session, {"path": "/", "id": "a"})

    assert CancelArrived(answering) == session.receive({"id": "a", "cancel": True})
    session.finish(answering)
    assert Dropped("late cancel") == session.receive({"id": "a", "cancel": True})


def test_the_end_gives_back_everything_that_was_open():
    """Every waiter is woken exactly once, so nothing is open after it."""
    session = open_session()
    request, _ = session.ask("/", None, "waiter")
    answering = begin(session, {"path": "/", "id": 1})

    assert ([request], [answering]) == session.close()
    assert ([], []) == session.close()


# ---------------------------------------------------------------------- streams


def test_items_come_to_the_request_that_asked_for_them():
    """In order, and then the reply ends the stream."""
    session = open_session()
    request, _ = session.ask("/", None, None, credit=4)

    assert ItemArrived(request, "a") == session.receive({"id": 0, "item": "a", "seq": 0})
    assert ItemArrived(request, "b") == session.receive({"id": 0, "item": "b", "seq": 1})
    assert Answered(request, None) == session.receive({"id": 0, "data": None})


@pytest.mark.row(72)
def test_a_lost_item_ends_the_stream_with_data_loss():
    """No silent gap: the stream fails and the other side is told to stop."""
    session = open_session()
    request, _ = session.ask("/", None, None, credit=4)

    event = session.receive({"id": 0, "item": "b", "seq": 1})

    assert isinstance(event, Failed)
    assert request is event.owner
    assert isinstance(event.error, DataLoss)
    assert {"id": 0, "cancel": True} == event.notice
    assert 0 == session.open_requests


def test_items_for_a_plain_call_are_dropped():
    """Who asked without credit takes no items; the reply still counts."""
    session = open_session()
    request, _ = session.ask("/", None, None)

    assert Dropped("late item") == session.receive({"id": 0, "item": "a", "seq": 0})
    assert Answered(request, 1) == session.receive({"id": 0, "data": 1})


def test_items_of_the_asking_side_come_to_its_request():
    """Announced by `stream`, ended by `end`."""
    session = open_session()
    answering = begin(session, {"path": "/", "id": 1, "stream": True})

    assert ItemArrived(answering, "x") == session.receive({"id": 1, "item": "x", "seq": 0})
    assert ItemsEnded(answering) == session.receive({"id": 1, "end": True})


@pytest.mark.row(51)
def test_the_asking_side_cannot_send_more_items_than_were_granted():
    """The window bounds what waits for a slow handler."""
    session = open_session()
    answering = begin(session, {"path": "/", "id": 1, "stream": True})
    for seq in range(LIMITS.stream_credit):
        session.receive({"id": 1, "item": "x", "seq": seq})

    event = session.receive({"id": 1, "item": "x", "seq": LIMITS.stream_credit})

    assert isinstance(event, Failed)
    assert answering is event.owner
    assert isinstance(event.error, DataLoss)


def test_items_that_were_not_announced_are_dropped():
    """And so is an end of items that never began."""
    session = open_session()
    begin(session, {"path": "/", "id": 1})

    assert Dropped("late item") == session.receive({"id": 1, "item": "x", "seq": 0})
    assert Dropped("late end of items") == session.receive({"id": 1, "end": True})


def test_credit_reaches_whoever_sends_the_items():
    """The answering side's items, or ours."""
    session = open_session()
    answering = begin(session, {"path": "/", "id": 5, "credit": 1})
    asked, _ = session.ask("/", None, None, credit=4, stream=True)

    assert CreditArrived(answering) == session.receive({"id": 5, "credit": 2})
    assert CreditArrived(asked) == session.receive({"id": asked.id, "credit": 3})
    assert 3 == answering.sender.credit
    assert asked.sender is not None
    assert 3 == asked.sender.credit
    assert Dropped("late credit") == session.receive({"id": 6, "credit": 2})


def test_equal_ids_of_both_sides_are_told_apart_by_what_they_can_take():
    """A foreign peer may choose an id that we use too; only a stream takes items and credit."""
    session = open_session()
    asked, _ = session.ask("/", None, None)
    answering = begin(session, {"path": "/", "id": asked.id, "stream": True, "credit": 1})

    assert ItemArrived(answering, "x") == session.receive({"id": asked.id, "item": "x", "seq": 0})
    assert CreditArrived(answering) == session.receive({"id": asked.id, "credit": 1})
    assert CancelArrived(answering) == session.receive({"id": asked.id, "cancel": True})
    assert Answered(asked, "reply") == session.receive({"id": asked.id, "data": "reply"})


# ---------------------------------------------------------------------- waiting


def request(session: Session, request_id: int, **keys: Any) -> Request:
    received = session.receive({"path": "/", "id": request_id, **keys})
    assert isinstance(received, Request)
    return received


def test_requests_without_room_wait_in_order():
    """With what is left of their time."""
    session = open_session()
    first, second = request(session, 1, timeout_ms=1000), request(session, 2)
    assert session.hold(first, 10, 50.0)
    assert session.hold(second, 10, 50.0)

    assert (first, 10) == session.next_held(50.25)
    assert 750 == first.timeout_ms
    assert (second, 10) == session.next_held(60.0)
    assert second.timeout_ms is None
    assert session.next_held(60.0) is None


def test_time_that_ran_out_while_waiting_is_none():
    """Never below zero, which no clock shows."""
    session = open_session()
    late = request(session, 1, timeout_ms=1000)
    session.hold(late, 10, 50.0)

    assert (late, 10) == session.next_held(70.0)
    assert 0 == late.timeout_ms


@pytest.mark.row(51)
def test_too_many_or_too_large_ones_do_not_wait():
    """A peer cannot make us keep its requests without end."""
    session = open_session()
    assert [True] * 4 == [session.hold(request(session, number), 1, 0.0) for number in range(4)]
    assert not session.hold(request(session, 9), 1, 0.0)
    session.next_held(0.0)
    assert not session.hold(request(session, 9), LIMITS.waiting_size, 0.0)
    assert session.hold(request(session, 9), 1, 0.0)


def test_room_is_counted_back_as_they_leave():
    """However they leave."""
    session = open_session()
    for _ in range(3):
        session.hold(request(session, 1), LIMITS.waiting_size, 0.0)
        session.next_held(0.0)
        session.hold(request(session, 2), LIMITS.waiting_size, 0.0)
        session.receive({"id": 2, "cancel": True})

    assert session.hold(request(session, 3), LIMITS.waiting_size, 0.0)


@pytest.mark.row(51)
def test_large_requests_in_hand_are_bounded_by_their_bytes():
    """Small ones are not counted; one that is larger than all together may be finds room when it is alone."""
    session = Session(Limits(in_flight_size=2 * LARGE + 10), dialled=False)
    assert session.occupy(LARGE) and session.occupy(LARGE + 10)
    assert session.occupy(LARGE - 1) and session.occupy(1)
    assert not session.occupy(LARGE)
    first = request(session, 1)
    assert session.hold(first, LARGE, 0.0)
    assert session.next_held(0.0) is None

    session.release(1)
    assert session.next_held(0.0) is None
    session.release(LARGE)
    assert (first, LARGE) == session.next_held(0.0)
    assert not session.occupy(LARGE)
    session.release(LARGE + 10)
    session.release(LARGE)
    assert session.occupy(100 * LARGE)


@pytest.mark.row(73)
def test_a_request_that_is_cancelled_while_it_waits_never_begins():
    """Nobody wants it any more."""
    session = open_session()
    session.hold(request(session, 1), 1, 0.0)

    assert Dropped("cancelled before it began") == session.receive({"id": 1, "cancel": True})
    assert session.next_held(0.0) is None


# ------------------------------------------------------------- invalid messages


@pytest.mark.row(36)
def test_an_invalid_message_is_answered_under_its_id():
    """So that its sender learns which one it was."""
    event = open_session().receive({"path": 1, "id": 3})

    assert isinstance(event, Refused)
    assert 3 == event.answer["id"]
    assert "invalid_argument" == event.answer["error"]["code"]
    assert not event.fatal


@pytest.mark.row(36)
def test_the_last_tolerated_invalid_message_is_fatal():
    """After `Limits.invalid_messages` of them the connection closes."""
    session = open_session()

    assert [False, False, True] == [session.receive([]).fatal for _ in range(3)]  # type: ignore[union-attr]


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary(),
        lambda inner: st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["path", "id", "data", "error", "item", "seq", "end", "cancel", "credit", "topic", "x"]),
            inner, max_size=5,
        ),  # fmt: skip
        max_leaves=12,
    )
)
@pytest.mark.row(36, 42)
def test_nothing_that_a_peer_sends_raises(message: object):
    """Every decoded value is an event."""
    session = open_session()
    session.ask("/", None, None, credit=2, stream=True)

    session.receive(message)


# ------------------------------------------------------------------- two of them


class TwoSessions(RuleBasedStateMachine):
    """Two sessions over real frames: every answer reaches its own request, whatever the order (row 72)."""

    def __init__(self) -> None:
        super().__init__()
        self.peers = memory_pair(limits=Limits(open_requests=8))
        self.open: list[dict[str, Any]] = []
        self.asked = 0

    @rule(side=st.integers(0, 1))
    def ask(self, side: int) -> None:
        peer = self.peers[side]
        if peer.session.open_requests >= 8:
            return
        token = f"{side}-{self.asked}"
        self.asked += 1
        request, message = peer.session.ask("/", token, token)
        peer.send(message)
        self.open.append({"side": side, "request": request, "token": token})

    @precondition(lambda self: self.open)
    @rule(choice=st.integers(0, 10**6))
    def abandon(self, choice: int) -> None:
        one = self.open.pop(choice % len(self.open))
        peer = self.peers[one["side"]]
        cancel = peer.session.abandon(one["request"])
        if cancel is not None:
            peer.send(cancel)

    @rule(side=st.integers(0, 1), size=st.integers(1, 200))
    def receive(self, side: int, size: int) -> None:
        peer = self.peers[side]
        for event in peer.receive(size):
            if isinstance(event, Request):
                peer.send(envelope.reply(event.id, event.data))
            elif isinstance(event, Answered):
                assert event.request.waiter == event.data
                self.open = [one for one in self.open if one["request"] is not event.request]

    @invariant()
    def nothing_is_forgotten(self) -> None:
        assert len(self.open) == sum(peer.session.open_requests for peer in self.peers)


TwoSessions.TestCase.settings = settings(max_examples=60, stateful_step_count=40)
test_no_reply_ever_reaches_another_request = pytest.mark.row(72)(TwoSessions.TestCase)
