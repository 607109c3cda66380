"""The asking side's end of a stream, without a peer: what the conversation tells it, what it says."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import gevent
import pytest

from tests.websocket.interleaving import hold
from webmesh.exceptions import ConnectionClosed, LocalProtocolError, NotFound
from webmesh.protocol.session import Session
from webmesh.options import Limits
from webmesh.websocket.hub import HubThread
from webmesh.websocket.item_stream import ItemStream


class NoWire:
    """Stands where bytes would leave."""

    full = False

    def flush_soon(self) -> None:
        """Nothing to flush."""

    def drain(self) -> None:
        """Nothing to wait for."""


class Said:
    """A conversation that notes what it is told to send."""

    def __init__(self) -> None:
        self.messages: list[dict[str, Any]] = []
        self.abandoned: list[Any] = []
        self.stream = NoWire()

    def send(self, message: dict[str, Any]) -> None:
        self.messages.append(message)

    say = send

    def abandon(self, request: Any) -> None:
        self.abandoned.append(request)


@contextmanager
def opened(*, credit: int = 4, sends: bool = True) -> Iterator[tuple[ItemStream, Said, Any, HubThread]]:
    home = HubThread("test")
    home.start()
    try:
        said = Said()
        stream = ItemStream("/items", said, home)  # type: ignore[arg-type]
        request, _ = Session(Limits(), dialled=True).ask("/items", None, stream, credit=credit, stream=sends)
        stream.opened(request)
        yield stream, said, request, home
    finally:
        home.stop()


def test_items_come_out_in_order_and_end_with_the_reply():
    """Iteration stops at the reply, whose value is `result`."""
    with opened() as (stream, _, _, home):
        for item in "abc":
            home.run(stream.put, item)
        home.run(stream.succeed, "end")

        assert ["a", "b", "c"] == list(stream)
        assert "end" == stream.result


def test_reading_gives_credit_back():
    """In halves of the window."""
    with opened() as (stream, said, request, home):
        for number in range(4):
            request.receiver.accept(number)
            home.run(stream.put, number)
        for _ in range(4):
            next(stream)
        home.run(lambda: None)

        assert [{"id": 0, "credit": 2}] * 2 == said.messages


def test_no_credit_is_given_for_a_stream_that_is_over():
    """The peer has forgotten it."""
    with opened() as (stream, said, _, home):
        for number in range(4):
            home.run(stream.put, number)
        home.run(stream.succeed, None)

        assert [0, 1, 2, 3] == list(stream)
        home.run(lambda: None)
        assert [] == said.messages


def test_an_error_comes_after_the_items_that_arrived_before_it():
    """Nothing that was received is lost."""
    with opened() as (stream, _, _, home):
        home.run(stream.put, 1)
        home.run(stream.fail, NotFound("no more"))

        assert 1 == next(stream)
        with pytest.raises(NotFound):
            next(stream)
        with pytest.raises(NotFound):
            _ = stream.result


def test_waiting_for_an_item_can_be_bounded():
    """The stream goes on after the wait."""
    with opened() as (stream, _, _, home):
        with pytest.raises(TimeoutError):
            stream.take(timeout=0.01)
        home.run(stream.put, 1)
        assert 1 == stream.take(timeout=5)


def test_sending_waits_for_credit():
    """And each item is numbered."""
    with opened() as (stream, said, request, home):
        sender = gevent.spawn(stream.send, "a")
        gevent.sleep(0.01)
        assert [] == said.messages

        request.sender.grant(2)
        home.run(stream.credited)
        sender.join(5)
        stream.send("b")

        assert [{"id": 0, "item": "a", "seq": 0}, {"id": 0, "item": "b", "seq": 1}] == said.messages


def test_an_item_that_cannot_be_encoded_takes_no_number():
    """The stream goes on without it."""
    with opened() as (stream, said, request, _):
        request.sender.grant(5)
        whole = said.send

        def fail(message: dict[str, Any]) -> None:
            raise ValueError("cannot be encoded")

        said.send = fail  # type: ignore[method-assign]
        with pytest.raises(ValueError, match="cannot be encoded"):
            stream.send(object())
        said.send = whole  # type: ignore[method-assign]
        stream.send("next")

        assert [{"id": 0, "item": "next", "seq": 0}] == said.messages


def test_the_end_of_items_is_said_once():
    """And nothing can be sent after it."""
    with opened() as (stream, said, request, _):
        request.sender.grant(5)
        stream.end()
        stream.end()

        assert [{"id": 0, "end": True}] == said.messages
        with pytest.raises(LocalProtocolError):
            stream.send(1)


def test_a_sender_is_freed_when_the_stream_fails():
    """It gets the error that ended the stream."""
    with opened() as (stream, _, _, home):
        outcome: list[Any] = []

        def send() -> None:
            try:
                stream.send(1)
            except NotFound as error:
                outcome.append(error)

        sender = gevent.spawn(send)
        gevent.sleep(0.01)
        home.run(stream.fail, NotFound("gone"))
        sender.join(5)

        assert 1 == len(outcome)


def test_closing_abandons_the_request():
    """Once, and the reader learns that it was its own side."""
    with opened() as (stream, said, request, _):
        with stream:
            pass
        stream.close()

        assert [request] == said.abandoned
        with pytest.raises(ConnectionClosed, match="closed by its own side"):
            next(stream)


def test_closing_a_stream_that_is_over_sends_nothing():
    """There is nothing to cancel."""
    with opened() as (stream, said, _, home):
        home.run(stream.succeed, 1)
        stream.close()

        assert [] == said.abandoned
        assert 1 == stream.result


def test_items_that_fail_after_the_client_was_closed_are_no_news():
    """Whoever reads has been told; the thread that sends has nobody left to tell."""
    with opened() as (stream, _, _, home):
        home.stop()
        stream.broken(ValueError("the iterable failed"))


def test_a_stream_past_its_time_is_abandoned():
    """The peer is told, the reader gets a timeout."""
    with opened() as (stream, said, request, home):
        home.run(stream.expire_in, 0.01)
        with pytest.raises(TimeoutError, match="/items"):
            stream.take(timeout=10)
        assert [request] == said.abandoned


def test_its_time_is_no_shorter_because_the_hub_was_held_before():
    """A loop's clock stands still while code computes."""

    def begin() -> float:
        gevent.sleep(0.001)
        hold(0.2)
        stream.expire_in(0.15)
        return time.monotonic()

    with opened() as (stream, _, _, home):
        began = home.run(begin)
        with pytest.raises(TimeoutError, match="/items"):
            stream.take(timeout=10)
        assert 0.14 < time.monotonic() - began


def test_a_repr_tells_the_path_and_the_state():
    """Never an item."""
    with opened() as (stream, _, _, home):
        assert "<ItemStream /items open>" == repr(stream)
        home.run(stream.succeed, 1)
        assert "<ItemStream /items over>" == repr(stream)
