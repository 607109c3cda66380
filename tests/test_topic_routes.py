"""What peers ask of topics, over real connections, in JSON by hand."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from websockets.exceptions import ConnectionClosedError

from tests.running import running, wait_for
from tests.topic_peer import Refused, topic_peer
from webmesh.options import Limits
from webmesh.webmesh_server import WebMeshServer


@pytest.fixture
def server() -> Iterator[WebMeshServer]:
    made = WebMeshServer()
    made.topic("kept/**", history=3)
    made.topic("status/*", retain=True)
    with running(made) as started:
        yield started


def test_a_publication_reaches_whoever_subscribes(server: WebMeshServer):
    """By the server's program and by another peer, with what the publisher said of it."""
    with topic_peer(server) as alice, topic_peer(server) as bob:
        sub = alice.subscribe("news/*")["sub"]
        server.publish("news/a", {"x": [1, None]}, key="k")
        assert {"receivers": 1} == bob.publish("news/b", 2, mine="yes")
        bob.publish("old/b", 3)
        assert {"topic": "news/a", "data": {"x": [1, None]}, "subs": [sub], "headers": {"key": "k"}} == alice.next()
        assert {"topic": "news/b", "data": 2, "subs": [sub], "headers": {"mine": "yes"}} == alice.next()
        alice.ask("$unsubscribe", {"sub": sub})
        assert {"receivers": 0} == bob.publish("news/c", 4)


def test_a_publication_without_id_is_not_answered(server: WebMeshServer):
    """Nothing waits for it, whether it is a good one or not."""
    with topic_peer(server) as peer:
        peer.subscribe("a")
        peer.send({"topic": "a", "data": 1})
        peer.send({"topic": "a/*", "data": 2})
        peer.send({"topic": "a", "data": 3})
        assert [1, 3] == peer.payloads(2)


def test_several_matching_subscriptions_are_named_in_one_delivery(server: WebMeshServer):
    """The most specific one first."""
    with topic_peer(server) as peer:
        loose, exact = peer.subscribe("a/**")["sub"], peer.subscribe("a/b")["sub"]
        server.publish("a/b", 1)
        server.publish("a/c", 2)
        assert [[exact, loose], [loose]] == [peer.next()["subs"] for _ in range(2)]


def test_equal_patterns_have_equal_ids_on_all_connections(server: WebMeshServer):
    """So the bytes of a delivery are the same; a second one of the same peer has another."""
    with topic_peer(server) as alice, topic_peer(server) as bob:
        ids = [peer.subscribe("a/*")["sub"] for peer in (alice, bob, alice)]
        assert ids[0] == ids[1] != ids[2]
        server.publish("a/b", 1)
        assert [ids[0], ids[2]] == alice.next()["subs"]
        assert [ids[0]] == bob.next()["subs"]


@pytest.mark.parametrize(
    "payload",
    [
        None, {}, {"pattern": ""}, {"pattern": "a//b"}, {"pattern": "a/**/b"}, {"pattern": 5}, {"pattern": "a*"},
        {"pattern": "a", "since": -1}, {"pattern": "a", "since": "first"}, {"pattern": "a", "since": {"offset": 1}},
        {"pattern": "a/*", "since": {"offset": 1, "epoch": "e"}}, {"pattern": "a", "group": ""},
        {"pattern": "a", "presence": 1}, {"pattern": "a/*", "presence": True}, {"pattern": "a", "announce": "me"},
    ],
)  # fmt: skip
def test_a_subscription_that_makes_no_sense_is_refused(server: WebMeshServer, payload):
    """With a text that says why, and nothing of it stays."""
    with topic_peer(server) as peer:
        with pytest.raises(Refused) as refused:
            peer.ask("$subscribe", payload)
        assert "invalid_argument" == refused.value.code
        assert 0 == len(server._begun.parts.topics.subscribers)


@pytest.mark.parametrize("topic", ["a/*", "a//b", "/a", "x/" * 40 + "x"])
def test_a_publication_on_no_topic_is_refused(server: WebMeshServer, topic: str):
    """The publisher that asked is told."""
    with topic_peer(server) as peer, pytest.raises(Refused) as refused:
        peer.publish(topic)
    assert "invalid_argument" == refused.value.code


