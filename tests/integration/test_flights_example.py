"""Three services of a mesh on real data: what they answer. That they survive each other: `test_stress`, "mesh"."""

from __future__ import annotations

import importlib.util
import re
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from tests.running import wait_for

MISSING = [name for name in ("airportsdata", "currency_converter") if importlib.util.find_spec(name) is None]
if MISSING:
    pytest.skip(f"the example's data is not installed: {MISSING[0]}", allow_module_level=True)

from examples.flights import catalogue, load, pricing, routes  # noqa: E402
from examples.flights.bookings import Bookings  # noqa: E402
from webmesh import InvalidArgument, NotFound, WebMesh, WebMeshClient  # noqa: E402

PAGE = Path(__file__).parents[2] / "examples" / "flights" / "README.md"


@pytest.fixture(scope="module")
def mesh(tmp_path_factory: pytest.TempPathFactory) -> Iterator[WebMesh]:
    """A program that has joined at the address of the second service, which knows the first, as the third does."""
    store = str(tmp_path_factory.mktemp("flights") / "bookings.db")
    table = pricing.Rates(0.2)
    with ExitStack() as stack:
        first = stack.enter_context(started(catalogue.node()))
        second = stack.enter_context(started(pricing.node(first.server.url, table=table)))
        for _ in range(2):
            bookings = Bookings(store)
            stack.callback(bookings.close)
            stack.enter_context(started(routes.node(first.server.url, store=bookings)))
        mesh = stack.enter_context(WebMesh(second.server.url))
        assert wait_for(lambda: len(mesh.lookup("routes")) == 2 and all(view.link for view in mesh.nodes()[1:]))
        over = threading.Event()
        publisher = threading.Thread(target=pricing.publish_fares, args=(second, over, table))
        publisher.start()
        stack.callback(publisher.join)
        stack.callback(over.set)
        yield mesh


def started(mesh: WebMesh) -> WebMesh:
    mesh.start(port=0)
    return mesh


def test_a_quote_is_made_of_what_two_other_services_say(mesh: WebMesh) -> None:
    """The shortest ways, direct or by a hub; the cheapest first."""
    offers = mesh.call("routes", "/quote/zrh/nrt", {"currency": "CHF"})
    assert {("LX", "ZRH-NRT"), ("NH", "ZRH-NRT"), ("LH", "ZRH-MUC-NRT")} == {
        (offer["airline"], "-".join(offer["stops"])) for offer in offers
    }
    assert [offer["price"] for offer in offers] == sorted(offer["price"] for offer in offers)
    assert 9590 < offers[0]["km"] < 9600
    (euros,) = {offer["price"] for offer in mesh.call("routes", "/quote/ZRH/NRT") if offer["airline"] == "LX"}
    assert pytest.approx(pricing.PER_LEG + pricing.PER_KILOMETRE * offers[0]["km"], abs=0.01) == euros


@pytest.mark.parametrize(("path", "payload", "error", "text"), [
    ("/quote/zrh/qqq", None, NotFound, "no airport has the code QQQ"),
    ("/quote/zrh/zrh", None, InvalidArgument, "ends elsewhere"),
    ("/quote/zrh/jfk", {"currency": "XXX"}, InvalidArgument, "no rate for XXX"),
])  # fmt: skip
def test_an_error_of_another_service_reaches_the_caller(
    mesh: WebMesh, path: str, payload: Any, error: type[Exception], text: str
) -> None:
    """As it was said there."""
    with pytest.raises(error, match=text):
        mesh.call("routes", path, payload)


def test_load_counts_nothing_wrong_where_nothing_is(mesh: WebMesh) -> None:
    """Quotes are answered, and each booking is made once, by either instance."""
    asked = load.Load(mesh, threads=2, pause=0.001)
    asked.start()
    assert wait_for(lambda: asked.calls >= 60)
    asked.stop()
    rows = asked.rows(certain=True)
    assert all(row.kept for row in rows), rows
    assert asked.confirmed.keys() == asked.booked().keys()


def test_load_tells_what_is_wrong(mesh: WebMesh) -> None:
    """A booking that was made twice, one that is not there, one that was refused and made, and a quote that failed."""
    asked = load.Load(mesh)
    booking = {"customer": asked.customer, "start": "ZRH", "end": "JFK", "currency": "USD"}
    for reference in ("1", "2", "2"):
        mesh.call("routes", "/book", booking | {"reference": reference})
    asked.confirmed, asked.refused, asked.failed = {"2": 7, "3": 8}, {"1": "Unavailable"}, ["RequestTimeout"]
    broken = [row.what for row in asked.rows() if not row.kept]
    assert ["failed idempotent calls of 1 quotes", "made twice of 3 bookings", "confirmed, but not made",
            "refused, and made all the same"] == broken  # fmt: skip
    assert "refused in all" in {row.what for row in asked.rows(certain=True) if not row.kept}


def test_fares_are_published_as_they_change(mesh: WebMesh) -> None:
    """Each day's once, whoever else publishes the same; quotes follow."""
    with WebMeshClient(mesh.lookup("pricing")[0].addresses[0]) as client:
        fares = client.subscribe("fares/JPY")
        turns = [fares.next(timeout=10).payload["turn"] for _ in range(3)]
    assert turns == sorted(set(turns))
    first = mesh.call("routes", "/quote/ZRH/NRT")[0]["rates_of"]
    assert wait_for(lambda: mesh.call("routes", "/quote/ZRH/NRT")[0]["rates_of"] != first)


def test_the_page_shows_rows_that_there_are(mesh: WebMesh) -> None:
    """What `chaos` prints begins with the rows of the load."""
    page = PAGE.read_text(encoding="utf-8")
    for row in load.Load(mesh).rows():
        assert re.sub(r"[\d,]+", "N", row.what) in re.sub(r"[\d,]+", "N", page)
