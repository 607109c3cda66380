"""How figures are written."""

from __future__ import annotations

import io

import pytest

from webmesh.cli.tables import NODE_COLUMNS, age, cell, fitting, plain_table, rich_table


@pytest.mark.parametrize(("column", "value", "text"), [
    ("calls/s", 0.25, "0.2"), ("calls/s", 1234.5, "1,234"), ("p50 ms", 0.01234, "0.0123"),
    ("p99 ms", 12345.0, "12,345"),
    ("in flight", 3.0, "3"), ("uptime", 90061.0, "1d 1h"), ("name", "", "-"), ("p50 ms", None, "-"),
    ("name", "a\x1b[31mb", "a\\x1b[31mb"),
])  # fmt: skip
def test_figures_are_for_people(column, value, text):
    """And a name drives no terminal."""
    assert text == cell(column, value)


def test_an_age_has_two_units():
    """The largest."""
    assert ["5s", "1m 1s", "2h 3m", "3d 0h"] == [age(5.9), age(61), age(2 * 3600 + 180), age(3 * 86400)]


def test_a_plain_table_is_aligned():
    """Texts to the left, figures to the right."""
    rows = [{"name": "shop", "calls/s": 7.0}, {"name": "b", "calls/s": 1000.0}]
    assert ["name  calls/s", "shop      7.0", "b       1,000"] == plain_table(("name", "calls/s"), rows).splitlines()


def test_rich_draws_the_same():
    """Text that looks like its markup stays text."""
    console = pytest.importorskip("rich.console").Console(file=io.StringIO(), width=200)
    row = {"name": "[red]shop", "calls/s": 7.0, "state": "lost"}
    console.print(rich_table(NODE_COLUMNS, [row], "t", 200, sort="calls/s"))
    drawn = console.file.getvalue()
    assert "[red]shop" in drawn and "7.0" in drawn and "calls/s *" in drawn


def test_a_narrow_terminal_gets_fewer_columns():
    """Figures stay, and the one that is sorted by."""
    row = {"name": "shop", "id": "0123456789abcdef", "address": "ws://10.0.0.1:4269", "calls/s": 7.0, "uptime": 5.0}
    assert list(NODE_COLUMNS) == fitting(NODE_COLUMNS, [row], 300)
    narrow = fitting(NODE_COLUMNS, [row], 80, keep="uptime")
    assert ["name", "state", "uptime", "calls/s", "errors/s", "in flight", "p50 ms", "p99 ms"] == narrow
