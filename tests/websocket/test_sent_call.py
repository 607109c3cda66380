"""What a connection keeps of a call that it sends."""

from __future__ import annotations

from typing import Any

import pytest

from webmesh.websocket.hub import Completion, HubThread
from webmesh.websocket.sent_call import SentCall, send_all


class Conversation:
    """Notes what is asked and abandoned."""

    def __init__(self) -> None:
        self.asked: list[tuple[Any, ...]] = []
        self.abandoned: list[Any] = []

    def ask(self, path: str, payload: Any, waiter: Any, **options: Any) -> str:
        self.asked.append((path, payload, waiter, options))
        return "request"

    def abandon(self, request: Any) -> None:
        self.abandoned.append(request)


class Stream:
    """Notes what is sent, and refuses what it is told to."""

    def __init__(self, refused: object = None) -> None:
        self.log: list[Any] = []
        self.refused = refused

    def send(self, item: Any) -> None:
        if item == self.refused:
            raise ConnectionError("refused")
        self.log.append(item)

    def end(self) -> None:
        self.log.append("end")

    def broken(self, error: BaseException) -> None:
        self.log.append(type(error))


@pytest.fixture
def home() -> Any:
    thread = HubThread("test")
    thread.start()
    yield thread
    thread.stop()


def test_a_started_call_is_asked_with_its_time_and_headers(home: HubThread):
    """And its answer goes to the completion."""
    conversation, completion = Conversation(), Completion[Any](home.hub)

    SentCall(conversation, home, completion).start("/a", 1, 2.5, {"k": "v"})  # type: ignore[arg-type]

    assert [("/a", 1, completion, {"timeout": 2.5, "headers": {"k": "v"}})] == conversation.asked


def test_abandoning_reaches_the_conversation_from_any_thread(home: HubThread):
    """In the hub, where the session lives."""
    conversation = Conversation()
    sent = SentCall(conversation, home, Completion(home.hub))  # type: ignore[arg-type]
    sent.start("/a", None, None, None)

    sent.abandon()
    home.run(lambda: None)

    assert ["request"] == conversation.abandoned


def test_a_call_that_was_never_sent_has_nothing_to_abandon(home: HubThread):
    """Its request could not be encoded, say."""
    conversation = Conversation()

    home.run(SentCall(conversation, home, Completion(home.hub)).abandon)  # type: ignore[arg-type]

    assert [] == conversation.abandoned


def test_items_are_sent_in_order_and_ended():
    """More than are sent in a row before the hub serves others."""
    stream = Stream()

    send_all(stream, range(200))  # type: ignore[arg-type]

    assert [*range(200), "end"] == stream.log


@pytest.mark.parametrize(("items", "logged"), [([1, "bad", 3], [1, ConnectionError]), (None, [TypeError])])
def test_an_error_on_the_way_breaks_the_stream(items: Any, logged: list[Any]):
    """Of the iterable or of sending: whoever reads the stream must see it."""
    stream = Stream(refused="bad")

    send_all(stream, items)  # type: ignore[arg-type]

    assert logged == stream.log
