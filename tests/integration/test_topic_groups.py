"""Groups over real connections: peers that speak JSON by hand, and functions of the server's program."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tests.processes import ENVIRONMENT
from tests.running import running, wait_for
from tests.topic_peer import Refused, TopicPeer, topic_peer
from webmesh.messages import Message
from webmesh.options import Limits
from webmesh.protocol.deliveries import Redelivery
from webmesh.webmesh_client import WebMeshClient
from webmesh.webmesh_server import WebMeshServer

PATIENT = Redelivery(first=600.0, most=600.0)
"""Nothing comes again for silence while a test lasts."""


def member(peer: TopicPeer, pattern: str = "jobs/*", group: str = "g") -> int:
    """Let *peer* join; the id of its subscription."""
    answer: dict[str, Any] = peer.subscribe(pattern, group=group)
    assert {"sub"} == set(answer)
    sub: int = answer["sub"]
    return sub


def answer(peer: TopicPeer, message: dict[str, Any]) -> Any:
    """Acknowledge a delivery; what it carries."""
    peer.send({"id": message["id"], "data": None})
    return message["data"]


@pytest.fixture
def server() -> Iterator[WebMeshServer]:
    """Serves plain topics below `jobs`, and topics below `safe` that must be acknowledged."""
    made = WebMeshServer()
    made.topic("safe/**", ack=True, redelivery=PATIENT)
    with running(made):
        yield made


def test_each_publication_goes_to_one_member(server: WebMeshServer) -> None:
    """In turn where all have equally much; each in order; the publisher is told that one group got it."""
    with topic_peer(server) as one, topic_peer(server, hello=False) as two:
        subs = [member(one), member(two)]
        receivers = {server.publish("jobs/a", number).receivers for number in range(10)}
        got = [[peer.next() for _ in range(5)] for peer in (one, two)]
    assert {1} == receivers
    assert [[subs[0]], [subs[1]]] == [messages[0]["subs"] for messages in got]
    assert list(range(10)) == sorted(message["data"] for messages in got for message in messages)
    for messages in got:
        numbers = [message["data"] for message in messages]
        assert sorted(numbers) == numbers
        assert not any("id" in message for message in messages)


def test_groups_and_plain_subscriptions_beside_each_other(server: WebMeshServer) -> None:
    """Each group gets one, each plain subscription gets one."""
    with topic_peer(server) as one, topic_peer(server) as plain:
        member(one, group="g")
        member(one, group="h")
        plain.subscribe("jobs/**")
        assert 3 == server.publish("jobs/a", "x").receivers
        assert ["x", "x"] == one.payloads(2)
        assert ["x"] == plain.payloads(1)


def test_a_member_that_leaves_gets_no_more(server: WebMeshServer) -> None:
    """The others go on; with the last one the group ends."""
    with topic_peer(server, hello=False) as one, topic_peer(server, hello=False) as two:
        sub = member(one)
        member(two)
        one.ask("$unsubscribe", {"sub": sub})
        assert [1, 1] == [server.publish("jobs/a", number).receivers for number in range(2)]
        assert [0, 1] == two.payloads(2)
    with topic_peer(server, hello=False) as last:
        last.ask("$unsubscribe", {"sub": member(last)})
        assert wait_for(lambda: server.publish("jobs/a", 2).receivers == 0)


def test_functions_share_with_peers() -> None:
    """Those of one group are its members; each publication is handled once."""
    server, heard = WebMeshServer(), []

    @server.subscribe("jobs/*", group="g")
    def first(payload: Any, topic: str, message: Message) -> None:
        heard.append(("first", payload))

    @server.subscribe("jobs/*", group="g")
    def second(payload: Any, topic: str, message: Message) -> None:
        heard.append(("second", payload))

    with running(server), topic_peer(server) as peer:
        member(peer)
        for number in range(9):
            server.publish("jobs/a", number)
        got = [("peer", peer.next()["data"])]
        assert wait_for(lambda: len(heard) + len(got) + len(peer.messages) == 9 or _more(peer, got))
        everything = sorted(number for _, number in heard + got)
    assert list(range(9)) == everything
    assert {"first", "second", "peer"} == {name for name, _ in heard + got}


def _more(peer: TopicPeer, got: list[Any]) -> bool:
    try:
        got.append(("peer", peer.next(0.01)["data"]))
    except TimeoutError:
        pass
    return False


def test_acknowledged_work_is_given_to_who_has_least(server: WebMeshServer) -> None:
    """A member that does not acknowledge gets no more than its share; deliveries carry an id, offset and epoch."""
    with topic_peer(server) as idle, topic_peer(server) as busy:
        for peer in (idle, busy):
            member(peer, "safe/*")
        server.publish("safe/a", "first")
        server.publish("safe/a", "second")
        kept, quick = busy.next(), idle.next()
        assert {"first", "second"} == {kept["data"], quick["data"]}
        assert quick["id"] >= 2**52 and quick["offset"] > 0 and quick["epoch"] and "attempt" not in quick
        for number in range(5):
            answer(idle, quick)
            idle.ask("$info")  # its acknowledgement came before it
            server.publish("safe/a", number)
            quick = idle.next()
            assert number == quick["data"]


def test_a_member_that_dies_hands_its_work_on(server: WebMeshServer) -> None:
    """At once, marked as a second attempt, and ahead of what comes later."""
    with topic_peer(server) as one, topic_peer(server, hello=False) as two:
        member(two, "safe/*")
        for number in range(3):
            server.publish("safe/a", number)
        assert [0, 1, 2] == two.payloads(3)
        member(one, "safe/*")
        two.cut()
        again = [one.next() for _ in range(3)]
        assert [(0, 2), (1, 2), (2, 2)] == [(message["data"], message["attempt"]) for message in again]


def test_an_error_is_another_attempt_for_another_member() -> None:
    """After the back-off; a member that fails is not asked again while another one is free."""
    server = WebMeshServer()
    server.topic("safe/**", ack=True, redelivery=Redelivery(first=0.25, factor=1.0, attempts=3))
    with running(server), topic_peer(server) as one:
        member(one, "safe/*")
        server.publish("safe/a", "x")
        first = one.next()
        one.send({"id": first["id"], "error": {"code": "internal", "message": "no"}})
        second = one.next()
        assert ("x", 2) == (second["data"], second["attempt"])
        assert first["id"] != second["id"]
        answer(one, second)
        server.publish("safe/a", "y")
        assert "y" == answer(one, one.next())


def test_a_late_acknowledgement_counts() -> None:
    """The first attempt's, although the second one is on its way: it was handled."""
    server = WebMeshServer()
    server.topic("safe/**", ack=True, window=1, redelivery=Redelivery(first=0.01, factor=1e6, most=600, attempts=3))
    with running(server), topic_peer(server) as one:
        member(one, "safe/*")
        server.publish("safe/a", "x")
        server.publish("safe/a", "y")
        first, second = one.next(), one.next()
        assert ("x", 2) == (second["data"], second["attempt"])
        answer(one, first)
        assert "y" == one.next()["data"]


