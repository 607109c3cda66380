"""The status of several workers as one: sums of what each has counted, and a line for each.

What comes is read as from a stranger: it counts as a whole, or as no answer.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

LEAST = frozenset({"engine_up"})
"""Gauges that say how all are by the one that is worst; the others are added up."""

DIGITS = 6
"""Of sums: a microsecond, as `Metrics.snapshot` has it."""


def merged_status(answers: Mapping[str, object]) -> dict[str, Any]:
    """What `Metrics.snapshot` tells, for all together; and `workers`.

    Args:
        answers: By worker: {`pid`, `status`: a snapshot}; anything else counts as no answer.
    """
    read = {worker: _read(answer) for worker, answer in answers.items()}
    snapshots = [status for _, status in filter(None, read.values())]
    return {
        "seconds": max((one["seconds"] for one in snapshots), default=0.0),
        "routes": _routes([one["routes"] for one in snapshots]),
        "counters": dict(sorted(_by_name([one["counters"] for one in snapshots], _sums).items())),
        "gauges": _gauges([one["gauges"] for one in snapshots]),
        "workers": {worker: _line(found) for worker, found in read.items()},
    }


def _line(found: tuple[int, dict[str, Any]] | None) -> dict[str, Any]:
    if found is None:
        return {"up": False}
    pid, status = found
    return {
        "up": True, "pid": pid, "seconds": status["seconds"],
        "connections": status["gauges"].get("connections_open", 0),
        "calls": sum(route["count"] for route in status["routes"].values()),
    }  # fmt: skip


def _by_name(tables: Iterable[Mapping[str, Any]], merge: Callable[[list[Any]], Any]) -> dict[str, Any]:
    found: dict[str, list[Any]] = {}
    for table in tables:
        for name, value in table.items():
            found.setdefault(name, []).append(value)
    return {name: merge(values) for name, values in found.items()}


def _sums(tables: Iterable[Mapping[str, float]]) -> dict[str, float]:
    return _by_name(tables, _sum)


def _sum(values: Iterable[float]) -> float:
    return round(sum(values), DIGITS)


def _routes(tables: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    return _by_name(tables, lambda routes: {
        "codes": _sums(route["codes"] for route in routes),
        "count": sum(route["count"] for route in routes),
        "seconds": _sum(route["seconds"] for route in routes),
    })  # fmt: skip


def _gauges(tables: Iterable[Mapping[str, float]]) -> dict[str, float]:
    found = _by_name(tables, list)
    return {name: min(values) if name in LEAST else _sum(values) for name, values in found.items()}


# ------------------------------------------------------------------- what comes


def _read(answer: object) -> tuple[int, dict[str, Any]] | None:
    if not isinstance(answer, dict):
        return None
    pid, status = answer.get("pid"), answer.get("status")
    if type(pid) is not int or not 0 < pid < 2**32 or not isinstance(status, dict) or not _is_status(status):
        return None
    return pid, status


def _is_status(value: Mapping[str, Any]) -> bool:
    return (
        _is_count(value.get("seconds"))
        and _is_table(value.get("routes"), _is_route)
        and _is_table(value.get("counters"), _are_numbers)
        and _are_numbers(value.get("gauges"))
    )


def _is_route(value: Any) -> bool:
    if not isinstance(value, dict):
        return False
    counts = (value.get("count"), value.get("seconds"))
    return all(map(_is_count, counts)) and _is_table(value.get("codes"), _is_count)


def _are_numbers(value: Any) -> bool:
    return _is_table(value, _is_number)


def _is_table(value: Any, holds: Callable[[Any], bool]) -> bool:
    return isinstance(value, dict) and all(_is_text(key) and holds(one) for key, one in value.items())


def _is_text(value: Any) -> bool:
    # Half a surrogate pair could not be written down on the page.
    return isinstance(value, str) and not any("\ud800" <= letter <= "\udfff" for letter in value)


def _is_number(value: Any) -> bool:
    # Sums of such numbers are still numbers, and JSON can carry them.
    return type(value) in (int, float) and abs(value) < 1e18  # which NaN is not


def _is_count(value: Any) -> bool:
    return _is_number(value) and value >= 0
