"""The tables of the engine in an SQLite file, and how those of earlier versions become such.

What stands in them is `sqlite`'s business.
"""

from __future__ import annotations

import os
import sqlite3
from contextlib import closing

VERSION = 2
"""Of the tables below; stands in the file as its `user_version`."""

FROM_1 = """
ALTER TABLE groups ADD COLUMN ttl REAL;
ALTER TABLE groups ADD COLUMN left REAL;
ALTER TABLE groups ADD COLUMN lost INTEGER NOT NULL DEFAULT 0;
ALTER TABLE work ADD COLUMN ack INTEGER NOT NULL DEFAULT 1
"""
"""What makes tables of version 1 such of version 2."""

SCHEMA = """
CREATE TABLE topics (topic TEXT PRIMARY KEY, last INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE log (
    topic TEXT, number INTEGER, at REAL, until REAL, message BLOB, PRIMARY KEY (topic, number)
) WITHOUT ROWID;
CREATE INDEX log_until ON log (until);
CREATE TABLE retained (topic TEXT PRIMARY KEY, message BLOB NOT NULL) WITHOUT ROWID;
CREATE TABLE seen (topic TEXT, id TEXT, at REAL, number INTEGER, PRIMARY KEY (topic, id)) WITHOUT ROWID;
CREATE INDEX seen_at ON seen (at);
CREATE TABLE groups (
    pattern TEXT, name TEXT, ttl REAL, left REAL, lost INTEGER NOT NULL DEFAULT 0, PRIMARY KEY (pattern, name)
) WITHOUT ROWID;
CREATE TABLE work (
    pattern TEXT, name TEXT, token INTEGER, topic TEXT, number INTEGER, message BLOB, ack INTEGER NOT NULL DEFAULT 1,
    PRIMARY KEY (pattern, name, token)
) WITHOUT ROWID;
CREATE TABLE records (kind TEXT, key TEXT, until REAL, value BLOB, PRIMARY KEY (kind, key)) WITHOUT ROWID;
CREATE TABLE about (name TEXT PRIMARY KEY, value TEXT) WITHOUT ROWID;
"""


def prepare_tables(database: sqlite3.Connection) -> None:
    """Make them, or of those of an earlier version such of this one, in one step.

    Raises:
        sqlite3.DatabaseError: They are of a version that this program does not know.
    """
    with closing(database.execute("PRAGMA user_version")) as found:
        version = found.fetchone()[0]
    if version not in (0, 1, VERSION):
        raise sqlite3.DatabaseError(f"its tables are of version {version}, this program knows {VERSION}")
    database.execute("BEGIN EXCLUSIVE")
    if version == 0:
        for statement in SCHEMA.split(";"):
            database.execute(statement)
        database.execute("INSERT INTO about VALUES ('epoch', ?), ('floor', 0)", (os.urandom(6).hex(),))
    elif version == 1:
        for statement in FROM_1.split(";"):
            database.execute(statement)
    database.execute(f"PRAGMA user_version = {VERSION}")
    database.execute("COMMIT")
