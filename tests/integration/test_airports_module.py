"""The example's module on its own: an ordinary blocking module over SQLite, right about the world."""

from __future__ import annotations

import importlib.util
import math
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

SOURCE = Path(__file__).parents[2] / "examples" / "airports" / "airports.py"

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("airportsdata") is None, reason="the example's data is not installed: airportsdata"
)


def load(name: str = "airports_of_the_example") -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, SOURCE)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def airports() -> Iterator[ModuleType]:
    """One copy of the module for all tests, its database removed afterwards."""
    module = load()
    yield module
    if module._database is not None:
        module._remove(module._database.parent)


def codes(found: list[dict[str, object]]) -> list[object]:
    return [airport["icao"] for airport in found]


def test_the_module_knows_nothing_of_the_library() -> None:
    """It is what the example is about: code that was there before."""
    assert "webmesh" not in SOURCE.read_text(encoding="utf-8").lower()
    assert "gevent" not in SOURCE.read_text(encoding="utf-8").lower()


def test_an_airport_is_found_by_either_code(airports: ModuleType) -> None:
    """IATA or ICAO, upper or lower case; None for an unknown one."""
    zurich = airports.find("ZRH")

    assert "Zurich Airport" == zurich["name"]
    assert ("LSZH", "CH", "Europe/Zurich") == (zurich["icao"], zurich["country"], zurich["timezone"])
    assert zurich == airports.find("zrh") == airports.find("LSZH") == airports.find("lszh")
    assert airports.find("???") is None
    assert airports.find("") is None
    assert airports.find("'; DROP TABLE airport; --") is None


def test_the_whole_data_set_is_there(airports: ModuleType) -> None:
    """The counts agree with each other, whichever way they are asked for."""
    countries = airports.countries()

    assert airports.count() > 20_000
    assert airports.count() == sum(countries.values()) == sum(1 for _ in airports.rows())
    assert airports.count("ch") == countries["CH"] == len(list(airports.rows("CH")))
    assert 0 == airports.count("no such country")
    assert sorted(countries.values(), reverse=True) == list(countries.values())


def test_rows_are_complete_ordered_and_lazy(airports: ModuleType) -> None:
    """A generator: page after page, each row once, no connection held in between."""
    rows = airports.rows()
    first = next(rows)
    while_waiting = airports.count()
    listed = [first["icao"], *codes(list(rows))]

    assert sorted(set(listed)) == listed
    assert while_waiting == len(listed)
    assert codes(list(airports.rows("IS"))) == [
        airport["icao"] for airport in airports.rows() if airport["country"] == "IS"
    ]


def test_near_is_sorted_by_distance_and_stays_in_the_circle(airports: ModuleType) -> None:
    """The nearest first, with the distance, up to the limit."""
    found = airports.near(47.4647, 8.54917, radius_km=40)
    distances = [airport["distance_km"] for airport in found]

    assert "LSZH" == found[0]["icao"] and 0.0 == distances[0]
    assert sorted(distances) == distances and distances[-1] <= 40
    assert found[:2] == airports.near(47.4647, 8.54917, 40, 2)
    assert [] == airports.near(47.4647, 8.54917, 40, 0) == airports.near(47.4647, 8.54917, 40, -1)
    assert [] == airports.near(0.0, -150.0, 5)


@pytest.mark.parametrize(
    ("latitude", "longitude", "radius_km"),
    [(-17.0, 179.9, 600.0), (89.9, 0.0, 1500.0), (-89.0, 10.0, 3000.0), (60.0, -179.5, 1500.0), (10.0, 10.0, 15_000.0)],
)
def test_near_works_around_the_poles_and_the_date_line(
    airports: ModuleType, latitude: float, longitude: float, radius_km: float
) -> None:
    """The same as measuring every airport of the world."""
    everywhere = sorted(
        (airports._kilometres(latitude, longitude, airport["latitude"], airport["longitude"]), airport["icao"])
        for airport in airports.rows()
    )
    within = [icao for distance, icao in everywhere if distance <= radius_km]

    assert within[: airports.MOST_ROWS] == codes(airports.near(latitude, longitude, radius_km, limit=10**9))
    assert within


@pytest.mark.parametrize(
    "arguments", [(91, 0), (-91, 0), (0, 181), (0, -181), (0, 0, -1), (math.nan, 0), (0, math.nan)]
)
def test_places_that_are_not_on_earth_are_refused(airports: ModuleType, arguments: tuple[float, ...]) -> None:
    """With an ordinary error, as ordinary code has it."""
    with pytest.raises(ValueError, match="latitude is -90 to 90"):
        airports.near(*arguments)


