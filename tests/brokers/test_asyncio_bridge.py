"""An asyncio loop in a native thread: what goes in, what comes out, and that nothing stays."""

import asyncio
import os
import signal
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import gevent
import pytest
from gevent.monkey import get_original
from gevent.socket import wait_read

from tests.brokers.contract import until
from webmesh.brokers.asyncio_bridge import AsyncioBridge, NoAnswer
from webmesh.exceptions import BrokerUnavailable

identity = get_original("_thread", "get_ident")
LONG = 20.0


class Node:
    """What a bridge tells."""

    def __init__(self) -> None:
        self.told: list[Any] = []
        self.failures: list[Exception] = []

    def bridge(self, **bounds: int) -> AsyncioBridge:
        return AsyncioBridge(
            self.told.append, lost=lambda: self.told.append("lost"), failed=self.failures.append, **bounds
        )


@pytest.fixture
def node() -> Node:
    return Node()


@pytest.fixture
def bridge(node: Node) -> Iterator[AsyncioBridge]:
    made = node.bridge()
    made.start()
    yield made
    made.stop()


def threads() -> int:
    return len(list(Path("/proc/self/task").iterdir()))


async def forever(begun: list[int], ended: list[int]) -> None:
    begun.append(1)
    try:
        await asyncio.sleep(1000)
    finally:
        ended.append(1)


def test_a_coroutine_runs_in_a_native_thread(bridge: AsyncioBridge):
    """Also in a patched process; its result is handed to the greenlet."""

    async def where(value: int) -> tuple[int, int]:
        await asyncio.sleep(0)
        return value, identity()

    value, thread = bridge.call(where, 7, timeout=LONG)
    assert 7 == value
    assert identity() != thread


def test_other_greenlets_go_on_while_one_waits(bridge: AsyncioBridge):
    """The hub is not held: what lets the coroutine end is done by another greenlet."""
    event, begun = asyncio.Event(), threading.Event()

    async def wait() -> str:
        begun.set()
        await event.wait()
        return "ended"

    waiting = gevent.spawn(bridge.call, wait, timeout=LONG)
    until(begun.is_set)
    bridge.post(event.set)
    assert "ended" == waiting.get(timeout=LONG)


def test_an_exception_reaches_who_waits(bridge: AsyncioBridge):
    """As it was raised; the loop goes on."""

    async def fail() -> None:
        raise KeyError("x")

    with pytest.raises(KeyError, match="x"):
        bridge.call(fail, timeout=LONG)
    assert 3 == bridge.call(asyncio.sleep, 0, 3, timeout=LONG)


def test_a_coroutine_that_takes_too_long_is_cancelled(bridge: AsyncioBridge):
    """Its caller learns that it was not answered."""
    begun, ended = [], []
    with pytest.raises(NoAnswer, match="0.05"):
        bridge.call(forever, begun, ended, timeout=0.05)
    until(lambda: len(ended) == len(begun))


@pytest.mark.row(95)
def test_a_greenlet_that_is_killed_takes_its_coroutine_along(bridge: AsyncioBridge):
    """Nothing of it stays in the loop or in the tables."""
    begun, ended = [], []
    waiting = gevent.spawn(bridge.call, forever, begun, ended, timeout=LONG)
    until(lambda: begun)
    waiting.kill()
    until(lambda: ended)
    assert not bridge._open


def test_calls_are_made_in_the_order_in_which_they_were_posted(bridge: AsyncioBridge, node: Node):
    """And what is told arrives in the order in which it was told."""
    for number in range(1000):
        bridge.post(bridge.tell, number)
    until(lambda: len(node.told) == 1000)
    assert list(range(1000)) == node.told


def test_a_posted_call_that_fails_stops_no_other(bridge: AsyncioBridge, node: Node):
    """It is told where it can be logged."""
    bridge.post(lambda: 1 / 0)
    bridge.post(bridge.tell, "next")
    until(lambda: node.told)
    assert [ZeroDivisionError] == [type(error) for error in node.failures]


