"""MeshCopies: what is safe when, and what becomes of a node that does not answer."""

from __future__ import annotations

from typing import Any

import gevent
import pytest
from gevent.event import Event

from tests.brokers.contract import message, until
from webmesh.brokers import mesh_copies
from webmesh.brokers.base import Keep, Since
from webmesh.brokers.copied_storage import CopiedStorage
from webmesh.brokers.mesh_copies import MeshCopies
from webmesh.exceptions import ReplyLost, RequestTimeout
from webmesh.protocol.council import Council
from webmesh.protocol.leadership import View


class Leadership:
    """As much of one as copies look at; a majority always knows, unless it is `slow`."""

    def __init__(self) -> None:
        self.council = Council(1, "a", 1, 1, ("a", "b", "c", "d"), ("a",))
        self.settled, self.term = True, 1
        self.slow = False

    def keep_with(self, keepers: tuple[str, ...]) -> None:
        self.settled = self.settled and not self.slow
        self.council = self.council.following(1, keepers=keepers)


class Port:
    """Other nodes that apply what they get, or do not."""

    me = "a"

    def __init__(self) -> None:
        self.reachable = {"b", "c", "d"}
        self.copies: dict[str, CopiedStorage] = {}
        self.hangs: set[str] = set()
        self.late: Event | None = None
        self.asked = 0

    def view(self) -> View:
        return View(frozenset(self.reachable))

    def ask(self, node: str, path: str, payload: Any, timeout: float) -> None:
        gevent.sleep(0)
        if self.late is not None:
            self.asked += 1
            self.late.wait()
            raise RequestTimeout(path, timeout)
        if node in self.hangs:
            raise RequestTimeout(path, timeout)
        if payload["reset"]:
            self.copies[node] = CopiedStorage()
        for operation in payload["operations"]:
            self.copies[node].apply(operation)


@pytest.fixture
def made() -> tuple[MeshCopies, Port, Leadership, CopiedStorage]:
    storage, port, leadership = CopiedStorage(), Port(), Leadership()
    storage.put("t", "before", 0, 1e9)
    return MeshCopies(port, leadership, storage), port, leadership, storage  # type: ignore[arg-type]


def test_two_others_get_all_and_what_comes_later(made: Any) -> None:
    """And are said to have it once they have caught up."""
    copies, port, leadership, storage = made
    copies.look()
    until(lambda: ("a", "b", "c") == leadership.council.keepers)
    told: list[int] = []
    storage.put("t", "k", 1, 1e9)
    copies.after(lambda: told.append(1))
    assert [] == told
    copies.wait()
    assert [1] == told and {"b", "c"} == port.copies.keys()
    assert all({"before": 0, "k": 1} == dict(copy.records("t", 0.0)) for copy in port.copies.values())
    copies.stop()


def test_what_changes_while_a_copy_begins_is_in_it_once(made: Any) -> None:
    """Twice, and its numbers would be others than the leader's."""
    copies, port, leadership, storage = made
    copies.look()
    for number in range(3):
        storage.keep(message("a", number), Keep(history=9), 0.0)
    until(lambda: ("a", "b", "c") == leadership.council.keepers)
    storage.keep(message("a", 3), Keep(history=9), 0.0)
    copies.wait()
    for kept in (storage, *port.copies.values()):
        found = kept.history("a", Since(), 0.0, most=None, reverse=False)
        assert [(number, number + 1) for number in range(4)] == [(one.payload, one.offset) for one in found.items]
    copies.stop()


def test_alone_everything_is_safe_at_once(made: Any) -> None:
    """A mesh of one waits for nobody."""
    copies, port, _, storage = made
    port.reachable.clear()
    copies.look()
    told: list[int] = []
    storage.put("t", "k", 1, 1e9)
    copies.after(lambda: told.append(1))
    copies.wait()
    assert [1] == told
    copies.stop()


def test_one_that_does_not_answer_is_no_keeper_any_more_and_another_takes_its_place(made: Any) -> None:
    """Nothing waits for it; it gets a copy anew when it answers again."""
    copies, port, leadership, storage = made
    copies.look()
    until(lambda: ("a", "b", "c") == leadership.council.keepers)
    port.hangs.add("b")
    storage.put("t", "k", 1, 1e9)
    copies.wait()
    assert "b" not in leadership.council.keepers
    port.reachable.discard("b")
    until(lambda: copies.look() is None and {"a", "c", "d"} == set(leadership.council.keepers))
    copies.stop()


def test_a_copy_that_is_too_far_behind_is_given_up(made: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """What waits for it has a bound, and nobody waits for it."""
    monkeypatch.setattr(mesh_copies, "MOST_WAITING", 5)
    copies, port, leadership, storage = made
    copies.look()
    until(lambda: ("a", "b", "c") == leadership.council.keepers)
    for number in range(7):
        storage.put("t", str(number), 1, 1e9)
    assert {} == copies._followers
    copies.wait()
    copies.stop()


def test_what_the_only_copy_lacks_is_safe_when_a_majority_knows_that_it_is_none(
    made: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Until then it might lead next, with less than what was acknowledged."""
    monkeypatch.setattr(mesh_copies, "MOST_WAITING", 5)
    copies, port, leadership, storage = made
    port.reachable = {"b"}
    copies.look()
    until(lambda: ("a", "b") == leadership.council.keepers)
    leadership.slow = True
    for number in range(7):
        storage.put("t", str(number), 1, 1e9)
    told: list[int] = []
    copies.after(lambda: told.append(1))
    assert {} == copies._followers and [] == told
    port.reachable, leadership.settled = set(), True
    copies.look()
    assert [1] == told and ("a",) == leadership.council.keepers
    copies.stop()


def test_nobody_waits_for_ever_for_what_does_not_become_safe(made: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever asked is told that nobody knows."""
    monkeypatch.setattr(mesh_copies, "SAFE", 0.05)
    copies, _, leadership, storage = made
    leadership.settled = False
    storage.put("t", "k", 1, 1e9)
    with pytest.raises(ReplyLost):
        copies.wait()
    copies.stop()


def test_nothing_is_safe_that_was_not_when_another_node_began_to_lead(made: Any) -> None:
    """Although no copy is behind any more, since all were given up in the same moment: this node was held."""
    copies, port, leadership, storage = made
    copies.look()
    until(lambda: ("a", "b", "c") == leadership.council.keepers)
    port.late = Event()
    storage.put("t", "k", 1, 1e9)
    waiting = gevent.spawn(copies.wait)
    until(lambda: 2 == port.asked)
    port.late.set()
    copies.stop()
    until(lambda: {} == copies._followers)
    with pytest.raises(ReplyLost):
        waiting.get(timeout=5)


def test_nothing_is_safe_while_a_majority_does_not_know_who_has_copies(made: Any) -> None:
    """Whoever leads next must be one of them; and one that leads no more cannot say what becomes of it."""
    copies, _, leadership, storage = made
    copies.look()
    until(lambda: ("a", "b", "c") == leadership.council.keepers)
    leadership.settled = False
    told: list[int] = []
    storage.put("t", "k", 1, 1e9)
    copies.after(lambda: told.append(1))
    waiting = gevent.spawn(copies.wait)
    gevent.sleep(0.05)
    assert not waiting.ready() and [] == told
    copies.stop()
    with pytest.raises(ReplyLost):
        waiting.get(timeout=5)
    assert [] == told
