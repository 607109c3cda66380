"""Each way to choose an instance: one of those that may be asked, and the right one."""

from __future__ import annotations

import random
from collections import Counter
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.instance_fakes import busy, instance, several
from webmesh.balancing import Balancer
from webmesh.call_policy import BALANCES
from webmesh.exceptions import ConfigurationError
from webmesh.instances import Instance


@given(st.sampled_from(BALANCES), st.integers(1, 9), st.text(), st.floats(0, 1, exclude_max=True))
def test_it_is_one_of_them(balance: str, count: int, key: str, number: float) -> None:
    """Whatever the random source says."""
    instances = several(count)
    assert Balancer().choose(instances, balance, key, lambda: number) in instances


@given(st.lists(st.integers(0, 5), min_size=1, max_size=9), st.floats(0, 1, exclude_max=True))
def test_least_pending(pending: list[int], number: float) -> None:
    """No other has fewer calls in progress."""
    instances = [busy(instance(str(at)), calls) for at, calls in enumerate(pending)]
    assert min(pending) == Balancer().choose(instances, "least-pending", None, lambda: number).pending


def test_ties_are_broken_at_random() -> None:
    """So that callers which know nothing of each other do not all ask the first one."""
    instances, balancer, chance = several(4), Balancer(), random.Random(1)
    taken = Counter(balancer.choose(instances, "least-pending", None, chance.random).node for _ in range(400))
    assert 4 == len(taken)
    assert min(taken.values()) > 60


@given(st.integers(1, 9), st.integers(1, 5))
def test_round_robin(count: int, rounds: int) -> None:
    """Each as often as the others."""
    instances, balancer = several(count), Balancer()
    taken = Counter(balancer.choose(instances, "round-robin", None, lambda: 0.0).node for _ in range(count * rounds))
    assert {one.node: rounds for one in instances} == (taken if count > 1 else {instances[0].node: rounds})


@given(st.lists(st.floats(0.001, 10), min_size=2, max_size=9, unique=True), st.integers(0, 2**32))
def test_two_choices_never_take_the_worst(latencies: list[float], seed: int) -> None:
    """Of two, the one that is likely to answer sooner."""
    instances = several(len(latencies))
    for one, latency in zip(instances, latencies):
        one.answered(latency, 0.0)
    chosen = Balancer().choose(instances, "two-choices", None, random.Random(seed).random)
    assert max(latencies) != chosen.latency


def test_two_choices_reach_everybody_else() -> None:
    """And spread by what a call is likely to cost."""
    instances, balancer, chance = several(5), Balancer(), random.Random(2)
    for one in instances:
        one.answered(0.01, 0.0)
    instances[0].answered(1.0, 0.0)
    taken = Counter(balancer.choose(instances, "two-choices", None, chance.random).node for _ in range(500))
    assert {one.node for one in instances[1:]} == set(taken)


def test_a_key_keeps_its_instance() -> None:
    """Whatever the load, and moves only when that instance is not among those to be asked."""
    instances, balancer = several(5), Balancer()
    chosen = balancer.choose(instances, "key", "customer 7", random.random)
    busy(chosen, 100)

    assert chosen is balancer.choose(instances[::-1], "key", "customer 7", random.random)
    rest = [one for one in instances if one is not chosen]
    assert balancer.choose(rest, "key", "customer 7", random.random) in rest


@pytest.mark.parametrize("count", [1, 3])
def test_a_key_is_needed(count: int) -> None:
    """With one instance too: a mistake must not wait for the second one to show."""
    with pytest.raises(ConfigurationError, match="needs a key"):
        Balancer().choose(several(count), "key", None, random.random)


def test_a_function_of_the_user() -> None:
    """It gets the instances and the key, and what it returns is taken."""
    instances, seen = several(3), []

    def last(given: object, key: str | None) -> Instance:
        seen.append((given, key))
        return instances[-1]

    assert instances[-1] is Balancer().choose(instances, last, "k", random.random)
    assert [(instances, "k")] == seen


def test_a_function_that_returns_something_else() -> None:
    """Is told so."""
    def none(instances: object, key: object) -> Any:
        return None

    with pytest.raises(ConfigurationError, match="must return one of the instances, not None"):
        Balancer().choose(several(2), none, None, random.random)


def test_an_unknown_name() -> None:
    """As one given with a single call."""
    with pytest.raises(ConfigurationError, match="not 'fair'"):
        Balancer().choose(several(2), "fair", None, random.random)
