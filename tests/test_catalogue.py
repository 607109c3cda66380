"""Every row of the fault catalogue has a test, and docs/THREATS.md names it."""

from __future__ import annotations

import ast

import pytest

from tests import catalogue


@pytest.mark.parametrize("row", sorted(catalogue.ROWS))
def test_row_has_a_test(row: int) -> None:
    """A fault that the catalogue lists is one that a test commits."""
    covered = sorted(catalogue.marked_tests())
    assert row in covered, f"no test is marked pytest.mark.row({row})"


def test_page_lists_the_rows() -> None:
    """docs/THREATS.md has every row that this version must answer or already tests, and no other."""
    assert catalogue.ROWS | set(catalogue.marked_tests()) == set(catalogue.page_rows())


@pytest.mark.parametrize("row", sorted(catalogue.page_rows()))
def test_page_and_markers_agree(row: int) -> None:
    """The tests that the page names for a row are those that carry its number."""
    listed, marked = catalogue.page_rows()[row], catalogue.marked_tests().get(row, set())
    assert marked == listed, "write the page anew: python -m tests.catalogue"


def test_markers_name_rows_of_the_catalogue() -> None:
    """No test carries a number that no catalogue has."""
    assert set() == {row for row in catalogue.marked_tests() if not 1 <= row <= catalogue.LAST_ROW}


def test_markers_are_read_wherever_pytest_takes_them() -> None:
    """A row counts on a test, on its class, on one parameter and on the whole file."""
    source = """
pytestmark = pytest.mark.row(9)
@pytest.mark.row(1, 2)
def test_plain(): ...
@pytest.mark.row(3)
class TestGroup:
    @pytest.mark.parametrize("x", [pytest.param(1, marks=pytest.mark.row(4))])
    def test_inside(self, x): ...
def helper(): ...
"""
    tree = ast.parse(source)

    found = dict(catalogue.marked(tree, set(catalogue.module_rows(tree))))

    assert {"test_plain": {1, 2, 9}, "TestGroup::test_inside": {3, 4, 9}} == found


def test_a_marker_that_cannot_be_read_is_an_error() -> None:
    """Rows are written as numbers: a name or a range would be missed without a word."""
    tree = ast.parse("@pytest.mark.row(*ROWS)\ndef test_all(): ...")
    with pytest.raises(ValueError, match="plain numbers"):
        list(catalogue.marked(tree, set()))
