"""`Metrics`: an observer that counts, at a fraction of a microsecond for each event.

Plain numbers in dictionaries, added to where the events happen; what they look like to Prometheus is `exposition`.
Labels are route patterns, wire codes and the code's own words, never a peer's text, and there is a bound on them.
"""

from __future__ import annotations

import math
import re
import time
from bisect import bisect_left
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from typing import Any

from webmesh.exceptions import REMOTE_ERRORS, ConfigurationError
from webmesh.observer import Observer

BUCKETS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
"""Seconds: upper bounds of the latency histogram. A quick handler takes 20 us, `Timeouts.request` is 30 s."""

SERIES = 1000
"""Combinations of labels that one counter keeps apart; a thousand routes are more than people write. Beyond it
events are counted under `other`."""

OTHER = "other"

_CODES = frozenset({"ok", "unknown", *REMOTE_ERRORS})

_CLOSE_CODES = frozenset(map(str, (
    1000, 1001, 1002, 1003, 1005, 1006, 1007, 1008, 1009, 1010, 1011, 1012, 1013, 1015,
    4001, 4008, 4010, 4012, 4013, 4500, 4501, 4503, 4504, 4505,
)))  # fmt: skip
"""Those of RFC 6455 and of the protocol. Peers may send 2,000 others, and would burn all labels with them."""

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")

_Table = dict[tuple[str, ...], float]


@dataclass(frozen=True, slots=True)
class Gauge:
    """Something that is asked for when the numbers are wanted."""

    text: str
    readers: list[Callable[[], float]]

    def read(self) -> float:
        """The number now: the sum of what each server of this observer says."""
        return sum(reader() for reader in tuple(self.readers))


class Metrics(Observer):
    """Counts what happens to a server or a client.

    Give it as `metrics=` to a `WebMeshServer`, or as `observer=` to either. One may serve several in one
    monkey-patched process; in a plain one each has its own thread, and counts that fall together could be lost.

    Args:
        buckets: Upper bounds of the latency histogram, in seconds, ascending.
        prefix: What the names of all metrics begin with; letters, digits and `_`.

    Raises:
        ConfigurationError: The bounds are no numbers or do not ascend; no metric can have that prefix.
    """

    def __init__(self, *, buckets: Iterable[float] = BUCKETS, prefix: str = "webmesh") -> None:
        self.buckets = _checked_buckets(buckets)
        if not isinstance(prefix, str) or not _NAME.fullmatch(prefix):
            raise ConfigurationError(f"prefix must be letters, digits and '_', and begin with no digit, not {prefix!r}")
        self.prefix = prefix
        self.started_at = time.monotonic()
        self.tables: dict[str, _Table] = {}
        self.gauges: dict[str, Gauge] = {}
        self.open = 0
        self.stalled = 0
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

    def connection_opened(self, connection: object) -> None:
        """See `Observer`."""
        self.open += 1
        self._count("connections_opened")

    def connection_closed(self, connection: object, code: int, reason: str) -> None:
        """See `Observer`; the reason is the peer's own text."""
        self.open -= 1
        known = str(code)
        self._count("connections_closed", known if known in _CLOSE_CODES else OTHER)

    def handshake_refused(self, address: str, status: int, reason: str) -> None:
        """See `Observer`."""
        self._count("handshakes_refused", str(status), reason)

    def handler_failed(self, path: str, incident: str, error: BaseException) -> None:
        """See `Observer`; which route it was, requests with the code `internal` tell."""
        self._count("handler_failures")

    def refused(self, kind: str, reason: str) -> None:
        """See `Observer`."""
        self._count("refused", kind, reason)

    def link_changed(self, url: str, state: str, reason: str) -> None:
        """See `Observer`."""
        self._count("link_changes", state)

    def session_changed(self, state: str, reason: str) -> None:
        """See `Observer`."""
        self._count("session_changes", state)

    def login_finished(self, address: str, outcome: str) -> None:
        """See `Observer`."""
        self._count("logins", outcome)

    def peer_stalled(self, connection: object, stalled: bool) -> None:
        """See `Observer`."""
        self.stalled += 1 if stalled else -1
        if stalled:
            self._count("peer_stalls")

    def call_retried(self, path: str, reason: str) -> None:
        """See `Observer`; paths of calls hold ids, so they are no labels."""
        self._count("calls_retried", reason)

    def published(self, receivers: int) -> None:
        """See `Observer`; topics hold ids as paths do."""
        self._count("publications")
        if receivers:
            self._count("deliveries", amount=receivers)

    def will_fired(self, topic: str, reason: str) -> None:
        """See `Observer`; the topic is a peer's own text."""
        self._count("wills_fired", reason)

    def hub_held(self, where: str, seconds: float, stack: str) -> None:
        """See `Observer`."""
        self._count("hub_holds", where)
        self._count("hub_held_seconds", where, amount=seconds)

    def _count(self, name: str, *labels: str, amount: float = 1) -> None:
        table = self.tables.setdefault(name, {})
        if labels not in table and len(table) >= SERIES:
            labels = (OTHER,) * len(labels)
        table[labels] = table.get(labels, 0) + amount

    # ----------------------------------------------------------------- what came of it

    def gauge(self, name: str, text: str, read: Callable[[], float]) -> None:
        """Ask *read* for a number whenever the metrics are wanted, in the thread that wants them.

        Several of one name are added up, until `forget` is told of one.
        """
        self.gauges.setdefault(name, Gauge(text, [])).readers.append(read)

    def forget(self, reads: Collection[Callable[[], float]]) -> None:
        """Ask these for a number no longer."""
        for gauge in tuple(self.gauges.values()):
            gauge.readers[:] = [read for read in gauge.readers if read not in reads]

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
        counters = {
            name: {" ".join(labels): round(value, 6) for labels, value in tuple(table.items())}
            for name, table in sorted(tuple(self.tables.items()))
        }
        gauges = {name: gauge.read() for name, gauge in tuple(self.gauges.items())}
        return {
            "seconds": round(time.monotonic() - self.started_at, 3),
            "routes": routes,
            "counters": counters,
            "gauges": {"connections_open": self.open, "peers_stalled": self.stalled} | gauges,
        }

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
