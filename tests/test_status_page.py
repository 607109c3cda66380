"""The status page: whole, escaped, and without anything that loads or runs."""

from __future__ import annotations

from html.parser import HTMLParser

import pytest

from webmesh.observability.metrics import Metrics
from webmesh.status_page import POLICY, status_page


class Page(HTMLParser):
    """The elements of a page, those that are still open, and its text."""

    def __init__(self, page: bytes) -> None:
        super().__init__()
        self.names: list[str] = []
        self.attributes: list[str] = []
        self.open: list[str] = []
        self.cells: list[str] = []
        self.feed(page.decode())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.names.append(tag)
        self.attributes += [name for name, _ in attrs]
        if tag != "meta":
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert tag == self.open.pop()

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] == "td":
            self.cells.append(data)


def counted() -> Metrics:
    metrics = Metrics()
    metrics.request_finished("/a/<int:id>", "ok", 0.25)
    metrics.request_finished("/a/<int:id>", "internal", 0.25)
    metrics.refused("message", "late reply")
    return metrics


def test_it_shows_routes_counters_and_gauges() -> None:
    """With what went wrong and how long it took."""
    page = Page(status_page("shop", counted().snapshot()))
    assert [] == page.open
    position = page.cells.index("/a/<int:id>")
    assert ["/a/<int:id>", "2", "1", "250.00"] == page.cells[position : position + 4]
    assert "refused message late reply" in page.cells and "connections open" in page.cells


def test_it_shows_the_workers() -> None:
    """Where there are several; by their numbers."""
    busy = {"up": True, "pid": 77, "seconds": 300.0, "connections": 3, "calls": 12345}
    page = Page(status_page("shop", counted().snapshot() | {"workers": {"10": busy, "9": {"up": False}}}))
    position = page.cells.index("9")
    assert ["9", "no answer", "10", "77", "5 minutes", "3", "12,345"] == page.cells[position : position + 7]
    assert "Workers" not in status_page("shop", counted().snapshot()).decode()


def test_it_loads_and_runs_nothing() -> None:
    """No script, no address of anything, and a policy that says so."""
    page = Page(status_page("shop", counted().snapshot()))
    assert not {"script", "img", "link", "iframe", "object", "form", "a"} & set(page.names)
    assert not {name for name in page.attributes if name.startswith("on") or name in ("src", "href", "style")}
    assert POLICY.startswith("default-src 'none'")


@pytest.mark.row(46)
def test_names_are_escaped() -> None:
    """Whatever stands in a title, a route or a reason."""
    evil = "<script>alert('1')</script>$tables"
    metrics = Metrics()
    metrics.request_finished(evil, "ok", 0.0)
    metrics.refused(evil, evil)
    text = status_page(evil, metrics.snapshot()).decode()
    assert "<script" not in text
    assert evil in Page(text.encode()).cells