@pytest.mark.parametrize("headers", [{"ttl_ms": "soon"}, {"exclude_self": "perhaps"}, {"will": "lost"}])
def test_a_publish_option_that_makes_no_sense_is_refused(server: WebMeshServer, headers: dict[str, str]):
    """And so is a header that only nodes set."""
    with topic_peer(server) as peer, pytest.raises(Refused) as refused:
        peer.publish("a", 1, **headers)
    assert "invalid_argument" == refused.value.code


def test_a_publication_that_no_delivery_can_carry_is_refused(server: WebMeshServer):
    """It would be accepted, and then be a loss to everybody; what is a little smaller arrives."""
    most = server.limits.message_size
    with topic_peer(server) as peer:
        peer.subscribe("a")
        with pytest.raises(Refused) as refused:
            peer.publish("a", "x" * (most - 100))
        assert "invalid_argument" == refused.value.code
        peer.publish("a", "x" * (most - 600))
        assert [most - 600] == [len(payload) for payload in peer.payloads(1)]


def test_a_publisher_can_leave_itself_out(server: WebMeshServer):
    """Not others, and not itself where it does not ask for it."""
    with topic_peer(server) as alice, topic_peer(server) as bob:
        alice.subscribe("a")
        bob.subscribe("a")
        alice.publish("a", 1, exclude_self="true")
        alice.publish("a", 2)
        assert [2] == alice.payloads(1)
        assert [1, 2] == bob.payloads(2)


# ---------------------------------------------------------------------- the past


def test_a_new_subscriber_gets_the_retained_value(server: WebMeshServer):
    """After the answer, marked, one for each topic that matches."""
    server.publish("status/a", 1)
    server.publish("status/a", 2)
    server.publish("status/b", 3)
    with topic_peer(server) as peer:
        peer.subscribe("status/*")
        server.publish("status/a", 4)
        received = [peer.next() for _ in range(3)]
    assert [("status/a", 2, True), ("status/b", 3, True)] == sorted(
        (one["topic"], one["data"], one["retained"]) for one in received[:2]
    )
    assert ("status/a", 4, None) == (received[2]["topic"], received[2]["data"], received[2].get("retained"))


def test_a_subscriber_is_told_where_a_numbered_topic_stands(server: WebMeshServer):
    """So it can tell later what it has missed."""
    server.publish("kept/a", 1)
    published = server.publish("kept/a", 2)
    with topic_peer(server) as peer:
        answer = peer.subscribe("kept/a")
        assert (2, published.epoch) == (answer["offset"], answer["epoch"])
        server.publish("kept/a", 3)
        delivered = peer.next()
    assert (3, 3, published.epoch) == (delivered["data"], delivered["offset"], delivered["epoch"])


def test_a_subscriber_recovers_all_it_has_missed_or_is_told_that_it_cannot(server: WebMeshServer):
    """The answer, what was missed, what is live; never a part of it."""
    epoch = [server.publish("kept/a", number) for number in range(1, 6)][-1].epoch
    with topic_peer(server) as peer:
        answer = peer.subscribe("kept/a", since={"offset": 3, "epoch": epoch})
        server.publish("kept/a", 6)
        assert (True, [4, 5, 6]) == (answer["recovered"], peer.payloads(3))
    with topic_peer(server) as peer:
        answer = peer.subscribe("kept/a", since={"offset": 1, "epoch": epoch})  # 3 are kept: 4, 5 and 6
        server.publish("kept/a", 7)
        assert (False, [7]) == (answer["recovered"], peer.payloads(1))
    with topic_peer(server) as peer:
        assert peer.subscribe("kept/a", since={"offset": 7, "epoch": "another"})["recovered"] is False
        assert peer.subscribe("live/a", since={"offset": 7, "epoch": "another"})["recovered"] is False


def test_the_last_publication_or_the_last_seconds_can_be_asked_for(server: WebMeshServer):
    """For who was never there."""
    for number in (1, 2, 3):
        server.publish("kept/a", number)
    with topic_peer(server) as peer:
        peer.subscribe("kept/a", since="last")
        assert [3] == peer.payloads(1)
    with topic_peer(server) as peer:
        peer.subscribe("kept/a", since=60)
        assert [1, 2, 3] == peer.payloads(3)


def test_the_past_of_all_topics_of_a_pattern_can_be_asked_for(server: WebMeshServer):
    """The newest of each, or all of the last seconds, as they were published."""
    for topic, number in (("kept/a", 1), ("kept/b", 2), ("kept/a", 3), ("status/x", 4)):
        server.publish(topic, number)
    with topic_peer(server) as peer:
        peer.subscribe("**", since="last")
        server.publish("kept/a", 5)
        assert [2, 3, 4, 5] == peer.payloads(4)
    with topic_peer(server) as peer:
        peer.subscribe("kept/*", since=60)
        assert [1, 2, 3, 5] == peer.payloads(4)


