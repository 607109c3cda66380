"""A call that a handler is running: what can reach it, from when, and until when."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import gevent
import pytest
from gevent.hub import get_hub

from tests.websocket.interleaving import hold
from webmesh.exceptions import Aborted, Cancelled, DeadlineExceeded, InvalidArgument
from webmesh.handled_call import HandledCall
from webmesh.options import Limits
from webmesh.protocol.envelope import Notification, Request
from webmesh.protocol.session import Session
from webmesh.routing import Router
from webmesh.websocket.hub import HubThread


class Wire:
    """Stands where bytes would leave."""

    full = False

    def flush_soon(self) -> None:
        """Nothing to flush."""

    def drain(self) -> None:
        """Nothing to wait for."""


class Peer:
    """A connection and its conversation in one, which note what is sent."""

    def __init__(self) -> None:
        self.open = True
        self.connection = self
        self.hub = get_hub()
        self.session = Session(Limits(), dialled=False)
        self.stream = Wire()
        self.credit_timeout = 10.0
        self.sent: list[dict[str, Any]] = []

    def send(self, message: dict[str, Any]) -> None:
        self.sent.append(message)

    say = send


ROUTE = Router().add("/", lambda payload, path, client: None)


def call_of(peer: Peer, request: Request | Notification, seconds: float = 30.0, *, bounded: bool = True) -> HandledCall:
    return HandledCall(request, peer, ROUTE, {}, seconds, bounded)  # type: ignore[arg-type]


@contextmanager
def handling(call: HandledCall, outcome: list[BaseException]) -> Iterator[gevent.Greenlet[[], None]]:
    """A greenlet that runs for *call* and sleeps; what interrupts it is noted."""

    def run() -> None:
        try:
            gevent.sleep(20)
        except BaseException as error:
            outcome.append(error)

    greenlet = gevent.spawn(run)
    gevent.sleep(0)
    call.arm(greenlet, get_hub().loop, 0.0)
    try:
        yield greenlet
    finally:
        call.disarm()
        greenlet.kill()


def test_a_fresh_call_costs_nothing():
    """Not armed, no deadline running, not among the open requests: most are answered in this state."""
    peer = Peer()
    call = call_of(peer, Request("/", 1, "x"))

    assert not call.armed
    assert 0 == peer.session.answering
    assert ("/", "x", 1, {}) == (call.path, call.payload, call.request_id, dict(call.headers))
    assert [] == list(call.items)


def test_an_armed_call_is_among_the_open_requests_until_it_is_disarmed():
    """So that cancels, credit and items find it."""
    peer, outcome = Peer(), []
    call = call_of(peer, Request("/", 1))
    with handling(call, outcome):
        assert call.armed
        assert 1 == peer.session.answering
    assert 0 == peer.session.answering


def test_the_end_of_its_time_interrupts_the_handler():
    """With the Timeout that the call knows as its own."""
    outcome: list[BaseException] = []
    call = call_of(Peer(), Request("/", 1), 0.01)
    with handling(call, outcome) as greenlet:
        greenlet.join(10)

    assert [call.expiry] == outcome


def test_its_time_is_no_shorter_because_the_hub_was_held_before():
    """By another handler in the same turn: the loop's clock stood still meanwhile."""
    outcome: list[BaseException] = []
    gevent.sleep(0.001)
    hold(0.2)
    began = time.monotonic()
    call = call_of(Peer(), Request("/", 1), 0.15)
    greenlet = gevent.spawn(gevent.sleep, 20)
    call.arm(greenlet, get_hub().loop, 0.0)
    greenlet.link(lambda ended: outcome.append(ended.exception))
    greenlet.join(10)
    assert 0.14 < time.monotonic() - began and [call.expiry] == outcome
    call.disarm()


def test_a_disarmed_call_interrupts_nobody():
    """The greenlet has gone on to other calls."""
    outcome: list[BaseException] = []
    call = call_of(Peer(), Request("/", 1), 0.01)
    with handling(call, outcome) as greenlet:
        call.disarm()
        get_hub().loop.run_callback(call.give_up, "raise")
        gevent.sleep(0.05)
        assert not greenlet.dead

    assert call.expiry is None


def test_a_call_that_never_waited_was_interrupted_by_nothing():
    """So whatever its handler raises is the handler's own; and nothing is left of it to end."""
    call = call_of(Peer(), Request("/", 1))
    assert not call.expired_with(gevent.Timeout(1))
    call.disarm()
    call.credited()
    call.unbound()
    assert not call.armed


@pytest.mark.row(73)
@pytest.mark.parametrize(
    ("mode", "interrupted", "told"), [("raise", True, True), ("flag", False, True), ("never", False, False)]
)
def test_giving_up_does_what_the_route_says(mode: str, interrupted: bool, told: bool):
    """Interrupt, tell, or leave alone."""
    outcome: list[BaseException] = []
    call = call_of(Peer(), Request("/", 1))
    with handling(call, outcome):
        get_hub().loop.run_callback(call.give_up, mode)
        gevent.sleep(0.01)

        assert interrupted == any(isinstance(error, Cancelled) for error in outcome)
        assert told == call.cancelled
        assert told == call.deadline.cancelled