def test_work_of_a_session_that_is_away_goes_to_others(server: WebMeshServer) -> None:
    """At once; when it is back it takes part again, under the same id."""
    with topic_peer(server) as stays:
        with topic_peer(server) as goes:
            sub = member(goes, "safe/*")
            server.publish("safe/a", "x")
            assert "x" == goes.next()["data"]
            member(stays, "safe/*")
            goes.cut()
        again = stays.next()
        assert ("x", 2) == (again["data"], again["attempt"])
        answer(stays, again)
        with topic_peer(server, resume=goes.resume) as back:
            assert back.greeting["resumed"]
            server.publish("safe/a", "y")
            server.publish("safe/a", "z")
            mine, other = back.next(), stays.next()
            assert {"y", "z"} == {mine["data"], other["data"]}
            assert [sub] == mine["subs"]


def test_a_durable_group_keeps_work_while_nobody_is_there(server: WebMeshServer) -> None:
    """What was published meanwhile, and what its last member had not acknowledged, in order."""
    with topic_peer(server, hello=False) as one:
        member(one, "safe/*")
        server.publish("safe/a", 0)
        server.publish("safe/a", 1)
        answer(one, one.next())
        assert 1 == one.next()["data"]
    assert wait_for(lambda: server.publish("safe/b", "?").receivers == 0)
    server.publish("safe/a", 2)
    with topic_peer(server) as two:
        member(two, "safe/*")
        got = []
        while not got or got[-1]["data"] != 2:
            got.append(two.next())
    assert (1, 2) == (got[0]["data"], got[0]["attempt"])
    assert {"?"} == {message["data"] for message in got[1:-1]}


