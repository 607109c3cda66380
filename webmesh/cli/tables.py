"""Rows as text: how figures are written, and tables of them, with and without rich."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from webmesh.cli.figures import Row
from webmesh.observability.logs import escaped

_FIGURES = ("calls/s", "errors/s", "in flight", "p50 ms", "p99 ms", "stalls")
NODE_COLUMNS = (
    "name", "id", "state", "address", "services", "version", "uptime", "connections", *_FIGURES
)  # fmt: skip
SERVICE_COLUMNS = ("service", "nodes", *_FIGURES)
ROUTE_COLUMNS = ("route", "nodes", *_FIGURES)

GIVES_WAY = ("version", "id", "services", "address", "uptime", "connections", "stalls", "nodes")
"""Columns that a narrow terminal does without, in this order: the figures are what is looked at."""

UNKNOWN = "-"
_TEXTS = frozenset({"name", "id", "state", "address", "services", "version", "service", "route"})
_STYLES = {"ok": "green", "stalled": "yellow", "draining": "cyan", "lost": "red"}


def cell(column: str, value: Any) -> str:
    """A figure for people. Texts are other nodes' own: nothing in them drives the terminal."""
    if value is None or value == "":
        return UNKNOWN
    if isinstance(value, str):
        return escaped(value)
    if column == "uptime":
        return age(value)
    if column in ("calls/s", "errors/s"):
        return f"{value:,.1f}" if value < 100 else f"{value:,.0f}"
    if column.endswith(" ms"):
        return f"{value:.3g}" if value < 1000 else f"{value:,.0f}"
    return f"{value:,.0f}"


def age(seconds: float) -> str:
    """A span of time in its two largest units."""
    whole = int(seconds)
    days, hours, minutes = whole // 86400, whole // 3600 % 24, whole // 60 % 60
    if days:
        return f"{days}d {hours}h"
    if hours:
        return f"{hours}h {minutes}m"
    return f"{minutes}m {whole % 60}s" if minutes else f"{whole}s"


def plain_table(columns: Sequence[str], rows: Sequence[Row]) -> str:
    """The rows below each other: for pipes, and where rich is not installed."""
    cells = [list(columns), *([cell(column, row.get(column)) for column in columns] for row in rows)]
    widths = [max(map(len, column)) for column in zip(*cells)]
    return "\n".join(_line(columns, line, widths) for line in cells)


def _line(columns: Sequence[str], line: Sequence[str], widths: Sequence[int]) -> str:
    aligned: list[Callable[[int], str]] = [
        text.ljust if column in _TEXTS else text.rjust for column, text in zip(columns, line)
    ]
    return "  ".join(align(width) for align, width in zip(aligned, widths)).rstrip()


def fitting(columns: Sequence[str], rows: Sequence[Row], width: int, *, keep: str | None = None) -> list[str]:
    """Those of the columns for which *width* characters are enough; *keep* is not left out."""
    widths = {
        column: 4 + max([len(column), *(len(cell(column, row.get(column))) for row in rows)]) for column in columns
    }
    for column in GIVES_WAY:
        if sum(widths.values()) <= width:
            break
        if column != keep:
            widths.pop(column, None)
    return list(widths)


def rich_table(
    columns: Sequence[str], rows: Sequence[Row], title: str, width: int, *, sort: str | None = None
) -> Any:
    """The rows as rich draws them, as many columns as fit into *width* characters.

    Raises:
        ImportError: rich is not installed.
    """
    from rich.box import SIMPLE_HEAD
    from rich.table import Table
    from rich.text import Text

    columns = fitting(columns, rows, width, keep=sort)
    table = Table(title=Text(escaped(title)), title_justify="left", box=SIMPLE_HEAD)
    for column in columns:
        shown = f"{column} *" if column == sort else column
        if column in _TEXTS:
            table.add_column(shown, overflow="ellipsis", no_wrap=True)
        else:
            table.add_column(shown, justify="right", no_wrap=True)
    for row in rows:
        style = _STYLES.get(str(row.get("state")), "")
        texts = [Text(cell(column, row.get(column)), style=style if column == "state" else "") for column in columns]
        table.add_row(*texts)
    return table
