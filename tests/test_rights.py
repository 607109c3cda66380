"""What ends when a peer's rights have changed."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from tests.running import PATIENCE, running, wait_for
from tests.topic_peer import Refused, TopicPeer, topic_peer
from webmesh.auth import Credentials, Identity
from webmesh.authorisation import Policy
from webmesh.exceptions import PermissionDenied
from webmesh.webmesh_client import WebMeshClient
from webmesh.webmesh_server import WebMeshServer

ENDED = {"reason": "permission_denied", "pattern": True, "ended": True}


def authenticate(credentials: Credentials) -> Identity | None:
    """Tokens are subject, colon, roles."""
    subject, _, roles = (credentials.token or "").partition(":")
    return Identity(subject, frozenset(roles.split(","))) if subject else None


@pytest.fixture
def server() -> Iterator[WebMeshServer]:
    made = WebMeshServer(authenticate=authenticate)
    made.topic("secret/**", subscribe="boss", publish="boss")
    made.topic("safe/**", subscribe="boss", ack=True)
    made.topic("new/**", subscribe=Policy().allow("subscribe", "new/*", "boss"), slow_peer="drop_oldest")
    made.topic("mixed/**", subscribe=lambda asked: asked.topic != "mixed/*" or "boss" in asked.identity.roles)

    @made.on("/count", requires="boss")
    def count(payload: Any, path: str, client: Any) -> Iterator[int]:
        yield from range(1_000_000)

    with running(made) as started:
        yield started


def away(server: WebMeshServer) -> bool:
    return server._begun.parts.sessions.away == 1


def lose(server: WebMeshServer, peer: TopicPeer) -> None:
    peer.cut()
    wait_for(lambda: away(server))


def test_a_resume_with_fewer_roles_ends_what_they_allowed(server: WebMeshServer) -> None:
    """The subscriber is told of each end, and gets nothing that was kept for it."""
    with topic_peer(server, token="joe:boss") as before:
        subs = [before.subscribe(pattern)["sub"] for pattern in ("secret/x", "safe/x", "new/x", "open")]
        group = before.subscribe("secret/work", group="g")["sub"]
        lose(server, before)
        for topic in ("secret/x", "safe/x", "new/x", "open"):
            server.publish(topic, topic)
        with topic_peer(server, token="joe:guest", resume=before.resume) as after:
            assert after.greeting["resumed"]
            server.publish("secret/x", "live")
            server.publish("safe/x", "live")
            server.publish("open", "live")
            got = []
            while not got or got[-1].get("data") != "live":
                got.append(after.next())
            assert {*subs[:3], group} == {one["subs"][0] for one in got if one["data"] == ENDED}
            assert ["open", "live"] == [one["data"] for one in got if "event" not in one]
            assert [{"pattern": "open", "subscriptions": 1}] == after.ask("$subscriptions")["patterns"]


@pytest.mark.row(101)
def test_what_is_withdrawn_costs_nothing_of_what_is_still_allowed(server: WebMeshServer) -> None:
    """However much was kept for what has ended, and however little room there is for the news of it."""
    with topic_peer(server, token="joe:boss") as before:
        before.subscribe("open")
        ended = [before.subscribe(f"secret/{number}")["sub"] for number in range(40)]
        lose(server, before)
        session = next(iter(server._begun.parts.sessions._sessions.values()))
        kept = session.subscriber.kept
        for number in range(10):
            server.publish("open", number)
        while session.room.taken < session.room.limit - 4096 or kept._size < kept._granted - 200:
            server.publish("secret/1", None)
        sent = kept.next
        with topic_peer(server, token="joe:guest", resume=before.resume) as after:
            assert after.greeting["resumed"]
            server.publish("open", "live")
            got = []
            while not got or got[-1].get("data") != "live":
                got.append(after.next())
            assert [*range(10), "live"] == [one["data"] for one in got if "event" not in one]
            assert {*ended} == {one["subs"][0] for one in got if one["data"] == ENDED}
            assert sent + len(ended) + 1 == len(got) == kept.next


def test_what_is_kept_for_another_subscription_too_goes_out_for_that_one(server: WebMeshServer) -> None:
    """A message is for several subscriptions of a peer at once."""
    with topic_peer(server, token="joe:boss") as before:
        whole, one = before.subscribe("mixed/*")["sub"], before.subscribe("mixed/a")["sub"]
        lose(server, before)
        server.publish("mixed/a", 1, ttl=60)
        server.publish("mixed/b", 2)
        with topic_peer(server, token="joe:guest", resume=before.resume) as after:
            got = [after.next() for _ in range(3)]
            assert [(1, [one])] == [(each["data"], each["subs"]) for each in got if "event" not in each]
            assert [[whole], [whole]] == [each["subs"] for each in got if each["data"] == ENDED or "event" in each]


def test_a_renewal_with_fewer_roles_ends_them_too(server: WebMeshServer) -> None:
    """Whoever stays connected is not better off than who comes back."""
    with topic_peer(server, token="joe:boss") as peer:
        sub = peer.subscribe("secret/x")["sub"]
        peer.hello(token="joe:guest")
        told = peer.next()
        assert ("gap", ENDED, [sub]) == (told["event"], told["data"], told["subs"])
        assert 0 == server.publish("secret/x").receivers


def test_equal_or_better_rights_end_nothing(server: WebMeshServer) -> None:
    """Tokens are renewed all day."""
    with topic_peer(server, token="joe:boss") as peer:
        peer.subscribe("secret/x")
        for token in ("joe:boss", "joe:boss,clerk"):
            peer.hello(token=token)
        server.publish("secret/x", 1)
        assert [1] == peer.payloads(1)


def test_what_the_program_takes_away_ends_within_a_second(server: WebMeshServer) -> None:
    """It says so by the connection's identity; with a session or without."""
    for hello in (True, False):
        with topic_peer(server, hello=False) as peer:
            peer.hello(token="joe:boss")
            if not hello:
                peer.ask("$goodbye")
            peer.subscribe("secret/x")
            (connection,) = server.connections
            connection.identity = Identity("joe", frozenset({"guest"}))
            assert ENDED == peer.next()["data"]


