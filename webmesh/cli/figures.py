"""From what nodes have counted to the figures that are shown: rates, quantiles, rows of nodes, services and routes.

Pure. Counts are the nodes' own, since their start; a rate is the difference of two snapshots, over the time between
them by the node's own clock. What a node says is read with distrust: it may be of another make.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from math import isfinite
from typing import Any

from webmesh.call_counts import quantile

Row = dict[str, Any]
"""Figures by column; `None` for what is not known."""

_Counts = dict[str, float]


@dataclass(frozen=True, slots=True)
class RouteCounts:
    """Of one route at one node, since its start; or of one span of time."""

    calls: float = 0.0
    errors: float = 0.0
    in_flight: float = 0.0
    latency: tuple[float, ...] = ()
    stalls: float = 0.0


@dataclass(frozen=True, slots=True)
class NodeCounts:
    """One node at one moment.

    Attributes:
        life: Its id and epoch: counts of two lives have nothing to do with each other.
        seconds: Its age; `None` where it has told no counts.
    """

    entry: Mapping[str, Any]
    life: tuple[str, Any]
    seconds: float | None = None
    buckets: tuple[float, ...] = ()
    routes: Mapping[str, RouteCounts] = field(default_factory=dict)
    connections: float | None = None
    stalls: float = 0.0
    release: str = ""


def read_snapshot(answer: object) -> list[NodeCounts]:
    """What the answer to `$peers` says; entries that make no sense are left out."""
    entries = answer if isinstance(answer, list) else []
    return [_read_node(entry) for entry in map(_map, entries) if _map(entry.get("node")).get("id")]


def _read_node(entry: Mapping[str, Any]) -> NodeCounts:
    record, stats = _map(entry["node"]), _map(entry.get("stats"))
    life = str(record["id"]), str(record.get("epoch"))
    release = str(record.get("release") or _map(stats.get("node")).get("version") or "")
    if not stats:
        return NodeCounts(entry, life, release=release)
    holds = _numbers(_map(_map(stats.get("counters")).get("hub_holds")))
    connections = _map(stats.get("gauges")).get("connections_open")
    return NodeCounts(
        entry, life, _number(stats.get("seconds")), _list(stats.get("buckets")),
        {path: _read_route(_map(counts), holds.get(path, 0.0)) for path, counts in _map(stats.get("routes")).items()},
        None if connections is None else _number(connections), sum(holds.values()), release,
    )  # fmt: skip


def _read_route(counts: Mapping[str, Any], stalls: float) -> RouteCounts:
    codes = _numbers(_map(counts.get("codes")))
    errors = sum(number for code, number in codes.items() if code != "ok")
    return RouteCounts(
        _number(counts.get("count")), errors, _number(counts.get("in_flight")), _list(counts.get("latency")), stalls
    )


# ------------------------------------------------------------------------- figures


@dataclass(slots=True)
class Span:
    """What happened between two moments, of one or several nodes' calls."""

    calls_per_s: float | None = None
    errors_per_s: float | None = None
    in_flight: float = 0.0
    stalls: float = 0.0
    latency: list[float] = field(default_factory=list)
    buckets: tuple[float, ...] = ()

    def add(self, now: RouteCounts, before: RouteCounts, seconds: float | None, buckets: tuple[float, ...]) -> None:
        """Add a route's counts; *seconds* is `None` where there is nothing to compare them with."""
        self.in_flight += now.in_flight
        self.stalls += now.stalls
        if not seconds:
            return
        self.calls_per_s = (self.calls_per_s or 0.0) + max(0.0, now.calls - before.calls) / seconds
        self.errors_per_s = (self.errors_per_s or 0.0) + max(0.0, now.errors - before.errors) / seconds
        self._add_latency(now.latency, before.latency, buckets)

    def _add_latency(self, now: Sequence[float], before: Sequence[float], buckets: tuple[float, ...]) -> None:
        if not self.buckets:
            self.buckets, self.latency = buckets, [0.0] * len(now)
        if buckets != self.buckets or len(now) != len(self.latency):
            return  # a node of another make, whose buckets cannot be added to these
        old = before if len(before) == len(now) else [0.0] * len(now)
        self.latency = [total + max(0.0, one - other) for total, one, other in zip(self.latency, now, old)]

    def row(self) -> Row:
        """As columns of a row; latencies in milliseconds."""
        return {
            "calls/s": self.calls_per_s, "errors/s": self.errors_per_s, "in flight": self.in_flight,
            "p50 ms": self._milliseconds(0.5), "p99 ms": self._milliseconds(0.99), "stalls": self.stalls,
        }  # fmt: skip

    def _milliseconds(self, share: float) -> float | None:
        found = quantile(share, self.latency, self.buckets)
        return None if found is None else 1000 * found


