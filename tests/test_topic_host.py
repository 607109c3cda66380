"""What a server's program says of topics."""

from __future__ import annotations

import threading
from typing import Any

import pytest

from tests.running import running, wait_for
from tests.topic_peer import Refused, topic_peer
from webmesh.brokers.base import Since
from webmesh.exceptions import (
    ConfigurationError,
    EncodeError,
    FailedPrecondition,
    InvalidArgument,
    LocalProtocolError,
    NotFound,
)
from webmesh.messages import Message, Published
from webmesh.webmesh_server import WebMeshServer


def test_a_program_publishes_and_subscribes_in_itself():
    """With no peer at all."""
    server, got = WebMeshServer(), []
    server.topic("orders/*/created", history=10)

    @server.subscribe("orders/**")
    def note(payload: Any, topic: str, message: Message) -> None:
        got.append((payload, topic, message.offset, message.headers.get("mine")))

    with running(server):
        first = server.publish("orders/1/created", "a", headers={"mine": "x"})
        assert Published(1, first.epoch, 1) == first
        assert Published(None, None, 1) == server.publish("orders/1/paid", "b")
        assert wait_for(lambda: len(got) == 2)
    assert [("a", "orders/1/created", 1, "x"), ("b", "orders/1/paid", None, None)] == got


def test_anybody_may_publish_from_any_thread():
    """Each publisher's own order is kept."""
    server, got = WebMeshServer(), []

    @server.subscribe("a/*", queue=10_000)
    def note(payload: Any, topic: str, message: Message) -> None:
        got.append((topic, payload))

    def publish(name: str) -> None:
        for number in range(100):
            server.publish(f"a/{name}", number)

    with running(server):
        threads = [threading.Thread(target=publish, args=(name,)) for name in "xyz"]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert wait_for(lambda: len(got) == 300)
    for name in "xyz":
        assert list(range(100)) == [number for topic, number in got if topic == f"a/{name}"]


def test_the_same_dedupe_id_is_published_once():
    """Whoever repeats it is told."""
    server = WebMeshServer()
    server.topic("a", history=5)
    with running(server):
        first, second = (server.publish("a", number, dedupe_id="x") for number in (1, 2))
    assert (False, True) == (first.duplicate, second.duplicate)
    assert first.offset == second.offset


@pytest.mark.parametrize("topic", ["", "a/*", "a//b"])
def test_what_is_no_topic_is_refused(topic: str):
    """With what is wrong."""
    with running(WebMeshServer()) as server, pytest.raises(InvalidArgument):
        server.publish(topic)


def test_a_server_that_has_not_started_has_nowhere_to_publish():
    """Said as such."""
    with pytest.raises(LocalProtocolError):
        WebMeshServer().publish("a")


@pytest.mark.parametrize(
    "register",
    [
        lambda server: server.subscribe("a//b")(print),
        lambda server: server.subscribe("a")("no function"),
        lambda server: server.subscribe("a", queue=0)(print),
        lambda server: server.subscribe("a", group="")(print),
        lambda server: server.subscribe("a", group=5)(print),
        lambda server: server.topic("a", history=-1),
        lambda server: server.topic("**/a"),
    ],
)  # fmt: skip
def test_what_makes_no_sense_is_refused_at_registration(register: Any):
    """Not with the first publication."""
    with pytest.raises(ConfigurationError):
        register(WebMeshServer())


def test_a_program_lists_and_drops_durable_groups():
    """With what they have to do; not those that have members, nor others."""
    server = WebMeshServer()
    server.topic("jobs/**", ack=True)
    with running(server):
        with topic_peer(server) as peer:
            sub = peer.subscribe("jobs/*", group="workers")["sub"]
            peer.subscribe("else", group="passing")
            assert [("jobs/*", "workers")] == server.groups()
            with pytest.raises(FailedPrecondition):
                server.drop_group("jobs/*", "workers")
            peer.ask("$unsubscribe", {"sub": sub})
        server.publish("jobs/1", "x")
        assert 1 == server.drop_group("jobs/*", "workers")
        assert [] == server.groups()
        with pytest.raises(NotFound):
            server.drop_group("jobs/*", "workers")
        with pytest.raises(InvalidArgument):
            server.drop_group("jobs//x", "workers")


