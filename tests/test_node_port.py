"""NodePort: the mesh as its engine sees it."""

from __future__ import annotations

import pytest

from tests.mesh_nodes import Node, meshed
from tests.running import wait_for
from webmesh import node_port
from webmesh.exceptions import ConnectionClosed, PermissionDenied
from webmesh.message_serializers import MessagePackSerializer
from webmesh.node_port import NodePort
from webmesh.protocol.leadership import View
from webmesh.webmesh_client import WebMeshClient


def test_nodes_ask_and_tell_each_other() -> None:
    """By their ids; whoever is not there is told apart from one that does not answer."""
    heard: list[object] = []
    one, other = Node("one"), Node("other")
    port, its = NodePort(one.node), NodePort(other.node)
    its.answer(
        other.server.router,
        {"$engine": lambda node, said: [node, said], "$work": lambda node, said: heard.append((node, said))},
    )
    assert View() == port.view() and [] == port.linked() and not port.expects
    with other, one:
        one.hub(one.node.diallers.seed, other.url)
        assert wait_for(lambda: other.id in one.hub(port.view).reachable)
        assert [other.id] == one.hub(port.linked)
        assert [one.id, 5] == one.hub(port.ask, other.id, "$engine", 5, 5.0)
        assert one.hub(port.tell, other.id, "$work", "w")
        assert wait_for(lambda: [(one.id, "w")] == heard)
        assert not one.hub(port.tell, "nobody", "$work", "w")
        with pytest.raises(ConnectionClosed):
            one.hub(port.ask, "nobody", "$engine", 5, 5.0)


@pytest.mark.parametrize("dials", [False, True])
def test_what_several_nodes_are_told_is_written_once(monkeypatch: pytest.MonkeyPatch, dials: bool) -> None:
    """Whoever has dialled their links; where they have, they get one frame, too."""
    written: list[object] = []
    frames: list[bytes] = []
    heard: list[object] = []
    serialize, frame = MessagePackSerializer.serialize, node_port.server_frame

    def counted(serializer: MessagePackSerializer, said: object) -> bytes:
        if isinstance(said, dict) and "$work" == said.get("path"):
            written.append(said)
        return serialize(serializer, said)

    def counted_frame(message: str | bytes) -> bytes:
        frames.append(frame(message))
        return frames[-1]

    monkeypatch.setattr(MessagePackSerializer, "serialize", counted)
    monkeypatch.setattr(node_port, "server_frame", counted_frame)
    others = [Node(f"other{number}") for number in range(3)]
    for other in others:
        NodePort(other.node).answer(
            other.server.router, {"$work": lambda node, said, me=other.id: heard.append((me, node, said))}
        )
    with meshed(*others):
        with Node("one", *(() if not dials else (other.url for other in others))) as one:
            port = NodePort(one.node)
            for other in () if dials else others:
                other.hub(other.node.diallers.seed, one.url)
            assert wait_for(lambda: 3 == len(one.hub(port.linked)))
            accepted = [link for link in one.node.links if link.connection.conversation.stream.shares_frames]
            one.hub(port.tell_all, [*one.hub(port.linked), "nobody"], "$work", ["w"])
            assert wait_for(lambda: 3 == len(heard))
    assert {(other.id, one.id, "w") for other in others} == {(me, node, *said) for me, node, said in heard}
    assert 1 == len(written) and bool(accepted) == len(frames)


def test_what_cannot_be_written_is_lost_and_logged(caplog: pytest.LogCaptureFixture) -> None:
    """The others of those that are told get nothing either, and whoever tells goes on."""
    with Node("other") as other, Node("one", other.url) as one:
        port = NodePort(one.node)
        assert wait_for(lambda: [other.id] == one.hub(port.linked))
        one.hub(port.tell_all, [other.id], "$work", object())
        assert not one.hub(port.tell, other.id, "$work", object())
        assert 2 == caplog.text.count("a message cannot be sent to a node")


def test_only_nodes_are_answered() -> None:
    """A client may call routes, and not the engine."""
    node = Node("one")
    NodePort(node.node).answer(node.server.router, {"$engine": lambda who, said: said})
    with node, WebMeshClient(node.url) as client, pytest.raises(PermissionDenied):
        client.call("$engine", 1)


def test_one_that_has_left_is_dead_and_not_reachable() -> None:
    """So that a majority does not wait for it."""
    with Node("one") as one:
        port = NodePort(one.node)
        with Node("other", one.url) as other:
            assert wait_for(lambda: one.hub(port.view).reachable)
        assert wait_for(lambda: View(frozenset(), frozenset({other.id})) == one.hub(port.view))
