"""Airports of the world in SQLite: where they are, which are near, how far apart.

An ordinary blocking module. The data comes from the package `airportsdata` (28,000 airports, MIT licence); the
database is built from it at the first query, in a temporary folder that is removed at exit. Functions may be
called from any number of threads.
"""

from __future__ import annotations

import atexit
import csv
import importlib.util
import math
import queue
import shutil
import sqlite3
import tempfile
import threading
import unicodedata
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

__all__ = ["by_state", "count", "countries", "distance", "find", "near", "rows", "search"]

EARTH_RADIUS_KM = 6371.0088  # mean radius, IUGG
MOST_ROWS = 1000  # of one answer; `rows` has all
MOST_WORDS = 8  # of one search
PAGE = 200  # rows that `rows` reads at once
IDLE_CONNECTIONS = 8  # kept open for the next query

SCHEMA = """
    CREATE TABLE airport (
        icao TEXT PRIMARY KEY, iata TEXT, name TEXT, city TEXT, state TEXT, country TEXT,
        latitude REAL, longitude REAL, elevation_ft REAL, timezone TEXT, words TEXT
    ) WITHOUT ROWID;
    CREATE UNIQUE INDEX airport_iata ON airport (iata) WHERE iata IS NOT NULL;
    CREATE INDEX airport_state ON airport (country, state);
    CREATE INDEX airport_place ON airport (latitude, longitude);
"""
COLUMNS = "icao, iata, name, city, state, country, latitude, longitude, elevation_ft, timezone"

Airport = dict[str, Any]

_lock = threading.Lock()
_database: Path | None = None
_idle: queue.LifoQueue[sqlite3.Connection] = queue.LifoQueue(IDLE_CONNECTIONS)


def find(code: str) -> Airport | None:
    """The airport with this IATA code (ZRH) or ICAO code (LSZH), in either case; None if there is none."""
    column = "iata" if len(code) == 3 else "icao"
    found = _query(f"SELECT {COLUMNS} FROM airport WHERE {column} = ?", code.upper())
    return found[0] if found else None


def near(latitude: float, longitude: float, radius_km: float = 100.0, limit: int = 10) -> list[Airport]:
    """Airports within a distance, the nearest first, each with its `distance_km`."""
    if not (-90 <= latitude <= 90 and -180 <= longitude <= 180 and radius_km >= 0):
        raise ValueError("latitude is -90 to 90, longitude -180 to 180, and the radius is not negative")
    south, north, width = _box(latitude, radius_km)
    # The box may reach over the 180th meridian, so the difference of longitudes is taken around the globe.
    candidates = _query(
        f"SELECT {COLUMNS} FROM airport WHERE latitude BETWEEN ? AND ?"
        " AND min(abs(longitude - ?), 360 - abs(longitude - ?)) <= ?",
        south, north, longitude, longitude, width,
    )  # fmt: skip
    for airport in candidates:
        airport["distance_km"] = _kilometres(latitude, longitude, airport["latitude"], airport["longitude"])
    within = [airport for airport in candidates if airport["distance_km"] <= radius_km]
    nearest = sorted(within, key=lambda airport: (airport["distance_km"], airport["icao"]))[: _bounded(limit)]
    return [{**airport, "distance_km": round(airport["distance_km"], 1)} for airport in nearest]


def by_state(state: str, country: str = "US", limit: int = MOST_ROWS) -> list[Airport]:
    """Airports of a state or region by its name (Texas), sorted by name."""
    return _query(
        f"SELECT {COLUMNS} FROM airport WHERE country = ? AND state = ? ORDER BY name, icao LIMIT ?",
        country.upper(), state, _bounded(limit),
    )  # fmt: skip


def search(text: str, limit: int = 10) -> list[Airport]:
    """Airports whose name, city or code has every word of the text in it; those with an IATA code first.

    Case and accents do not matter. Words after the eighth are left out.
    """
    words = _fold(text).split()[:MOST_WORDS]
    if not words:
        return []
    condition = " AND ".join(["instr(words, ?) > 0"] * len(words))
    return _query(
        f"SELECT {COLUMNS} FROM airport WHERE {condition} ORDER BY iata IS NULL, length(name), icao LIMIT ?",
        *words, _bounded(limit),
    )  # fmt: skip


def distance(start: str, end: str) -> float | None:
    """Kilometres between two airports along the surface; None if either code is unknown."""
    one, other = find(start), find(end)
    if one is None or other is None:
        return None
    return round(_kilometres(one["latitude"], one["longitude"], other["latitude"], other["longitude"]), 1)


