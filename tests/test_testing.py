"""What users test with: the fake clock, the recording observer, peers without a network."""

from __future__ import annotations

import inspect
import threading
from typing import Any

import gevent
import pytest

from tests.running import NATIVE_THREAD, PATCHED, PATIENCE, Census, wait_for
from webmesh.call import current_call
from webmesh.deadline import Deadline
from webmesh.exceptions import (
    Cancelled, ConfigurationError, ConnectionClosed, DecodeError, HandlerFailed, NotFound, RemoteProtocolError,
    ReplyLost, RouteNotFound,
)  # fmt: skip
from webmesh.message_serializers import AbstractMessageSerializer, MessagePackSerializer, StandardJsonSerializer
from webmesh.observer import Observer
from webmesh.options import Limits, Timeouts
from webmesh.protocol import envelope
from webmesh.protocol.envelope import Notification, Request
from webmesh.protocol.events import Answered, Failed, Refused
from webmesh.routing import Router
from webmesh.testing import FakeClock, RecordingObserver, connection_pair, memory_pair

EACH_SERIALIZER = pytest.mark.parametrize("serializer", [MessagePackSerializer, StandardJsonSerializer])

# -------------------------------------------------------------------- the clock


def test_a_fake_clock_moves_only_when_it_is_told() -> None:
    """Anything that takes a clock takes it."""
    clock = FakeClock(5.0)
    deadline = Deadline(2.0, clock=clock)

    assert [5.0, 5.0] == [clock(), clock()]
    assert 6.5 == clock.advance(1.5) == clock()
    assert 0.5 == deadline.remaining()
    assert 6.5 == clock.advance(0)


@pytest.mark.row(87)
def test_a_fake_clock_is_monotonic() -> None:
    """As the real one; a test that turns it back is wrong."""
    clock = FakeClock()
    with pytest.raises(ValueError, match="cannot go back by 0.5 s"):
        clock.advance(-0.5)


# ----------------------------------------------------------------- the observer


def test_a_recording_observer_has_every_hook() -> None:
    """Otherwise something would happen that no test of a user's can see."""
    hooks = {name for name, _ in inspect.getmembers(Observer, inspect.isfunction)}
    assert hooks <= set(vars(RecordingObserver))


def test_a_recording_observer_keeps_order_and_arguments() -> None:
    """As tuples, which compare."""
    observer, error = RecordingObserver(), ValueError()
    observer.connection_opened("c")
    observer.handshake_refused("10.0.0.1:1", 403, "origin not allowed")
    observer.request_finished("/a", "ok", 0.25)
    observer.handler_failed("/a", "f00", error)
    observer.refused("message", "late reply")
    observer.connection_closed("c", 1000, "")

    assert [
        ("connection_opened", "c"),
        ("handshake_refused", "10.0.0.1:1", 403, "origin not allowed"),
        ("request_finished", "/a", "ok"),
        ("handler_failed", "/a", "f00", error),
        ("refused", "message", "late reply"),
        ("connection_closed", "c", 1000, ""),
    ] == observer.events
    assert [("c", 1000, "")] == observer.named("connection_closed")
    assert [] == observer.named("nothing")


# ------------------------------------------------------------------ memory pairs


@EACH_SERIALIZER
def test_a_memory_pair_carries_a_conversation(serializer: type[AbstractMessageSerializer]) -> None:
    """A request, its reply, an error and a notification, in either direction; no hub, no socket, no thread."""
    dialled, accepted = memory_pair(serializer_type=serializer)
    for asking, answering in ((dialled, accepted), (accepted, dialled)):
        request, message = asking.session.ask("/a", {"x": 1}, "waiter")
        asking.send(message)
        (event,) = answering.receive()
        assert isinstance(event, Request)
        assert ("/a", {"x": 1}, request.id) == (event.path, event.data, event.id)

        answering.send(envelope.reply(event.id, [1, 2]))
        (answer,) = asking.receive()
        assert isinstance(answer, Answered)
        assert (request, [1, 2]) == (answer.request, answer.data)

        second, message = asking.session.ask("/b", None, "waiter")
        asking.send(message)
        answering.receive()
        answering.send(envelope.error(second.id, NotFound("no").to_wire()))
        (failed,) = asking.receive()
        assert isinstance(failed, Failed) and isinstance(failed.error, NotFound)

        asking.send(envelope.notification("/c", 7, None))
        (told,) = answering.receive()
        assert isinstance(told, Notification)
        assert ("/c", 7) == (told.path, told.data)


def test_a_memory_pair_shows_its_bytes() -> None:
    """They can be taken piece by piece, and nothing is said before a message is whole."""
    dialled, accepted = memory_pair()
    dialled.send(envelope.notification("/a", "x" * 100, None))

    assert 0x80 <= accepted.wire[1]  # masked, as everything that a client sends
    events = []
    while accepted.wire:
        assert [] == events
        events = accepted.receive(1)
    assert 1 == len(events)
    assert [] == accepted.receive()


def test_a_memory_pair_takes_many_messages_at_once() -> None:
    """More than one turn of a connection would."""
    dialled, accepted = memory_pair(limits=Limits(frames_per_turn=2))
    for number in range(20):
        dialled.send(envelope.notification("/a", number, None))
    assert list(range(20)) == [event.data for event in accepted.receive()]  # type: ignore[union-attr]