def test_a_peer_makes_no_more_groups_than_the_topic_has_room_for():
    """It is told so; who joins one that is there is not."""
    server = WebMeshServer()
    server.topic("jobs/**", ack=True, groups=1)
    with running(server), topic_peer(server) as peer:
        peer.ask("$unsubscribe", {"sub": peer.subscribe("jobs/*", group="a")["sub"]})
        with pytest.raises(Refused) as refused:
            peer.subscribe("jobs/x", group="b")
        assert "resource_exhausted" == refused.value.code
        peer.subscribe("jobs/*", group="a")


def test_registration_ends_with_listening():
    """As that of routes."""
    with running(WebMeshServer()) as server:
        with pytest.raises(ConfigurationError, match="too late"):
            server.topic("a", history=1)
        with pytest.raises(ConfigurationError, match="too late"):
            server.subscribe("a")


def test_an_engine_is_named_by_its_url_or_given(tmp_path):
    """What is kept in a file is there for the next server."""
    url = f"sqlite:///{tmp_path / 'topics.db'}"
    for expected in (1, 2):
        server = WebMeshServer(broker=url)
        server.topic("a", history=5)
        with running(server):
            assert expected == server.publish("a").offset
    with pytest.raises(ConfigurationError, match="engine"):
        WebMeshServer(broker="carrier-pigeon://loft")


def test_a_payload_is_taken_as_it_is_now():
    """What the publisher, or one subscriber, makes of it later changes nothing for others or in history."""
    server, got = WebMeshServer(), []
    server.topic("a", history=5)

    def spoil(payload: Any, topic: str, message: Message) -> None:
        got.append(list(payload["x"]))
        payload["x"].append("spoiled by a subscriber")

    server.subscribe("a")(spoil)
    server.subscribe("a")(spoil)
    payload = {"x": [1]}
    with running(server):
        server.publish("a", payload)
        payload["x"].append("spoiled by the publisher")
        assert wait_for(lambda: len(got) == 2)
        kept = server._begun.parts.home.run(server.broker.history, "a", Since()).items
    assert [[1], [1]] == got
    assert [{"x": [1]}] == [publication.payload for publication in kept]


@pytest.mark.parametrize("payload", [{1, 2}, object(), {"x": float("nan")}, "x" * (1024 * 1024 + 1)])
def test_what_no_message_can_carry_is_refused_to_its_publisher(payload: Any):
    """Rather than lost to each subscriber."""
    with running(WebMeshServer()) as server, pytest.raises(EncodeError):
        server.publish("a", payload)


def test_topics_are_compared_in_one_form_of_unicode():
    """However the letters were composed."""
    server, got = WebMeshServer(), []
    server.subscribe("caf\u00e9")(lambda payload, topic, message: got.append(topic))
    with running(server):
        assert 1 == server.publish("cafe\u0301").receivers
        assert wait_for(lambda: got == ["caf\u00e9"])


@pytest.mark.parametrize(
    "options",
    [
        {"headers": {"a": 5}}, {"headers": {5: "a"}}, {"headers": {"a": "\ud800"}}, {"key": 5}, {"dedupe_id": 7},
        {"headers": {str(number): "x" for number in range(100)}}, {"ttl": float("nan")}, {"ttl": "5"}, {"ttl": 0},
        {"headers": {"will": "lost"}}, {"headers": {"dead-letter-topic": "a"}},
    ],
)  # fmt: skip
def test_options_that_no_message_can_carry_are_refused_to_their_publisher(options: dict[str, Any]):
    """Each subscriber would take such a message for an invalid one, and close the connection in the end."""
    with running(WebMeshServer()) as server, pytest.raises(InvalidArgument):
        server.publish("a", 1, **options)