def node_rows(now: Iterable[NodeCounts], before: Iterable[NodeCounts] = ()) -> list[Row]:
    """A row for each node.

    Args:
        before: An earlier snapshot; a node that is not in it, or has begun anew since, has no rates yet.
    """
    known = {node.life: node for node in before}
    rows = []
    for node in now:
        record = _map(node.entry["node"])
        span = Span()
        for _, counts, old, seconds in _spans(node, known):
            span.add(counts, old, seconds, node.buckets)
        if node.seconds is not None and _seconds(node, known) and span.calls_per_s is None:
            span.calls_per_s = span.errors_per_s = 0.0
        span.stalls = node.stalls
        row = {
            "name": str(record.get("name") or ""), "id": node.life[0], "state": str(node.entry.get("state") or ""),
            "address": str(node.entry.get("address") or ""), "services": ", ".join(_services(node)),
            "version": node.release, "uptime": node.seconds, "connections": node.connections,
        }  # fmt: skip
        figures = span.row()
        rows.append(row | (dict.fromkeys(figures) if node.seconds is None else figures))
    return rows


def service_rows(now: Iterable[NodeCounts], before: Iterable[NodeCounts] = ()) -> list[Row]:
    """A row for each service: its nodes' calls together. A node of several services counts for each."""
    return _summed(now, before, "service", lambda node, path: _services(node))


def route_rows(now: Iterable[NodeCounts], before: Iterable[NodeCounts] = ()) -> list[Row]:
    """A row for each route, whichever nodes serve it."""
    return _summed(now, before, "route", lambda node, path: [path])


def _summed(
    now: Iterable[NodeCounts], before: Iterable[NodeCounts], title: str,
    names: Callable[[NodeCounts, str], list[str]],
) -> list[Row]:  # fmt: skip
    known = {node.life: node for node in before}
    spans: dict[str, Span] = {}
    nodes: dict[str, set[tuple[str, Any]]] = {}
    for node in now:
        if title == "service":
            for name in _services(node):
                spans.setdefault(name, Span())
                nodes.setdefault(name, set()).add(node.life)
        for path, counts, old, seconds in _spans(node, known):
            for name in names(node, path):
                spans.setdefault(name, Span()).add(counts, old, seconds, node.buckets)
                nodes.setdefault(name, set()).add(node.life)
    return [{title: name, "nodes": len(nodes[name]), **span.row()} for name, span in spans.items()]


def _spans(
    node: NodeCounts, known: Mapping[tuple[str, Any], NodeCounts]
) -> Iterable[tuple[str, RouteCounts, RouteCounts, float | None]]:
    """The program's routes of a node: what they have now and had before, and the seconds between."""
    before = known.get(node.life)
    seconds = _seconds(node, known)
    old = before.routes if before is not None else {}
    for path, counts in node.routes.items():
        if not path.startswith("$"):  # the protocol's own, this question among them
            yield path, counts, old.get(path, RouteCounts()), seconds


def _seconds(node: NodeCounts, known: Mapping[tuple[str, Any], NodeCounts]) -> float | None:
    before = known.get(node.life)
    if before is None or before.seconds is None or node.seconds is None or node.seconds <= before.seconds:
        return None
    return node.seconds - before.seconds


def since_start(nodes: Iterable[NodeCounts]) -> list[NodeCounts]:
    """What to compare a snapshot with for its averages: the same nodes when they had counted nothing."""
    return [NodeCounts(node.entry, node.life, 0.0) for node in nodes]


def sort_rows(rows: Iterable[Row], column: str) -> list[Row]:
    """Numbers from the highest down, texts in order; what is not known comes last."""

    def key(row: Row) -> tuple[bool, Any]:
        value = row.get(column)
        if value is None:
            return True, 0.0
        return False, value if isinstance(value, str) else -value

    return sorted(rows, key=key)


def _services(node: NodeCounts) -> list[str]:
    record = _map(node.entry["node"])
    given = record.get("services")
    named = [str(name) for name in given] if isinstance(given, list | tuple) else []
    return named or ([str(record["name"])] if record.get("name") else [])


def _map(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}


def _number(value: object) -> float:
    """A count; 0 for what is none."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not isfinite(value):
        return 0.0
    return max(0.0, float(value))


def _numbers(values: Mapping[str, Any]) -> _Counts:
    return {str(name): _number(value) for name, value in values.items()}


def _list(value: object) -> tuple[float, ...]:
    return tuple(_number(one) for one in value) if isinstance(value, list | tuple) else ()
