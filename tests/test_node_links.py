"""NodeLinks: which of two links to the same node stays."""

from __future__ import annotations

from typing import Any

import gevent
import pytest

from webmesh import node_links
from webmesh.exceptions import RequestTimeout
from webmesh.node_links import NodeLinks


class Connection:
    """As much of a connection as links look at."""

    def __init__(self, name: str, *, answers: bool = True) -> None:
        self.name, self.answers = name, answers
        self.open = True
        self.requests = (0, 0)
        self.closed: tuple[int, str] | None = None

    def call(self, path: str, timeout: float) -> Any:
        gevent.sleep(0)
        if not self.answers:
            raise RequestTimeout(path, timeout)
        return {}

    def close(self, code: int, reason: str, timeout: float) -> None:
        self.open, self.closed = False, (code, reason)

    def __repr__(self) -> str:
        return self.name


@pytest.fixture(autouse=True)
def quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(node_links, "RETIRE_QUIET", 0.01)


class Node:
    """The links of node `m`, and what they have told."""

    def __init__(self) -> None:
        self.told: list[str] = []
        self.links = NodeLinks("m", self.told.append)

    def in_use(self, node: str) -> Any:
        link = self.links.get(node)
        return None if link is None else link.connection


def settle() -> None:
    for _ in range(20):
        gevent.sleep(0)


def test_a_link_is_used_until_its_connection_ends() -> None:
    """Both are told, and the end names the node."""
    node, one = Node(), Connection("one")
    node.links.settle(one, "p", dialled=True)
    assert one is node.in_use("p") and "p" == node.links.node_of(one) and 1 == len(node.links)
    one.open = False
    assert node.in_use("p") is None
    assert "p" == node.links.ended(one)
    assert ["p", "p"] == node.told and not list(node.links)


def test_the_end_of_a_connection_that_is_no_link_says_nothing() -> None:
    """Of clients, for instance."""
    node = Node()
    assert node.links.ended(Connection("client")) is None
    assert [] == node.told


def test_who_dials_again_has_lost_the_first_one() -> None:
    """The newer of the same side stays; the older ends with 4505 once its calls are over."""
    node, old, new = Node(), Connection("old"), Connection("new")
    old.requests = (0, 1)
    node.links.settle(old, "p", dialled=False)
    node.links.settle(new, "p", dialled=False)
    assert new is node.in_use("p")
    settle()
    assert old.open
    old.requests = (0, 0)
    gevent.sleep(0.1)
    assert (4505, "replaced by a newer link of the same node") == old.closed
    assert node.links.ended(old) is None and new is node.in_use("p")


def test_a_link_that_is_replaced_is_not_closed_before_the_other_side_can_know(monkeypatch: pytest.MonkeyPatch) -> None:
    """It still calls on it until it has its answer to `$join`; such a call would be lost without having begun."""
    monkeypatch.setattr(node_links, "RETIRE_QUIET", 0.1)
    node, old, new = Node(), Connection("old"), Connection("new")
    node.links.settle(old, "p", dialled=False)
    node.links.settle(new, "p", dialled=False)
    settle()
    assert old.open and new is node.in_use("p")
    old.requests = (0, 1)  # it comes just then
    gevent.sleep(0.15)
    assert old.open
    old.requests = (0, 0)
    gevent.sleep(0.1)
    assert not old.open


@pytest.mark.parametrize("peer, stays", [("a", "theirs"), ("z", "ours")])
@pytest.mark.parametrize("first", ["ours", "theirs"])
def test_of_two_that_both_sides_have_dialled_the_smaller_id_s_stays(peer: str, stays: str, first: str) -> None:
    """Whichever came first: so both sides keep the same one."""
    node = Node()
    both = {"ours": Connection("ours"), "theirs": Connection("theirs")}
    for name in (first, *({"ours", "theirs"} - {first})):
        node.links.settle(both[name], peer, dialled=name == "ours")
    gevent.sleep(0.05)
    (goes,) = {"ours", "theirs"} - {stays}
    assert both[stays] is node.in_use(peer)
    assert both[stays].open and both[goes].closed is not None


def test_one_that_is_half_open_gives_way_whatever_the_ids() -> None:
    """The other side has lost it, or it would not have dialled."""
    node, dead, new = Node(), Connection("dead", answers=False), Connection("new")
    node.links.settle(dead, "z", dialled=True)
    node.links.settle(new, "z", dialled=False)
    gevent.sleep(0.05)
    assert new is node.in_use("z") and dead.closed is not None


def test_the_one_that_was_to_go_is_kept_when_the_other_ends_meanwhile() -> None:
    """Never none of two."""
    node, ours, theirs = Node(), Connection("ours"), Connection("theirs")
    node.links.settle(ours, "z", dialled=True)
    node.links.settle(theirs, "z", dialled=False)
    ours.open = False
    node.links.ended(ours)
    settle()
    assert theirs is node.in_use("z") and theirs.open


def test_the_same_connection_twice_is_one_link() -> None:
    """A peer that joins again on it."""
    node, one = Node(), Connection("one")
    node.links.settle(one, "p", dialled=False)
    node.links.settle(one, "p", dialled=False)
    settle()
    assert one is node.in_use("p") and one.open


def test_nothing_is_decided_after_the_stop() -> None:
    """Its hub may end."""
    node, ours, theirs = Node(), Connection("ours"), Connection("theirs")
    node.links.settle(ours, "z", dialled=True)
    node.links.settle(theirs, "z", dialled=False)
    node.links.stop()
    settle()
    assert ours.open and theirs.open
