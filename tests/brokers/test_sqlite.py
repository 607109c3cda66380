"""The engine in an SQLite file: the contract, and what a restart leaves."""

import os
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import gevent
import pytest

from tests.brokers.contract import (
    KEPT, PLAIN, RETAINED, WORK, WORKED, BrokerContract, BytesContract, RecordingSink, message,
)  # fmt: skip
from tests.processes import ENVIRONMENT
from webmesh.brokers import one_node, sqlite
from webmesh.brokers.base import Keep, Since
from webmesh.brokers.sqlite import SqliteBroker, SqliteStorage
from webmesh.exceptions import BrokerError, BrokerUnavailable, ConfigurationError, Overloaded
from webmesh.protocol.publication import Publication
from webmesh.testing import FakeClock


class TestSqlite(BrokerContract, BytesContract):
    """By a clock that does not wait."""

    @pytest.fixture(autouse=True)
    def _place(self, tmp_path: Path):
        self.clock, self.path = FakeClock(), tmp_path / "topics.db"

    def open_broker(self, number: int) -> SqliteBroker:
        return SqliteBroker(self.path, clock=self.clock)

    def pass_time(self, seconds: float) -> None:
        self.clock.advance(seconds)


@pytest.fixture
def restarted(tmp_path: Path):
    """Makes an engine of the same file as the one before, which is stopped: `broker, sink = restarted()`."""
    clock, running = FakeClock(), []

    def restart() -> tuple[SqliteBroker, RecordingSink]:
        for broker in running:
            broker.stop()
        broker, sink = SqliteBroker(tmp_path / "topics.db", clock=clock), RecordingSink()
        broker.start(sink)
        running.append(broker)
        return broker, sink

    yield restart
    for broker in running:
        broker.stop()


def test_a_restart_keeps_history_and_its_numbers(restarted):
    """In the same epoch, so that a subscriber recovers as if nothing had been."""
    broker, _ = restarted()
    epoch = broker.publish(message(payload=1), KEPT).epoch
    broker, _ = restarted()
    assert (2, epoch, False) == broker.publish(message(payload=2), KEPT)
    found = broker.history("a/b", Since(0, epoch))
    assert (True, [1, 2]) == (found.complete, [one.payload for one in found.items])
    assert [1, 2] == [one.offset for one in found.items]


def test_a_restart_keeps_values_ids_and_records(restarted):
    """What is retained, what was published already, and what is held for others."""
    broker, _ = restarted()
    broker.publish(message(payload={"x": b"\x00"}, mine="y"), RETAINED)
    broker.publish(message("b", dedupe_id="d"), KEPT)
    broker.put("wills", "s", [1, "ü"], 60.0)
    broker, _ = restarted()
    (value,) = broker.retained(("**",))
    assert ({"x": b"\x00"}, {"mine": "y"}) == (value.payload, dict(value.headers))
    assert broker.publish(message("b", dedupe_id="d"), KEPT).duplicate
    assert [1, "ü"] == broker.claim("wills", "s")


def test_a_restart_gives_a_group_what_it_had_not_done(restarted):
    """In order, before what comes after; what was done is gone."""
    broker, sink = restarted()
    keep = Keep(history=9, ack=True)
    broker.join(WORK, 2, durable=True)
    for number in range(4):
        broker.publish(message("jobs/1", number), keep)
    broker.done(WORK, sink.given[0][2])

    broker, sink = restarted()
    broker.publish(message("jobs/1", 4), keep)
    broker.join(WORK, 9, durable=True)

    assert [1, 2, 3, 4] == [one.payload for _, one, _ in sink.given]
    assert [2, 3, 4, 5] == [one.offset for _, one, _ in sink.given]


