"""When a call gets a second one, and how many do."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from webmesh.call_policy import CallPolicy
from webmesh.hedging import FEWEST, SAMPLES, Hedging


@given(st.floats(0, 1), st.lists(st.booleans(), max_size=300))
def test_the_budget_holds(share: float, wants: list[bool]) -> None:
    """However many calls are slow, second calls are at most that share of all."""
    hedging, hedged = Hedging(CallPolicy(hedge=0.1, hedge_share=share)), 0
    for number, want in enumerate(wants, 1):
        hedging.delay()
        hedged += want and hedging.afford()
        assert hedged <= number * share + 1e-6


def test_twenty_calls_pay_for_one() -> None:
    """By default, to the call."""
    hedging = Hedging(CallPolicy(hedge=0.1))
    afforded = []
    for _ in range(60):
        hedging.delay()
        afforded.append(hedging.afford())
    assert [19, 39, 59] == [number for number, one in enumerate(afforded) if one]


def test_little_is_saved_up() -> None:
    """An hour without trouble does not pay for a minute of double load."""
    hedging = Hedging(CallPolicy(hedge=0.1))
    for _ in range(100_000):
        hedging.delay()
    assert 10 == sum(hedging.afford() for _ in range(100))


@given(st.lists(st.floats(0, 10), min_size=FEWEST, max_size=SAMPLES))
def test_the_delay_is_what_few_exceed(latencies: list[float]) -> None:
    """About one in twenty, of those that were looked at last."""
    hedging = Hedging(CallPolicy(hedge=True))
    for seconds in latencies[: FEWEST]:
        hedging.took(seconds)
    delay = hedging.delay()
    assert delay is not None
    assert sum(seconds > delay for seconds in latencies[:FEWEST]) <= 1


def test_without_experience_there_is_none() -> None:
    """Nothing is sent twice before twenty answers."""
    hedging = Hedging(CallPolicy(hedge=True))
    for _ in range(FEWEST - 1):
        hedging.took(0.1)
        assert hedging.delay() is None
    hedging.took(0.1)
    assert 0.1 == hedging.delay()


def test_it_follows_what_happens() -> None:
    """Old latencies are forgotten."""
    hedging = Hedging(CallPolicy(hedge=True))
    for seconds in (0.1, 5.0):
        for _ in range(2 * SAMPLES):
            hedging.took(seconds)
    assert 5.0 == hedging.delay()


def test_a_fixed_delay_and_none() -> None:
    """As the policy says, from the first call on."""
    assert 0.25 == Hedging(CallPolicy(hedge=0.25)).delay()
    assert Hedging(CallPolicy()).delay() is None
