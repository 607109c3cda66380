"""Tables of an SQLite file, of this version and of others."""

from __future__ import annotations

import sqlite3
from contextlib import closing

import pytest

from webmesh.brokers.sqlite_tables import VERSION, prepare_tables


def tables(database: sqlite3.Connection) -> list[tuple[str, str]]:
    return database.execute("SELECT name, type FROM sqlite_master ORDER BY name").fetchall()


def test_tables_are_made_once_and_their_epoch_stays():
    """Numbers go on from one process to the next."""
    with closing(sqlite3.connect(":memory:", isolation_level=None)) as database:
        prepare_tables(database)
        before = tables(database), database.execute("SELECT * FROM about").fetchall()
        prepare_tables(database)
        assert before == (tables(database), database.execute("SELECT * FROM about").fetchall())
        assert VERSION == database.execute("PRAGMA user_version").fetchone()[0]


def test_tables_of_a_later_version_are_left_alone():
    """Nobody knows what they mean."""
    with closing(sqlite3.connect(":memory:", isolation_level=None)) as database:
        database.execute(f"PRAGMA user_version = {VERSION + 1}")
        with pytest.raises(sqlite3.DatabaseError, match=f"version {VERSION + 1}"):
            prepare_tables(database)
        assert [] == tables(database)
