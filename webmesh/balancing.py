"""Which of the instances that may be asked gets a call.

Pure: a random source is passed in. Which may be asked is decided by `instances.usable`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import count

from webmesh.call_policy import BALANCES, Balance
from webmesh.exceptions import ConfigurationError
from webmesh.hashing import owner
from webmesh.instances import Instance

Random = Callable[[], float]
"""A number from 0 to below 1."""

_Way = Callable[["Balancer", Sequence[Instance], "str | None", Random], Instance]


class Balancer:
    """Chooses for one service; may be asked from any thread."""

    __slots__ = ("_turns",)

    def __init__(self) -> None:
        self._turns = count()

    def choose(self, instances: Sequence[Instance], balance: Balance, key: str | None, random: Random) -> Instance:
        """One of *instances*, of which there must be one.

        Raises:
            ConfigurationError: There is no such way, it needs a key, or the user's function returned something else.
        """
        if isinstance(balance, str):
            way = _WAYS.get(balance)
            if way is None:
                raise ConfigurationError(f"balance is a function or one of {', '.join(BALANCES)}, not {balance!r}")
            if len(instances) == 1 and balance != "key":
                return instances[0]
            return way(self, instances, key, random)
        chosen = balance(instances, key)
        if chosen not in instances:
            raise ConfigurationError(f"the function for balance must return one of the instances, not {chosen!r}")
        return chosen

    def _least_pending(self, instances: Sequence[Instance], key: str | None, random: Random) -> Instance:
        # Random ties: callers that all begin with the first one would meet there.
        counts = [len(one.calls) for one in instances]
        least = min(counts)
        best = [one for one, pending in zip(instances, counts) if pending == least]
        return best[0] if len(best) == 1 else best[int(random() * len(best))]

    def _in_turn(self, instances: Sequence[Instance], key: str | None, random: Random) -> Instance:
        return instances[next(self._turns) % len(instances)]

    def _two_choices(self, instances: Sequence[Instance], key: str | None, random: Random) -> Instance:
        first = int(random() * len(instances))
        second = int(random() * (len(instances) - 1))
        one, other = instances[first], instances[second + (second >= first)]
        return one if one.cost() <= other.cost() else other

    def _by_key(self, instances: Sequence[Instance], key: str | None, random: Random) -> Instance:
        if key is None:
            raise ConfigurationError('balance="key" needs a key: call(..., key="customer 7")')
        return owner(key, instances, _seed)


def _seed(instance: Instance) -> int:
    return instance.seed


_WAYS: Mapping[str, _Way] = {
    "least-pending": Balancer._least_pending,
    "round-robin": Balancer._in_turn,
    "two-choices": Balancer._two_choices,
    "key": Balancer._by_key,
}
