"""The status page for people: one file without scripts, and nothing in it that is not escaped."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from html import escape
from pathlib import Path
from string import Template
from typing import Any

POLICY = "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
"""Content security policy: the page loads nothing, runs nothing, sends nothing, and stands in no other page."""

TEMPLATE = Path(__file__).parent / "static" / "status.html"


def status_page(title: str, snapshot: Mapping[str, Any]) -> bytes:
    """The page that shows what `Metrics.snapshot` tells."""
    routes = [
        (route, numbers["count"], _errors(numbers["codes"]), _milliseconds(numbers))
        for route, numbers in sorted(snapshot["routes"].items())
    ]
    counters = [
        (f"{name} {labels}".strip().replace("_", " "), _number(count))
        for name, table in snapshot["counters"].items()
        for labels, count in sorted(table.items())
    ]
    gauges = [(name.replace("_", " "), _number(value)) for name, value in sorted(snapshot["gauges"].items())]
    workers = [_worker(label, line) for label, line in sorted(snapshot.get("workers", {}).items(), key=_by_number)]
    tables = "\n".join((
        *([_table("Workers", ("worker", "pid", "runs for", "connections", "calls"), workers)] if workers else []),
        _table("Now", ("", ""), gauges),
        _table("Routes", ("route", "calls", "not ok", "mean ms"), routes),
        _table("Since the start", ("", ""), counters),
    ))  # fmt: skip
    page = Template(TEMPLATE.read_text(encoding="utf-8"))
    return page.substitute(title=escape(title), age=escape(_age(snapshot["seconds"])), tables=tables).encode()


def _table(caption: str, head: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    lines = [f"<table><caption>{escape(caption)}</caption>"]
    if any(head):
        lines.append(f"<tr>{''.join(f'<th>{escape(name)}</th>' for name in head)}</tr>")
    lines += [f"<tr>{''.join(f'<td>{escape(str(cell))}</td>' for cell in row)}</tr>" for row in rows]
    return "\n".join([*lines, "</table>"])


def _worker(label: str, line: Mapping[str, Any]) -> Sequence[object]:
    if not line["up"]:
        return (label, "no answer", "", "", "")
    return (label, line["pid"], _age(line["seconds"]), _number(line["connections"]), _number(line["calls"]))


def _by_number(item: tuple[str, Any]) -> tuple[int, str]:
    return len(item[0]), item[0]  # "10" comes after "9"


def _errors(codes: Mapping[str, int]) -> int:
    return sum(count for code, count in codes.items() if code != "ok")


def _milliseconds(numbers: Mapping[str, Any]) -> str:
    return f"{1000 * numbers['seconds'] / max(1, numbers['count']):.2f}"


def _number(value: float) -> str:
    return f"{value:,.3f}".rstrip("0").rstrip(".")


def _age(seconds: float) -> str:
    minutes, hours = int(seconds // 60), int(seconds // 3600)
    if hours >= 48:
        return f"{hours // 24} days"
    return f"{hours} hours" if hours >= 2 else f"{minutes} minutes" if minutes >= 2 else f"{seconds:.0f} seconds"