def test_what_was_acknowledged_survives_a_kill(tmp_path: Path):
    """The end of the process at any moment loses nothing that it had answered."""
    program = """
import sys
from tests.brokers.contract import KEPT, RecordingSink, message
from webmesh.brokers.sqlite import SqliteBroker, SqliteStorage
broker = SqliteBroker(sys.argv[1])
broker.start(RecordingSink())
while True:
    print(broker.publish(message("a/b", "x" * 100), KEPT).offset, flush=True)
"""
    path, acknowledged = tmp_path / "topics.db", 0
    for _ in range(3):
        process = subprocess.Popen(
            [sys.executable, "-c", program, str(path)], stdout=subprocess.PIPE, text=True, env=ENVIRONMENT
        )
        lines = [process.stdout.readline() for _ in range(20)]
        process.kill()
        lines += process.stdout.read().splitlines(keepends=True)
        acknowledged = max(int(line) for line in lines if line.endswith("\n"))
        process.wait()
        process.stdout.close()
    broker = SqliteBroker(path)
    broker.start(RecordingSink())
    found = broker.history("a/b", Since())
    broker.stop()
    assert found.offset >= acknowledged >= 20
    assert list(range(found.offset - 4, found.offset + 1)) == [one.offset for one in found.items]


def test_a_restart_knows_what_a_group_lost_and_what_may_give_way(restarted, monkeypatch: pytest.MonkeyPatch):
    """Of its work what must be acknowledged still does."""
    monkeypatch.setattr(one_node, "GROUP_BACKLOG", 3)
    broker, _ = restarted()
    broker.join(WORK, 1, durable=True)
    broker.leave(WORK)
    for number in range(4):
        broker.publish(message("jobs/1", number), WORKED)

    broker, sink = restarted()
    broker.publish(message("jobs/2", 4), PLAIN)
    broker.publish(message("jobs/1", 5), WORKED)
    broker.join(WORK, 9, durable=True)

    assert ([2, 3, 5], [(WORK, 3, 0)]) == ([one.payload for _, one, _ in sink.given], sink.losses)
    broker, sink = restarted()
    broker.join(WORK, 9, durable=True)
    assert (3, []) == (len(sink.given), sink.losses)


def test_a_group_ends_with_its_time_across_restarts(tmp_path: Path):
    """Also where the process was killed while it had members: its time begins when that is noticed."""
    clock = FakeClock()

    def start() -> SqliteBroker:
        broker = SqliteBroker(tmp_path / "topics.db", clock=clock)
        broker.start(RecordingSink())
        return broker

    broker = start()
    broker.join(WORK, 1, durable=True, ttl=10.0)
    broker._storage.close()  # as a kill leaves it
    broker = start()
    broker.stop()
    clock.advance(9.0)
    broker = start()
    assert [WORK] == broker.groups()
    broker.stop()
    clock.advance(2.0)
    broker = start()
    assert [] == broker.groups()
    broker.stop()
    broker = start()
    assert broker.drop_group(WORK) is None
    broker.stop()


def test_a_file_of_the_first_version_is_used_on(tmp_path: Path):
    """Its groups keep their work, which all must be acknowledged as far as is known."""
    path = tmp_path / "topics.db"
    broker = SqliteBroker(path)
    broker.start(RecordingSink())
    broker.join(WORK, 1, durable=True)
    broker.publish(message("jobs/1", 1), WORKED)
    broker.stop()
    with closing(sqlite3.connect(path)) as database:
        for table, columns in [("groups", ("ttl", "left", "lost")), ("work", ("ack",))]:
            for column in columns:
                database.execute(f"ALTER TABLE {table} DROP COLUMN {column}")
        database.execute("PRAGMA user_version = 1")

    for _ in range(2):
        broker, sink = SqliteBroker(path), RecordingSink()
        broker.start(sink)
        broker.join(WORK, 1, durable=True)
        assert [1] == [one.payload for _, one, _ in sink.given]
        broker.stop()


