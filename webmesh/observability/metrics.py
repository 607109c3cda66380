"""`Metrics`: an observer that counts, at a fraction of a microsecond for each event.

Plain numbers in dictionaries, added to where the events happen; what they look like to Prometheus is `exposition`.
Labels are route patterns, wire codes and the code's own words, never a peer's text, and there is a bound on them.
"""

from __future__ import annotations

import math
import re
import time
from bisect import bisect_left
from collections.abc import Iterable
from typing import Any

from webmesh.exceptions import REMOTE_ERRORS, ConfigurationError
from webmesh.observability.event_counts import OTHER, SERIES, EventCounts

BUCKETS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
"""Seconds: upper bounds of the latency histogram. A quick handler takes 20 us, `Timeouts.request` is 30 s."""

_CODES = frozenset({"ok", "unknown", *REMOTE_ERRORS})

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


class Metrics(EventCounts):
    """Counts what happens to a server or a client.

    Give it as `metrics=` to a `WebMeshServer`, or as `observer=` to either. One may serve several in one
    monkey-patched process; in a plain one each has its own thread, and counts that fall together could be lost.

    Args:
        buckets: Upper bounds of the latency histogram, in seconds, ascending.
        prefix: What the names of all metrics begin with; letters, digits and `_`.

    Raises:
        ConfigurationError: The bounds are no numbers or do not ascend; no metric can have that prefix.
    """

    wants_requests = True

    def __init__(self, *, buckets: Iterable[float] = BUCKETS, prefix: str = "webmesh") -> None:
        self.buckets = _checked_buckets(buckets)
        if not isinstance(prefix, str) or not _NAME.fullmatch(prefix):
            raise ConfigurationError(f"prefix must be letters, digits and '_', and begin with no digit, not {prefix!r}")
        super().__init__()
        self.prefix = prefix
        # One entry for each route and code: a count for each bucket, one for what is longer, and the sum of seconds.
        self._requests: dict[tuple[str, str], list[float]] = {}

    # ------------------------------------------------------------------- the hooks

    def request_finished(self, path: str, code: str, seconds: float) -> None:
        """One more of this route, with this code, in this bucket."""
        try:
            entry = self._requests[path, code]
        except KeyError:
            entry = self._entry(path, code)
        entry[bisect_left(self.buckets, seconds)] += 1
        entry[-1] += seconds

    def _entry(self, path: str, code: str) -> list[float]:
        """A new entry, or the one for what is not kept apart."""
        if code not in _CODES:
            code = OTHER  # handlers may raise errors with codes of their own, as many as they like
        if (path, code) not in self._requests and len(self._requests) >= SERIES:
            path = OTHER
        return self._requests.setdefault((path, code), [0.0] * (len(self.buckets) + 2))

    def published(self, receivers: int) -> None:
        """See `Observer`; topics hold ids as paths do."""
        self._count("publications")
        if receivers:
            self._count("deliveries", amount=receivers)

    # ----------------------------------------------------------------- what came of it

    def requests(self) -> dict[tuple[str, str], int]:
        """How many have ended, by route and code."""
        return {key: int(sum(entry[:-1])) for key, entry in tuple(self._requests.items())}

    def latencies(self) -> dict[str, tuple[list[float], float]]:
        """By route: how many took so long, for each bucket and beyond the last, and the seconds of all together."""
        routes: dict[str, list[float]] = {}
        for (route, _), entry in tuple(self._requests.items()):
            total = routes.setdefault(route, [0.0] * len(entry))
            routes[route] = [one + other for one, other in zip(total, entry)]
        return {route: (total[:-1], total[-1]) for route, total in routes.items()}

    def snapshot(self) -> dict[str, Any]:
        """All of it as an object that JSON can carry."""
        routes: dict[str, dict[str, Any]] = {}
        for (route, code), count in self.requests().items():
            routes.setdefault(route, {"codes": {}})["codes"][code] = count
        for route, (counts, seconds) in self.latencies().items():
            routes.setdefault(route, {"codes": {}}).update({"count": int(sum(counts)), "seconds": round(seconds, 6)})
        return {"seconds": round(time.monotonic() - self.started_at, 3), "routes": routes, **self.events()}

    def collect(self) -> Iterable[Any]:
        """What Prometheus' registries ask for: `REGISTRY.register(metrics)` adds these to a program's own.

        Raises:
            ConfigurationError: The package `prometheus_client` is not installed.
        """
        from webmesh.observability.exposition import families

        return families(self)


def _checked_buckets(buckets: Iterable[float]) -> tuple[float, ...]:
    try:
        bounds = tuple(buckets)
    except TypeError:
        raise ConfigurationError(f"buckets must be numbers of seconds, not {buckets!r}") from None
    for bound in bounds:
        if isinstance(bound, bool) or not isinstance(bound, int | float) or not math.isfinite(bound):
            raise ConfigurationError(f"buckets must be numbers of seconds, and {bound!r} is none")
    if not bounds or list(bounds) != sorted(set(bounds)):
        raise ConfigurationError(f"buckets must ascend, which {bounds!r} do not")
    return bounds
