"""The fault catalogue: which test covers which row of docs/THREATS.md.

Tests carry the numbers, `@pytest.mark.row(17, 26)`; the page lists the tests. Both are read as text, so
nothing is imported. `python -m tests.catalogue` writes the page's last column anew from the markers.
"""

from __future__ import annotations

import ast
import re
from collections import defaultdict
from collections.abc import Iterator
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "docs" / "THREATS.md"

ROWS = {*range(1, 103)}
"""Rows that this version must answer."""

LAST_ROW = 102


@cache
def marked_tests() -> dict[int, set[str]]:
    """Row → names of the tests that are marked with it, as `tests/path.py::Class::test`."""
    found: dict[int, set[str]] = defaultdict(set)
    for path in sorted((ROOT / "tests").rglob("test_*.py")):
        tree = ast.parse(path.read_text(encoding="utf-8"), str(path))
        for name, rows in marked(tree, set(module_rows(tree))):
            for row in rows:
                found[row].add(f"{path.relative_to(ROOT)}::{name}")
    return dict(found)


def marked(scope: ast.Module | ast.ClassDef, inherited: set[int], prefix: str = "") -> Iterator[tuple[str, set[int]]]:
    """Tests of a module or class, each with its own rows and those of what encloses it."""
    for node in scope.body:
        if isinstance(node, ast.FunctionDef) and node.name.startswith("test_"):
            yield prefix + node.name, inherited | set(rows_in(node.decorator_list))
        elif isinstance(node, ast.ClassDef):
            yield from marked(node, inherited | set(rows_in(node.decorator_list)), f"{prefix}{node.name}::")


def module_rows(tree: ast.Module) -> Iterator[int]:
    """Rows that a whole file is marked with, by `pytestmark`."""
    for node in tree.body:
        if isinstance(node, ast.Assign) and "pytestmark" in {getattr(t, "id", "") for t in node.targets}:
            yield from rows_in([node.value])


def rows_in(expressions: list[ast.expr]) -> Iterator[int]:
    """Numbers in every `….mark.row(…)` within the expressions, `pytest.param(marks=…)` included."""
    for node in (node for expression in expressions for node in ast.walk(expression)):
        if not (isinstance(node, ast.Call) and ast.unparse(node.func).endswith("mark.row")):
            continue
        for argument in node.args:
            if not (isinstance(argument, ast.Constant) and type(argument.value) is int):
                raise ValueError(f"line {node.lineno}: mark.row takes plain numbers, not {ast.unparse(argument)}")
            yield argument.value


def page_rows() -> dict[int, set[str]]:
    """Row → names of the tests that the page lists for it."""
    text = PAGE.read_text(encoding="utf-8")
    return {int(cells[0]): set(re.findall(r"`([^`]+)`", cells[3])) for cells in map(split_row, table_rows(text))}


def table_rows(text: str) -> list[str]:
    """The lines of the page that are rows of the catalogue."""
    return re.findall(r"^\| \d+ \|.*\|$", text, re.MULTILINE)


def split_row(line: str) -> list[str]:
    """The four cells: number, fault, answer, tests."""
    cells = [cell.strip() for cell in line[1:-1].split("|")]
    if len(cells) != 4:
        raise ValueError(f"docs/THREATS.md: not four cells: {line}")
    return cells


def rewrite_page() -> None:
    """Put the names of the marked tests in the page's last column."""
    tests = marked_tests()

    def with_tests(match: re.Match[str]) -> str:
        number, fault, answer, _ = split_row(match[0])
        names = "<br>".join(f"`{name}`" for name in sorted(tests.get(int(number), ())))
        return f"| {number} | {fault} | {answer} | {names} |"

    text = PAGE.read_text(encoding="utf-8")
    PAGE.write_text(re.sub(r"^\| \d+ \|.*\|$", with_tests, text, flags=re.MULTILINE), encoding="utf-8")


if __name__ == "__main__":
    rewrite_page()