def count(country: str | None = None) -> int:
    """How many airports there are, in all or in one country (CH)."""
    condition, values = ("WHERE country = ?", (country.upper(),)) if country else ("", ())
    return int(_query(f"SELECT count(*) AS number FROM airport {condition}", *values)[0]["number"])


def countries() -> dict[str, int]:
    """Country code → number of airports, the most first."""
    found = _query("SELECT country, count(*) AS number FROM airport GROUP BY country ORDER BY number DESC, country")
    return {row["country"]: row["number"] for row in found}


def rows(country: str | None = None) -> Iterator[Airport]:
    """Every airport, in all or in one country, one after another in the order of ICAO codes."""
    condition, values = ("country = ? AND", (country.upper(),)) if country else ("", ())
    last = ""
    while True:
        # A page at a time: no connection is held while the caller thinks.
        page = _query(
            f"SELECT {COLUMNS} FROM airport WHERE {condition} icao > ? ORDER BY icao LIMIT ?", *values, last, PAGE
        )
        yield from page
        if len(page) < PAGE:
            return
        last = page[-1]["icao"]


def _query(statement: str, *values: object) -> list[Airport]:
    with _connection() as connection:
        return [dict(row) for row in connection.execute(statement, values)]


@contextmanager
def _connection() -> Iterator[sqlite3.Connection]:
    """A connection that nobody else uses meanwhile."""
    try:
        connection = _idle.get_nowait()
    except queue.Empty:
        connection = sqlite3.connect(f"{_path().as_uri()}?mode=ro", uri=True, check_same_thread=False)
        connection.row_factory = sqlite3.Row
    try:
        yield connection
    finally:
        try:
            _idle.put_nowait(connection)
        except queue.Full:
            connection.close()


def _path() -> Path:
    """The database, built by whoever comes first."""
    global _database
    with _lock:
        if _database is None:
            path = Path(tempfile.mkdtemp(prefix="airports-"), "airports.sqlite3")
            atexit.register(_remove, path.parent)
            _build(path)
            _database = path
        return _database


def _remove(folder: Path) -> None:
    while not _idle.empty():
        _idle.get_nowait().close()
    shutil.rmtree(folder, ignore_errors=True)


def _build(path: Path) -> None:
    connection = sqlite3.connect(path)
    try:
        with connection, _source().open(encoding="utf-8", newline="") as file:
            connection.executescript(SCHEMA)
            places = ", ".join("?" * (COLUMNS.count(",") + 2))  # the words, too
            connection.executemany(f"INSERT INTO airport VALUES ({places})", map(_row, csv.DictReader(file)))
    finally:
        connection.close()


def _row(record: dict[str, str]) -> tuple[object, ...]:
    words = _fold(" ".join(record[key] for key in ("name", "city", "iata", "icao")))
    texts = (record["icao"], record["iata"] or None, *(record[key] for key in ("name", "city", "subd", "country")))
    return (*texts, float(record["lat"]), float(record["lon"]), float(record["elevation"]), record["tz"], words)


def _fold(text: str) -> str:
    """The text without case and accents."""
    letters = unicodedata.normalize("NFKD", text.casefold())
    return "".join(letter for letter in letters if not unicodedata.combining(letter))


def _source() -> Path:
    spec = importlib.util.find_spec("airportsdata")
    if spec is None or spec.origin is None:
        raise ModuleNotFoundError("the airports come in a package: pip install airportsdata", name="airportsdata")
    return Path(spec.origin).with_name("airports.csv")


def _box(latitude: float, radius_km: float) -> tuple[float, float, float]:
    """South and north of a circle around a place, and how far it reaches east and west, in degrees."""
    angle = radius_km / EARTH_RADIUS_KM
    south, north = latitude - math.degrees(angle), latitude + math.degrees(angle)
    if south <= -90 or north >= 90 or angle >= math.pi / 2:
        return south, north, 180.0  # a pole is inside: every longitude is
    return south, north, math.degrees(math.asin(min(1.0, math.sin(angle) / math.cos(math.radians(latitude)))))


def _kilometres(latitude: float, longitude: float, to_latitude: float, to_longitude: float) -> float:
    """Along a great circle, by the haversine formula."""
    one, other = math.radians(latitude), math.radians(to_latitude)
    half_turn = math.radians(to_longitude - longitude) / 2
    chord = math.sin((other - one) / 2) ** 2 + math.cos(one) * math.cos(other) * math.sin(half_turn) ** 2
    return 2 * EARTH_RADIUS_KM * math.asin(math.sqrt(min(1.0, chord)))


def _bounded(limit: int) -> int:
    return max(0, min(limit, MOST_ROWS))


_source()  # without the data nothing here works, so say so at import
