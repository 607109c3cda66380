"""Owners of keys: the same everywhere, spread evenly, moved only where they must be."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from webmesh.hashing import digest, owner, owners

KEYS = [f"customer {number}" for number in range(2000)]
NODES = st.lists(st.text(min_size=1, max_size=8), min_size=1, max_size=12, unique=True)


@given(NODES, st.text(max_size=20), st.randoms())
def test_the_order_of_the_nodes_does_not_matter(nodes: list[str], key: str, random: object) -> None:
    """Two nodes that know the same nodes agree, in whichever order they have learnt of them."""
    other = sorted(nodes)
    assert owner(key, nodes, digest) == owner(key, other, digest)
    assert owners(key, nodes, digest, 3) == owners(key, other, digest, 3)


@given(NODES, st.text(max_size=20))
def test_the_next_owner_is_the_second_one(nodes: list[str], key: str) -> None:
    """When a node goes, its keys go to those that come next for them."""
    first, *rest = owners(key, nodes, digest, len(nodes))

    assert first == owner(key, nodes, digest)
    assert rest == owners(key, [node for node in nodes if node != first], digest, len(nodes))


@given(NODES, st.text(min_size=9, max_size=12), st.text(max_size=20))
def test_a_new_node_takes_keys_and_moves_none(nodes: list[str], new: str, key: str) -> None:
    """Whatever the new one does not take stays where it was."""
    assert owner(key, [*nodes, new], digest) in (new, owner(key, nodes, digest))


@pytest.mark.parametrize("count", [2, 5, 20])
def test_one_node_more_moves_its_share(count: int) -> None:
    """Of n nodes the last one has about 1/n of the keys, and so has each other."""
    nodes = [f"node-{number}" for number in range(count)]
    before = [owner(key, nodes[:-1], digest) for key in KEYS]
    after = [owner(key, nodes, digest) for key in KEYS]

    moved = sum(one != other for one, other in zip(before, after))
    shares = Counter(after)

    assert moved == pytest.approx(len(KEYS) / count, rel=0.35)
    assert all(share == pytest.approx(len(KEYS) / count, rel=0.4) for share in shares.values())
    assert count == len(shares)


@pytest.mark.once
def test_another_process_agrees() -> None:
    """Python's own hash of a text differs from process to process; this one does not."""
    code = "from webmesh.hashing import *; print([owner(str(k), ['a', 'b', 'c', 'd'], digest) for k in range(50)])"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=20, check=True)
    assert str([owner(str(key), ["a", "b", "c", "d"], digest) for key in range(50)]) == run.stdout.strip()


def test_digests_are_fixed() -> None:
    """They are part of what nodes of different releases agree on."""
    assert 0x40F89E395B66422F == digest("a")
    assert "c" == owner("customer 7", ["a", "b", "c"], digest)


def test_no_nodes() -> None:
    """There is no owner then."""
    with pytest.raises(ValueError):
        owner("a", [], digest)
    assert [] == owners("a", [], digest, 2)
