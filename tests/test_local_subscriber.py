"""Functions of the program that subscribe: order, threads, failures, bounds."""

from __future__ import annotations

import threading
import time
from contextvars import ContextVar
from typing import Any

import gevent
import pytest

from tests.running import PATCHED, running, wait_for
from webmesh.local_subscriber import message_of
from webmesh.messages import Message
from webmesh.protocol.publication import Publication
from webmesh.testing import RecordingObserver
from webmesh.webmesh_server import WebMeshServer
from webmesh.websocket.hub import Completion

VARIABLE: ContextVar[str] = ContextVar("local", default="unset")


def test_one_publication_after_another():
    """The next one waits for the function, however long it takes."""
    server, got, running_now = WebMeshServer(), [], []

    @server.subscribe("a", blocking=False)
    def slow(payload: Any, topic: str, message: Message) -> None:
        running_now.append(payload)
        gevent.sleep(0)
        assert [payload] == running_now
        running_now.clear()
        got.append(payload)

    with running(server):
        for number in range(20):
            server.publish("a", number)
        assert wait_for(lambda: len(got) == 20)
    assert list(range(20)) == got


def test_one_that_blocks_holds_up_nobody_else():
    """In a plain process each has a thread of its own while it runs."""
    server, got, go_on = WebMeshServer(), [], threading.Event()

    @server.subscribe("a")
    def blocks(payload: Any, topic: str, message: Message) -> None:
        assert go_on.wait(10)

    @server.subscribe("a")
    def note(payload: Any, topic: str, message: Message) -> None:
        got.append(payload)

    with running(server):
        server.publish("a", 1)
        assert wait_for(lambda: got == [1])
        go_on.set()


def test_one_that_fails_gets_the_next_all_the_same():
    """The failure is logged with an incident and counted; even one that means to end the program."""
    observer, got = RecordingObserver(), []
    server = WebMeshServer(observer=observer)

    @server.subscribe("a")
    def fails(payload: Any, topic: str, message: Message) -> None:
        got.append(payload)
        raise SystemExit if payload == 1 else ValueError("no")

    with running(server):
        for number in (1, 2, 3):
            server.publish("a", number)
        assert wait_for(lambda: len(got) == 3)
        assert wait_for(lambda: len(observer.named("handler_failed")) == 3)
    assert ["a"] * 3 == [path for path, _, _ in observer.named("handler_failed")]


def test_a_function_that_is_too_slow_is_told_what_it_has_lost():
    """The oldest go, and a message says how many, in their place."""
    observer, got, go_on, begun = RecordingObserver(), [], threading.Event(), threading.Event()
    server = WebMeshServer(observer=observer)

    @server.subscribe("a", queue=2)
    def slow(payload: Any, topic: str, message: Message) -> None:
        begun.set()
        assert go_on.wait(10)
        got.append((message.event, payload))

    with running(server):
        server.publish("a", 0)
        assert begun.wait(10)
        for number in range(1, 6):
            server.publish("a", number)
        go_on.set()
        assert wait_for(lambda: len(got) == 4)
    assert [(None, 0), ("gap", {"reason": "slow", "lost": 3}), (None, 4), (None, 5)] == got
    assert [("delivery", "local queue full")] * 3 == observer.named("refused")


def test_it_runs_in_the_context_of_listen():
    """As handlers do; what it sets itself is gone with the next publication."""
    server, got = WebMeshServer(), []

    @server.subscribe("a")
    def note(payload: Any, topic: str, message: Message) -> None:
        got.append(VARIABLE.get())
        VARIABLE.set("mine")

    VARIABLE.set("of listen")
    with running(server):
        server.publish("a")
        server.publish("a")
        assert wait_for(lambda: len(got) == 2)
    assert ["of listen"] * 2 == got


def test_the_end_waits_for_the_function_that_runs():
    """What still waits for it is dropped: at most once."""
    server, got, begun, go_on = WebMeshServer(), [], threading.Event(), threading.Event()

    @server.subscribe("a")
    def note(payload: Any, topic: str, message: Message) -> None:
        begun.set()
        assert go_on.wait(10)
        got.append(payload)

    server.listen(port=0)
    server.await_started()
    for number in (1, 2):
        server.publish("a", number)
    assert begun.wait(10)
    threading.Timer(0.05, go_on.set).start()
    server.close(5)
    assert [1] == got


@pytest.mark.skipif(PATCHED, reason="there is one hub for all in a patched process")
def test_a_function_may_use_its_own_server():
    """It is in a thread, and what it calls goes to the hub."""
    server, got = WebMeshServer(), []

    @server.subscribe("in")
    def relay(payload: Any, topic: str, message: Message) -> None:
        server.publish("out", payload)

    @server.subscribe("out")
    def note(payload: Any, topic: str, message: Message) -> None:
        got.append(payload)

    with running(server):
        server.publish("in", 1)
        assert wait_for(lambda: got == [1])


def test_a_publication_becomes_a_message():
    """With all that a subscriber may want to know."""
    message = message_of(Publication("a", 1, {"h": "x"}, offset=3, epoch="e", retained=True), attempt=2)
    assert (1, "a", {"h": "x"}, 3, "e", 2, True, None) == (
        message.payload, message.topic, message.headers, message.offset, message.epoch, message.attempt,
        message.retained, message.event,
    )  # fmt: skip


def test_what_is_worthless_by_now_is_not_handled() -> None:
    """Its time went on while it waited for the function."""
    observer = RecordingObserver()
    server, heard, go_on = WebMeshServer(observer=observer), [], Completion[None]()

    @server.subscribe("a")
    def handle(payload: Any, topic: str, message: Message) -> None:
        if not heard:
            go_on.wait(10)
        heard.append(payload)

    with running(server):
        server.publish("a", 0)
        began = time.monotonic()
        server.publish("a", "short", ttl=0.001)
        server.publish("a", "long", ttl=600)
        assert wait_for(lambda: time.monotonic() - began > 0.005)
        go_on.succeed(None)
        assert wait_for(lambda: len(heard) == 2)
    assert [0, "long"] == heard
    assert ("refused", "delivery", "expired") in observer.events


def test_what_must_be_acknowledged_is_not_dropped_for_want_of_room() -> None:
    """The queue leaves out others, and nothing of it is handled twice."""
    server, heard, go_on = WebMeshServer(), [], Completion[None]()
    server.topic("safe", ack=True)

    @server.subscribe("*", queue=2)
    def handle(payload: Any, topic: str, message: Message) -> None:
        if not heard:
            go_on.wait(10)
        heard.append(payload if message.event is None else message.event)

    with running(server):
        server.publish("plain", 0)
        assert wait_for(lambda: server._begun.parts.topics._local[0].pending == 1)
        for number in range(1, 6):
            server.publish("safe", f"safe {number}")
            server.publish("plain", number)
        go_on.succeed(None)
        assert wait_for(lambda: "safe 5" in heard and 5 in heard)
    assert [f"safe {number}" for number in range(1, 6)] == [one for one in heard if str(one).startswith("safe")]
    assert "gap" in heard


def test_a_function_that_ends_its_own_greenlet_gets_the_next_all_the_same():
    """What waits does not wait for another publication."""
    server, got = WebMeshServer(), []

    @server.subscribe("a", blocking=False)
    def fails(payload: Any, topic: str, message: Message) -> None:
        got.append(payload)
        raise gevent.GreenletExit

    with running(server):
        for number in (1, 2, 3):
            server.publish("a", number)
        assert wait_for(lambda: got == [1, 2, 3])
