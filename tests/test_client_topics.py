"""What a client tells a node of topics, and what it makes of what comes; the node is a script."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from tests.running import PATIENCE, wait_for
from webmesh.client_topics import ClientTopics
from webmesh.exceptions import ConfigurationError, ConnectionClosed, FailedPrecondition, PermissionDenied, Unavailable
from webmesh.execution import Executor
from webmesh.message_queue import MessageQueue
from webmesh.messages import Message
from webmesh.protocol.publication import EXCLUDE
from webmesh.routing import Router
from webmesh.subscription import Subscription
from webmesh.testing import connection_pair


class Script:
    """A client's topics on one end of a pair; on the other a node that answers as it is told to."""

    def __init__(self) -> None:
        self.said: list[tuple[str, Any]] = []
        self.answers: dict[str, Callable[[Any], Any]] = {"$subscribe": lambda data: {"sub": 1}}
        self.came: list[tuple[Any, Any, Any]] = []
        self.router = Router()
        for path in ("$subscribe", "$unsubscribe", "$history", "$presence", "$will"):
            self.router.add(path, self.answer, reserved=True, blocking=False)

    def join(self, dialled: Any, accepted: Any, **options: Any) -> None:
        self.dialled, self.accepted = dialled, accepted
        self.home = dialled._home
        self.subscribers = Executor(4, 100)
        self.topics = ClientTopics(self, self.ask, seconds=PATIENCE, **options)
        dialled.conversation.answerer.topics = self.topics
        accepted.conversation.answerer.topics = self
        self.home.run(self.topics.opened, dialled)

    def present(self) -> Any:
        """A `client_topics.Link`, too."""
        return self.dialled if self.dialled.open else None

    def ask(self, send: Any, path: str, timeout: float | None, fail_fast: bool | None = None) -> Any:
        return send(self.dialled, timeout or PATIENCE)

    def answer(self, payload: Any, path: str, client: Any) -> Any:
        self.said.append((path, payload))
        return self.answers.get(path, lambda data: None)(payload)

    def topic(self, message: Any, conversation: Any) -> None:
        """What the client publishes; a `TopicReceiver`."""
        self.came.append((message.topic, message.data, message.headers))
        if message.id is not None:
            conversation.say({"id": message.id, "data": {"receivers": 1, "offset": 7, "epoch": "e"}})

    def say(self, topic: str, data: Any, *subs: int, **more: Any) -> None:
        """Deliver something."""
        message = {"topic": topic, "data": data, "subs": list(subs), **more}
        self.home.run(self.accepted.conversation.say, message)

    def deliver(self, topic: str, data: Any, *subs: int) -> Any:
        """Deliver something that is to be acknowledged; returns the answer, or its error."""
        conversation, outcome = self.accepted.conversation, Outcome()

        def send() -> None:
            request = conversation.session.enter(topic, outcome)
            conversation.say({"topic": topic, "data": data, "subs": list(subs), "id": request.id})

        self.home.run(send)
        assert wait_for(lambda: outcome.log)
        return outcome.log[0]

    def subscribe(self, pattern: str, callback: Any = None, **more: Any) -> Subscription:
        queue = MessageQueue(10, "drop_oldest", pattern)
        return self.topics.subscribe({"pattern": pattern, **more}, None, callback, queue, None)

    def reconnect(self, *, resumed: bool) -> None:
        """As after a loss, on the same connection."""

        def again() -> None:
            self.topics.entered(self.dialled.conversation, resumed=resumed)
            self.topics.opened(self.dialled)

        self.home.run(again)

    def asked(self, path: str) -> list[Any]:
        return [payload for told, payload in self.said if told == path]


class Outcome:
    """Notes what a delivery ends with."""

    def __init__(self) -> None:
        self.log: list[Any] = []

    def succeed(self, value: Any) -> None:
        self.log.append(value)

    def fail(self, error: Any) -> None:
        self.log.append(error)


