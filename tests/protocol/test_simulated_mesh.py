"""Many memberships over a simulated network that tells of no end: what gossip alone finds, how fast, at which cost."""

from __future__ import annotations

import pytest

from tests.protocol.simulated_mesh import Mesh


def mesh(count: int, *, seed: int = 1, loss: float = 0.0) -> Mesh:
    made = Mesh(seed=seed, loss=loss)
    made.fill(count)
    made.run(2)
    return made


@pytest.mark.parametrize("count", [2, 10, 50, 200])
def test_a_join_and_a_kill_are_known_everywhere_within_ten_seconds(count: int) -> None:
    """The kill by probes alone."""
    nodes = mesh(count)

    nodes.add("new", known="n000")
    assert nodes.run_until(lambda: nodes.all_hold("new", "ok"), 10) is not None

    nodes.kill("n001")
    assert nodes.run_until(lambda: nodes.all_hold("n001", "lost"), 10) is not None
    assert {"n001"} == {lost for node in nodes.running for lost in node.lost_seen}


def test_traffic_does_not_grow_with_the_nodes() -> None:
    """A node of 200 sends what one of ten sends, while nothing happens."""
    sizes = {}
    for count in (10, 50, 200):
        nodes = mesh(count)
        nodes.reset_traffic()
        nodes.run(20)
        messages, sizes[count], most = nodes.traffic(20)
        assert messages < 2.2  # one probe and one answer a second
        assert most < 2 * sizes[count]

    assert sizes[200] < 1.1 * sizes[10]
    assert sizes[200] < 250


@pytest.mark.row(69)
@pytest.mark.parametrize("both", [True, False], ids=["both ways", "one way"])
@pytest.mark.parametrize("count", [3, 10, 40])
def test_after_a_partition_all_hold_the_same_within_ten_seconds(count: int, both: bool) -> None:
    """Meanwhile at most one side has a majority; nobody is lost again by what the other side had claimed."""
    nodes = mesh(count)
    ids = list(nodes.nodes)
    one, other = ids[: count // 2], ids[count // 2 :]

    nodes.partition(one, other, both=both)
    nodes.run(30)
    assert all(nodes.nodes[node].membership.members[far].state == "lost" for node in one for far in other)
    assert all(nodes.nodes[node].membership.members[far].state == "lost" for node in other for far in one)
    sides = [{nodes.nodes[node].membership.has_majority for node in side} for side in (one, other)]
    assert [{False}, {len(other) > len(one)}] == sides
    for node in nodes.running:
        node.lost_seen.clear()

    nodes.cut.clear()
    assert nodes.run_until(nodes.all_equal, 10) is not None
    assert [] == [node.id for node in nodes.running if node.lost_seen]


@pytest.mark.parametrize("count", [10, 25])
def test_lost_messages_are_no_lost_nodes(count: int) -> None:
    """One of ten is lost, for two minutes: suspicions come and are refuted."""
    nodes = mesh(count, loss=0.1)

    nodes.run(120)

    assert [] == [node.id for node in nodes.running if node.lost_seen]
    assert any(node.membership.me.version > 1 for node in nodes.running)


def test_a_kill_is_noticed_though_messages_get_lost() -> None:
    """Within ten seconds, by all."""
    nodes = mesh(40, loss=0.1)

    nodes.kill("n001")

    assert nodes.run_until(lambda: nodes.all_hold("n001", "lost"), 10) is not None


def test_a_node_that_comes_and_goes_ends_up_as_what_it_is() -> None:
    """Cut off eight times, it is ok in the end, with a version for each time."""
    nodes = mesh(20)
    rest = [node for node in nodes.nodes if node != "n000"]
    for _ in range(8):
        nodes.partition(["n000"], rest)
        nodes.run(6)
        nodes.cut.clear()
        nodes.run(3)

    assert nodes.run_until(nodes.all_equal, 10) is not None
    assert 5 <= nodes.nodes["n000"].membership.me.version <= 25


def test_a_restarted_node_replaces_its_old_self() -> None:
    """Whether or not the others had noticed its end."""
    nodes = mesh(20)
    for pause in (0.0, 15.0):
        nodes.kill("n003")
        nodes.run(pause)
        nodes.restart("n003", known="n000")
        assert nodes.run_until(nodes.all_equal, 10) is not None


@pytest.mark.row(70)
def test_a_node_that_stood_still_for_a_minute_blames_nobody() -> None:
    """The others had lost it; it comes back, and loses none of them on the way."""
    nodes = mesh(20)
    nodes.stop("n003")
    assert nodes.run_until(lambda: nodes.all_hold("n003", "lost"), 10) is not None
    nodes.run(50)

    nodes.go_on("n003")

    assert nodes.run_until(nodes.all_equal, 10) is not None
    assert [] == nodes.nodes["n003"].lost_seen
    assert {"n003"} == {lost for node in nodes.running for lost in node.lost_seen}


def test_half_of_the_nodes_killed_at_once_are_noticed() -> None:
    """Though most of those who are asked to help are dead themselves."""
    nodes = mesh(40)
    dead = [f"n{number:03}" for number in range(20)]
    for node in dead:
        nodes.kill(node)

    assert nodes.run_until(lambda: all(nodes.all_hold(node, "lost") for node in dead), 60) is not None
