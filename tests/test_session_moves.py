"""SessionMoves: what becomes of a session whose peer has come to another node."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import pytest

from tests.mesh_nodes import QUICK
from tests.running import PATIENCE, running, wait_for
from webmesh.auth import Identity
from webmesh.mesh import WebMesh
from webmesh.session_moves import MOST, SessionMoves
from webmesh.sessions import Resume
from webmesh.webmesh_client import WebMeshClient
from webmesh.webmesh_server import WebMeshServer


def server() -> WebMeshServer:
    made = WebMeshServer(name="shop")
    made.topic("room", presence=True)
    return made


@pytest.fixture
def two() -> Iterator[tuple[WebMeshServer, WebMeshServer]]:
    """Nodes of one mesh."""
    with ExitStack() as stack:
        first = WebMesh(server(), gossip=QUICK)
        first.start(port=0)
        stack.callback(first.close, 0)
        second = WebMesh(server(), first.server.url, gossip=QUICK)
        second.start(port=0)
        stack.callback(second.close, 0)
        second.await_service("shop", timeout=PATIENCE)
        yield first.server, second.server


def sessions(of: WebMeshServer) -> Any:
    return of._begun.parts.sessions


def resume_of(of: WebMeshServer) -> dict[str, str]:
    (session,) = sessions(of).all()
    return {"session": session.id, "epoch": session.epoch}


def test_a_session_ends_when_its_peer_has_come_to_another_node(two: tuple[WebMeshServer, WebMeshServer]) -> None:
    """Long before its time: nobody is present twice, and its link, if it has one still, is closed."""
    first, second = two
    with WebMeshClient(first.url, reconnect=False) as client, WebMeshClient(second.url, session=False) as other:
        client.subscribe("room", lambda *said: None, announce="me")
        other.call("$hello", {"resume": resume_of(first)})
        assert wait_for(lambda: 0 == len(sessions(first)))
        assert wait_for(lambda: [] == [one for one in first.connections if one.session is not None])
        assert wait_for(lambda: {} == dict(other.call("$presence", {"topic": "room"})))


def test_nobody_s_session_ends_by_a_guess(two: tuple[WebMeshServer, WebMeshServer]) -> None:
    """Neither one that a stranger names, nor one that belongs to somebody else."""
    first, second = two
    with WebMeshClient(first.url) as client:
        client.call("$info")
        named = resume_of(first)
        parts = second._begun.parts
        for resume, who in (
            (Resume(named["session"], named["epoch"]), Identity("somebody else")),
            (Resume("f" * 32, named["epoch"]), None), (Resume(named["session"], "0" * 8), None),
            (Resume(named["session"], "a very long text" * 1000), None),
        ):
            parts.home.run(parts.moves.came, resume, who)
        lease = parts.topics.lease
        assert wait_for(lambda: 2 == len(lease.facts["moved"]))
        mine = first._begun.parts
        assert wait_for(lambda: mine.moves._seen)  # it has read them
        assert 1 == len(sessions(first)) and client.call("$info")


def test_moves_are_bounded_and_told_for_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    """A crowd that comes from a dead node fills no lease; with an engine of one node nothing is told."""
    with running(WebMeshServer()) as alone:
        parts = alone._begun.parts
        parts.home.run(parts.moves.came, Resume("s", "e" * 8), None)
        assert {} == parts.moves._told
        monkeypatch.setattr(type(parts.topics.broker), "shared", True)
        for number in range(2 * MOST):
            parts.moves.came(Resume(str(number), "e" * 8), None)
        assert MOST == len(parts.moves._told)
        monkeypatch.setattr(parts.sessions, "clock", lambda: float("inf"))
        parts.home.run(SessionMoves._look, parts.moves)
        assert {} == parts.moves._told == parts.topics.lease.facts["moved"]


@pytest.mark.parametrize("told", [5, {"x": 1}, {"moved": 5}, {"moved": {"e": 5}}, "own"])
def test_what_makes_no_sense_is_told_by_nobody(told: Any) -> None:
    """Another node's facts are a stranger's."""
    with running(WebMeshServer()) as alone:
        parts = alone._begun.parts
        if told == "own":
            told = {"moved": {parts.sessions.epoch: [5, None, [], {}]}}
        parts.topics.lease.others["x"] = told if isinstance(told, dict) else {"moved": told}
        parts.home.run(parts.moves._look)
        assert set() == parts.moves._seen