DIES_AT_EACH_STATEMENT = """
import os, signal, sys
from tests.brokers.contract import WORK, RecordingSink, message
from webmesh.brokers.base import Keep, Since
from webmesh.brokers.sqlite import SqliteBroker, SqliteStorage

KEEP = Keep(history=100, retain=True, ack=True)
run, left = SqliteStorage._run, 0

def dying(storage, statement, *values):
    global left
    left -= 1
    if not left:
        os.kill(os.getpid(), signal.SIGKILL)
    return run(storage, statement, *values)

def use(act):
    broker, sink = SqliteBroker(sys.argv[1]), RecordingSink()
    broker.start(sink)
    act(broker)
    found = broker.history("jobs/1", Since()).offset, len(sink.given)
    broker.stop()
    return found

def publish(broker):
    global left
    SqliteStorage._run = dying
    broker.publish(message("jobs/1", dedupe_id=str(at)), KEEP)
    left = 0

use(lambda broker: broker.join(WORK, 1000, durable=True))
for at in range(1, 100):
    left = at
    child = os.fork()
    if not child:
        use(publish)
        os._exit(0)
    ended = os.waitpid(child, 0)[1]
    print(*use(lambda broker: broker.join(WORK, 1000, durable=True)), flush=True)
    if not ended:
        break
"""


@pytest.mark.once
def test_a_kill_leaves_a_publication_whole_or_not_at_all(tmp_path: Path):
    """At whichever statement the process ends: what has a number is its groups' work, and the other way round."""
    ended = subprocess.run(
        [sys.executable, "-c", DIES_AT_EACH_STATEMENT, str(tmp_path / "topics.db")],
        capture_output=True, text=True, env=ENVIRONMENT, timeout=50, check=True,
    )  # fmt: skip
    found = [tuple(map(int, line.split())) for line in ended.stdout.splitlines()]
    assert (0, 0) == found[0]  # killed before the first statement
    assert (1, 1) == found[-1]  # not killed
    assert len(found) > 5
    assert [number for number, _ in found] == [work for _, work in found]


def test_one_process_uses_a_file_at_a_time(restarted, tmp_path: Path):
    """Two that number the same topics would give one number twice."""
    restarted()
    with pytest.raises(BrokerUnavailable, match="locked"):
        SqliteBroker(tmp_path / "topics.db").start(RecordingSink())


@pytest.mark.parametrize("content", [b"this is no database, whatever its name says" * 100, None])
def test_a_file_that_cannot_be_used_is_told(tmp_path: Path, content: bytes | None):
    """With its path; and the engine is not up."""
    path = tmp_path / "x.db" if content else tmp_path / "no" / "x.db"
    if content:
        path.write_bytes(content)
    broker = SqliteBroker(path)
    with pytest.raises(BrokerUnavailable, match="x.db"):
        broker.start(RecordingSink())
    assert not broker.up


def test_tables_of_another_version_are_left_alone(restarted, tmp_path: Path):
    """A newer program's file is not touched by an older one."""
    broker, _ = restarted()
    broker._storage._run("PRAGMA user_version = 99")
    broker.stop()
    with pytest.raises(BrokerUnavailable, match="version 99"):
        SqliteBroker(tmp_path / "topics.db").start(RecordingSink())


def test_the_option_is_checked():
    """Before anything is opened."""
    with pytest.raises(ConfigurationError, match="normal"):
        SqliteBroker("x", synchronous="sometimes")


def test_a_message_that_cannot_be_kept_takes_no_number(restarted):
    """All of a publication is written, or nothing."""
    broker, _ = restarted()
    broker.publish(message(payload=1), KEPT)
    with pytest.raises(BrokerError, match="cannot be kept"):
        broker.publish(message(payload=object()), KEPT)
    assert 2 == broker.publish(message(payload=2), KEPT).offset


@pytest.mark.row(86)
def test_its_tables_are_bounded(restarted, monkeypatch: pytest.MonkeyPatch):
    """Topics are refused, dedupe ids forgotten."""
    monkeypatch.setattr(one_node, "MOST_TOPICS", 2)
    monkeypatch.setattr(one_node, "DEDUPE_MOST", 2)
    broker, _ = restarted()
    for name in "abcd":
        broker.publish(message("a", dedupe_id=name), KEPT)
    assert [(2,)] == broker._storage._run("SELECT count(*) FROM seen")
    broker.publish(message("b"), Keep(history=1, retain=True))
    with pytest.raises(Overloaded):
        broker.publish(message("c"), KEPT)
    broker.publish(message("a"), RETAINED)
    with pytest.raises(Overloaded):
        broker.publish(message("c"), RETAINED)


