"""A user serves a module that was there before, and another program asks it."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from webmesh import InvalidArgument, NotFound, RouteNotFound, WebMeshClient

FOLDER = Path(__file__).parents[2] / "examples" / "airports"

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("airportsdata") is None, reason="the example's data is not installed: airportsdata"
)


@pytest.fixture(scope="module")
def example() -> Iterator[Any]:
    """The example's modules, imported as `python -m webmesh.serve` imports them, its server listening."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(FOLDER))
        service = importlib.import_module("service")
        service.client = importlib.import_module("client")
        try:
            service.server.listen(port=0)
            service.server.await_started(20)
            yield service
        finally:
            service.server.close(10)
            service.airports._remove(service.airports._path().parent)
            for name in ("service", "client", "airports"):
                sys.modules.pop(name, None)


@pytest.fixture
def client(example: Any) -> Iterator[WebMeshClient]:
    with WebMeshClient(example.server.url) as client:
        yield client


def test_every_function_of_the_module_answers_as_it_does_at_home(example: Any, client: WebMeshClient) -> None:
    """A map is keyword arguments, a list positional ones, a value the only one."""
    airports = example.airports

    assert airports.find("ZRH") == client.call("/airports/find", "ZRH")
    assert airports.near(47.0, 8.0, limit=3) == client.call(
        "/airports/near", {"latitude": 47, "longitude": 8, "limit": 3}
    )
    assert airports.by_state("Zurich", "CH") == client.call("/airports/by_state", ["Zurich", "CH"])
    assert airports.countries() == client.call("/airports/countries")


def test_a_generator_is_a_stream(example: Any, client: WebMeshClient) -> None:
    """Its rows come one by one, in order."""
    assert list(example.airports.rows("CH")) == list(client.stream("/airports/rows", {"country": "CH"}))


def test_arguments_may_stand_in_the_path(example: Any, client: WebMeshClient) -> None:
    """Converted, and beside the functions of the same prefix."""
    assert example.airports.find("JFK") == client.call("/airports/jfk")
    assert example.airports.distance("ZRH", "JFK") == client.call("/distance/zrh/KJFK")
    with pytest.raises(NotFound, match="no airport has the code XXX"):
        client.call("/airports/xxx")


@pytest.mark.row(47)
@pytest.mark.parametrize("name", ["_query", "__all__", "sqlite3", "Path", "contextmanager", "MOST_ROWS", "FIND"])
def test_nothing_else_of_the_module_can_be_called(client: WebMeshClient, name: str) -> None:
    """Private names, imports and constants have no route (`FIND` is taken for an airport's code)."""
    with pytest.raises((RouteNotFound, NotFound)):
        client.call(f"/airports/{name}")


@pytest.mark.row(48)
def test_what_does_not_fit_a_signature_is_refused(client: WebMeshClient) -> None:
    """With the reason, before the function is entered."""
    with pytest.raises(InvalidArgument, match=r"near\(\) is missing argument 'longitude'"):
        client.call("/airports/near", {"latitude": 1.0})
    with pytest.raises(InvalidArgument, match="wants str for 'code', not int"):
        client.call("/airports/find", 7)


def test_the_examples_client_prints_what_the_readme_shows(example: Any, capsys: pytest.CaptureFixture[str]) -> None:
    """The page is held to the program; figures that change with the data are left out."""
    example.client.main(example.server.url)

    printed = capsys.readouterr().out
    shown = (FOLDER / "README.md").read_text(encoding="utf-8").split("prints:\n\n```\n")[1].split("\n```")[0]
    for part in ("Zurich to New York: 63", " km from Bern: Bern Belp Airport", "not_found: no airport has the code"):
        assert part in printed
        assert part in shown