def test_history_can_be_read_in_pages(server: WebMeshServer):
    """Forward from an offset, or the newest first."""
    epoch = [server.publish("kept/a", number, key=str(number)) for number in range(1, 5)][-1].epoch
    with topic_peer(server) as peer:
        whole = peer.ask("$history", {"topic": "kept/a"})
        assert [(2, 2), (3, 3), (4, 4)] == [(one["offset"], one["data"]) for one in whole["items"]]
        assert {"key": "2"} == whole["items"][0]["headers"]
        assert (4, epoch) == (whole["offset"], whole["epoch"])
        newest = peer.ask("$history", {"topic": "kept/a", "reverse": True, "limit": 2})
        assert [4, 3] == [one["offset"] for one in newest["items"]]
        after = peer.ask("$history", {"topic": "kept/a", "since": {"offset": 3, "epoch": epoch}})
        assert ([4], True) == ([one["offset"] for one in after["items"]], after["complete"])
        lost = peer.ask("$history", {"topic": "kept/a", "since": {"offset": 0, "epoch": epoch}})
        assert ([], False) == (lost["items"], lost["complete"])


@pytest.mark.parametrize(
    "payload",
    [
        None, {}, {"topic": "live/a"}, {"topic": "kept/*"}, {"topic": "kept/a", "limit": -1},
        {"topic": "kept/a", "reverse": 1},
    ],
)  # fmt: skip
def test_history_that_there_is_not_is_refused(server: WebMeshServer, payload):
    """As of a topic that is not kept."""
    with topic_peer(server) as peer, pytest.raises(Refused) as refused:
        peer.ask("$history", payload)
    assert "invalid_argument" == refused.value.code


# -------------------------------------------------------------------- the session


def test_subscriptions_outlive_their_connection_with_the_session(server: WebMeshServer):
    """What was published while the peer was away comes after the answer to its hello, and then what is live."""
    with topic_peer(server) as first:
        first.subscribe("a/*")
        server.publish("a/b", 1)
        assert [1] == first.payloads(1)
        first.cut()
        assert wait_for(lambda: not server.connections)
        server.publish("a/b", 2)
        with topic_peer(server, resume=first.resume) as second:
            assert second.greeting["resumed"]
            server.publish("a/b", 3)
            assert [2, 3] == second.payloads(2)


def test_a_peer_that_counts_misses_nothing_and_gets_nothing_twice(server: WebMeshServer):
    """Whatever was on its way when the connection broke."""
    with topic_peer(server) as first:
        first.subscribe("a/*")
        for number in range(5):
            server.publish("a/b", number)
        assert [0, 1] == first.payloads(2)
        first.cut()
        assert wait_for(lambda: not server.connections)
        server.publish("a/b", 5)
        with topic_peer(server, resume=first.resume | {"messages": 2}) as second:
            assert second.greeting["resumed"]
            assert [2, 3, 4, 5] == second.payloads(4)


def test_what_is_too_much_to_keep_ends_the_session(server: WebMeshServer):
    """All or nothing: the peer is told that it begins anew."""
    made = WebMeshServer(limits=Limits(session_backlog=64 * 1024))
    with running(made), topic_peer(made) as first:
        first.subscribe("a")
        first.cut()
        assert wait_for(lambda: not made.connections)
        for _ in range(20):
            made.publish("a", "x" * 10_000)
        with topic_peer(made, resume=first.resume) as second:
            assert not second.greeting["resumed"]