@pytest.mark.row(86)
def test_topics_that_ended_with_their_time_make_room(restarted, monkeypatch: pytest.MonkeyPatch):
    """And no number is used twice, after a restart neither: who stood at one is told that it has missed something."""
    monkeypatch.setattr(one_node, "MOST_TOPICS", 2)
    keep = Keep(history=5, ttl=10.0)
    broker, _ = restarted()
    first = [broker.publish(message("a"), keep) for _ in range(3)][-1]
    broker.publish(message("b"), keep)
    broker.clock.advance(20)
    broker.publish(message("c"), keep)
    broker, _ = restarted()
    broker.publish(message("a"), keep)
    assert ["a", "c"] == sorted(broker.topics(("*",)))
    assert not broker.history("a", Since(first.offset - 1, first.epoch)).complete
    assert broker.history("a", Since()).offset > first.offset


def test_what_is_stopped_says_so(restarted):
    """Nothing is lost silently."""
    broker, _ = restarted()
    broker.stop()
    with pytest.raises(BrokerUnavailable):
        broker.publish(message(), KEPT)


@pytest.fixture
def unpacked(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Grows by the topic of each message that is read from a file."""
    found: list[str] = []
    unpack = SqliteStorage._unpacked

    def counting(storage: SqliteStorage, topic: str, packed: bytes) -> Publication:
        found.append(topic)
        return unpack(storage, topic, packed)

    monkeypatch.setattr(SqliteStorage, "_unpacked", counting)
    return found


@pytest.fixture
def rows(monkeypatch: pytest.MonkeyPatch) -> list[tuple]:
    """Grows by each row that a statement gives."""
    found: list[tuple] = []
    run = SqliteStorage._run

    def counting(storage: SqliteStorage, *statement: object) -> list[tuple]:
        answer = run(storage, *statement)
        found.extend(answer)
        return answer

    monkeypatch.setattr(SqliteStorage, "_run", counting)
    return found


@pytest.mark.parametrize("reverse", [False, True])
def test_a_page_of_history_costs_what_it_holds(restarted, unpacked, rows, reverse: bool):
    """However long the history is: the rest of it is not read."""
    broker, _ = restarted()
    keep = Keep(history=1000)
    for number in range(600):
        broker.publish(message(payload=number), keep)
    del rows[:]
    found = broker.history("a/b", Since(), most=3, reverse=reverse)
    assert ([599, 598, 597] if reverse else [0, 1, 2]) == [one.payload for one in found.items]
    assert 3 == len(unpacked)
    assert len(rows) < 10
    wanted = list(range(600))
    assert (wanted[::-1] if reverse else wanted) == [
        one.payload for one in broker.history("a/b", Since(), reverse=reverse).items
    ]


def test_what_ended_with_its_own_time_is_read_once(restarted, unpacked):
    """And is no gap: who recovers has missed nothing that still counts."""
    broker, _ = restarted()
    keep = Keep(history=1000)
    first = broker.publish(message(ttl_ms="5000"), keep)
    for _ in range(300):
        broker.publish(message(ttl_ms="5000"), keep)
    broker.publish(message(payload="stays"), keep)
    broker.clock.advance(10)
    for _ in range(2):
        del unpacked[:]
        found = broker.history("a/b", Since(first.offset - 1, first.epoch), most=1)
        assert (True, ["stays"]) == (found.complete, [one.payload for one in found.items])
    assert 1 == len(unpacked)


@pytest.mark.parametrize("damaged", [b"\xc1", b"\x80", b"\x90"])
def test_a_damaged_file_is_told_and_let_go(restarted, tmp_path: Path, damaged: bytes):
    """As an error of the engine; whoever mends the file can open it."""
    broker, _ = restarted()
    broker.join(WORK, 1, durable=True)
    broker.leave(WORK)
    broker.publish(message("jobs/1"), KEPT)
    broker._storage._run("UPDATE work SET message = ?", damaged)
    broker.stop()
    again = SqliteBroker(tmp_path / "topics.db")
    with pytest.raises(BrokerUnavailable, match="damaged"):
        again.start(RecordingSink())
    with closing(sqlite3.connect(tmp_path / "topics.db", timeout=0)) as database:
        database.execute("DELETE FROM work")


def test_a_long_past_lets_others_have_their_turn(restarted, monkeypatch: pytest.MonkeyPatch):
    """It is read page by page; what comes meanwhile is live, and not part of it."""
    monkeypatch.setattr(sqlite, "PAGE", 4)
    broker, _ = restarted()
    keep = Keep(history=100)
    for number in range(1, 11):
        epoch = broker.publish(message(payload=number), keep).epoch
    publishing = gevent.spawn(lambda: broker.publish(message(payload=11), keep))
    found = broker.history("a/b", Since(0, epoch))
    assert publishing.dead
    assert (10, list(range(1, 11))) == (found.offset, [one.payload for one in found.items])
    assert list(range(11, 0, -1)) == [one.payload for one in broker.history("a/b", Since(), reverse=True).items]


def test_a_past_that_goes_while_it_is_read_is_not_taken_for_whole(restarted, monkeypatch: pytest.MonkeyPatch):
    """All of it or nothing."""
    monkeypatch.setattr(sqlite, "PAGE", 4)
    broker, _ = restarted()
    keep = Keep(history=10)
    for number in range(1, 11):
        epoch = broker.publish(message(payload=number), keep).epoch
    gevent.spawn(lambda: [broker.publish(message(payload=number), keep) for number in range(11, 21)])
    found = broker.history("a/b", Since(0, epoch))
    assert (False, []) == (found.complete, found.items)


def test_a_retained_value_keeps_its_number(restarted):
    """Who gets it after a restart knows where it stands."""
    broker, _ = restarted()
    accepted = broker.publish(Publication("a", 1), Keep(history=5, retain=True))
    broker, _ = restarted()
    (value,) = broker.retained(("a",))
    assert accepted[:2] == (value.offset, value.epoch)
    assert value.offset == 1


def test_retained_values_are_read_page_by_page(restarted, monkeypatch: pytest.MonkeyPatch):
    """Others run between two pages, and what they change is neither missed nor read twice."""
    monkeypatch.setattr(sqlite, "PAGE", 4)
    broker, _ = restarted()
    for number in range(20):
        broker.publish(Publication(f"a/{number:02}", number), Keep(retain=True))
        broker.publish(Publication(f"b/{number:02}", number), Keep(retain=True))

    def meanwhile() -> None:
        broker.publish(Publication("a/00", None), Keep(retain=True))
        broker.publish(Publication("a/10", None), Keep(retain=True))
        broker.publish(Publication("a/11", "new"), Keep(retain=True))

    gevent.spawn(meanwhile)
    found = [one.payload for one in broker.retained(("a", "*"))]
    assert [*range(10), "new", *range(12, 20)] == found


def test_bytes_are_counted_over_a_restart_and_after_what_has_ended(restarted):
    """A history that was full goes on to be, and one whose time is over makes room."""
    keep = Keep(history=100, history_bytes=5000)
    broker, _ = restarted()
    for number in range(6):
        broker.publish(message(payload=[number, os.urandom(1000)]), keep)
    broker, _ = restarted()
    clock = broker.clock
    broker.publish(message(payload=[6, os.urandom(1000)]), keep)
    assert [3, 4, 5, 6] == [one.payload[0] for one in broker.history("a/b", Since()).items]
    short = Keep(history=100, ttl=10.0, history_bytes=5000)
    for number in range(4):
        broker.publish(message("s", [number, os.urandom(1000)]), short)
    clock.advance(20.0)
    assert [] == broker.history("s", Since()).items
    for number in range(4, 8):
        broker.publish(message("s", [number, os.urandom(1000)]), keep)
    assert [4, 5, 6, 7] == [one.payload[0] for one in broker.history("s", Since()).items]
