"""How messages get from a client's hub to its program."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import Context
from functools import partial
from typing import Any

import gevent
import pytest

from tests.running import PATIENCE, native_threads, wait_for
from webmesh.exceptions import Aborted, ConnectionClosed, Overloaded
from webmesh.message_queue import MessageQueue, Overflow
from webmesh.messages import HistoryPage, Message
from webmesh.protocol.envelope import TopicMessage
from webmesh.protocol.topic_positions import OwnOffsets
from webmesh.subscription import Subscription, read_members
from webmesh.topic_feed import TopicFeed
from webmesh.websocket.hub import HubThread


class Client:
    """An owner whose node is nowhere."""

    def __init__(self, home: HubThread) -> None:
        self.home = home
        self.context = Context()
        self.executor = None
        self.ended: list[Subscription] = []

    def unsubscribe(self, subscription: Subscription) -> None:
        self.ended.append(subscription)
        self.home.run(subscription.end)

    def subscription(
        self, callback: Any = None, queue: int = 10, overflow: Overflow = "drop_oldest"
    ) -> Subscription:
        feed = partial(TopicFeed, fetch=lambda *_: HistoryPage([], 0, ""), own=OwnOffsets())
        return Subscription(self, {"pattern": "a"}, None, callback, MessageQueue(queue, overflow, "a"), feed)

    def send(self, subscription: Subscription, *payloads: Any, **more: Any) -> None:
        for payload in payloads:
            self.home.run(partial(subscription.feed.take, TopicMessage("a", payload), **more))


@contextmanager
def client() -> Iterator[Client]:
    home = HubThread("subscriptions")
    home.start()
    try:
        yield Client(home)
    finally:
        home.stop()


def test_many_may_take_from_one_subscription() -> None:
    """Each message is taken by one of them, whichever thread it is in."""
    with client() as owner:
        subscription = owner.subscription(queue=1000)
        with native_threads(3) as spawn:
            jobs = [spawn(lambda: [subscription.next(PATIENCE).payload for _ in range(50)]) for _ in range(3)]
            owner.send(subscription, *range(150))
            taken = [payload for job in jobs for payload in job.get()]
    assert list(range(150)) == sorted(taken)


def test_who_is_given_up_while_waiting_takes_nothing() -> None:
    """What comes later is for the next one."""
    with client() as owner:
        subscription = owner.subscription()
        with gevent.Timeout(0.01, False):
            subscription.next()
        owner.send(subscription, 7)
        assert 7 == subscription.next(PATIENCE).payload


def test_a_loop_acknowledges_what_it_has_left_behind() -> None:
    """And rejects the one at which it was left."""
    told: list[Any] = []
    with client() as owner:
        subscription = owner.subscription()
        for number in range(3):
            owner.send(subscription, number, acknowledge=lambda error, number=number: told.append((number, error)))
        for message in subscription:
            if message.payload == 2:
                break
    assert [(0, None), (1, None)] == told[:2]
    assert [2] == [number for number, error in told if error is not None]


def test_callbacks_run_one_after_another() -> None:
    """However long each takes."""
    running, most, seen = [0], [0], []

    def callback(payload: Any, topic: str, message: Message) -> None:
        running[0] += 1
        most[0] = max(most[0], running[0])
        gevent.sleep(0)
        running[0] -= 1
        seen.append(payload)

    with client() as owner:
        subscription = owner.subscription(callback)
        owner.send(subscription, *range(10))
        assert wait_for(lambda: len(seen) == 10)
    assert ([1], list(range(10))) == (most, seen)


def test_a_callback_that_ends_its_own_greenlet_gets_the_next_all_the_same() -> None:
    """And what it was handling is rejected, so that it comes again."""
    seen: list[Any] = []
    answered: list[Any] = []

    def callback(payload: Any, topic: str, message: Message) -> None:
        seen.append(payload)
        if payload == 1:
            raise gevent.GreenletExit

    with client() as owner:
        subscription = owner.subscription(callback)

        def deliver() -> None:
            for number in (1, 2):
                subscription.feed.take(TopicMessage("a", number, number), answered.append)

        owner.home.run(deliver)
        assert wait_for(lambda: len(answered) == 2)
    assert [1, 2] == seen
    assert [Aborted, type(None)] == [type(error) for error in answered]


def test_a_full_queue_can_end_a_subscription() -> None:
    """What waits can still be taken, and then the reason is told."""
    with client() as owner:
        subscription = owner.subscription(queue=2, overflow="close")
        owner.send(subscription, 1, 2, 3)
        assert [1, 2] == [subscription.next(PATIENCE).payload for _ in range(2)]
        with pytest.raises(Overloaded):
            subscription.next(PATIENCE)
        assert wait_for(lambda: [subscription] == owner.ended)


def test_who_waits_is_woken_by_the_end() -> None:
    """And a loop is over."""
    with client() as owner:
        subscription = owner.subscription()
        with native_threads(2) as spawn:
            looping = spawn(list, subscription)
            waiting = spawn(_error_of, subscription.next)
            assert wait_for(lambda: len(subscription._bells) == 2)
            subscription.unsubscribe()
            assert [] == looping.get()
            assert isinstance(waiting.get(), ConnectionClosed)


def _error_of(function: Any) -> Any:
    try:
        return function()
    except Exception as error:
        return error


def test_a_subscription_can_be_used_in_a_with_statement() -> None:
    """It ends with it."""
    with client() as owner:
        with owner.subscription() as subscription:
            assert "<Subscription a waits for a connection>" == repr(subscription)
        assert subscription.over


@pytest.mark.parametrize(
    ("members", "expected"),
    [(None, {}), ([1], {}), ({"a": [1], "b": 2, 3: [4]}, {"a": [1]})],
)
def test_members_are_read_with_distrust(members: Any, expected: Any) -> None:
    """Whatever makes no sense counts as not there."""
    assert expected == read_members(members)
