"""`EventCounts`: an observer that counts what happens seldom: connections, refusals, holds of the hub.

Every server has one, since it costs nothing while nothing happens. Calls and publications are not counted here: the
former are by `call_counts`, both by `metrics` where that is switched on.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Any

from webmesh.observer import Observer

SERIES = 1000
"""Combinations of labels that one counter keeps apart; a thousand routes are more than people write. Beyond it
events are counted under `other`."""

OTHER = "other"

_CLOSE_CODES = frozenset(map(str, (
    1000, 1001, 1002, 1003, 1005, 1006, 1007, 1008, 1009, 1010, 1011, 1012, 1013, 1015,
    4001, 4008, 4010, 4012, 4013, 4500, 4501, 4503, 4504, 4505,
)))  # fmt: skip
"""Those of RFC 6455 and of the protocol. Peers may send 2,000 others, and would burn all labels with them."""

Table = dict[tuple[str, ...], float]


@dataclass(frozen=True, slots=True)
class Gauge:
    """Something that is asked for when the numbers are wanted."""

    text: str
    readers: list[Callable[[], float]]

    def read(self) -> float:
        """The number now: the sum of what each server of this observer says."""
        return sum(reader() for reader in tuple(self.readers))


class EventCounts(Observer):
    """Counts events, at a microsecond each.

    Attributes:
        tables: Counts by name, and there by labels.
        open: Connections now.
        stalled: Peers that do not answer now.
    """

    wants_requests = False

    def __init__(self) -> None:
        self.started_at = time.monotonic()
        self.tables: dict[str, Table] = {}
        self.gauges: dict[str, Gauge] = {}
        self.open = 0
        self.stalled = 0

    # ------------------------------------------------------------------- the hooks

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

    def call_hedged(self, path: str) -> None:
        """See `Observer`."""
        self._count("calls_hedged")

    def instance_ejected(self, service: str, node: str, reason: str, seconds: float) -> None:
        """See `Observer`; services and nodes are named by peers."""
        self._count("instances_ejected", reason)

    def breaker_changed(self, service: str, route: str, state: str) -> None:
        """See `Observer`."""
        self._count("breaker_changes", state)

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

    def events(self) -> dict[str, Any]:
        """All counters and gauges, as an object that JSON can carry."""
        counters = {
            name: {" ".join(labels): round(value, 6) for labels, value in tuple(table.items())}
            for name, table in sorted(tuple(self.tables.items()))
        }
        gauges = {name: gauge.read() for name, gauge in tuple(self.gauges.items())}
        return {"counters": counters, "gauges": {"connections_open": self.open, "peers_stalled": self.stalled} | gauges}