@pytest.mark.row(72)
def test_an_id_in_use_is_thrown_into_the_second_handler():
    """It must not answer under the first one's id."""
    peer = Peer()
    first: list[BaseException] = []
    second: list[BaseException] = []
    with handling(call_of(peer, Request("/", 1)), first), handling(call_of(peer, Request("/", 1)), second) as greenlet:
        greenlet.join(10)

    assert isinstance(second[0], InvalidArgument)
    assert not any(isinstance(error, InvalidArgument) for error in first)


@pytest.mark.parametrize(("bounded", "left"), [(False, None), (True, 30.0)])
def test_only_a_stream_for_which_nobody_named_a_time_may_last(bounded: bool, left: float | None):
    """The default time bounds calls; one that was asked for bounds streams too."""
    outcome: list[BaseException] = []
    call = call_of(Peer(), Request("/", 1), 30.0, bounded=bounded)
    with handling(call, outcome):
        call.unbound()

        assert left == call.seconds
        assert (left is None) == (call.deadline.remaining() is None)


def test_a_notification_has_no_place_among_the_open_requests():
    """Nobody can cancel it, and its items go nowhere."""
    peer = Peer()
    call = call_of(peer, Notification("/", "x"))

    assert call.begin() is None
    call.put("item")

    assert call.request_id is None
    assert [] == peer.sent


def test_items_wait_for_the_askers_credit():
    """And are numbered as they leave."""
    peer = Peer()
    call = call_of(peer, Request("/", 1, credit=1))
    answering = call.begin()
    assert answering is not None
    call.put("a")
    waiting = gevent.spawn(call.put, "b")
    gevent.sleep(0.01)
    assert 1 == len(peer.sent)

    answering.sender.grant(1)
    call.credited()
    waiting.join(10)

    assert [{"id": 1, "item": "a", "seq": 0}, {"id": 1, "item": "b", "seq": 1}] == peer.sent


@pytest.mark.row(73)
@pytest.mark.parametrize("end", ["raise", "flag", "never", "forsake"])
def test_whoever_waits_for_credit_learns_that_nobody_listens(end: str):
    """However the route takes a cancel, also where it lets handlers run on, and after an error was answered."""
    peer = Peer()
    call = call_of(peer, Request("/", 1, credit=1))
    call.begin()
    call.put("a")
    outcome: list[BaseException] = []

    def put() -> None:
        try:
            call.put("b")
        except Cancelled as error:
            outcome.append(error)

    waiting = gevent.spawn(put)
    gevent.sleep(0.01)
    action = (call.forsake,) if end == "forsake" else (call.give_up, end)
    get_hub().loop.run_callback(*action)
    waiting.join(10)

    assert 1 == len(outcome)
    assert (end != "never") == call.cancelled


def test_nobody_produces_items_for_a_connection_that_has_ended():
    """The first of them shows it."""
    peer = Peer()
    peer.open = False
    call = call_of(peer, Request("/", 2))
    call.begin()
    with pytest.raises(Cancelled):
        call.put("x")


def test_announced_items_are_granted_and_end_with_the_call():
    """The window goes out first; reading grants more."""
    home = HubThread("test")
    home.start()
    try:
        peer = Peer()
        call = call_of(peer, Request("/", 1, stream=True))
        call.open_items(home, 4)
        items: Any = call.items
        assert [{"id": 1, "credit": 4}] == peer.sent
        for number in range(2):
            home.run(items.put, number)

        assert [0, 1] == [next(items), next(items)]
        home.run(call.disarm)
        assert [] == list(items)
    finally:
        home.stop()


@pytest.mark.row(51, 67)
def test_a_reader_that_takes_nothing_ends_the_stream():
    """Its handler may hold a thread, so nobody waits for ever."""
    peer = Peer()
    peer.credit_timeout = 0.01
    call = call_of(peer, Request("/", 1, credit=1))
    call.begin()
    call.put("a")

    with pytest.raises(Aborted, match="nobody took an item for 0.01 s"):
        call.put("b")


def test_items_of_a_call_that_failed_do_not_look_complete():
    """A handler that reads on in its thread gets the error, not the end."""
    home = HubThread("test")
    home.start()
    try:
        call = call_of(Peer(), Request("/", 1, stream=True))
        call.open_items(home, 4)
        items: Any = call.items
        home.run(items.put, 1)
        home.run(call.fail_items, DeadlineExceeded("late"))
        home.run(call.disarm)

        assert 1 == next(items)
        with pytest.raises(DeadlineExceeded):
            next(items)
    finally:
        home.stop()
