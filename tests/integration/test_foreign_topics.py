"""Story: programs that know nothing but docs/PROTOCOL.md publish, subscribe, catch up, meet and leave wills."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack

import pytest

from tests.integration.foreign import BODIES
from tests.integration.foreign_topics import Refused, TopicSpeaker, speaking
from tests.running import running, wait_for
from webmesh.options import Timeouts
from webmesh.protocol.deliveries import Redelivery
from webmesh.webmesh_server import WebMeshServer

Speak = Callable[[], TopicSpeaker]


@pytest.fixture
def server() -> Iterator[WebMeshServer]:
    """A node that has topics of each kind."""
    made = WebMeshServer(timeouts=Timeouts(session=5.0))
    made.topic("status/*", retain=True)
    made.topic("orders/**", history=5)
    made.topic("rooms/*", presence=True)
    made.topic("jobs/**", history=10, ack=True, redelivery=Redelivery(first=0.1, most=0.1, attempts=5))
    with running(made) as started:
        yield started


@pytest.fixture(params=BODIES)
def speak(request: pytest.FixtureRequest, server: WebMeshServer) -> Iterator[Speak]:
    """Connects a foreign program, in JSON and in msgpack."""
    with ExitStack() as opened:
        numbers = iter(range(0, 1 << 20, 1 << 10))  # so that no two connections of one session use an id twice

        def connect() -> TopicSpeaker:
            speaker: AbstractContextManager[TopicSpeaker] = speaking(server.url, request.param, first_id=next(numbers))
            return opened.enter_context(speaker)

        yield connect


# -------------------------------------------------------------- publish and subscribe


def test_a_publication_with_an_id_is_replied_to(speak: Speak) -> None:
    """With who got it, and its number where the topic is numbered."""
    alice, bob = speak(), speak()
    alice.subscribe("**")

    assert {"receivers": 1} == bob.publish("news/a", 1)
    kept = bob.publish("orders/7", {"x": [1, None, "ü"]})

    assert (1, 1) == (kept["receivers"], kept["offset"])
    assert [1, {"x": [1, None, "ü"]}] == alice.payloads(2)


def test_a_delivery_names_the_subscriptions_that_matched(speak: Speak) -> None:
    """And none that has ended."""
    alice, bob = speak(), speak()
    one, rest = alice.subscribe("a/*")["sub"], alice.subscribe("a/**")["sub"]
    bob.publish("a/b", 1)
    bob.publish("a/b/c", 2)
    assert [{one, rest}, {rest}] == [set(alice.next()["subs"]) for _ in range(2)]

    assert alice.ask("$unsubscribe", {"sub": rest}) is None
    bob.publish("a/b/c", 3)
    bob.publish("a/b", 4)

    assert {"topic": "a/b", "data": 4, "subs": [one]} == alice.next()


def test_headers_and_options_go_with_a_publication(speak: Speak) -> None:
    """The publisher's own reach the subscriber; it may leave itself out; a second one with the same id is none."""
    alice, bob = speak(), speak()
    alice.subscribe("a")
    bob.subscribe("a")

    alice.publish("a", 1, exclude_self="true")
    alice.publish("a", 2, mine="yes")
    assert alice.publish("a", 3, dedupe_id="x").get("duplicate", False) is False
    assert alice.publish("a", 3, dedupe_id="x")["duplicate"] is True

    first = alice.next()
    assert (2, "yes") == (first["data"], first["headers"]["mine"])
    assert [1, 2, 3] == bob.payloads(3)
    assert alice.payloads(1) == [3] and alice.silence() and bob.silence()


@pytest.mark.parametrize("pattern", ["", "a//b", "/a", "a/**/b", "a*", "$a", 7, None])
def test_what_is_no_pattern_is_refused(speak: Speak, pattern: str) -> None:
    """With `invalid_argument`, on the connection that goes on."""
    alice = speak()
    with pytest.raises(Refused) as refused:
        alice.subscribe(pattern)
    assert "invalid_argument" == refused.value.code
    with pytest.raises(Refused) as refused:
        alice.publish("a/*", 1)
    assert "invalid_argument" == refused.value.code


# ----------------------------------------------------------------- what came before


def test_a_retained_value_comes_after_the_answer(speak: Speak) -> None:
    """Marked as such; the newest one only; null takes it away."""
    alice, bob = speak(), speak()
    for value in ("old", "on"):
        alice.publish("status/lamp", value)
    alice.publish("status/door", "shut")
    alice.publish("status/door", None)

    bob.subscribe("status/*")
    alice.publish("status/lamp", "off")

    first, second = bob.next(), bob.next()
    assert ("status/lamp", "on", True) == (first["topic"], first["data"], first["retained"])
    assert ("off", False) == (second["data"], second.get("retained", False))


