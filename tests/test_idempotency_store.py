"""The store of keyed calls in an SQLite file."""

from __future__ import annotations

import os
import sqlite3
import stat
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from tests.processes import run_program
from tests.running import Census
from webmesh.exceptions import ConfigurationError, Unavailable
from webmesh.idempotency import Key, Remembered
from webmesh.idempotency_store import SWEEP_EVERY, SQLiteStore, open_store

pytestmark = pytest.mark.row(57, 74)
BOUNDS: dict[str, Any] = {"keys": 10, "size": 10_000, "seconds": 300}


@pytest.fixture
def path(tmp_path: Path) -> str:
    return str(tmp_path / "keys.db")


def test_what_was_recorded_is_there_in_the_next_process(path: str) -> None:
    """What began, and what ended, and nothing of what was forgotten."""
    store = SQLiteStore(path, **BOUNDS)
    assert [None] * 3 == [store.begin(key, b"print") for key in (b"a", b"b", b"c")]
    store.end(b"b", b"outcome")
    store.forget(b"c")
    store.close()

    store = SQLiteStore(path, **BOUNDS)
    known = [store.begin(key, b"other") for key in (b"a", b"b", b"c")]
    store.close()

    assert [Remembered(b"print", None), Remembered(b"print", b"outcome"), None] == known


@pytest.mark.row(70)
def test_a_kill_at_any_moment_leaves_it_whole(path: str) -> None:
    """The process that wrote is killed without a chance to tidy up."""
    lines = run_program(
        "import os, signal\n"
        "from webmesh.idempotency_store import SQLiteStore\n"
        f"store = SQLiteStore({path!r}, keys=10, size=10000, seconds=300)\n"
        "store.begin(b'a', b'print'); store.begin(b'b', b'print'); store.end(b'b', b'outcome')\n"
        "if os.fork() == 0: os.kill(os.getpid(), signal.SIGKILL)\n"
        "os.wait()\n"
        "os._exit(0)\n"
    )
    store = SQLiteStore(path, **BOUNDS)
    assert ("", b"outcome") == (lines, (store.begin(b"b", b"") or Remembered(b"", None)).outcome)
    assert Remembered(b"print", None) == store.begin(b"a", b"")
    store.close()


def test_what_is_too_old_may_run_again(path: str) -> None:
    """Its age counts from its end."""
    store = SQLiteStore(path, keys=10, size=10_000, seconds=300)
    store.begin(b"a", b"print")
    store.end(b"a", b"outcome")
    with sqlite3.connect(path) as database:
        database.execute("update webmesh_idempotency set at = at - 299")
    assert store.begin(b"a", b"new") is not None
    with sqlite3.connect(path) as database:
        database.execute("update webmesh_idempotency set at = at - 3")
    assert store.begin(b"a", b"new") is None
    assert Remembered(b"new", None) == store.begin(b"a", b"")
    store.close()


def test_what_still_runs_is_not_pushed_out(path: str) -> None:
    """Neither by many others nor by its age, nor is what was cut off."""
    store = SQLiteStore(path, **BOUNDS)
    assert [None, None] == [store.begin(b"long", b"print"), store.begin(b"cut off", b"print")]
    with sqlite3.connect(path) as database:
        database.execute("update webmesh_idempotency set at = at - 301")
    for number in range(2 * SWEEP_EVERY):
        store.begin(b"%d" % number, b"")
        store.end(b"%d" % number, b"x" * 900)
    store.end(b"long", b"paid")
    known = [store.begin(b"long", b"print"), store.begin(b"cut off", b"print")]
    store.close()
    assert [Remembered(b"print", b"paid"), Remembered(b"print", None)] == known


def test_the_newest_of_one_second_stay(path: str) -> None:
    """Which of them ended last is known more exactly than that."""
    bounds = {**BOUNDS, "keys": 200, "size": 10**6}
    store = SQLiteStore(path, **bounds)
    for number in range(2 * SWEEP_EVERY):
        store.begin(b"%d" % number, b"")
        store.end(b"%d" % number, b"x")
    store.begin(b"z", b"print")
    store.end(b"z", b"paid")
    store.close()

    store = SQLiteStore(path, **bounds)
    known = store.begin(b"z", b"print")
    store.close()
    assert Remembered(b"print", b"paid") == known


def test_an_end_is_recorded_whatever_has_become_of_the_beginning(path: str) -> None:
    """Whoever has deleted it: what was done must not be done again."""
    store = SQLiteStore(path, **BOUNDS)
    store.begin(b"a", b"print")
    with sqlite3.connect(path) as database:
        database.execute("delete from webmesh_idempotency")
    store.end(b"a", b"paid")
    assert Remembered(b"print", b"paid") == store.begin(b"a", b"print")
    store.close()


@pytest.mark.row(86)
def test_what_never_ended_is_bounded_too(path: str) -> None:
    """As many processes as there are may be killed in the middle of their calls."""
    for _ in range(3):
        store = SQLiteStore(path, **BOUNDS)
        for number in range(9):
            store.begin(os.urandom(8), b"%d" % number)
        store.close()
    SQLiteStore(path, **BOUNDS).close()
    with sqlite3.connect(path) as database:
        assert (10,) == database.execute("select count(*) from webmesh_idempotency").fetchone()


@pytest.mark.row(86)
@pytest.mark.parametrize("size", [0, 900])
def test_it_is_bounded_by_number_and_bytes(path: str, size: int) -> None:
    """Looked after now and then, and when it is opened."""
    store = SQLiteStore(path, **BOUNDS)
    for number in range(SWEEP_EVERY):
        key = b"%d" % number
        store.begin(key, b"")
        store.end(key, b"x" * size)
    store.close()
    SQLiteStore(path, **{**BOUNDS, "size": 4000}).close()
    with sqlite3.connect(path) as database:
        rows, held = database.execute("select count(*), sum(length(outcome)) from webmesh_idempotency").fetchone()
    assert (10, 0) == (rows, held) if not size else (4, 3600) == (rows, held)