@pytest.mark.row(17)
def test_a_memory_pair_raises_what_a_peer_breaks() -> None:
    """Where a connection would close; a test that garbles bytes sees it."""
    dialled, accepted = memory_pair()
    accepted.wire += b"\xff\xff garbage"
    with pytest.raises(RemoteProtocolError) as caught:
        accepted.receive()
    assert 1002 == caught.value.close_code

    dialled, accepted = memory_pair(serializer_type=StandardJsonSerializer)
    dialled.wire += b"\x81\x01{"
    with pytest.raises(DecodeError):
        dialled.receive()


def test_a_memory_pair_refuses_invalid_envelopes_as_a_connection_does() -> None:
    """With the answer that it would send."""
    dialled, accepted = memory_pair()
    dialled.send({"id": 7})
    (event,) = accepted.receive()
    assert isinstance(event, Refused)
    assert 7 == event.answer["id"]


# -------------------------------------------------------------- connection pairs


@EACH_SERIALIZER
def test_a_connection_pair_is_two_whole_connections(serializer: type[AbstractMessageSerializer]) -> None:
    """Both ends serve and ask."""
    left, right = Router(), Router()
    left.add("/left", lambda payload, path, client: ["left", payload])
    right.add("/right", lambda payload, path, client: ["right", payload])

    with connection_pair(client=left, server=right, serializer_type=serializer) as (dialled, accepted):
        assert ["right", 1] == dialled.call("/right", 1, timeout=PATIENCE)
        assert ["left", 2] == accepted.call("/left", 2, timeout=PATIENCE)
        with pytest.raises(RouteNotFound):
            dialled.call("/left", timeout=PATIENCE)


def test_a_connection_pair_serves_nothing_unless_told() -> None:
    """Both routers may be left out."""
    with connection_pair() as (dialled, accepted):
        for end in (dialled, accepted):
            with pytest.raises(RouteNotFound):
                end.call("/", timeout=PATIENCE)


def test_a_connection_pair_runs_handlers_as_a_server_does() -> None:
    """In threads in a plain process, in greenlets of the hub in a patched one."""
    router = Router()
    router.add("/", lambda payload, path, client: NATIVE_THREAD())
    with connection_pair(server=router) as (dialled, _):
        assert PATCHED is (NATIVE_THREAD() == dialled.call("/", timeout=PATIENCE))


def test_a_connection_pair_takes_limits_timeouts_and_an_observer() -> None:
    """Those of the connections in it."""
    observer, router = RecordingObserver(), Router()

    def fails(payload: Any, path: str, client: Any) -> None:
        raise ZeroDivisionError

    router.add("/fails", fails)
    router.add("/left", lambda payload, path, client: current_call().deadline.remaining())
    with connection_pair(
        server=router, observer=observer, timeouts=Timeouts(request=7), limits=Limits(open_requests=1)
    ) as (dialled, _):
        with pytest.raises(HandlerFailed):
            dialled.call("/fails")
        assert dialled.call("/left") <= 7

    assert [("/fails", "internal"), ("/left", "ok")] == observer.named("request_finished")
    assert 1 == len(observer.named("handler_failed"))


def test_a_router_that_makes_no_sense_is_refused() -> None:
    """Before anything is connected; nothing is left."""
    census, router = Census(), Router()
    router.add("/", lambda payload, path, client: None, colour="red")
    with pytest.raises(ConfigurationError, match="colour"), connection_pair(server=router):
        pytest.fail("it was connected")
    assert {} == census.grown()


def test_a_connection_pair_ends_with_its_block() -> None:
    """Also when the test fails in it, with calls under way and handlers that take no cancel."""
    census, entered, release = Census(), threading.Event(), threading.Event()
    router = Router()

    def stubborn(payload: Any, path: str, client: Any) -> None:
        entered.set()
        release.wait(PATIENCE)

    router.add("/", stubborn, cancel="never")
    with pytest.raises(ZeroDivisionError), connection_pair(server=router, timeouts=Timeouts(close=0.1)) as (dialled, _):
        future = dialled.spawn("/", timeout=PATIENCE)
        assert wait_for(entered.is_set)
        raise ZeroDivisionError

    with pytest.raises((ReplyLost, Cancelled)):
        future.result()
    assert not dialled.open
    with pytest.raises(ConnectionClosed):
        dialled.call("/")
    release.set()
    assert {} == census.grown()


def test_several_connection_pairs_do_not_meet() -> None:
    """Each has its own hub in a plain process, and its own routes."""
    routers = [Router() for _ in range(3)]
    for number, router in enumerate(routers):
        router.add("/", lambda payload, path, client, number=number: number)
    with connection_pair(server=routers[0]) as (a, _), connection_pair(server=routers[1]) as (b, _):
        with connection_pair(server=routers[2]) as (c, _):
            jobs = [gevent.spawn(end.call, "/", timeout=PATIENCE) for end in (a, b, c)]
            assert [0, 1, 2] == [job.get(timeout=PATIENCE) for job in jobs]