def test_history_since_an_offset_answer_then_past_then_live(speak: Speak) -> None:
    """In order, whole, each once."""
    alice, bob = speak(), speak()
    position = [alice.publish("orders/7", number) for number in range(4)][1]

    answer = bob.subscribe("orders/7", since={"offset": position["offset"], "epoch": position["epoch"]})
    alice.publish("orders/7", "live")

    assert (True, 4, position["epoch"]) == (answer["recovered"], answer["offset"], answer["epoch"])
    heard = [bob.next() for _ in range(3)]
    assert [2, 3, "live"] == [message["data"] for message in heard]
    assert [3, 4, 5] == [message["offset"] for message in heard]
    assert bob.silence()


def test_what_is_not_whole_is_not_recovered(speak: Speak) -> None:
    """Of a past that is gone, or of another epoch, nothing is replayed."""
    alice = speak()
    epoch = [alice.publish("orders/7", number) for number in range(8)][0]["epoch"]
    for since in ({"offset": 1, "epoch": epoch}, {"offset": 6, "epoch": "another"}, {"offset": 9, "epoch": epoch}):
        bob = speak()
        assert bob.subscribe("orders/7", since=since)["recovered"] is False
        assert bob.silence()


def test_the_last_one_and_the_last_seconds(speak: Speak) -> None:
    """Neither needs a position."""
    alice, bob, carol = speak(), speak(), speak()
    for number in range(3):
        alice.publish("orders/7", number)

    bob.subscribe("orders/7", since="last")
    carol.subscribe("orders/7", since=60)

    assert [2] == bob.payloads(1) and bob.silence()
    assert [0, 1, 2] == carol.payloads(3) and carol.silence()


def test_history_is_read_page_by_page(speak: Speak) -> None:
    """Forwards from a position, backwards from the end."""
    alice = speak()
    for number in range(8):
        alice.publish("orders/7", number)

    newest = alice.ask("$history", {"topic": "orders/7", "limit": 2, "reverse": True})
    page = alice.ask("$history", {"topic": "orders/7", "limit": 2, "since": {"offset": 5, "epoch": newest["epoch"]}})

    assert [7, 6] == [item["data"] for item in newest["items"]]
    assert [(5, 6), (6, 7)] == [(item["data"], item["offset"]) for item in page["items"]]
    assert 8 == newest["offset"] == page["offset"]


# --------------------------------------------------------------------------- groups


def test_a_group_shares_what_is_published(speak: Speak) -> None:
    """Each message reaches one member, and every plain subscription besides."""
    publisher, plain, members = speak(), speak(), [speak(), speak()]
    plain.subscribe("work/*")
    for member in members:
        member.subscribe("work/*", group="billing")

    for number in range(20):
        assert 2 == publisher.publish("work/a", number)["receivers"]

    assert list(range(20)) == plain.payloads(20)
    shares: list[list[int]] = [[], []]
    for member, share in zip(members, shares):
        while not member.silence():
            share.append(member.next()["data"])
    assert list(range(20)) == sorted(shares[0] + shares[1])
    assert all(shares), "no member was left out"


# ------------------------------------------------------------------------- presence


def test_presence_is_a_state_and_then_its_changes(speak: Speak) -> None:
    """One meta for each connection of a key."""
    watcher, ann, ann_again = speak(), speak(), speak()
    ann_again.hello()
    ann.subscribe("rooms/1", announce={"key": "ann", "meta": {"at": "desk"}})

    state = watcher.subscribe("rooms/1", presence=True)["presence"]
    ann_again.subscribe("rooms/1", announce={"key": "ann", "meta": {"at": "phone"}})

    assert {"ann": [{"at": "desk"}]} == state
    joined = watcher.next()
    assert ("presence", {"ann": [{"at": "phone"}]}) == (joined["event"], joined["data"]["joined"])
    assert {"keys": 1, "connections": 2} == watcher.ask("$presence", {"topic": "rooms/1", "counts": True})
    assert {"ann"} == set(watcher.ask("$presence", {"topic": "rooms/1"}))
    ann.drop()
    ann_again.goodbye()
    ann_again.drop()
    left = watcher.next()["data"]["left"]["ann"]
    if len(left) < 2:
        left += watcher.next()["data"]["left"]["ann"]
    assert [{"at": "desk"}, {"at": "phone"}] == sorted(left, key=str)


# ------------------------------------------------------------------ acknowledgement


