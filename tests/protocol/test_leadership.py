"""Leadership: never two leaders of one line of councils, whatever the network does; one again when it has healed."""

from __future__ import annotations

import heapq
from collections.abc import Callable
from random import Random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from webmesh.exceptions import InvalidArgument
from webmesh.protocol.leadership import GONE, LEASE, ORPHANED, Leadership, View
from webmesh.protocol.node_record import HIGHEST

STEP = 0.1


class World:
    """Nodes, a network that loses and delays, and a clock. Links are seen to be lost after a second."""

    def __init__(self, count: int, seed: int = 1) -> None:
        self.random = Random(seed)
        self.now = 0.0
        self.nodes: dict[str, Leadership] = {}
        self.cut: set[frozenset[str]] = set()
        self.one_way: set[tuple[str, str]] = set()
        self.killed: set[str] = set()
        self.left: set[str] = set()
        self.loss = 0.0
        self._queue: list[tuple[float, int, Callable[[], None]]] = []
        self._number = 0
        self.speeds: dict[str, float] = {}
        for index in range(count):
            self.start(f"n{index}")

    def start(self, name: str) -> None:
        self.speeds[name] = 1 + 0.05 * (self.random.random() - 0.5)  # clocks that are 2.5 % off at the worst
        founded = round(self.now * 1000) + len(self.nodes)
        self.nodes[name] = Leadership(name, founded, self.clock(name), self.random.random)
        self.killed.discard(name)

    def clock(self, name: str) -> float:
        return 1000 * len(name) + self.now * self.speeds[name]

    def passes(self, one: str, other: str) -> bool:
        way = frozenset((one, other)) not in self.cut and (one, other) not in self.one_way
        return way and other not in self.killed

    def view(self, name: str) -> View:
        others = [one for one in self.nodes if one != name]
        reachable = {one for one in others if self.passes(name, one) and self.passes(one, name)}
        # A kill is proven only to those who can reach the machine.
        dead = (one for one in self.killed if frozenset((one, name)) not in self.cut)
        return View(frozenset(reachable), frozenset(dead))

    def later(self, delay: float, act: Callable[[], None]) -> None:
        self._number += 1
        heapq.heappush(self._queue, (self.now + delay, self._number, act))

    def run(self, seconds: float, check: bool = True) -> None:
        end = self.now + seconds
        next_tick = self.now
        while self.now < end:
            while self._queue and self._queue[0][0] <= next_tick:
                self.now, _, act = heapq.heappop(self._queue)
                act()
            self.now = max(self.now, next_tick)
            next_tick += STEP
            for name, node in tuple(self.nodes.items()):
                if name not in self.killed:
                    for ballot in node.tick(self.clock(name), self.view(name)):
                        self.send(name, node, ballot)
            if check:
                self.check()

    def send(self, name: str, node: Leadership, ballot: Any) -> None:
        if self.passes(name, ballot.to) and self.random.random() >= self.loss:
            self.later(self.random.random() * 0.3, lambda: self.arrive(name, node, ballot))

    def arrive(self, name: str, node: Leadership, ballot: Any) -> None:
        other = self.nodes[ballot.to]
        if ballot.to in self.killed:
            return
        reply = other.received(name, ballot.message, self.clock(ballot.to), self.view(ballot.to))
        if self.passes(ballot.to, name) and self.random.random() >= self.loss:
            self.later(self.random.random() * 0.3, lambda: self.reply(name, node, ballot, reply))
        self.check()

    def reply(self, name: str, node: Leadership, ballot: Any, reply: Any) -> None:
        if name not in self.killed and self.nodes[name] is node:
            node.answered(ballot, reply, self.clock(name), self.view(name))
        self.check()

    def leaders(self) -> list[str]:
        alive = [one for one in self.nodes if one not in self.killed]
        return [one for one in alive if self.nodes[one].leads(self.clock(one))]

    def check(self) -> None:
        lines = [(self.nodes[one].council.founded, self.nodes[one].council.founder) for one in self.leaders()]
        assert len(lines) == len(set(lines)), f"two leaders at {self.now}: {self.leaders()}"

    def agreed(self) -> str | None:
        """The leader that all take for it, if they do and it has all of them as voters."""
        alive = [one for one in self.nodes if one not in self.killed]
        seen = {self.nodes[one].leader(self.clock(one)) for one in alive}
        if len(seen) != 1 or len(self.leaders()) != 1:
            return None
        (leader,) = seen
        return leader if leader is not None and set(alive) == set(self.nodes[leader].council.voters) else None

    def split(self, *sides: set[str]) -> None:
        groups = [frozenset(side) for side in sides]
        self.cut = {
            frozenset((one, other))
            for group in groups for one in group for other in self.nodes if other not in group
        }  # fmt: skip

    def grown(self) -> str:
        self.run(20)
        leader = self.agreed()
        assert leader is not None
        return leader


