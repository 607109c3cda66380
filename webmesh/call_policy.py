"""`CallPolicy`: how calls to a service are spread, repeated, doubled, held back and cut off.

Pure values, as `options`; what they mean for one call is decided by the modules that are named with each group.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

from webmesh.exceptions import ConfigurationError

if TYPE_CHECKING:
    from webmesh.instances import Instance

Balance: TypeAlias = "str | Callable[[Sequence[Instance], str | None], Instance]"
"""A name of `BALANCES`, or a function of the instances that may be asked, never none, and of the call's key."""

BALANCES = ("least-pending", "round-robin", "two-choices", "key")


@dataclass(frozen=True, kw_only=True)
class CallPolicy:
    """How calls to a service are spread, repeated, doubled, held back and cut off. For users: docs/BALANCING.md."""

    # ------------------------------------------------------------------------- which instance: `balancing`
    balance: Balance = "least-pending"
    """"least-pending" asks the one with the fewest calls of ours in progress: it needs no measuring, and a slow
    instance gets less by itself. "round-robin": all in turn. "two-choices": of two at random the one with less latency
    times calls in progress, for instances that differ much. "key": the same one for the same key. Or a function."""

    same_zone: float = 0.5
    """Share of the instances of the own zone that must be usable for calls to stay in it; with fewer, they go to all,
    since the rest of the zone would get more than twice its share. 0 stays while there is one, 1 leaves with the first
    that is missing. Without a zone of one's own it means nothing."""

    # ------------------------------------------------------------------------------ how often: `service_calls`
    find_wait: float = 5.0
    """Seconds that a call waits for a service of which no instance is known: a node that has just started does not know
    all others yet, and a name that is misspelt is told soon. Where instances are known and none can be reached, a call
    waits as long as it may."""

    attempts: int = 5
    """How often one call is sent at most, the first time included (gRPC's bound). 1 sends nothing twice."""

    shared_keys: bool = False
    """Whether all instances remember idempotency keys in one place, as in one SQLite file. Only then may a keyed call
    that may have run go to another instance: with a memory of its own that would run it again."""

    # ----------------------------------------------------------------------------------------- twice: `hedging`
    hedge: bool | float = False
    """True sends a call of an idempotent route to a second instance when it takes longer than 95 of 100 recent ones of
    its route; a number, after so many seconds. False, the default: it is worth it only where single instances are slow
    at random, and handlers must be able to run twice at the same time."""

    hedge_share: float = 0.05
    """Second calls, as a share of all calls to the service: what hedging may cost in load. The tail at scale (Dean and
    Barroso, 2013) found most of the gain below 5 %."""

    # ---------------------------------------------------------------------------------------- cut off: `breaker`
    breaker_share: float = 0.5
    """Share of a route's calls that must fail within `breaker_window`, after all attempts, for its breaker to open.
    Half: then the service, and not one instance, is ill. 1 opens only when nothing works; see `breaker_calls`."""

    breaker_calls: int = 20
    """Calls within `breaker_window` below which no breaker opens: of a few, half fail by chance."""

    breaker_window: float = 10.0
    """Seconds in which those are counted."""

    breaker_open: float = 2.0
    """Seconds until an open breaker lets one call through to try. It doubles with each that fails."""

    breaker_longest: float = 30.0
    """Seconds where that doubling ends, so that a service that is back is found within half a minute."""

    # ------------------------------------------------------------------------------------ held back: `bulkhead`
    in_flight: int = 1000
    """Calls of one route of a service in progress at once. Beyond it one slow route would take the memory and the
    greenlets of all others; further calls fail at once with `Overloaded`."""

    in_flight_wait: bool = False
    """Whether further calls wait for a place instead, within their own time."""

    # ---------------------------------------------------------------------------------------- left out: `outliers`
    eject_failures: int = 5
    """Failures in a row upon which an instance is left out for a while (Envoy's default)."""

    eject_above: float = 0.3
    """By how much an instance's share of failed calls must be above that of all others together, to be left out."""

    eject_calls: int = 20
    """Recent calls, of the instance and of the others together, below which shares are not compared."""

    eject_time: float = 5.0
    """Seconds that an instance is left out the first time. It doubles with each further time; then one call at a time
    tries it until one succeeds. Never more than half of a service's instances are left out."""

    eject_longest: float = 300.0
    """Seconds where that doubling ends (Envoy's default); and an instance that was well for so long begins anew."""

    rest_longest: float = 30.0
    """Seconds for which an instance's own `retry_after` keeps new calls from it, at most: a wrong number there must not
    take it away for a year."""

    def __post_init__(self) -> None:
        if not callable(self.balance) and self.balance not in BALANCES:
            raise ConfigurationError(
                f"CallPolicy.balance is a function or one of {', '.join(BALANCES)}, not {self.balance!r}"
            )
        for name in ("attempts", "breaker_calls", "in_flight", "eject_failures", "eject_calls"):
            self._check(name, int, 1, math.inf)
        seconds = ("breaker_window", "breaker_open", "breaker_longest", "eject_time", "eject_longest", "rest_longest")
        for name in seconds:
            self._check(name, (int, float), math.ulp(0.0), math.inf)
        for name in ("same_zone", "hedge_share", "breaker_share", "eject_above"):
            self._check(name, (int, float), 0, 1)
        self._check("find_wait", (int, float), 0, math.inf)
        if not isinstance(self.hedge, bool):
            self._check("hedge", (int, float), math.ulp(0.0), math.inf)
        for name in ("shared_keys", "in_flight_wait"):
            if not isinstance(getattr(self, name), bool):
                raise ConfigurationError(f"CallPolicy.{name} must be true or false, not {getattr(self, name)!r}")

    def _check(self, name: str, kind: type[int] | tuple[type[int], type[float]], least: float, most: float) -> None:
        value: Any = getattr(self, name)
        if isinstance(value, bool) or not isinstance(value, kind):
            raise ConfigurationError(f"CallPolicy.{name} must be a number, {'whole, ' * (kind is int)}not {value!r}")
        if not least <= value <= most or value == math.inf:
            limits = f"from {least:g} to {most:g}" if most < math.inf else "above 0 and finite"
            raise ConfigurationError(f"CallPolicy.{name} must be {limits}, not {value!r}")