def test_a_delivery_with_an_id_is_acknowledged_or_comes_again(speak: Speak) -> None:
    """After an error and after silence, with its attempt; not after an acknowledgement."""
    alice, bob = speak(), speak()
    bob.subscribe("jobs/*")
    alice.publish("jobs/a", "hard")

    first = bob.next()
    bob.refuse(first)
    second = bob.next()  # and now silence
    third = bob.next()
    bob.acknowledge(third)
    alice.publish("jobs/a", "easy")
    last = bob.next()
    bob.acknowledge(last)

    assert ["hard", "hard", "hard", "easy"] == [one["data"] for one in (first, second, third, last)]
    assert [1, 2, 3, 1] == [one.get("attempt", 1) for one in (first, second, third, last)]


def test_what_a_member_leaves_undone_goes_to_another(speak: Speak) -> None:
    """At once, with the next attempt."""
    alice, bob, carol = speak(), speak(), speak()
    bob.subscribe("jobs/*", group="g")
    alice.publish("jobs/a", "x")
    begun = bob.next()
    carol.subscribe("jobs/*", group="g")

    bob.goodbye()
    bob.drop()

    taken = carol.next()
    carol.acknowledge(taken)
    assert ("x", "x", 2) == (begun["data"], taken["data"], taken["attempt"])


# ------------------------------------------------------------------------- sessions


def test_a_resumed_session_has_its_subscriptions_and_what_it_missed(speak: Speak) -> None:
    """It says how many it has had; the rest comes after the answer, and then what is live."""
    alice, bob, again = speak(), speak(), speak()
    bob.hello()
    sub = bob.subscribe("news/*")["sub"]
    for number in range(3):
        alice.publish("news/a", number)
    assert [0, 1] == bob.payloads(2), "the third may have arrived or not"

    bob.drop()
    for number in range(3, 5):
        alice.publish("news/a", number)
    answer = again.resume_of(bob)
    alice.publish("news/a", 5)

    assert answer["resumed"] is True
    heard = [again.next() for _ in range(4)]
    assert [2, 3, 4, 5] == [message["data"] for message in heard]
    assert [[sub]] * 4 == [message["subs"] for message in heard]


# ---------------------------------------------------------------------------- wills


WILL = {"id": "w", "topic": "status/bob", "data": "gone"}


def test_a_will_is_published_when_its_session_is_lost(speak: Speak) -> None:
    """With the reason in a header; as its topic says, it is retained."""
    alice, bob, carol = speak(), speak(), speak()
    alice.subscribe("status/*")
    bob.hello(wills=[WILL])

    bob.drop()

    fired = alice.next()
    assert ("status/bob", "gone", "lost") == (fired["topic"], fired["data"], fired["headers"]["will"])
    carol.subscribe("status/*")
    assert carol.next()["retained"] is True and alice.silence()


def test_who_says_goodbye_leaves_no_will_but_what_is_for_that(speak: Speak) -> None:
    """Set, replaced and revoked one by one."""
    alice, bob = speak(), speak()
    alice.subscribe("status/*")
    bob.hello(wills=[WILL])
    for will in ("a", "b"):
        bob.ask("$will", {"id": will, "topic": f"status/{will}", "data": 1, "on": ["goodbye"]})
    bob.ask("$will", {"id": "b", "topic": "status/b", "data": 2, "on": ["goodbye", "lost"]})
    bob.ask("$will", {"id": "a", "revoke": True})

    bob.goodbye()
    bob.drop()

    fired = alice.next()
    assert ("status/b", 2, "goodbye") == (fired["topic"], fired["data"], fired["headers"]["will"])
    assert alice.silence()


def test_who_comes_back_within_the_delay_is_not_mourned(speak: Speak, server: WebMeshServer) -> None:
    """The will stays set, and fires when the session is lost for good."""
    alice, bob, again = speak(), speak(), speak()
    alice.subscribe("status/*")
    bob.hello()
    bob.ask("$will", {**WILL, "delay_ms": 300})
    bob.drop()
    assert wait_for(lambda: len(server.connections) == 2)

    assert again.resume_of(bob)["resumed"] is True
    assert alice.silence()
    again.drop()

    assert "gone" == alice.next()["data"]
    assert alice.silence()


def test_a_will_that_may_not_be_is_refused_when_it_is_set(speak: Speak) -> None:
    """For no reason that there is, or on no topic."""
    bob = speak()
    bob.hello()
    for wrong in ({"topic": "status/*"}, {"on": ["boredom"]}, {"on": []}, {"delay_ms": -1}):
        with pytest.raises(Refused) as refused:
            bob.ask("$will", {**WILL, **wrong})
        assert "invalid_argument" == refused.value.code
