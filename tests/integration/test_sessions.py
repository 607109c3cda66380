"""Sessions over real sockets: links that are cut, and programs that know nothing but docs/PROTOCOL.md."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from tests.integration.foreign import End, Foreign, talking
from tests.running import PATIENCE, Census, connected, running, wait_for
from webmesh.exceptions import ReplyLost, Unavailable
from webmesh.options import Backoff, Limits, Timeouts
from webmesh.webmesh_client import WebMeshClient
from webmesh.webmesh_server import WebMeshServer

QUICK = Backoff(first=0.001, maximum=0.01)


def serving(**options: Any) -> WebMeshServer:
    server = WebMeshServer(**options)

    @server.on("/count")
    def count(payload: int, path: str, client: Any) -> Iterator[int]:
        yield from range(payload)
        return payload

    return server


def cut(client: WebMeshClient) -> None:
    """Drop the client's TCP connection under it, whatever is on its way in either direction."""
    connection = client._keeper.connection
    if connection is not None:
        connection.abort()


def severed(peer: Foreign) -> None:
    """Drop a foreign program's TCP connection without a closing handshake."""
    peer.wire.connection.socket.shutdown(socket.SHUT_RDWR)  # type: ignore[attr-defined]


@contextmanager
def foreign(server: WebMeshServer, body: str = "json") -> Iterator[Foreign]:
    with talking(server.url, "websockets", body) as peer:
        yield peer


# ---------------------------------------------------------------- by the page alone


@pytest.mark.row(70, 101)
@pytest.mark.parametrize("body", ["json", "msgpack"])
def test_a_foreign_program_resumes(body: str) -> None:
    """Its kept messages and its stream go on where it says that it is."""
    server = serving()
    with running(server):
        with foreign(server, body) as peer:
            said = peer.ask("$hello", 0, {"node": {"name": "foreign"}})["data"]
            session = server.connections[0].session
            assert session is not None
            session.notify("/news", "a")
            assert {"path": "/news", "data": "a", "kept": 1} == peer.hear()
            assert {"id": 1, "item": 0, "seq": 0} == peer.ask("/count", 1, 6, credit=4)
            assert {"id": 1, "item": 1, "seq": 1} == peer.hear()
            severed(peer)
        assert wait_for(lambda: session.connection is None)
        session.notify("/news", "b")

        with foreign(server, body) as peer:
            resume = {"session": said["session"], "epoch": said["epoch"], "received": 1, "streams": [[1, 2, 2]]}
            again = peer.ask("$hello", 2, {"resume": resume})
            assert (2, True, [1]) == (again["id"], again["data"]["resumed"], again["data"]["streams"])
            assert {"path": "/news", "data": "b", "kept": 2} == peer.hear()
            assert [{"id": 1, "item": n, "seq": n} for n in (2, 3)] == [peer.hear(), peer.hear()]
            peer.say(id=1, credit=4)
            assert [{"id": 1, "item": n, "seq": n} for n in (4, 5)] == [peer.hear(), peer.hear()]
            assert {"id": 1, "data": 6} == peer.hear()


def test_a_foreign_program_that_tells_only_its_session_gets_what_came_since() -> None:
    """As section 6 says; its streams, of which it says nothing, are over."""
    server = serving()
    with running(server):
        with foreign(server) as peer:
            said = peer.ask("$hello", 0)["data"]
            session = server.connections[0].session
            assert session is not None
            session.notify("/news", "had")
            assert "had" == peer.hear()["data"]
            severed(peer)
        assert wait_for(lambda: session.connection is None)
        session.notify("/news", "missed")
        with foreign(server) as peer:
            resume = {"session": said["session"], "epoch": said["epoch"]}
            assert peer.ask("$hello", 1, {"resume": resume})["data"]["resumed"]
            assert {"path": "/news", "data": "missed", "kept": 2} == peer.hear()
            assert {"id": 2, "data": server.system.node} == peer.ask("$info", 2)


@pytest.mark.row(57)
def test_a_strangers_session_is_not_told_of() -> None:
    """Neither that it exists, nor that it does not: the answers are alike."""
    server = serving()
    with running(server), foreign(server) as owner, foreign(server) as stranger, foreign(server) as other:
        said = owner.ask("$hello", 0)["data"]
        wrong = stranger.ask("$hello", 0, {"resume": {"session": said["session"], "epoch": "0"}})["data"]
        unknown = other.ask("$hello", 0, {"resume": {"session": "0" * 32, "epoch": said["epoch"]}})["data"]

        assert set(wrong) == set(unknown)
        assert (False, False) == (wrong["resumed"], unknown["resumed"])
        assert 3 == len({answer["session"] for answer in (said, wrong, unknown)})


@pytest.mark.row(68)
def test_two_links_race_for_one_session() -> None:
    """One after the other gets it; the last one has it, and the others are told 4505."""
    server = serving()
    with running(server), foreign(server) as owner:
        said = owner.ask("$hello", 0)["data"]
        resume = {"session": said["session"], "epoch": said["epoch"], "received": 0}
        with foreign(server) as one, foreign(server) as two:
            for peer in (one, two):
                peer.say(path="$hello", id=0, data={"resume": resume})
            outcomes = [outcome(peer) for peer in (one, two)]
            assert 4505 == owner.end()[0]
            assert wait_for(lambda: len(server.connections) == 1)
            session = server.connections[0].session
            assert session is not None
            session.notify("/news", "x")
            heard = [heard_by(peer) if told is True else told for peer, told in zip((one, two), outcomes)]
            assert ["4505", "x"] == sorted(map(str, heard))


