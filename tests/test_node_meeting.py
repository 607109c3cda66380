"""NodeMeeting: what a peer that was dialled may do before it has joined."""

from __future__ import annotations

from typing import Any

import gevent
import pytest

from tests.mesh_nodes import Node
from tests.running import running, wait_for
from webmesh import node_meeting
from webmesh.exceptions import WebMeshError
from webmesh.node_meeting import _Admission
from webmesh.protocol.node_record import NodeRecord
from webmesh.webmesh_server import WebMeshServer


def test_whoever_answers_at_an_address_is_answered_nothing_before_it_has_joined() -> None:
    """A register may lie: what is there calls routes, publishes, and never joins."""
    called: list[str] = []
    stranger = WebMeshServer(name="stranger")

    def join(payload: Any, path: str, client: Any) -> Any:
        try:
            called.append(client.call("/who", timeout=0.3))
        except WebMeshError as error:
            called.append(type(error).__name__)
        return {"node": "nonsense"}

    stranger.router.add("$join", join, reserved=True)
    with running(stranger), Node("a", stranger.url) as a:
        assert wait_for(lambda: called)
        assert {"RequestTimeout"} <= set(called) <= {"RequestTimeout", "ReplyLost"}
        assert not a.linked()


def test_what_comes_right_behind_the_yes_is_answered() -> None:
    """Whoever has said yes asks at once."""
    answered: list[str] = []
    other = WebMeshServer(name="other")
    record = NodeRecord(id="other", epoch=1, name="other").to_wire()

    def join(payload: Any, path: str, client: Any) -> Any:
        gevent.spawn(lambda: answered.append(client.call("/who", timeout=5)))
        return {"node": record, "known": []}

    other.router.add("$join", join, reserved=True, blocking=False)
    with running(other), Node("a", other.url):
        assert wait_for(lambda: ["a"] == answered)


def test_answers_are_read_and_so_much_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    """A peer that asks and asks costs no more than one that is let in."""
    monkeypatch.setattr(node_meeting, "MOST_WAITING", 2)
    admission = _Admission(5.0)
    assert admission.admits(None, {"id": 1, "data": 2}) and admission.admits(None, {"id": 1, "error": {}})
    waiting = [gevent.spawn(admission.admits, None, {"path": "/", "id": number}) for number in range(2)]
    gevent.sleep(0)
    assert not admission.admits(None, {"path": "/x"}) and not admission.admits(None, {"topic": "t"})
    assert not admission.admits(None, "nonsense")
    admission.decide(admitted=True)
    gevent.joinall(waiting, 5)
    assert [True, True] == [one.value for one in waiting] and admission.admits(None, {"path": "/"})


def test_who_is_not_let_in_has_asked_for_nothing() -> None:
    """What waited is dropped."""
    admission = _Admission(5.0)
    waiting = gevent.spawn(admission.admits, None, {"path": "/"})
    gevent.sleep(0)
    admission.decide(admitted=False)
    assert waiting.get(timeout=5) is False