def test_an_acknowledged_publication_survives_the_server(tmp_path: Path) -> None:
    """A durable group in an SQLite file has its work again when the server is started anew."""

    def make() -> WebMeshServer:
        made = WebMeshServer(broker=f"sqlite:///{tmp_path}/topics.db")
        made.topic("safe/**", ack=True, redelivery=PATIENT)
        return made

    first = make()
    with running(first), topic_peer(first) as one:
        member(one, "safe/*")
        for number in range(3):
            first.publish("safe/a", number)
        answer(one, one.next())
        assert [1, 2] == one.payloads(2)
        one.ask("$info")  # the acknowledgement came before it
    second = make()
    with running(second), topic_peer(second) as two:
        member(two, "safe/*")
        assert [1, 2] == [answer(two, two.next()) for _ in range(2)]


def test_functions_acknowledge_when_they_return() -> None:
    """One that raises gets it again, as another attempt; what it says itself with ack and reject counts."""
    server, heard = WebMeshServer(), []
    server.topic("safe/**", ack=True, redelivery=Redelivery(first=0.01, attempts=3))

    @server.subscribe("safe/*", group="g")
    def handle(payload: str, topic: str, message: Message) -> None:
        assert message.wants_ack
        heard.append((payload, message.attempt))
        if payload == "raises" and message.attempt == 1:
            raise ValueError("on purpose")
        if payload == "rejects" and message.attempt == 1:
            message.reject(ValueError("on purpose"))
        if payload == "acks":
            message.ack()
            raise ValueError("after it was acknowledged")

    with running(server):
        for payload in ("raises", "rejects", "acks", "last"):
            server.publish("safe/a", payload)
        expected = {("raises", 1), ("raises", 2), ("rejects", 1), ("rejects", 2), ("acks", 1), ("last", 1)}
        assert wait_for(lambda: set(heard) == expected)
        server.publish("safe/a", "end")
        assert wait_for(lambda: ("end", 1) in heard)
    assert len(expected) + 1 == len(heard)


def test_a_dead_letter(server: WebMeshServer) -> None:
    """After the last attempt it goes to the topic that was named, with where it is from, why, and how often."""
    own = WebMeshServer()
    twice = Redelivery(first=0.25, factor=1.0, attempts=2)
    own.topic("safe/**", ack=True, redelivery=twice, dead_letter="dead/letters")
    with running(own), topic_peer(own) as worker, topic_peer(own) as watcher:
        watcher.subscribe("dead/*")
        member(worker, "safe/*")
        worker.publish("safe/a", {"n": 1}, key="k", ttl_ms="600000")
        for _ in range(2):
            message = worker.next()
            worker.send({"id": message["id"], "error": {"code": "aborted", "message": "no"}})
        dead = watcher.next()
    assert ("dead/letters", {"n": 1}) == (dead["topic"], dead["data"])
    assert {
        "key": "k", "dead-letter-topic": "safe/a", "dead-letter-reason": "aborted: no", "dead-letter-attempts": "2",
    } == dead["headers"]  # fmt: skip


def test_a_publisher_in_the_group_wants_no_echo(server: WebMeshServer) -> None:
    """With exclude-self another member gets it, and nobody where there is none."""
    with topic_peer(server) as one, topic_peer(server) as two:
        member(one)
        one.publish("jobs/a", "nobody", exclude_self="true")
        member(two)
        for number in range(3):
            one.publish("jobs/a", number, exclude_self="true")
        assert [0, 1, 2] == two.payloads(3)
        server.publish("jobs/a", "x")
        server.publish("jobs/a", "y")
        assert {"x", "y"} == {one.next()["data"], two.next()["data"]}


def test_the_answer_comes_before_the_work(server: WebMeshServer) -> None:
    """However much there is to do."""
    with topic_peer(server, hello=False) as one:
        member(one, "safe/*")
    assert wait_for(lambda: server.publish("safe/a", 0).receivers == 0)
    for number in range(1, 9):
        server.publish("safe/a", number)
    with topic_peer(server) as two:
        two.send({"path": "$subscribe", "id": 0, "data": {"pattern": "safe/*", "group": "g"}})
        assert {"id", "data"} == set(two.next())
        assert 0 == two.next()["data"]


