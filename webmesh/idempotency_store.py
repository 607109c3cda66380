"""A store for idempotency keys in an SQLite file, which a killed process leaves as it was.

Decides where such stores are and how much they hold. `IdempotencyStore` says what is asked of them.
"""

from __future__ import annotations

import os
import sqlite3
from contextlib import suppress
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from webmesh.exceptions import ConfigurationError, Unavailable
from webmesh.idempotency import SUBJECT_SIZE, IdempotencyStore, Remembered
from webmesh.processes import incarnation, lives

MEMORY = "memory://"
SWEEP_EVERY = 256
"""Keys that begin between two looks for what is too old or too much: such a look reads all rows."""
UNKNOWN_SECONDS = 24 * 3600
"""Seconds for which a call counts as begun when nothing was recorded of its end: longer than calls last."""
BUSY_SECONDS = 5.0
"""Seconds that a write waits for another process which uses the same file."""

_SCHEMA = """
create table if not exists webmesh_idempotency (
    key blob primary key, fingerprint blob not null, outcome blob, at real not null, owner text
) without rowid;
create index if not exists webmesh_idempotency_at on webmesh_idempotency (at);
"""
# The wall clock, and SQLite's own: an age must survive the end of the process, as no monotonic clock's reading does. To
# the millisecond, or the bounds could not tell the newest of one second from its oldest.
_NOW = "((julianday('now') - 2440587.5) * 86400.0)"

# Of what is too much, what a subject has beyond half of the room goes first, or it would push out all others'.
_TOO_MUCH = f"""
with own as (
    select key, at, coalesce(length(outcome), 0) as size,
        row_number() over one as number, sum(coalesce(length(outcome), 0)) over one as held
    from webmesh_idempotency where outcome {{which}} window one as (
        partition by substr(key, 1, {SUBJECT_SIZE}) order by at desc, key rows unbounded preceding
    )
), counted as (
    select key, row_number() over newest as number, sum(size) over newest as held
    from own window newest as (order by number > ? or held > ?, at desc, key rows unbounded preceding)
)
delete from webmesh_idempotency where key in (select key from counted where number > ? or held > ?)
"""


def open_store(url: str, *, keys: int, size: int, seconds: float) -> IdempotencyStore | None:
    """The store at *url*: `memory://` (none: the window is all there is), `sqlite:///relative.db`,
    `sqlite:////absolute.db`; with `?synchronous=full` it also survives the loss of power, and `?synchronous=off` is for
    a file that need not outlive the machine, as one in a temporary directory.

    Raises:
        ConfigurationError: There is no such store, or it cannot be opened.
    """
    parts = urlsplit(url) if isinstance(url, str) else None
    if url == MEMORY:
        return None
    if parts is None or parts.scheme != "sqlite" or parts.netloc or len(parts.path) < 2:
        raise ConfigurationError(f"idempotency is 'memory://' or 'sqlite:///<path>', not {url!r}")
    options = parse_qs(parts.query, keep_blank_values=True)
    mode = options.pop("synchronous", ["normal"])[-1]
    if options or mode not in ("off", "normal", "full"):
        raise ConfigurationError(f"idempotency takes the option synchronous=off, normal or full, not {url!r}")
    path = unquote(parts.path[1:])
    try:
        return SQLiteStore(path, keys=keys, size=size, seconds=seconds, synchronous=mode)
    except (OSError, sqlite3.Error, Unavailable) as error:
        raise ConfigurationError(f"the idempotency store {path!r} cannot be opened: {error}") from error