@pytest.mark.parametrize("outcome", [b"", b"x" * 900, None], ids=["number", "bytes", "begun"])
def test_one_subject_does_not_push_out_what_others_have(path: str, outcome: bytes | None) -> None:
    """Who has more than half loses first, as in memory."""
    store = SQLiteStore(path, **BOUNDS)
    keys = [Key(subject, "/pay", str(number)).digest for subject in ("bob", "eve") for number in range(2 * SWEEP_EVERY)]
    bob, eve = keys[:3], keys[2 * SWEEP_EVERY :]
    for key in bob + eve:
        assert store.begin(key, b"") is None
        if outcome is not None:
            store.end(key, outcome)
    store.close()

    SQLiteStore(path, **BOUNDS).close()
    with sqlite3.connect(path) as database:
        left = {key for (key,) in database.execute("select key from webmesh_idempotency")}
    assert (set(bob), 7) == (left & set(bob), len(left & set(eve)))


def test_nobody_else_may_read_what_callers_were_answered(path: str) -> None:
    """Neither in the file nor in those that SQLite puts beside it."""
    store = SQLiteStore(path, **BOUNDS)
    store.begin(b"a", b"")
    modes = {stat.S_IMODE(os.stat(f"{path}{end}").st_mode) for end in ("", "-wal", "-shm")}
    store.close()
    assert {0o600} == modes


def test_a_file_that_fails_is_unavailable(path: str) -> None:
    """Not an error of another package's."""
    store = SQLiteStore(path, **BOUNDS)
    store.begin(b"a", b"")
    with sqlite3.connect(path) as database:
        database.execute("drop table webmesh_idempotency")
    for step in (lambda: store.begin(b"b", b""), lambda: store.end(b"a", b""), lambda: store.forget(b"a")):
        with pytest.raises(Unavailable):
            step()
    store.close()


def test_it_may_be_made_in_one_thread_and_used_in_another(path: str) -> None:
    """As a server does."""
    store, known = SQLiteStore(path, **BOUNDS), []
    thread = threading.Thread(target=lambda: known.append(store.begin(b"a", b"")))
    thread.start()
    thread.join()
    store.close()
    assert [None] == known


def test_urls_say_where(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Three slashes and a relative path, or four and an absolute one."""
    monkeypatch.chdir(tmp_path)
    assert open_store("memory://", **BOUNDS) is None
    modes = "sqlite:///d.db?synchronous=full", "sqlite:///e.db?synchronous=off"
    for url in ("sqlite:///a.db", f"sqlite:///{tmp_path}/b%20c.db", *modes):
        store = open_store(url, **BOUNDS)
        assert store is not None
        store.close()
    assert {"a.db", "b c.db", "d.db", "e.db"} <= set(os.listdir(tmp_path))


@pytest.mark.parametrize(
    "url",
    [
        "", "sqlite:", "sqlite://", "sqlite:///", "sqlite://host/a.db", "redis://host", "sqlite:///a.db?mode=x",
        "sqlite:///a.db?synchronous=extra", "sqlite:////no/such/folder/a.db", None, 5,
    ],
)  # fmt: skip
def test_what_is_no_store_is_refused(url: Any) -> None:
    """Where the server is configured, not at the first call."""
    with pytest.raises(ConfigurationError):
        open_store(url, **BOUNDS)


def test_a_file_that_is_something_else_is_refused(tmp_path: Path) -> None:
    """And left as it is."""
    (tmp_path / "text").write_text("no database" * 100)
    with pytest.raises(ConfigurationError):
        open_store(f"sqlite:///{tmp_path}/text", **BOUNDS)
    assert "no database" * 100 == (tmp_path / "text").read_text()


@pytest.mark.skipif(sys.platform != "linux", reason="counts descriptors in /proc")
def test_one_that_cannot_be_opened_leaves_nothing_open(tmp_path: Path) -> None:
    """No descriptor."""
    (tmp_path / "text").write_text("no database" * 100)
    census = Census()
    for _ in range(3):
        with pytest.raises(ConfigurationError):
            open_store(f"sqlite:///{tmp_path}/text", **BOUNDS)
    assert {} == census.grown()


def test_what_another_process_runs_is_told_from_what_was_cut_off(path: str) -> None:
    """By its owner: one that lives runs it, one that has gone has left it."""
    store = SQLiteStore(path, **BOUNDS)
    store.begin(b"a", b"print")
    for owner, running in ((f"{os.getppid()}:", True), (f"{os.getpid()}:1", False), (None, False)):
        with sqlite3.connect(path) as database:
            database.execute("update webmesh_idempotency set owner = ?", (owner,))
        assert Remembered(b"print", None, running) == store.begin(b"a", b"print")
    store.close()


def test_a_file_from_before_owners_is_taken(path: str) -> None:
    """What it holds stays."""
    with sqlite3.connect(path) as database:
        database.execute(
            "create table webmesh_idempotency (key blob primary key, fingerprint blob not null, outcome blob,"
            " at real not null) without rowid"
        )
        database.execute("insert into webmesh_idempotency values (x'61', x'62', x'63', 4e9)")
    store = SQLiteStore(path, **BOUNDS)
    assert (Remembered(b"b", b"c"), None) == (store.begin(b"a", b"b"), store.begin(b"new", b"b"))
    store.close()