def test_another_subject_does_not_get_the_session(server: WebMeshServer) -> None:
    """It belongs to who began it, whatever the other one may."""
    with topic_peer(server, token="joe:boss") as before:
        before.subscribe("secret/x")
        lose(server, before)
        with topic_peer(server, token="ann:boss", resume=before.resume) as after:
            assert not after.greeting["resumed"]
            assert before.resume["session"] != after.greeting["session"]
            after.subscribe("open")
            server.publish("secret/x", 1)
            server.publish("open", 2)
            assert [2] == after.payloads(1)


def test_wills_that_may_not_be_published_any_more_are_revoked(server: WebMeshServer) -> None:
    """The others stay."""
    wills = [{"id": "a", "topic": "secret/w", "data": 1}, {"id": "b", "topic": "open", "data": 2}]
    with topic_peer(server, token="joe:boss", wills=wills) as peer:
        peer.hello(token="joe:guest")
        (connection,) = server.connections
        assert ["b"] == [will.id for will in connection.session.wills.wills.all()]
        assert {"guest"} == connection.session.identity.roles


def test_a_will_without_a_delay_is_published_by_the_rights_at_the_loss(server: WebMeshServer) -> None:
    """What the next connection may or may not do comes too late for it."""
    wills = [{"id": "a", "topic": "secret/w", "data": 1}]
    with topic_peer(server, token="ann:boss") as watcher:
        watcher.subscribe("secret/w")
        with topic_peer(server, token="joe:boss", wills=wills) as before:
            lose(server, before)
            with topic_peer(server, token="joe:guest", resume=before.resume) as after:
                assert after.greeting["resumed"]
                assert [1] == watcher.payloads(1)


@pytest.mark.row(80)
def test_who_may_not_publish_a_will_any_more_comes_back_without_it(server: WebMeshServer) -> None:
    """It is told which was left out; the rest goes on, and nothing is published with rights that are gone."""
    wills = [{"id": "no", "topic": "secret/w", "data": 1}, {"id": "yes", "topic": "open/w", "data": 2}]
    with topic_peer(server, token="joe:boss", wills=wills) as before:
        assert "refused_wills" not in before.greeting
        lose(server, before)
        with topic_peer(server, token="joe:guest", wills=wills, resume=before.resume) as after:
            assert after.greeting["resumed"]
            assert ["no"] == after.greeting["refused_wills"]
            (session,) = server._begun.parts.sessions._sessions.values()
            assert ["yes"] == [will.id for will in session.wills.wills.all()]
    with topic_peer(server, hello=False) as other, pytest.raises(Refused) as refused:
        other.hello(token="joe:guest", wills=wills)
    assert "permission_denied" == refused.value.code


def test_a_stream_ends_with_the_role_that_it_needs(server: WebMeshServer) -> None:
    """Its reader is told why; what was kept of it is not sent any more."""
    with topic_peer(server, token="joe:boss") as before:
        before.send({"path": "/count", "id": "s", "credit": 3})
        assert [0, 1, 2] == [before.next()["item"] for _ in range(3)]
        before.hello(token="joe:guest")
        assert "permission_denied" == before.next()["error"]["code"]

    with topic_peer(server, token="ann:boss") as before:
        before.send({"path": "/count", "id": "s", "credit": 3})
        assert 0 == before.next()["item"]
        lose(server, before)
        resume = before.resume | {"streams": [["s", 1, 2]]}
        with topic_peer(server, token="ann:guest", resume=resume) as after:
            assert ["s"] == after.greeting["streams"]
            told = after.next()
            assert ("s", "permission_denied") == (told["id"], told["error"]["code"])


def test_a_client_is_told_why_its_subscription_ended(server: WebMeshServer) -> None:
    """As where the node would not let it subscribe."""
    with WebMeshClient(server.url, token="joe:boss") as client:
        subscription = client.subscribe("secret/x")
        (connection,) = server.connections
        connection.identity = Identity("joe", frozenset({"guest"}))
        with pytest.raises(PermissionDenied):
            subscription.next(timeout=PATIENCE)


def test_a_rule_that_crashes_lets_nobody_go_on() -> None:
    """Closed rather than open."""
    asked: list[Any] = []

    def rule(request: Any) -> bool:
        asked.append(request)
        return len(asked) == 1 or bool(1 / 0)

    server = WebMeshServer(authenticate=authenticate)
    server.topic("odd", subscribe=rule)
    with running(server), topic_peer(server, token="joe:boss") as peer:
        peer.subscribe("odd")
        peer.hello(token="joe:guest")
        assert ENDED == peer.next()["data"]
        with pytest.raises(Refused):
            peer.subscribe("odd")