@pytest.mark.row(101)
def test_the_news_of_what_was_left_out_costs_nothing_that_was_kept():
    """A resume that was granted brings all that is counted, and then tells of the rest; one event for one pattern."""
    made = WebMeshServer(limits=Limits(session_backlog=64 * 1024))
    made.topic("loose/**", slow_peer="drop_oldest")
    with running(made), topic_peer(made) as first:
        first.subscribe("a")
        loose = [first.subscribe(f"loose/{number}")["sub"] for number in range(30)]
        again = first.subscribe("loose/0")["sub"]
        first.cut()
        assert wait_for(lambda: made._begun.parts.sessions.away == 1)
        kept = next(iter(made._begun.parts.sessions._sessions.values())).subscriber.kept
        for number in range(30):
            made.publish(f"loose/{number}", "x" * 100)
        sent = 0
        while len(kept._loose) > 1:
            made.publish("a", sent)
            sent += 1
        with topic_peer(made, resume=first.resume) as second:
            assert second.greeting["resumed"]
            made.publish("a", "live")
            got = []
            while not got or got[-1].get("data") != "live":
                got.append(second.next())
            assert [*range(sent), "live"] == [one["data"] for one in got if one["topic"] == "a"]
            gaps = [one["subs"] for one in got if one.get("event") == "gap"]
            assert 30 == len(gaps)
            assert {*loose, again} == {sub for subs in gaps for sub in subs}
            assert [one for one in gaps if loose[0] in one] == [one for one in gaps if again in one]


@pytest.mark.row(101)
def test_what_becomes_too_much_while_a_resume_is_answered_ends_the_session_too():
    """Nothing is lost without a word: a resume that was granted too early is taken back."""
    made = WebMeshServer(limits=Limits(session_backlog=64 * 1024))
    will = [{"id": "w", "topic": "w", "data": 1}]
    with running(made), topic_peer(made) as first:
        first.subscribe("a")
        first.cut()
        assert wait_for(lambda: made._begun.parts.sessions.away == 1)
        broker = made._begun.parts.topics.broker
        put = broker.put

        def flooded(*what: Any) -> None:
            for _ in range(7):
                made.publish("a", "x" * 10_000)
            put(*what)

        broker.put = flooded
        with topic_peer(made, hello=False) as second:
            assert second.hello(resume=first.resume, wills=will)["resumed"]
            with pytest.raises(ConnectionClosedError) as caught:
                second.next()
            assert 4010 == caught.value.rcvd.code
        broker.put = put
        with topic_peer(made, resume=first.resume) as third:
            assert not third.greeting["resumed"]


def test_without_a_session_subscriptions_end_with_the_connection(server: WebMeshServer):
    """Nothing is left of them."""
    topics = server._begun.parts.topics
    with topic_peer(server, hello=False) as peer:
        peer.subscribe("a/*")
        server.publish("a/b", 1)
        assert [1] == peer.payloads(1)
        assert 1 == len(topics.subscribers)
    assert wait_for(lambda: not len(topics.subscribers))
    assert 0 == server.publish("a/b", 2).receivers


def test_a_goodbye_ends_them_too(server: WebMeshServer):
    """The session is over, on purpose."""
    topics = server._begun.parts.topics
    with topic_peer(server) as peer:
        peer.subscribe("a/*")
        peer.send({"path": "$goodbye"})
        assert wait_for(lambda: not len(topics.subscribers))


def test_after_a_goodbye_subscriptions_are_the_connections_own(server: WebMeshServer):
    """The session is over: nothing may hang on it that nobody would ever free."""
    topics = server._begun.parts.topics
    with topic_peer(server) as peer:
        peer.subscribe("a/*")
        peer.send({"path": "$goodbye"})
        peer.subscribe("b/*")
        server.publish("b/x", 1)
        assert [1] == peer.payloads(1)
        assert 1 == len(topics.subscribers)
    assert wait_for(lambda: not len(topics.subscribers) and not topics._peers)


def test_a_page_of_history_fits_into_a_message():
    """However large the publications are, and one in any case; who wants more asks on from the last one."""
    server = WebMeshServer(limits=Limits(message_size=64 * 1024))
    server.topic("kept/*", history=100)
    with running(server), topic_peer(server) as peer:
        for number in range(40):
            epoch = server.publish("kept/a", f"{number:03}" + '"' * 3000).epoch
        offset, read = 0, []
        while offset < 40:
            page = peer.ask("$history", {"topic": "kept/a", "since": {"offset": offset, "epoch": epoch}})
            assert page["complete"]
            read += [int(item["data"][:3]) for item in page["items"]]
            offset = page["items"][-1]["offset"]
    assert list(range(40)) == read


@pytest.mark.parametrize("offset", [2**53, 2**63])
def test_an_offset_that_cannot_be_is_refused(server: WebMeshServer, offset: int):
    """Before an engine has to make something of it."""
    with topic_peer(server) as peer, pytest.raises(Refused) as refused:
        peer.ask("$history", {"topic": "kept/a", "since": {"offset": offset, "epoch": "e"}, "reverse": True})
    assert "invalid_argument" == refused.value.code