@pytest.mark.row(51)
def test_memberships_are_counted(server: WebMeshServer) -> None:
    """As other subscriptions are."""
    own = WebMeshServer(limits=Limits(subscriptions=2))
    with running(own), topic_peer(own) as peer:
        member(peer, group="g")
        member(peer, group="h")
        with pytest.raises(Refused) as refused:
            member(peer, group="i")
    assert "resource_exhausted" == refused.value.code


def test_members_die_one_after_another(server: WebMeshServer) -> None:
    """Whatever each had acknowledged when it died is done, and nothing else is lost."""
    done: list[Any] = []
    count = 12  # a foreign program stops to read when more wait for it
    with topic_peer(server, hello=False) as first:
        member(first, "safe/*")  # from now on the group keeps everything
    for number in range(count):
        server.publish("safe/a", number)
    while len(done) < count:
        with topic_peer(server, hello=False) as peer:
            member(peer, "safe/*")
            done.extend(answer(peer, peer.next()) for _ in range(min(3, count - len(done))))
            peer.ask("$info")  # they have arrived
            peer.cut()
    assert list(range(count)) == done


def test_groups_are_listed(server: WebMeshServer) -> None:
    """With their members, and what these have yet to acknowledge."""
    with topic_peer(server) as one, topic_peer(server) as two:
        member(one, "safe/*")
        member(two, "safe/*")
        server.publish("safe/a", "x")
        listed = one.ask("$subscriptions")
    assert {"patterns": [{"pattern": "safe/*", "group": "g", "subscriptions": 2, "open": 1}], "more": False} == listed


def test_clients_share_and_acknowledge(server: WebMeshServer) -> None:
    """Callbacks of two clients: each publication is handled, again where it failed, and none is left over."""
    own = WebMeshServer()
    own.topic("safe/**", ack=True, redelivery=Redelivery(first=0.05, attempts=9))
    handled: list[Any] = []
    failed: set[Any] = set()

    def handle(payload: Any, topic: str, message: Message) -> None:
        if payload % 3 == 0 and payload not in failed:
            failed.add(payload)
            raise ValueError("on purpose")
        handled.append(payload)

    with running(own), WebMeshClient(own.url) as one, WebMeshClient(own.url) as two:
        for client in (one, two):
            client.subscribe("safe/*", handle, group="g")
        for number in range(30):
            assert 1 == own.publish("safe/a", number).receivers
        assert wait_for(lambda: len(set(handled)) == 30)
        groups = own._begun.parts.topics.groups
        assert wait_for(lambda: not any(len(work.deliveries) for work in groups))
    assert set(range(0, 30, 3)) == failed


SERVES = """
import sys
from webmesh import WebMeshServer
server = WebMeshServer(broker=f"sqlite:///{sys.argv[1]}")
server.topic("safe/**", ack=True)
server.listen(port=0)
server.await_started()
print(server.url, flush=True)
sys.stdin.read()
"""


@contextmanager
def killed_server(path: Path) -> Iterator[Any]:
    """A server in a process of its own, which is killed in the end."""
    command = [sys.executable, "-c", SERVES, str(path)]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True, env=ENVIRONMENT) as process:
        assert process.stdout is not None
        try:
            yield SimpleNamespace(url=process.stdout.readline().strip(), kill=process.kill)
        finally:
            process.kill()


@pytest.mark.once
def test_a_server_that_is_killed_loses_nothing_that_it_had_accepted(tmp_path: Path) -> None:
    """A durable group in an SQLite file: each publication that was answered is handled by a member, some twice."""
    accepted: list[int] = []
    handled: list[int] = []
    for round_ in range(3):
        with killed_server(tmp_path / "topics.db") as node, topic_peer(node) as worker, topic_peer(node) as publisher:
            member(worker, "safe/*")
            for number in range(round_ * 5, round_ * 5 + 5):
                publisher.publish("safe/a", number)
                accepted.append(number)
            handled.extend(answer(worker, worker.next()) for _ in range(4))
            node.kill()
    with killed_server(tmp_path / "topics.db") as node, topic_peer(node) as worker:
        member(worker, "safe/*")
        while not set(accepted) <= set(handled):
            handled.append(answer(worker, worker.next()))
    assert list(range(15)) == accepted
    assert set(accepted) == set(handled)