@contextmanager
def script(**options: Any) -> Iterator[Script]:
    made = Script()
    with connection_pair(server=made.router) as (dialled, accepted):
        made.join(dialled, accepted, **options)
        try:
            yield made
        finally:
            made.home.run(made.topics.close)
            made.home.run(made.subscribers.close, PATIENCE)


# -------------------------------------------------------------------- deliveries


def test_deliveries_are_counted_as_the_node_counts_them() -> None:
    """Not those that may be left out, nor those with an id of their own."""
    with script() as node:
        subscription = node.subscribe("a")
        node.say("a", 1, 1)
        node.say("a", 2, 1, loose=True)
        node.say("a", {"reason": "slow"}, 1, event="gap")
        node.deliver("nobody's", 4, 9)
        assert [1, 2] == [subscription.next(PATIENCE).payload for _ in range(2)]
        assert 2 == node.topics.counted
        node.reconnect(resumed=True)
        assert 2 == node.topics.counted
        node.reconnect(resumed=False)
        assert 0 == node.topics.counted


def test_ones_own_publications_are_left_out_whatever_session_they_come_to() -> None:
    """Live, from the past, and numbered or not: the node knows a session, and not whose it was. A group's go to it."""
    with script() as node:
        node.topics.requests.publish("a", 1, {EXCLUDE: "true"}, own=True, confirm=False, timeout=None, fail_fast=None)
        assert wait_for(lambda: node.came)
        ((_, _, headers),) = node.came
        subscription = node.subscribe("a")
        node.answers["$subscribe"] = lambda data: {"sub": 2}
        member = node.subscribe("a", group="g")
        node.answers["$history"] = lambda data: {
            "items": [{"data": 4, "offset": 4, "headers": headers}, {"data": 5, "offset": 5}], "offset": 5, "epoch": "e"
        }
        node.say("a", "plain", 1, headers=headers)
        for offset in (1, 2, 3):
            node.say("a", offset, 1, offset=offset, epoch="e", headers=headers if offset == 2 else {})
        node.say("a", 6, 1, offset=6, epoch="e")
        node.say("a", "group", 2, headers=headers)
        assert [1, 3, 5, 6] == [subscription.next(PATIENCE).payload for _ in range(4)]
        assert "group" == member.next(PATIENCE).payload


def test_a_delivery_is_acknowledged_when_all_have_handled_it() -> None:
    """By callbacks that return, and by loops that ask for the next one."""
    handled: list[Any] = []
    with script() as node:
        node.subscribe("a", lambda payload, topic, message: handled.append(payload))
        node.answers["$subscribe"] = lambda data: {"sub": 2}
        other = node.subscribe("a")
        outcome = Outcome()

        def send() -> None:
            request = node.accepted.conversation.session.enter("a", outcome)
            node.accepted.conversation.say({"topic": "a", "data": 7, "subs": [1, 2], "id": request.id})

        node.home.run(send)
        message = other.next(PATIENCE)
        assert wait_for(lambda: handled)
        assert [] == outcome.log
        message.ack()
        assert wait_for(lambda: [None] == outcome.log)


@pytest.mark.parametrize(
    ("error", "code"), [(ValueError("secret"), "internal"), (FailedPrecondition("not now"), "failed_precondition")]
)
def test_a_callback_that_raises_rejects(error: Exception, code: str) -> None:
    """What it raised stays here, unless it is an error for others."""

    def fail(payload: Any, topic: str, message: Message) -> None:
        raise error

    with script() as node:
        node.subscribe("a", fail)
        told = node.deliver("a", 7, 1)
    assert code == told.code
    assert "secret" not in str(told)


def test_a_delivery_can_be_rejected_by_hand() -> None:
    """What the callback does after it changes nothing."""

    def reject(payload: Any, topic: str, message: Message) -> None:
        message.reject(Unavailable("later"))

    with script() as node:
        node.subscribe("a", reject)
        assert "unavailable" == node.deliver("a", 7, 1).code