def test_a_handler_that_fails_gets_the_next_thing(node: Node):
    """However its node is broken."""
    def handle(thing: Any) -> None:
        node.told.append(thing)
        raise ValueError(thing)

    bridge = AsyncioBridge(handle, lost=lambda: None, failed=node.failures.append)
    bridge.start()
    try:
        for number in range(2):
            bridge.post(bridge.tell, number)
        until(lambda: len(node.failures) == 2)
    finally:
        bridge.stop()
    assert [0, 1] == node.told


@pytest.mark.row(97)
@pytest.mark.parametrize("bounds", [{"most": 3}, {"most_bytes": 30}])
def test_what_finds_no_room_is_dropped_counted_and_told(node: Node, bounds: dict[str, int]):
    """One loss for any number in a row, at the place where they would have stood."""
    bridge = node.bridge(**bounds)
    bridge.start()
    try:
        def tell_all() -> None:
            for number in range(6):
                bridge.tell(number, 10)
            bridge.tell("must", 10, must=True)

        bridge.post(tell_all)
        until(lambda: "must" in node.told)
        bridge.post(bridge.tell, "after", 10)
        until(lambda: "after" in node.told)
    finally:
        bridge.stop()
    assert [0, 1, 2, "lost", "must", "after"] == node.told
    assert 3 == bridge.dropped


def test_stopping_ends_the_thread_and_all_that_waits(node: Node):
    """Who waits is told, what runs is cancelled, and the process has the threads that it had."""
    before = threads()
    bridge = node.bridge()
    bridge.start()
    begun, ended = [], []
    waiting = gevent.spawn(lambda: pytest.raises(BrokerUnavailable, bridge.call, forever, begun, ended, timeout=LONG))
    until(lambda: begun)
    assert before < threads()
    bridge.stop()
    waiting.get(timeout=LONG)
    assert [1] == ended
    until(lambda: threads() == before)
    bridge.stop()
    with pytest.raises(BrokerUnavailable, match="not started"):
        bridge.call(asyncio.sleep, 0, timeout=LONG)


def test_a_handler_may_stop_it(node: Node):
    """As a node does that gives up; nothing is told any more."""
    def handle(thing: Any) -> None:
        node.told.append(thing)
        bridge.stop()

    bridge = AsyncioBridge(handle, lost=lambda: None, failed=node.failures.append)
    bridge.start()
    bridge.post(lambda: [bridge.tell(number) for number in range(3)])
    until(lambda: not bridge.running)
    gevent.sleep(0)
    assert ([0], []) == (node.told, node.failures)


def test_names_are_looked_up_beside_the_loop(bridge: AsyncioBridge):
    """By a native thread of the lookup's own: asyncio's pool would be made of greenlets in a patched process."""

    async def look_up() -> Any:
        return await asyncio.get_running_loop().getaddrinfo("localhost", 80)

    async def fail() -> None:
        await asyncio.get_running_loop().getaddrinfo("\udcff", 80)

    assert bridge.call(look_up, timeout=LONG)
    with pytest.raises(UnicodeError):
        bridge.call(fail, timeout=LONG)


def test_a_forked_process_does_not_use_its_parents_thread(bridge: AsyncioBridge):
    """It has none: there the bridge is not started, and stopping it leaves the parent's alone."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            signal.alarm(10)
            bridge.post(print)
        except BrokerUnavailable:
            bridge.stop()
            os.write(writer, b"unavailable")
        finally:
            os._exit(0)
    os.close(writer)
    wait_read(reader)
    assert b"unavailable" == os.read(reader, 64)
    os.close(reader)
    with suppress(ChildProcessError):  # gevent waits for all children once it has been asked for one
        os.waitpid(child, 0)
    assert 3 == bridge.call(asyncio.sleep, 0, 3, timeout=LONG)