def test_distances_are_those_of_the_great_circle(airports: ModuleType) -> None:
    """Zurich to New York is about 6,310 km; the way back is as long; nothing is zero away from itself only."""
    there, back = airports.distance("ZRH", "JFK"), airports.distance("JFK", "ZRH")

    assert 6310 == pytest.approx(there, abs=5)
    assert there == back
    assert 0.0 == airports.distance("ZRH", "LSZH")
    assert airports.distance("ZRH", "???") is None
    assert 20_015 == pytest.approx(airports._kilometres(0, 0, 0, 180), abs=1)


def test_a_state_lists_its_airports_by_name(airports: ModuleType) -> None:
    """Of a country, by default the United States; bounded."""
    found = airports.by_state("Hawaii")
    names = [airport["name"] for airport in found]

    assert {"US"} == {airport["country"] for airport in found}
    assert "PHNL" in codes(found)
    assert sorted(names) == names
    assert 3 == len(airports.by_state("Hawaii", limit=3))
    assert airports.MOST_ROWS == len(airports.by_state("Texas", limit=10**9))
    assert "LSZH" in codes(airports.by_state("Zurich", country="ch"))
    assert [] == airports.by_state("Atlantis")


def test_search_wants_every_word_and_minds_no_case_or_accent(airports: ModuleType) -> None:
    """In name, city or code; what has an IATA code comes first."""
    assert "KJFK" in codes(airports.search("kennedy NEW york"))
    assert codes(airports.search("malaga")) == codes(airports.search("Málaga")) != []
    assert "LSZH" in codes(airports.search("zrh"))
    assert [] == airports.search("") == airports.search("   ") == airports.search("no airport has these words")
    assert 5 == len(airports.search("a", limit=5))
    assert all(airport["iata"] for airport in airports.search("international", limit=50))


@pytest.mark.parametrize("text", ["%", "_", "'", '"', "\x00", "🚀", "a " * 50_000, "x" * 100_000])
def test_search_takes_any_text(airports: ModuleType, text: str) -> None:
    """As text, not as a pattern or as SQL, and not without bound."""
    found = airports.search(text)

    assert all(airports._fold(text).split()[0] in airports._fold(str(airport)) for airport in found)


def test_the_database_is_read_only(airports: ModuleType) -> None:
    """Whoever gets at a connection cannot change the data."""
    with airports._connection() as connection, pytest.raises(sqlite3.OperationalError, match="readonly"):
        connection.execute("DELETE FROM airport")


def test_connections_are_shared_but_never_used_twice_at_once(airports: ModuleType) -> None:
    """Nested use gets another one; a few stay open for the next query, the rest are closed."""
    used = []

    def nest(depth: int) -> None:
        with airports._connection() as connection:
            used.append(connection)
            if depth:
                nest(depth - 1)

    nest(airports.IDLE_CONNECTIONS + 3)

    assert len(used) == len(set(map(id, used)))
    assert airports.IDLE_CONNECTIONS == airports._idle.qsize()
    with airports._connection() as connection:
        assert connection in used


def test_many_threads_build_the_database_once_and_get_equal_answers() -> None:
    """The first queries of all threads come at once; greenlets in a patched process."""
    airports = load("airports_for_threads")
    built = []
    build = airports._build
    airports._build = lambda path: (built.append(path), build(path))
    start = threading.Barrier(8)
    answers: list[object] = []

    def ask() -> None:
        start.wait(20)
        for _ in range(5):
            answers.append((airports.find("JFK"), airports.count("CH"), codes(list(airports.rows("IS")))))

    threads = [threading.Thread(target=ask) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(40)
    airports._remove(built[0].parent)

    assert 1 == len(built)
    assert 40 == len(answers)
    assert all(answer == answers[0] for answer in answers)


def test_the_database_is_gone_when_the_program_ends() -> None:
    """Nothing is left in the temporary folder, and no warning about connections left open."""
    program = "import airports; airports.count(); print(airports._database)"
    command = [sys.executable, "-X", "dev", "-W", "error", "-c", program]
    done = subprocess.run(command, cwd=SOURCE.parent, capture_output=True, text=True, timeout=50, check=True)

    assert done.stdout.strip().endswith("airports.sqlite3")
    assert not Path(done.stdout.strip()).parent.exists()
    assert "" == done.stderr


def test_without_its_data_the_module_says_what_to_install() -> None:
    """At import, with the name of what is missing."""
    program = (
        "import importlib.util as u; find = u.find_spec\n"
        "u.find_spec = lambda name: None if name == 'airportsdata' else find(name)\n"
        "import airports"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=SOURCE.parent, capture_output=True, text=True, timeout=50, check=False
    )

    assert 1 == done.returncode
    assert done.stderr.strip().endswith("pip install airportsdata")