def test_a_node_alone_leads_itself_at_once() -> None:
    """A mesh of one is a mesh."""
    world = World(1)
    assert ["n0"] == world.leaders()
    world.run(30)
    assert ["n0"] == world.leaders()


@pytest.mark.parametrize("count", [2, 3, 5, 12])
def test_nodes_that_meet_agree_on_the_oldest_one(count: int) -> None:
    """And all of them decide from then on."""
    world = World(count)
    assert "n0" == world.grown()
    assert {f"n{index}" for index in range(count)} == set(world.nodes["n0"].council.voters)


def test_another_one_leads_soon_after_the_leader_was_killed() -> None:
    """Its address refuses, so nobody waits for its lease; who has a copy comes first."""
    world = World(4)
    leader = world.grown()
    world.nodes[leader].keep_with((leader, "n2"))
    world.run(2)
    world.killed.add(leader)
    world.run(3)
    assert ["n2"] == world.leaders()
    world.run(10)
    assert "n2" == world.agreed()


def test_of_two_halves_the_larger_one_has_a_leader_and_the_other_none() -> None:
    """Once the lease is over; and when it has healed, all have the one."""
    world = World(5)
    leader = world.grown()
    world.nodes[leader].keep_with((leader, "n3"))
    world.run(2)
    world.split({leader, "n1"})
    world.run(LEASE)
    assert leader not in world.leaders()
    world.run(5)
    assert ["n3"] == world.leaders()
    world.cut.clear()
    world.run(10)
    assert "n3" == world.agreed()


def test_where_no_half_is_the_larger_one_nobody_leads_until_it_has_healed() -> None:
    """Two nodes that do not see each other cannot know which of them lives."""
    world = World(2)
    world.grown()
    world.split({"n0"})
    world.run(LEASE * 2)
    assert [] == world.leaders()
    world.run(60)
    assert [] == world.leaders()
    world.cut.clear()
    world.run(10)
    assert world.agreed() is not None


def test_those_who_join_a_minority_do_not_make_it_a_majority() -> None:
    """Voters come into the council only by a leader."""
    world = World(3)
    world.grown()
    world.split({"n2"})
    for index in range(3, 8):
        world.start(f"n{index}")
    world.split({"n2", *(f"n{index}" for index in range(3, 8))})
    world.run(60)
    assert world.leaders() and set(world.leaders()) <= {"n0", "n1"}
    world.cut.clear()
    world.run(30)
    assert world.agreed() in {"n0", "n1"}


def test_a_leader_that_only_hears_or_only_speaks_gives_way() -> None:
    """One way of a network may break."""
    world = World(3)
    leader = world.grown()
    world.one_way = {(leader, one) for one in world.nodes if one != leader}
    world.run(20)
    assert world.leaders() and leader not in world.leaders()


def test_when_all_copies_are_gone_others_lead_after_a_while_with_nothing() -> None:
    """Better than nobody for ever; whoever kept it may still come back before."""
    world = World(4)
    leader = world.grown()
    world.split({leader})
    world.run(LEASE + 3)
    assert [] == world.leaders()
    world.run(ORPHANED + 10)
    (now,) = world.leaders()
    assert now != leader and (now,) == world.nodes[now].council.keepers


def test_one_that_resigns_is_followed_at_once_and_leads_no_more() -> None:
    """As a node that drains: nobody waits for its lease."""
    world = World(3)
    leader = world.grown()
    world.nodes[leader].keep_with((leader, "n1"))
    world.run(2)
    for ballot in world.nodes[leader].resign(world.clock(leader), world.view(leader)):
        world.send(leader, world.nodes[leader], ballot)
    world.run(1)
    assert ["n1"] == world.leaders()
    world.run(20)
    assert ["n1"] == world.leaders()


def test_one_that_was_told_of_others_waits_for_them_before_it_leads_alone() -> None:
    """What it kept alone would be lost when it meets them; unless there is nobody."""
    waits = Leadership("a", 1, 0.0, Random(1).random, alone_after=3.0)
    assert [] == waits.tick(2.9, View()) and not waits.leads(2.9) and waits.leader(2.9) is None
    waits.tick(3.1, View())
    assert waits.leads(3.1) and "a" == waits.leader(3.1)
    alone = Leadership("a", 1, 0.0, Random(1).random, alone_after=3.0)
    alone.alone(0.5)
    alone.tick(0.5, View())
    assert alone.leads(0.5)


def test_a_voter_that_was_started_anew_grants_nothing_for_a_lease() -> None:
    """It has forgotten whom it had granted one: with its vote there could be two leaders."""
    world = World(3)
    leader = world.grown()
    other, again = sorted({"n0", "n1", "n2"} - {leader})
    before, now = world.nodes[again], world.clock(again)
    fresh = Leadership(again, 10**6, now, world.random.random, alone_after=3.0)
    asked = {"council": before.council.to_wire(), "term": before.term + 1, "ask": True}
    assert not fresh.received(other, asked, now, View())["granted"]
    assert fresh.received(other, asked, now + LEASE + 0.1, View())["granted"]


