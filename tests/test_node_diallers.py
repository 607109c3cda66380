"""NodeDiallers: who is dialled at all, and who is waited for."""

from __future__ import annotations

import time
from typing import Any

import pytest

from tests.mesh_nodes import Node
from tests.running import wait_for
from webmesh import node_diallers
from webmesh.discovery.base import Discovery, Found, Told
from webmesh.protocol.claims import claim_of
from webmesh.protocol.node_record import NodeRecord


class Register(Discovery):
    """Finds what it is told to."""

    def __init__(self) -> None:
        self.found: Told = lambda entries: None

    def start(self, found: Told) -> None:
        self.found = found

    def stop(self) -> None:
        pass


def meetings(node: Node) -> list[str]:
    """The URLs that it dials from now on."""
    dialled: list[str] = []
    meeting: Any = node.node._meeting
    meet = meeting.meet
    node.node.diallers._meet = lambda url: (dialled.append(url), meet(url))[1]
    return dialled


def test_whoever_is_linked_is_not_dialled_again_because_a_register_names_it() -> None:
    """A second link would take the place of the first, and what was on its way there might be lost."""
    register = Register()
    with Node("a") as a, Node("b", a.url, discoveries=[register]) as b:
        assert wait_for(lambda: ["a"] == b.linked() and ["b"] == a.linked())
        dialled = meetings(b)
        b.hub(register.found, [Found((a.url,), a.node.me)])
        assert wait_for(lambda: b.node.diallers._seeds[a.url].looked)
        assert [] == dialled


def test_the_node_with_the_larger_id_waits_for_the_other_one_to_dial() -> None:
    """Both find each other in the same moment, and one link is enough."""
    one, other = Register(), Register()
    with Node("a", id="1", discoveries=[one]) as a, Node("b", id="2", discoveries=[other]) as b:
        by_a, by_b = meetings(a), meetings(b)
        a.hub(one.found, [Found((b.url,), b.node.me)])
        b.hub(other.found, [Found((a.url,), a.node.me)])
        assert wait_for(lambda: ["b"] == a.linked() and ["a"] == b.linked())
        assert wait_for(lambda: b.node.diallers._seeds[a.url].looked)
        assert ([b.url], []) == (by_a, by_b)


def test_invented_nodes_are_not_dialled_without_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """However many somebody invents, and with whatever addresses; who has answered once is dialled as ever."""
    monkeypatch.setattr(node_diallers, "STRANGERS_RATE", 0.001)
    monkeypatch.setattr(node_diallers, "STRANGERS_BURST", 20.0)
    with Node("a") as a, Node("b", a.url) as b:
        assert wait_for(lambda: ["b"] == a.linked() and ["a"] == b.linked())
        dialled = meetings(a)
        urls = [f"ws://127.0.0.1:9/{number}" for number in range(16)]
        for turn in range(4):
            invented = [NodeRecord(id=f"x{turn}-{number}", epoch=1, addresses=tuple(urls)) for number in range(60)]
            claims = [claim_of(record, "lost").to_wire() for record in invented]
            a.hub(a.node.membership.merge, claims, time.monotonic(), b.id)
            a.hub(a.node._look)
        assert wait_for(lambda: 10 < len(dialled))
        b.hub(lambda: [link.connection.abort() for link in b.node.links])
        assert wait_for(lambda: ["b"] == a.linked() and ["a"] == b.linked())
        assert 20 >= len([url for url in dialled if url in urls])


def test_what_a_register_names_no_longer_is_dialled_no_longer() -> None:
    """But seeds of the program's own are."""
    register = Register()
    nobody = "ws://127.0.0.1:9"
    with Node("a", "ws://127.0.0.1:19", discoveries=[register]) as a:
        a.hub(register.found, [Found((nobody,), NodeRecord(id="x", epoch=1, addresses=(nobody,)))])
        assert {nobody, "ws://127.0.0.1:19"} == set(a.node.diallers._seeds)
        a.hub(register.found, [])
        assert {"ws://127.0.0.1:19"} == set(a.node.diallers._seeds)