class SQLiteStore:
    """Keys in one SQLite file in WAL mode; see `IdempotencyStore`. Processes of one machine may share it: each row
    names the process that runs it, so that what another one runs is told from what was cut off.

    Args:
        keys, size, seconds: How many, how many bytes of outcomes and how old.
        synchronous: `normal` survives the kill of the process, `full` also that of the machine, at a wait for the
            disk with each write. `off` survives the kill too, but the machine's may leave the file unusable.
    """

    def __init__(self, path: str, *, keys: int, size: int, seconds: float, synchronous: str = "normal") -> None:
        self._keys, self._size, self._seconds = keys, size, seconds
        self._unknown = max(UNKNOWN_SECONDS, seconds)
        self._begun = 0
        self._running: dict[bytes, bytes] = {}
        self._owner = incarnation()
        # Outcomes are the callers' data; SQLite gives its other files the same rights.
        os.close(os.open(path, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600))
        # Made here, used by one thread of a pool at a time.
        self._database = sqlite3.connect(path, BUSY_SECONDS, isolation_level=None, check_same_thread=False)
        done = False
        try:
            self._database.execute("pragma journal_mode = wal")
            self._database.execute(f"pragma synchronous = {synchronous}")
            self._database.executescript(_SCHEMA)
            self._add_owner()
            self._sweep()
            done = True
        finally:
            if not done:
                self._database.close()

    def begin(self, key: bytes, fingerprint: bytes) -> Remembered | None:
        """See `IdempotencyStore`."""
        self._begun += 1
        if self._begun % SWEEP_EVERY == 0:
            self._sweep()
        inserted = self._execute(
            f"insert into webmesh_idempotency (key, fingerprint, at, owner) values (?, ?, {_NOW}, ?) on conflict (key)"
            " do update set fingerprint = excluded.fingerprint, outcome = null, at = excluded.at,"
            " owner = excluded.owner"
            f" where at < {_NOW} - case when outcome is null then ? else ? end",
            (key, fingerprint, self._owner, self._unknown, self._seconds),
        )
        if inserted.rowcount:
            self._running[key] = fingerprint
            return None
        found = self._execute("select fingerprint, outcome, owner from webmesh_idempotency where key = ?", (key,))
        row = found.fetchone()
        if row is None:  # deleted by another process since: it may run there again, so that nobody knows
            return Remembered(fingerprint, None, running=True)
        known, outcome, owner = row
        running = outcome is None and owner not in (None, self._owner) and lives(owner)
        return Remembered(known, outcome, running)

    def end(self, key: bytes, outcome: bytes) -> None:
        """See `IdempotencyStore`."""
        self._execute(
            f"insert into webmesh_idempotency (key, fingerprint, outcome, at) values (?, ?, ?, {_NOW}) on conflict"
            " (key) do update set outcome = excluded.outcome, at = excluded.at",
            (key, self._running.get(key, b""), outcome),
        )
        self._running.pop(key, None)

    def forget(self, key: bytes) -> None:
        """See `IdempotencyStore`."""
        self._execute("delete from webmesh_idempotency where key = ?", (key,))
        self._running.pop(key, None)

    def close(self) -> None:
        """See `IdempotencyStore`."""
        with suppress(sqlite3.Error):  # what was recorded is there; tidying up may be left to the next process
            self._database.close()

    def _add_owner(self) -> None:
        """To a file from before there were owners; another process may do so at the same moment."""
        columns = [row[1] for row in self._database.execute("pragma table_info (webmesh_idempotency)")]
        if "owner" not in columns:
            try:
                self._database.execute("alter table webmesh_idempotency add column owner text")
            except sqlite3.OperationalError as error:
                if "duplicate column" not in str(error):
                    raise

    def _sweep(self) -> None:
        """Delete what is too old, and the oldest of what is too much. What has begun and not ended is bounded apart
        from the rest, which must not push it out: what still runs is the newest of it, and never more than `keys`."""
        for which, seconds in (("is null", self._unknown), ("is not null", self._seconds)):
            self._execute(
                f"delete from webmesh_idempotency where outcome {which} and at < {_NOW} - ?", (seconds,)
            )
            share = (self._keys // 2, self._size // 2)
            self._execute(_TOO_MUCH.format(which=which), (*share, self._keys, self._size))

    def _execute(self, statement: str, values: tuple[Any, ...]) -> sqlite3.Cursor:
        try:
            return self._database.execute(statement, values)
        except sqlite3.Error as error:
            raise Unavailable(f"the idempotency store fails: {error}") from error