def test_a_voter_that_has_vanished_is_left_out_after_a_while() -> None:
    """Else each that goes without a proof would make a majority harder to have, until there is none."""
    world = World(5)
    leader = world.grown()
    gone = next(one for one in sorted(world.nodes, reverse=True) if one != leader)
    world.split({gone})
    world.run(GONE / 2)
    assert gone in world.nodes[leader].council.voters
    world.run(GONE)
    assert gone not in world.nodes[leader].council.voters and [leader] == world.leaders()
    world.cut.clear()
    world.run(20)
    assert leader == world.agreed()


def test_nobody_waits_for_a_copy_that_is_proven_to_be_gone() -> None:
    """The only one who had it was killed: others begin with nothing, at once."""
    world = World(3)
    leader = world.grown()
    world.nodes[leader].keep_with((leader,))
    world.run(2)
    world.killed.add(leader)
    world.run(3)
    assert 1 == len(world.leaders())


def test_nothing_is_settled_before_a_majority_knows_of_it() -> None:
    """What is acknowledged after it must be known to whoever leads next."""
    world = World(3)
    leader = world.grown()
    node = world.nodes[leader]
    world.split({leader})
    node.keep_with((leader, "n1"))
    assert not node.settled
    world.run(1)
    assert not node.settled
    world.cut.clear()
    world.run(3)
    assert node.settled if node.leads(world.clock(leader)) else True


EVENTS = st.lists(
    st.tuples(
        st.sampled_from(["split", "heal", "kill", "start", "one way", "loss", "keep"]),
        st.integers(0, 10_000), st.floats(0.1, 8),
    ),
    max_size=12,
)  # fmt: skip


@settings(max_examples=60, deadline=None)
@given(EVENTS, st.integers(2, 6), st.integers(0, 10_000))
def test_there_are_never_two_leaders_and_one_again_when_all_is_well(
    events: list[tuple[str, int, float]], count: int, seed: int
) -> None:
    """Partitions both ways and one way, kills, restarts, loss and delay, clocks that drift, in any order."""
    world = World(count, seed)
    world.run(5)
    for kind, number, seconds in events:
        random = Random(number)
        names = sorted(world.nodes)
        if kind == "split":
            world.split({name for name in names if random.random() < 0.5})
        elif kind == "heal":
            world.cut.clear()
            world.one_way.clear()
        elif kind == "kill" and len(world.killed) < len(names) - 1:
            world.killed.add(random.choice(names))
        elif kind == "start":
            world.start(f"m{len(names)}")
        elif kind == "one way":
            world.one_way = {(random.choice(names), random.choice(names))}
        elif kind == "loss":
            world.loss = random.random() * 0.4
        else:
            for leader in world.leaders():
                world.nodes[leader].keep_with((leader, *random.sample(names, min(2, len(names)))))
        world.run(seconds)
    world.cut.clear()
    world.one_way.clear()
    world.loss = 0.0
    world.run(40)
    assert world.agreed() is not None


@pytest.mark.parametrize("message", [None, [], {}, {"ask": 1}, {"ask": True, "council": {}, "term": 1}])
def test_a_message_that_makes_no_sense_changes_nothing(message: object) -> None:
    """Nor does such an answer."""
    world = World(2)
    leader = world.grown()
    node = world.nodes[leader]
    before = node.council, node.term
    with pytest.raises(InvalidArgument):
        node.received("n1", message, world.clock(leader), world.view(leader))
    for ballot in node.tick(world.clock(leader) + 1, world.view(leader)):
        node.answered(ballot, message, world.clock(leader) + 1, world.view(leader))
    assert before == (node.council, node.term)


@pytest.mark.parametrize("asks", [True, False])
@pytest.mark.parametrize("forged", [{}, {"term": HIGHEST}, {"version": HIGHEST}, {"founded": 0, "term": HIGHEST}])
def test_a_term_that_leaves_none_for_the_next_leader_is_believed_of_nobody(forged: dict[str, int], asks: bool) -> None:
    """Neither in a question nor in an answer: the mesh would never have a leader again."""
    world = World(4)
    leader = world.grown()
    council = {**world.nodes[leader].council.to_wire(), **forged}
    message = {"council": council, "term": 1 if "founded" in forged or "version" in forged else HIGHEST, "ask": asks}
    for name, node in world.nodes.items():
        with pytest.raises(InvalidArgument):
            node.received("liar", message, world.clock(name), world.view(name))
    lies = {"granted": asks, "council": council, "term": message["term"]}
    node = world.nodes[leader]
    for ballot in node.tick(world.clock(leader) + 1, world.view(leader)):
        node.answered(ballot, lies, world.clock(leader) + 1, world.view(leader))
    world.run(5)
    assert leader == world.agreed() and node.council.version < 100 > node.term
    world.killed.add(leader)
    world.run(20)
    assert world.agreed() is not None