def test_a_delivery_that_nobody_wants_is_refused() -> None:
    """And so goes elsewhere; as does what waits when its subscription ends."""
    with script() as node:
        assert "not_found" == node.deliver("a", 7, 1).code
        subscription = node.subscribe("a")
        outcome = Outcome()

        def send() -> None:
            request = node.accepted.conversation.session.enter("a", outcome)
            node.accepted.conversation.say({"topic": "a", "data": 7, "subs": [1], "id": request.id})

        node.home.run(send)
        assert wait_for(lambda: len(subscription._queue))
        subscription.unsubscribe()
        assert wait_for(lambda: outcome.log)
        assert "unavailable" == outcome.log[0].code


def test_a_subscription_that_is_not_known_here_is_ended() -> None:
    """Its answer came too late for who asked; its first delivery shows that the node has it."""
    with script() as node:
        node.say("a", 1, 9)
        assert wait_for(lambda: [{"sub": 9}] == node.asked("$unsubscribe"))


def test_what_comes_after_the_end_of_a_subscription_ends_no_other() -> None:
    """It was on its way; and the node may use its id again."""
    with script() as node:
        subscription = node.subscribe("a")

        def late(data: Any) -> None:
            node.accepted.conversation.say({"topic": "a", "data": 1, "subs": [1]})

        node.answers["$unsubscribe"] = late
        subscription.unsubscribe()
        subscription.unsubscribe()
        again = node.subscribe("a")
        node.say("a", 2, 1)
        assert 2 == again.next(PATIENCE).payload
        assert [{"sub": 1}] == node.asked("$unsubscribe")


# ------------------------------------------------------------------ reconnecting


def test_after_a_loss_the_node_is_told_what_it_does_not_know() -> None:
    """Nothing in a session that goes on; everything in a new one."""
    with script() as node:
        first = node.subscribe("a", group="g")
        node.reconnect(resumed=True)
        assert 1 == len(node.asked("$subscribe"))
        node.answers["$subscribe"] = lambda data: {"sub": 5}
        node.reconnect(resumed=False)
        assert wait_for(lambda: first.id == 5)
        node.say("a", 7, 5)
        assert 7 == first.next(PATIENCE).payload
        assert [{"pattern": "a", "group": "g"}] * 2 == node.asked("$subscribe")


def test_a_new_session_is_asked_for_what_came_since() -> None:
    """Where the topic is numbered."""
    with script() as node:
        node.answers["$subscribe"] = lambda data: {"sub": 1, "offset": 3, "epoch": "e", "recovered": True}
        subscription = node.subscribe("a")
        node.say("a", 7, 1, offset=4, epoch="e")
        assert 7 == subscription.next(PATIENCE).payload
        node.reconnect(resumed=False)
        assert wait_for(lambda: subscription.recovered)
        assert {"offset": 4, "epoch": "e"} == node.asked("$subscribe")[1]["since"]


def test_a_subscription_that_is_not_taken_again_ends() -> None:
    """With the reason, for who iterates and for the callback; one that the node cannot take now is asked for again."""
    heard: list[Message] = []
    refusals: list[Exception] = [Unavailable("the engine is away", retry_after=0.0)]

    def refuse(data: Any) -> Any:
        if refusals:
            raise refusals.pop()
        raise PermissionDenied("not for you")

    with script() as node:
        iterated = node.subscribe("a")
        node.answers["$subscribe"] = lambda data: {"sub": 2}
        called = node.subscribe("b", lambda payload, topic, message: heard.append(message))
        node.answers["$subscribe"] = refuse
        node.reconnect(resumed=False)
        with pytest.raises(PermissionDenied):
            iterated.next(PATIENCE)
        assert wait_for(lambda: heard)
        assert iterated.over
        assert called.over
        assert [("gap", "ended")] == [(message.event, message.payload["reason"]) for message in heard]
        assert 5 == len(node.asked("$subscribe"))


def test_while_there_will_be_no_connection_who_waits_is_told() -> None:
    """And what comes after it is a subscription as before."""
    with script() as node:
        subscription = node.subscribe("a")
        node.home.run(node.topics.gave_up, lambda: PermissionDenied("kicked"))
        for _ in range(2):
            with pytest.raises(PermissionDenied):
                subscription.next(PATIENCE)
        node.reconnect(resumed=True)
        node.say("a", 7, 1)
        assert 7 == subscription.next(PATIENCE).payload


