"""Story: a program subscribes and publishes by a client, which loses its connection, its server and its patience."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import gevent
import pytest

from tests.running import PATIENCE, Census, connected, native_threads, running, wait_for
from webmesh.exceptions import (
    BadPattern, ConfigurationError, ConnectFailed, ConnectionClosed, InvalidArgument, LinkRefused,
    PublishDoubtful,
)  # fmt: skip
from webmesh.messages import Message, Position, Published
from webmesh.options import Backoff, Limits
from webmesh.protocol.deliveries import Redelivery
from webmesh.subscription import Subscription
from webmesh.testing import FaultProxy
from webmesh.webmesh_client import WebMeshClient
from webmesh.webmesh_server import WebMeshServer

QUICK = Backoff(first=0.02, maximum=0.1)


def node(**options: Any) -> WebMeshServer:
    server = WebMeshServer(**options)
    server.topic("kept/**", history=100)
    return server


def payloads(subscription: Subscription, count: int) -> list[Any]:
    return [subscription.next(PATIENCE).payload for _ in range(count)]


class Heard:
    """A callback that notes what it is given."""

    def __init__(self) -> None:
        self.messages: list[Message] = []

    def __call__(self, payload: Any, topic: str, message: Message) -> None:
        self.messages.append(message)

    @property
    def payloads(self) -> list[Any]:
        return [message.payload for message in self.messages if message.event is None]

    @property
    def gaps(self) -> list[Any]:
        return [(message.topic, message.payload) for message in self.messages if message.event == "gap"]


# ---------------------------------------------------------- subscribing, publishing


def test_a_callback_gets_what_is_published_in_order() -> None:
    """One publication after another, with its topic and all that is known of it."""
    heard = Heard()
    with connected(node()) as client:
        subscription = client.subscribe("orders/*/created", heard)
        for number in range(5):
            client.publish(f"orders/{number}/created", number, headers={"by": "me"})
        assert wait_for(lambda: len(heard.messages) == 5)
        subscription.unsubscribe()
        client.publish("orders/9/created", 9)

    assert [0, 1, 2, 3, 4] == heard.payloads
    assert "orders/4/created" == heard.messages[4].topic
    assert "me" == heard.messages[4].headers["by"]


def test_a_loop_gets_what_is_published() -> None:
    """Without a callback a subscription is iterated over, and ends when the program ends it."""
    with connected(node()) as client:
        subscription = client.subscribe("a/b")
        for number in range(3):
            client.publish("a/b", number)
        seen = []
        for message in subscription:
            seen.append(message.payload)
            if message.payload == 2:
                subscription.unsubscribe()

    assert [0, 1, 2] == seen
    with pytest.raises(ConnectionClosed):
        subscription.next(0)


def test_nothing_more_comes_after_the_end() -> None:
    """What waits is dropped, also what was fetched from the hub for the next steps of a loop."""
    with connected(node()) as client, client.subscribe("a") as subscription:
        for number in range(20):
            client.publish("a", number)
        got = []
        for message in subscription:
            got.append(message.payload)
            subscription.unsubscribe()
        assert [0] == got


def test_next_waits_no_longer_than_it_is_told() -> None:
    """Nothing was published."""
    with connected(node()) as client, client.subscribe("a/b") as subscription:
        with pytest.raises(TimeoutError):
            subscription.next(0.01)


def test_a_publication_tells_its_number_and_whom_it_reached() -> None:
    """On a topic with history; without a confirmation nothing is told."""
    with connected(node()) as client:
        client.subscribe("kept/a")
        client.subscribe("kept/*")
        first, second = client.publish("kept/a", 1), client.publish("kept/a", 2)
        again = [client.publish("kept/a", 3, dedupe_id="3") for _ in range(2)]

        assert client.publish("kept/a", 4, confirm=False) is None

    assert first is not None and second is not None
    assert (1, 2, 2) == (first.offset, first.receivers, second.offset)
    assert [False, True] == [one is not None and one.duplicate for one in again]


def test_several_subscriptions_of_one_client_get_the_same_message() -> None:
    """Each its own, whether their patterns are equal or only match the same topic."""
    with connected(node()) as client:
        several = [client.subscribe(pattern) for pattern in ("a/b", "a/b", "a/*", "**")]
        client.publish("a/b", 7)
        several[0].unsubscribe()
        client.publish("a/b", 8)

        assert [[7, 8]] * 3 == [payloads(one, 2) for one in several[1:]]


def test_what_makes_no_sense_is_told_at_once() -> None:
    """Before anything is sent, as a client that has no server shows."""
    client = WebMeshClient("ws://127.0.0.1:1")
    for wrong in (
        lambda: client.subscribe("a/**/b"),
        lambda: client.publish("a/*"),
        lambda: client.history("a//b"),
        lambda: client.set_will("a/*"),
    ):
        with pytest.raises(BadPattern):
            wrong()
    for wrong in (
        lambda: client.subscribe("a", queue=0),
        lambda: client.subscribe("a", overflow="never"),  # type: ignore[arg-type]
        lambda: client.subscribe("a", "callback"),  # type: ignore[arg-type]
        lambda: client.subscribe("a/*", since=Position(1, "e")),
        lambda: client.subscribe("a", since=-1),
        lambda: client.set_will("a", on=()),
        lambda: client.set_will("a", delay=-1),
    ):
        with pytest.raises(ConfigurationError):
            wrong()


def test_without_a_connection_nothing_is_subscribed_or_published() -> None:
    """As a call: it waits for the connection, or fails at once where it is told to."""
    with running(node()) as server:
        url = server.url
    client = WebMeshClient(url, backoff=QUICK)
    with pytest.raises(ConnectFailed):
        client.subscribe("a/b", timeout=0.05)
    with pytest.raises(ConnectFailed):
        client.publish("a/b", fail_fast=True)
    client.close()


def test_own_publications_can_be_left_out() -> None:
    """And their numbers are no holes to the one who left them out."""
    with connected(node()) as client, WebMeshClient(client.url) as other:
        heard = Heard()
        subscription = client.subscribe("kept/a", heard)
        client.publish("kept/a", "mine", exclude_self=True)
        other.publish("kept/a", "other's")
        other.publish("kept/a", "another", exclude_self=True)
        assert wait_for(lambda: len(heard.messages) == 2)

        assert Position(3, heard.messages[0].epoch or "") == subscription.position

    assert ["other's", "another"] == heard.payloads


def test_from_callbacks_and_threads() -> None:
    """Subscriptions and publications may be made from wherever a program runs, callbacks too."""
    with connected(node()) as client:
        answers = client.subscribe("answers")

        def answer(payload: Any, topic: str, message: Message) -> None:
            client.publish("answers", payload * 2)
            client.subscribe("more").unsubscribe()

        client.subscribe("questions", answer)
        with native_threads(3) as spawn:
            jobs = [spawn(client.publish, "questions", number) for number in range(3)]
            for job in jobs:
                job.get()
            taken = [spawn(answers.next, PATIENCE) for _ in range(3)]
            got = {job.get().payload for job in taken}

    assert {0, 2, 4} == got


def test_a_client_may_be_closed_by_a_callback() -> None:
    """Its own end waits for the callback, and so not the other way round."""
    closed = threading.Event()
    with running(node()) as server:
        client = WebMeshClient(server.url)

        def close(payload: Any, topic: str, message: Message) -> None:
            client.close()
            closed.set()

        client.subscribe("a", close)
        client.publish("a")
        assert closed.wait(PATIENCE)
        client.close()


# ---------------------------------------------------------------------- the past


def test_the_past_of_a_topic() -> None:
    """The newest, what came after a position, the last so many seconds, or a page of the history."""
    with connected(node()) as client:
        for number in range(5):
            client.publish("kept/a", number)
        page = client.history("kept/a", limit=2, reverse=True)
        middle = client.history("kept/a").items[1].position

        assert ([4, 3], 5) == ([message.payload for message in page.items], page.offset)
        assert [4] == payloads(client.subscribe("kept/a", since="last"), 1)
        after = client.subscribe("kept/a", since=middle)
        assert ([2, 3, 4], True) == (payloads(after, 3), after.recovered)
        assert [0, 1, 2, 3, 4] == payloads(client.subscribe("kept/a", since=60), 5)
        with pytest.raises(InvalidArgument):
            client.history("live/a")


def test_a_past_that_is_not_kept_is_told() -> None:
    """By a gap before anything else."""
    with connected(node()) as client:
        client.publish("kept/a")
        subscription = client.subscribe("kept/a", since=Position(7, "of old"))
        client.publish("kept/a", "new")
        gap, message = subscription.next(PATIENCE), subscription.next(PATIENCE)

    assert ("gap", 1, False) == (gap.event, gap.offset, subscription.recovered)
    assert ("new", 2) == (message.payload, message.offset)


def test_a_slow_callback_misses_nothing_of_a_topic_with_history() -> None:
    """What its queue has no room for is fetched when it has."""
    heard, go = Heard(), threading.Event()

    def slow(payload: Any, topic: str, message: Message) -> None:
        go.wait(PATIENCE)
        heard(payload, topic, message)

    with connected(node()) as client:
        client.subscribe("kept/**", slow, queue=4)
        for number in range(40):
            client.publish("kept/a", number)
            client.publish("kept/b", number)
        go.set()
        assert wait_for(lambda: len(heard.messages) >= 80)
        client.publish("kept/a", 40)
        assert wait_for(lambda: len(heard.messages) >= 81)

    for topic, last in (("kept/a", 41), ("kept/b", 40)):
        assert list(range(last)) == [one.payload for one in heard.messages if one.topic == topic]


def test_a_slow_callback_is_told_what_it_lost() -> None:
    """Without history the oldest go, and a gap stands in their place."""
    heard, go = Heard(), threading.Event()

    def slow(payload: Any, topic: str, message: Message) -> None:
        go.wait(PATIENCE)
        heard(payload, topic, message)

    with connected(node()) as client:
        client.subscribe("live", slow, queue=4)
        for number in range(20):
            client.publish("live", number)
        mark = client.subscribe("mark")
        client.publish("mark")
        mark.next(PATIENCE)  # all that was published before it has come
        go.set()
        assert wait_for(lambda: 19 in heard.payloads)

    lost = sum(data["lost"] for _, data in heard.gaps)
    assert 1 == len(heard.gaps)
    assert 20 == lost + len(heard.payloads)
    assert [0, *range(20 - len(heard.payloads) + 1, 20)] == heard.payloads


@pytest.mark.row(93)
def test_a_callback_that_raises_ends_nothing() -> None:
    """It is logged, and the next message comes."""
    heard = Heard()

    def fail_first(payload: Any, topic: str, message: Message) -> None:
        heard(payload, topic, message)
        if payload == 0:
            raise SystemExit("not the end of everybody's connection")

    with connected(node()) as client:
        client.subscribe("a", fail_first)
        client.publish("a", 0)
        client.publish("a", 1)
        assert wait_for(lambda: [0, 1] == heard.payloads)


# ------------------------------------------------------------------- reconnecting


@contextmanager
def behind_a_proxy(server: WebMeshServer) -> Iterator[tuple[WebMeshClient, WebMeshClient, FaultProxy]]:
    """A client that can be cut off, and one that is always connected."""
    with running(server), FaultProxy(server) as proxy:
        with WebMeshClient(proxy.url, backoff=QUICK) as client, WebMeshClient(server.url) as other:
            yield client, other, proxy


@pytest.mark.parametrize("topic", ["live", "kept/a"])
def test_a_session_that_goes_on_misses_nothing(topic: str) -> None:
    """Cut off again and again, each message comes once and in order; with history and without."""
    heard = Heard()
    with behind_a_proxy(node()) as (client, other, proxy):
        client.subscribe("*" if topic == "live" else "kept/**", heard)
        for number in range(200):
            other.publish(topic, number)
            if not number % 20:
                proxy.reset()
        assert wait_for(lambda: len(heard.messages) >= 200)

    assert (list(range(200)), []) == (heard.payloads, heard.gaps)


def test_publications_over_a_link_that_breaks_are_published_once() -> None:
    """Whichever of them are sent again."""
    with behind_a_proxy(node()) as (client, other, proxy), other.subscribe("kept/a", queue=1000) as subscription:
        client.subscribe("kept/a", Heard())
        stop = threading.Event()

        def reset() -> None:
            while not stop.wait(0.02):
                proxy.reset()

        breaking = threading.Thread(target=reset)
        breaking.start()
        for number in range(100):
            client.publish("kept/a", number, timeout=PATIENCE)
        stop.set()
        breaking.join(PATIENCE)
        assert list(range(100)) == payloads(subscription, 100)
        with pytest.raises(TimeoutError):
            subscription.next(0.01)


@pytest.mark.parametrize("again", ["another", "the same"])
def test_what_nobody_remembers_is_not_published_twice(again: str) -> None:
    """The answer is lost. The node that may have it does not publish it again; of another one that is not asked."""
    heard = Heard()
    servers = node(), node()
    for server in servers:
        server.subscribe("a")(heard)
    with running(servers[0]) as first, running(servers[1]) as second, FaultProxy(first) as proxy:
        with WebMeshClient(proxy.url, backoff=QUICK) as client, native_threads(1) as spawn:
            client.connect()
            proxy.half_open("down")
            publishing = spawn(partial(client.publish, "a", 1, timeout=PATIENCE))
            assert wait_for(lambda: heard.payloads)
            proxy.retarget(second if again == "another" else first)
            proxy.heal()
            proxy.reset()
            if again == "another":
                with pytest.raises(PublishDoubtful):
                    publishing.get()
            else:
                assert publishing.get().duplicate
            assert client.publish("a", 2, timeout=PATIENCE).receivers
            assert wait_for(lambda: heard.payloads == [1, 2])


@contextmanager
def restarted(**options: Any) -> Iterator[tuple[WebMeshClient, Any]]:
    """A client, and a function that closes its server, lets another one publish, and starts it anew."""
    servers = [node(**options)]
    servers[0].listen(port=0)
    servers[0].await_started()
    port = servers[0].port

    def restart(*payloads: Any) -> WebMeshServer:
        servers[-1].close(0)
        server = node(**options)
        if payloads:  # where the client does not come meanwhile
            server.listen(port=0)
            server.await_started()
            for payload in payloads:
                server.publish("kept/a", payload)
            server.close(0)
            server = node(**options)
        servers.append(server)
        server.listen(port=port)
        server.await_started()
        return server

    client = WebMeshClient(servers[0].url, backoff=QUICK)
    try:
        yield client, restart
    finally:
        client.close()
        servers[-1].close(0)


def test_a_restarted_server_with_a_file_costs_nothing(tmp_path: Path) -> None:
    """What was published while it was away is recovered, before what comes after it."""
    heard, pattern = Heard(), Heard()
    with restarted(broker=f"sqlite:///{tmp_path}/topics") as (client, restart):
        subscription = client.subscribe("kept/a", heard)
        client.subscribe("kept/**", pattern)
        for number in range(3):
            client.publish("kept/a", number)
        restart(3, 4)
        client.publish("kept/a", 5, timeout=PATIENCE)
        assert wait_for(lambda: 5 in heard.payloads and 5 in pattern.payloads)
        assert subscription.recovered

    assert (list(range(6)), []) == (heard.payloads, heard.gaps)
    assert list(range(6)) == pattern.payloads
    assert [("kept/**", {"reason": "reconnected", "pattern": True})] == pattern.gaps


def test_a_restarted_server_without_a_file_tells_a_gap() -> None:
    """With history or without: nobody knows what was lost."""
    kept, live = Heard(), Heard()
    with restarted() as (client, restart):
        subscription = client.subscribe("kept/a", kept)
        client.subscribe("live", live)
        client.publish("kept/a", 0)
        client.publish("live", 0)
        restart()
        assert wait_for(lambda: kept.gaps and live.gaps)
        client.publish("kept/a", 1, timeout=PATIENCE)
        client.publish("live", 1, timeout=PATIENCE)
        assert wait_for(lambda: 1 in kept.payloads and 1 in live.payloads)
        assert subscription.recovered is False

    assert ([0, 1], [("kept/a", {"reason": "not kept"})]) == (kept.payloads, kept.gaps)
    assert ([0, 1], [("live", {"reason": "reconnected"})]) == (live.payloads, live.gaps)


def test_a_subscription_that_ended_while_there_was_no_connection_is_not_renewed() -> None:
    """The node is told when it shows that it has it still."""
    with behind_a_proxy(node()) as (client, other, proxy):
        heard = Heard()
        subscription = client.subscribe("a", heard)
        proxy.refuse()
        proxy.reset()
        assert wait_for(lambda: not client.connected)
        subscription.unsubscribe()
        proxy.heal()
        client.connect()
        assert wait_for(lambda: other.publish("a") == Published())
        assert [] == heard.messages


def test_without_a_session_each_loss_tells_a_gap() -> None:
    """The node forgets who subscribed, and is told again."""
    heard, events = Heard(), []
    with running(node()) as server, FaultProxy(server) as proxy:
        client = WebMeshClient(proxy.url, backoff=QUICK, session=False)
        client.on_state(events.append)
        client.subscribe("a", heard)
        proxy.reset()
        assert wait_for(lambda: heard.gaps)
        client.publish("a", 1, timeout=PATIENCE)
        assert wait_for(lambda: heard.payloads)
        client.close()
    assert [("a", {"reason": "reconnected"})] == heard.gaps


def test_a_callback_may_close_its_client_and_go_on() -> None:
    """It is not ended by that; another one is, where that is possible."""
    with running(node()) as server:
        seen: list[str] = []
        client = WebMeshClient(server.url)

        def callback(payload: Any, topic: str, message: Message) -> None:
            client.close()
            gevent.sleep(0.01)
            seen.append(payload)

        client.subscribe("a", callback)
        server.publish("a", "heard")
        assert wait_for(lambda: seen == ["heard"])
        assert wait_for(lambda: client.state == "closed")


def test_who_waits_is_told_when_the_client_gives_up() -> None:
    """What came before can be taken; and when it connects again, messages come again."""
    server = node()
    with connected(server) as client:
        subscription = client.subscribe("a")
        client.publish("a", 1)
        for connection in server.connections:
            connection.close(4503, "kicked")
        assert wait_for(lambda: client.state == "gave_up")
        assert 1 == subscription.next(PATIENCE).payload
        for _ in range(2):
            with pytest.raises(LinkRefused):
                subscription.next(PATIENCE)
        client.connect()
        assert wait_for(lambda: subscription.id is not None)
        client.publish("a", 2)
        assert ["gap", None] == [subscription.next(PATIENCE).event for _ in range(2)]


def test_who_waits_is_told_where_nobody_dials_again() -> None:
    """Until the client is used again."""
    with connected(node(), reconnect=False) as client:
        subscription = client.subscribe("a")
        client.connect().abort()
        with pytest.raises(ConnectionClosed):
            list(subscription)
        client.publish("a", 1)
        assert 1 == subscription.next(PATIENCE).payload


# -------------------------------------------------------------------------- wills


def test_a_client_whose_wills_are_refused_is_not_connected_without_them() -> None:
    """It is told at once, and why; and comes in when it has revoked what was too much."""
    with running(node(limits=Limits(wills=1))) as server:
        client = WebMeshClient(server.url)
        for name in ("one", "two"):
            client.set_will("left", name, id=name)
        with pytest.raises(LinkRefused, match="hello refused with resource_exhausted") as caught:
            client.connect()
        assert "at most 1 wills" in str(caught.value.__cause__)
        assert not server.connections or wait_for(lambda: not server.connections)
        client.revoke_will("two")
        client.connect()
        client.close()


def cut_off(client: WebMeshClient, proxy: FaultProxy) -> None:
    """Lose it, for as long as the proxy refuses everybody."""
    proxy.refuse()
    proxy.reset()
    assert wait_for(lambda: not client.connected)


@pytest.mark.row(80)
def test_a_lost_client_leaves_its_wills() -> None:
    """Those that are set, set anew and not revoked: before it was connected, after that, and while it was not."""
    with behind_a_proxy(node()) as (client, other, proxy), other.subscribe("wills/*") as wills:
        early = WebMeshClient(proxy.url, backoff=QUICK)
        early.set_will("wills/early", 0)
        early.connect()
        client.set_will("wills/first", 1, id="first", headers={"by": "me"})
        client.set_will("wills/second", 2, id="second")
        client.set_will("wills/second", 3, id="second")
        client.set_will("wills/third", 4, id="third")
        client.revoke_will("third")
        client.revoke_will("never set")
        cut_off(client, proxy)

        came = {message.topic: message for message in (wills.next(PATIENCE) for _ in range(3))}

        assert {"wills/early": 0, "wills/first": 1, "wills/second": 3} == {
            topic: message.payload for topic, message in came.items()
        }
        assert ("lost", "me") == (came["wills/first"].will, came["wills/first"].headers["by"])
        early.close()


@pytest.mark.row(80)
def test_a_client_that_comes_back_or_closes_leaves_no_will() -> None:
    """Within its delay, and on purpose; a later loss finds it set again."""
    with behind_a_proxy(node()) as (client, other, proxy), other.subscribe("wills/*") as wills:
        client.set_will("wills/lost", "lost", delay=PATIENCE)
        client.set_will("wills/left", "left", id="left", on=("goodbye",))
        client.set_will("wills/revoked", "revoked", id="revoked", delay=PATIENCE)
        cut_off(client, proxy)
        client.revoke_will("revoked")
        proxy.heal()
        client.connect()
        client.close()

        assert ("left", "goodbye") == ((message := wills.next(PATIENCE)).payload, message.will)
        with pytest.raises(TimeoutError):
            wills.next(0.05)


# ----------------------------------------------------------------------- presence


def present() -> WebMeshServer:
    server = WebMeshServer()
    server.topic("rooms/*", presence=True)
    return server


def test_who_is_present_is_known_and_told() -> None:
    """As state, as changes, and to who only asks."""
    with connected(present()) as client, WebMeshClient(client.url) as other:
        room = client.subscribe("rooms/1", presence=True, announce=("ann", {"n": 1}))
        with other.subscribe("rooms/1", announce="bob"):
            assert wait_for(lambda: room.state == {"ann": [{"n": 1}], "bob": [None]})
            assert {"ann": [{"n": 1}], "bob": [None]} == client.presence("rooms/1")
            assert (2, 2) == other.presence_counts("rooms/1")
        assert wait_for(lambda: "bob" not in room.state)
        changes = [room.next(PATIENCE).payload for _ in range(2)]

    assert ["bob"] == [key for change in changes for key in change["joined"]]
    assert ["bob"] == [key for change in changes for key in change["left"]]


def test_presence_survives_a_restart() -> None:
    """Whoever was present is again, when its client has come back."""
    with running(present()) as server:
        port = server.port
        ann, bob = (WebMeshClient(server.url, backoff=QUICK) for _ in range(2))
        room = ann.subscribe("rooms/1", presence=True, announce="ann")
        bob.subscribe("rooms/1", announce="bob")
        assert wait_for(lambda: {"ann", "bob"} == set(room.state))
        bob.close()
        assert wait_for(lambda: {"ann"} == set(room.state))
    with running(present(), port=port):
        assert wait_for(lambda: room.recovered is False)  # it has subscribed anew
        assert {"ann": 1} == {key: len(metas) for key, metas in ann.presence("rooms/1").items()}
        assert wait_for(lambda: room.state == {"ann": [None]})
        ann.close()


# ---------------------------------------------------------------- acknowledgement


def acknowledging() -> WebMeshServer:
    server = WebMeshServer()
    server.topic("work/**", ack=True, history=100, redelivery=Redelivery(first=0.05, attempts=20))
    return server


@pytest.mark.parametrize("group", [None, "workers"])
def test_a_callback_that_raises_gets_it_again(group: str | None) -> None:
    """Until it returns; what came behind it does not wait."""
    heard = Heard()

    def fail_twice(payload: Any, topic: str, message: Message) -> None:
        heard(payload, topic, message)
        if payload == 0 and message.attempt < 3:
            raise ValueError("not yet")

    with connected(acknowledging()) as client:
        client.subscribe("work/a", fail_twice, group=group)
        for number in range(3):
            client.publish("work/a", number)
        assert wait_for(lambda: heard.payloads.count(0) == 3)
        assert wait_for(lambda: {0, 1, 2} == set(heard.payloads))

    assert [1, 2, 3] == [message.attempt for message in heard.messages if message.payload == 0]


@pytest.mark.parametrize("group", [None, "workers"])
def test_a_loop_that_is_left_gets_it_again(group: str | None) -> None:
    """The message at which it was left was not handled."""
    with connected(acknowledging()) as client:
        work = client.subscribe("work/a", group=group)
        for number in range(3):
            client.publish("work/a", number)
        for message in work:
            if message.payload == 1:
                break
        seen = []
        for message in work:
            seen.append((message.payload, message.attempt > 1))
            if (1, True) in seen:
                break

    assert (2, False) == seen[0]
    assert (0, True) not in seen


@pytest.mark.parametrize("group", [None, "workers"])
def test_a_slow_callback_handles_once_what_is_delivered_again(group: str | None) -> None:
    """Its silence lets the node deliver it again, while it is still at it."""
    heard, go = Heard(), threading.Event()

    def slow(payload: Any, topic: str, message: Message) -> None:
        heard(payload, topic, message)
        go.wait(PATIENCE)

    with connected(acknowledging()) as client:
        subscription = client.subscribe("work/a", slow, group=group)
        client.publish("work/a", 0)
        client.publish("work/a", 1)
        delivered: list[Any] = []
        take = subscription.feed.take
        subscription.feed.take = lambda *args: (delivered.append(args), take(*args))  # type: ignore[method-assign]
        assert wait_for(lambda: len(delivered) > 2)
        assert [0] == heard.payloads
        go.set()
        client.publish("work/a", 2)
        assert wait_for(lambda: 2 in heard.payloads)

    # One whose acknowledgement crosses a delivery may be handled again, as all that is delivered at least once.
    assert [0, 1, 2] == list(dict.fromkeys(heard.payloads))


@pytest.mark.parametrize("group", [None, "workers"])
def test_work_survives_links_that_break(group: str | None) -> None:
    """Every message is handled, whatever becomes of deliveries and acknowledgements on the way."""
    heard = Heard()
    with behind_a_proxy(acknowledging()) as (client, other, proxy):
        client.subscribe("work/*", heard, group=group)
        for number in range(100):
            other.publish("work/a", number)
            if not number % 20:
                proxy.reset()
        assert wait_for(lambda: set(range(100)) == set(heard.payloads))
    assert [] == heard.gaps


@pytest.mark.parametrize("pattern", ["work/a", "work/**"])
@pytest.mark.parametrize("group", [None, "workers"])
def test_work_survives_a_restart(tmp_path: Path, pattern: str, group: str | None) -> None:
    """What a callback had rejected, and not handled when the server went, comes again from the new one."""
    heard, restarted_server = Heard(), threading.Event()

    def fail_before(payload: Any, topic: str, message: Message) -> None:
        heard(payload, topic, message)
        if payload == 1 and not restarted_server.is_set():
            raise ValueError("not before the restart")

    def worker() -> WebMeshServer:
        server = WebMeshServer(broker=f"sqlite:///{tmp_path}/topics")
        server.topic("work/**", ack=True, history=100, redelivery=Redelivery(first=PATIENCE, most=PATIENCE * 2))
        return server

    with running(worker()) as server:
        port = server.port
        client = WebMeshClient(server.url, backoff=QUICK)
        client.subscribe(pattern, fail_before, group=group)
        for number in range(3):
            client.publish("work/a", number)
        assert wait_for(lambda: 2 in heard.payloads)
    restarted_server.set()
    with running(worker(), port=port):
        client.publish("work/a", 3, timeout=PATIENCE)
        assert wait_for(lambda: heard.payloads.count(1) == 2 and 3 in heard.payloads)
        client.close()


# ---------------------------------------------------------------------- the end


def test_a_client_that_has_subscribed_leaves_nothing_behind() -> None:
    """No thread, descriptor or greenlet, while messages come, pages are fetched and callbacks are slow."""
    with running(node()) as server:
        census = Census()
        for _ in range(3):
            go = threading.Event()
            client = WebMeshClient(server.url)
            client.subscribe("kept/**", lambda payload, topic, message, go=go: go.wait(PATIENCE), queue=1)
            iterated = client.subscribe("kept/a")
            for number in range(20):
                client.publish("kept/a", number)
            assert 0 == iterated.next(PATIENCE).payload
            go.set()
            client.close()
        assert {} == census.grown()