def outcome(peer: Foreign) -> Any:
    """Whether *peer* resumes, or the code that it is turned away with before it has heard of that."""
    try:
        return peer.hear()["data"]["resumed"]
    except End as end:
        return end.args[0]


def heard_by(peer: Foreign) -> Any:
    """What *peer* hears next, or how it ends."""
    try:
        return peer.hear()["data"]
    except End as end:
        return end.args[0]


@pytest.mark.row(70, 86)
def test_a_session_ends_after_its_time() -> None:
    """Nothing is left of it, and its handlers have been told."""
    ends: list[str] = []
    server = serving(timeouts=Timeouts(session=0.1))
    with running(server):
        with foreign(server) as peer:
            said = peer.ask("$hello", 0)["data"]
            session = server.connections[0].session
            assert session is not None
            session.on_end.append(ends.append)
            severed(peer)
        assert wait_for(lambda: ends == ["timeout"])
        with foreign(server) as peer:
            resume = {"session": said["session"], "epoch": said["epoch"]}
            assert not peer.ask("$hello", 0, {"resume": resume})["data"]["resumed"]


@pytest.mark.row(66)
def test_a_full_backlog_ends_a_resume() -> None:
    """And nothing of it comes: a part would look like the whole."""
    server = serving(limits=Limits(session_backlog=4096))
    with running(server):
        with foreign(server) as peer:
            said = peer.ask("$hello", 0)["data"]
            session = server.connections[0].session
            assert session is not None
            severed(peer)
        assert wait_for(lambda: session.connection is None)
        for _ in range(10):
            session.notify("/news", "x" * 1000)
        with foreign(server) as peer:
            resume = {"session": said["session"], "epoch": said["epoch"], "received": 0}
            assert not peer.ask("$hello", 0, {"resume": resume})["data"]["resumed"]
            assert {"id": 1, "data": server.system.node} == peer.ask("$info", 1)


# --------------------------------------------------------------------- our own client


@pytest.mark.row(71)
def test_a_stream_outlives_a_reset() -> None:
    """Its reader sees each item once, and the value at the end."""
    server = serving()
    with connected(server, backoff=QUICK) as client:
        with client.stream("/count", 2000) as stream:
            got = []
            for item in stream:
                got.append(item)
                if item == 700:
                    cut(client)
            assert list(range(2000)) == got
            assert 2000 == stream.result


@pytest.mark.row(71, 74)
def test_a_stream_outlives_a_hundred_cuts() -> None:
    """10,000 items, no gap and no duplicate; nothing is left of the links that were."""
    server = serving()
    census = Census()
    with connected(server, backoff=QUICK) as client:
        got: list[int] = []
        cuts = 0
        for item in client.stream("/count", 10_000):
            got.append(item)
            if item % 100 == 50 and cuts < 100:
                cuts += 1
                cut(client)
        assert 100 == cuts
        assert list(range(10_000)) == got
        assert wait_for(lambda: len(server.connections) == 1)
    assert {} == census.grown()


@pytest.mark.row(72)
def test_what_a_handler_sends_to_a_client_that_it_has_kept_arrives_once() -> None:
    """However often its link is cut meanwhile, and in order."""
    server = serving()
    kept: list[Any] = []
    server.on("/join")(lambda payload, path, client: kept.append(client))
    heard: list[int] = []
    done = threading.Event()
    with running(server):
        client = WebMeshClient(server.url, backoff=QUICK)

        @client.on("/news", blocking=False)
        def news(payload: int, path: str, client: Any) -> None:
            heard.append(payload)
            if payload == 1999:
                done.set()

        with client:
            client.call("/join", timeout=PATIENCE)
            for number in range(2000):
                kept[0].session.notify("/news", number)
                if number % 200 == 100:
                    cut(client)
            assert done.wait(PATIENCE)
    assert list(range(2000)) == heard


@pytest.mark.row(69)
def test_a_server_that_was_restarted_knows_no_session() -> None:
    """A stream fails with `ReplyLost`, and the state tells that nothing was resumed."""
    first = serving()
    events: list[Any] = []
    with running(first) as server:
        port = server.port
        client = WebMeshClient(server.url, backoff=QUICK)
        client.on_state(events.append)
        client.connect()
        stream = client.stream("/count", 100_000)
        assert 0 == stream.take(PATIENCE)
    with running(serving(), port=port), client:
        with pytest.raises((ReplyLost, Unavailable)):
            for _ in stream:
                pass
        assert wait_for(lambda: [one.resumed for one in events if one.state == "connected"] == [False, False])


def test_a_client_without_session_loses_its_streams() -> None:
    """As it chose; its server keeps nothing."""
    server = serving()
    with connected(server, backoff=QUICK, session=False) as client:
        stream = client.stream("/count", 100_000)
        assert 0 == stream.take(PATIENCE)
        assert server.connections[0].session is None
        cut(client)
        with pytest.raises(ReplyLost):
            for _ in stream:
                pass


def test_without_a_background_a_stream_ends_with_its_connection() -> None:
    """Nobody dials, so its reader would wait for nothing."""
    server = serving()
    with running(server):
        client = WebMeshClient(server.url, reconnect=False)
        stream = client.stream("/count", 100, credit=2)
        assert 0 == stream.take(PATIENCE)
        cut(client)
        with pytest.raises(ReplyLost):
            for _ in range(100):
                stream.take(PATIENCE)
        client.close()