def test_what_comes_of_a_connection_that_was_left_is_dropped() -> None:
    """Its ids are another node's."""
    with script() as node, script() as other:
        subscription = node.subscribe("a")
        node.topics._conversation = other.dialled.conversation
        node.say("a", 7, 1)
        node.dialled.call("$presence", {})  # what came before its answer has been looked at
        with pytest.raises(TimeoutError):
            subscription.next(0)


# --------------------------------------------------------------- everything else


def test_presence_is_state_and_changes() -> None:
    """A new session tells it whole, and the program what has changed."""
    with script() as node:
        node.answers["$subscribe"] = lambda data: {"sub": 1, "presence": {"ann": [1], "bob": [None]}}
        subscription = node.subscribe("room", presence=True, announce={"key": "me", "meta": None})
        assert {"ann": [1], "bob": [None]} == subscription.state
        node.say("room", {"joined": {"ann": [2]}, "left": {"bob": [None]}}, 1, event="presence")
        event = subscription.next(PATIENCE)
        assert ("presence", {"ann": [1, 2]}) == (event.event, subscription.state)
        node.answers["$subscribe"] = lambda data: {"sub": 1, "presence": {"ann": [1, 2], "eve": [3]}}
        node.reconnect(resumed=False)
        assert ["gap", "presence"] == [subscription.next(PATIENCE).event for _ in range(2)]
        assert {"ann": [1, 2], "eve": [3]} == subscription.state
        assert [True, True] == [asked["presence"] for asked in node.asked("$subscribe")]


def test_wills_are_told_at_once_or_after_the_next_hello() -> None:
    """One that the node refuses is forgotten."""

    def refuse(data: Any) -> None:
        raise PermissionDenied("not for you")

    with script() as node:
        will = {"id": "w", "topic": "a", "data": 1}
        node.topics.set_will(will)
        assert [will] == node.asked("$will")
        assert [] == node.topics.wills.untold()
        node.topics.revoke_will("w")
        assert {"id": "w", "revoke": True} == node.asked("$will")[1]
        node.topics.wills.set(will)  # as while there was no connection
        node.reconnect(resumed=True)
        assert wait_for(lambda: not node.topics.wills.untold())
        node.answers["$will"] = refuse
        with pytest.raises(PermissionDenied):
            node.topics.set_will({**will, "id": "x"})
        assert [will] == node.topics.wills.hello()


def test_a_will_that_the_node_refuses_leaves_the_former_one() -> None:
    """It is there still. One that only its engine could not be told of the node has."""
    errors: list[Exception] = [PermissionDenied("not for you"), Unavailable("the engine is away")]

    def refuse(data: Any) -> None:
        raise errors.pop(0)

    with script() as node:
        old, new = {"id": "w", "topic": "a", "data": 1}, {"id": "w", "topic": "a", "data": 2}
        node.topics.set_will(old)
        node.answers["$will"] = refuse
        with pytest.raises(PermissionDenied):
            node.topics.set_will(new)
        assert ([old], []) == (node.topics.wills.hello(), node.topics.wills.untold())
        with pytest.raises(Unavailable):
            node.topics.set_will(new)
        assert ([new], [new]) == (node.topics.wills.hello(), node.topics.wills.untold())


def test_a_client_without_a_session_has_no_wills() -> None:
    """Nobody would know when to publish them."""
    with script(sessions=False) as node, pytest.raises(ConfigurationError):
        node.topics.set_will({"id": "w", "topic": "a", "data": 1})


def test_the_end_of_a_client_ends_its_subscriptions() -> None:
    """Whoever waits is told, and a loop ends."""
    with script() as node:
        subscription = node.subscribe("a")
        node.home.run(node.topics.close)
        assert [] == list(subscription)
        with pytest.raises(ConnectionClosed):
            subscription.next()
    assert "<Subscription a over>" == repr(subscription)
