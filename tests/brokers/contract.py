"""What every engine must do: one suite, run against each of them, and one for those that several nodes share.

A test module of an engine subclasses `BrokerContract`, gives `open_broker` and runs where its server is. For an engine
of several nodes it subclasses `TwoNodeContract` too, and gives `url` and `lease`.
"""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import gevent
import pytest

from tests.processes import ENVIRONMENT
from webmesh.brokers import one_node
from webmesh.brokers.base import Broker, GroupName, Keep, Places, Since
from webmesh.exceptions import FailedPrecondition, Overloaded
from webmesh.protocol.publication import Publication, read_publication

PLAIN = Keep()
KEPT = Keep(history=5)
RETAINED = Keep(retain=True)
WORKED = Keep(history=20, ack=True)
WORK = GroupName(("jobs", "*"), "workers")


class RecordingSink:
    """A node: keeps what it is told."""

    def __init__(self) -> None:
        self.delivered: list[Publication] = []
        self.given: list[tuple[GroupName, Publication, Any]] = []
        self.gaps: list[str] = []
        self.losses: list[tuple[GroupName, int, int]] = []  # and how much work was given before
        self.healths: list[bool] = []

    def deliver(self, publication: Publication) -> None:
        self.delivered.append(publication)

    def work(self, group: GroupName, publication: Publication, token: Any) -> None:
        self.given.append((group, publication, token))

    def lost(self, group: GroupName, count: int) -> None:
        self.losses.append((group, count, len(self.given)))

    def gap(self, reason: str) -> None:
        self.gaps.append(reason)

    def health(self, up: bool, reason: str) -> None:
        self.healths.append(up)


def until(condition: Any, seconds: float = 10.0) -> None:
    """Wait until *condition* holds: an engine elsewhere takes a moment."""
    with gevent.Timeout(seconds, AssertionError("what was waited for did not happen")):
        while not condition():
            gevent.sleep(0.005)


def message(topic: str = "a/b", payload: Any = 1, **headers: str) -> Publication:
    """A publication with options given as headers (`dedupe_id` for `dedupe-id`)."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return read_publication(topic, payload, named, publisher="me", now=0.0)


class Nodes:
    """What both suites stand on."""

    def open_broker(self, number: int) -> Broker:
        """A new engine for node *number*, not started; all of one test share their data."""
        raise NotImplementedError

    def pass_time(self, seconds: float) -> None:
        """Let so much time pass, really or not."""
        gevent.sleep(seconds)

    @pytest.fixture
    def node(self) -> Iterator[Any]:
        """Makes nodes: `broker, sink = node()`."""
        with ExitStack() as stack:
            numbers = itertools.count()

            def make() -> tuple[Broker, RecordingSink]:
                broker, sink = self.open_broker(next(numbers)), RecordingSink()
                broker.start(sink)
                stack.callback(broker.stop)
                return broker, sink

            yield make


class BrokerContract(Nodes):
    """What one node may expect."""

    # ------------------------------------------------------------- live messages

    def test_what_is_wanted_is_delivered(self, node):
        """Matching topics only, in the order of publication, as it was published."""
        broker, sink = node()
        broker.want(("a", "*"))
        for topic, payload in [("a/b", 1), ("b/b", 2), ("a/c", {"x": [None, "ü"]}), ("a", 3), ("a/b/c", 4), ("a/b", 5)]:
            broker.publish(message(topic, payload, mine="x"), PLAIN)
        until(lambda: len(sink.delivered) == 3)
        assert [("a/b", 1), ("a/c", {"x": [None, "ü"]}), ("a/b", 5)] == [(p.topic, p.payload) for p in sink.delivered]
        assert {"mine": "x"} == dict(sink.delivered[0].headers)

    def test_several_patterns_deliver_once(self, node):
        """The node knows who wants it; the engine brings it one time."""
        broker, sink = node()
        for pattern in [("a", "*"), ("a", "b"), ("**",)]:
            broker.want(pattern)
        broker.publish(message("a/b", "x"), PLAIN)
        broker.publish(message("a/b", "end"), PLAIN)
        until(lambda: sink.delivered and sink.delivered[-1].payload == "end")
        assert ["x", "end"] == [p.payload for p in sink.delivered]

    def test_what_is_unwanted_as_often_as_wanted_stops(self, node):
        """Two subscribers of one pattern, one of whom leaves."""
        broker, sink = node()
        for _ in range(2):
            broker.want(("a", "b"))
        broker.want(("end",))
        broker.unwant(("a", "b"))
        broker.publish(message("a/b", 1), PLAIN)
        until(lambda: len(sink.delivered) == 1)
        broker.unwant(("a", "b"))
        broker.publish(message("a/b", 2), PLAIN)
        broker.publish(message("end", 3), PLAIN)
        until(lambda: sink.delivered[-1].topic == "end")
        assert [1, 3] == [p.payload for p in sink.delivered]

    def test_plain_topics_have_no_numbers(self, node):
        """And nothing to read later."""
        broker, _ = node()
        accepted = broker.publish(message(), PLAIN)
        assert (None, None, False) == accepted
        assert [] == broker.history("a/b", Since()).items

    # ------------------------------------------------------------------- history

    def test_kept_topics_are_numbered_from_one(self, node):
        """Each topic by itself, in one epoch; deliveries carry the numbers."""
        broker, sink = node()
        broker.want(("**",))
        taken = [broker.publish(message(topic), KEPT) for topic in ("a", "a", "b")]
        assert [1, 2, 1] == [one.offset for one in taken]
        assert taken[0].epoch and taken[0].epoch == taken[1].epoch
        until(lambda: len(sink.delivered) == 3)
        assert [(1, taken[0].epoch), (2, taken[0].epoch)] == [(p.offset, p.epoch) for p in sink.delivered[:2]]

    def test_what_came_after_an_offset(self, node):
        """All of it, or nothing and the word that something is missing."""
        broker, _ = node()
        for number in range(1, 9):
            epoch = broker.publish(message(payload=number), KEPT).epoch
        for offset, complete, items in [(8, True, []), (6, True, [7, 8]), (3, True, [4, 5, 6, 7, 8]), (2, False, [])]:
            found = broker.history("a/b", Since(offset, epoch))
            assert (complete, items, 8) == (found.complete, [p.payload for p in found.items], found.offset)
            assert epoch == found.epoch
        assert not broker.history("a/b", Since(8, "another")).complete
        assert not broker.history("a/b", Since(9, epoch)).complete

    def test_history_is_read_in_pages_and_backwards(self, node):
        """From an offset on, at most so many, the newest first where asked for."""
        broker, _ = node()
        for number in range(1, 5):
            epoch = broker.publish(message(payload=number), KEPT).epoch

        def read(**options):
            return [p.payload for p in broker.history("a/b", **options).items]
        assert [1, 2] == read(since=Since(), most=2)
        assert [3, 4] == read(since=Since(2, epoch), most=5)
        assert [4, 3, 2] == read(since=Since(), most=3, reverse=True)
        assert [1, 2, 3, 4] == read(since=Since(seconds=60.0))

    def test_a_long_history_is_read_page_by_page(self, node):
        """Among other topics; each page begins where the last one ended, or anywhere."""
        broker, _ = node()
        keep = Keep(history=300)
        for number in range(1, 401):
            epoch = broker.publish(message(payload=number), keep).epoch
            if number % 3 == 0 or 150 < number < 200:
                broker.publish(message("a/other"), keep)

        def read(**options):
            return [p.payload for p in broker.history("a/b", **options).items]
        after, got = 100, []
        while page := read(since=Since(after, epoch), most=70):
            got += page
            after += len(page)
        assert list(range(101, 401)) == got
        assert [251, 252] == read(since=Since(250, epoch), most=2)
        assert [101, 102] == read(since=Since(), most=2)
        assert [400, 399] == read(since=Since(), most=2, reverse=True)
        assert [400] == read(since=Since(399, epoch), most=2, reverse=True)
        assert list(range(101, 401)) == read(since=Since()) == read(since=Since(seconds=600.0))
        assert list(range(400, 100, -1)) == read(since=Since(), reverse=True)
        assert not broker.history("a/b", Since(99, epoch)).complete

    def test_a_topic_that_nobody_published_to(self, node):
        """Has an empty history."""
        broker, _ = node()
        found = broker.history("never", Since())
        assert ([], 0, True) == (found.items, found.offset, found.complete)

    def test_the_topics_of_a_pattern_are_known(self, node):
        """Those that are numbered and of which anything is kept."""
        broker, _ = node()
        for topic in ("a/b", "a/c", "a/c/d", "b"):
            broker.publish(message(topic), KEPT)
        broker.publish(message("a/live"), PLAIN)
        broker.publish(message("a/gone"), Keep(history=5, ttl=0.5))
        self.pass_time(0.6)
        for pattern, topics in [
            (("a", "*"), ["a/b", "a/c"]), (("a", "**"), ["a/b", "a/c", "a/c/d"]), (("*",), ["b"]),
            (("a", "c"), ["a/c"]), (("x", "**"), []),
        ]:  # fmt: skip
            assert topics == sorted(broker.topics(pattern))

    def test_history_ends_with_its_time(self, node):
        """What is too old is not read, and who needs it is told that it is gone."""
        broker, _ = node()
        keep = Keep(history=5, ttl=1.0)
        epoch = broker.publish(message(payload=1), keep).epoch
        self.pass_time(1.5)
        broker.publish(message(payload=2), keep)
        assert [2] == [p.payload for p in broker.history("a/b", Since()).items]
        assert not broker.history("a/b", Since(0, epoch)).complete
        assert broker.history("a/b", Since(1, epoch)).complete

    def test_a_message_that_nobody_wants_any_more_is_not_read(self, node):
        """Its own time to live counts in history too."""
        broker, _ = node()
        broker.publish(message(payload=1, ttl_ms="500"), KEPT)
        broker.publish(message(payload=2), KEPT)
        self.pass_time(1.0)
        assert [2] == [p.payload for p in broker.history("a/b", Since()).items]

    # --------------------------------------------------------- dedupe and retain

    def test_a_repeated_publication_is_published_once(self, node):
        """Its publisher is told the number of the first."""
        broker, sink = node()
        broker.want(("**",))
        first = broker.publish(message(dedupe_id="x"), KEPT)
        again = broker.publish(message(dedupe_id="x"), KEPT)
        other = broker.publish(message("b", dedupe_id="x"), KEPT)
        assert (first.offset, first.epoch, True) == again
        assert not other.duplicate
        until(lambda: len(sink.delivered) == 2)
        assert ["a/b", "b"] == [p.topic for p in sink.delivered]

    def test_the_newest_value_is_retained(self, node):
        """For each topic; found by patterns; marked."""
        broker, _ = node()
        for topic, payload in [("a/b", 1), ("a/c", 2), ("a/b", 3), ("a", 4), ("x/y", 5)]:
            broker.publish(message(topic, payload), RETAINED)
        for pattern, wanted in [
            (("a", "b"), [3]), (("a", "*"), [2, 3]), (("**",), [2, 3, 4, 5]), (("a", "**"), [2, 3]), (("z",), []),
        ]:  # fmt: skip
            found = list(broker.retained(pattern))
            assert wanted == sorted(p.payload for p in found)
            assert all(p.retained for p in found)

    def test_much_that_is_retained_is_read_as_it_is_taken(self, node):
        """All of it, each once, in whatever parts it comes; what is not taken need not be read."""
        broker, _ = node()
        topics = {f"a/{number}" for number in range(600)}
        jobs = [gevent.spawn(broker.publish, message(topic), RETAINED) for topic in (*topics, "b/1", "a")]
        gevent.joinall(jobs, raise_error=True)
        found = [publication.topic for publication in broker.retained(("a", "*"))]
        assert (600, topics) == (len(found), set(found))
        assert next(iter(broker.retained(("**",)))).retained

    def test_null_takes_the_retained_value_away(self, node):
        """As with MQTT."""
        broker, _ = node()
        broker.publish(message(payload=1), RETAINED)
        broker.publish(message(payload=None), RETAINED)
        assert [] == list(broker.retained(("a", "b")))

    def test_a_retained_value_ends_with_its_time(self, node):
        """Nobody gets it afterwards."""
        broker, _ = node()
        broker.publish(message(ttl_ms="500"), RETAINED)
        self.pass_time(1.0)
        assert [] == list(broker.retained(("a", "b")))

    # -------------------------------------------------------------------- groups

    def test_a_group_gets_each_message_once(self, node):
        """In order, no more than its window at a time."""
        broker, sink = node()
        broker.join(WORK, 2, durable=False)
        for number in range(5):
            broker.publish(message(f"jobs/{number}", number), PLAIN)
        until(lambda: len(sink.given) == 2)
        for position in range(5):
            until(lambda: len(sink.given) > position)  # noqa: B023
            group, publication, token = sink.given[position]
            assert (WORK, position) == (group, publication.payload)
            broker.done(group, token)
        broker.leave(WORK)
        assert 5 == len(sink.given)

    def test_two_groups_get_it_each(self, node):
        """A group is named by its pattern and its name."""
        broker, sink = node()
        other = GroupName(("jobs", "*"), "auditors")
        for group in (WORK, other):
            broker.join(group, 10, durable=False)
        broker.publish(message("jobs/1"), PLAIN)
        until(lambda: len(sink.given) == 2)
        assert {WORK, other} == {group for group, _, _ in sink.given}

    def test_what_was_not_done_waits_for_who_joins_next(self, node):
        """A durable group outlives its members; the oldest comes first again."""
        broker, sink = node()
        keep = Keep(history=10, ack=True)
        broker.join(WORK, 10, durable=True)
        for number in range(3):
            broker.publish(message(f"jobs/{number}", number), keep)
        until(lambda: len(sink.given) == 3)
        broker.done(WORK, sink.given[1][2])
        broker.leave(WORK)
        broker.publish(message("jobs/3", 3), keep)
        sink.given.clear()
        broker.join(WORK, 10, durable=True)
        until(lambda: len(sink.given) == 3)
        assert [0, 2, 3] == [publication.payload for _, publication, _ in sink.given]

    def test_a_group_that_is_not_durable_ends_with_its_members(self, node):
        """What comes meanwhile is not for it."""
        broker, sink = node()
        broker.join(WORK, 10, durable=False)
        broker.leave(WORK)
        broker.publish(message("jobs/1", 1), PLAIN)
        broker.join(WORK, 10, durable=False)
        broker.publish(message("jobs/2", 2), PLAIN)
        until(lambda: sink.given)
        assert [2] == [publication.payload for _, publication, _ in sink.given]

    def test_a_group_with_another_window_has_as_much_at_a_time(self, node):
        """Members came or went: the node says so by joining again."""
        broker, sink = node()
        broker.join(WORK, 1, durable=True)
        for number in range(4):
            broker.publish(message("jobs/1", number), WORKED)
        until(lambda: sink.given)
        broker.join(WORK, 3, durable=True)
        until(lambda: len(sink.given) == 3)
        assert [0, 1, 2] == [publication.payload for _, publication, _ in sink.given]

    def test_a_full_group_with_members_refuses_what_must_be_acknowledged(self, node, monkeypatch):
        """Nothing that was accepted is lost while somebody works, so more is not accepted; nor is it numbered."""
        monkeypatch.setattr(one_node, "GROUP_BACKLOG", 3)
        broker, sink = node()
        broker.join(WORK, 1, durable=True)
        broker.publish(message("jobs/1", 0), WORKED)
        until(lambda: sink.given)
        for number in range(1, 4):
            broker.publish(message("jobs/1", number), WORKED)
        with pytest.raises(Overloaded):
            broker.publish(message("jobs/1", 4), WORKED)
        assert 4 == broker.history("jobs/1", Since()).offset
        broker.done(WORK, sink.given[0][2])
        until(lambda: len(sink.given) == 2)
        assert 5 == broker.publish(message("jobs/1", 4), WORKED).offset
        assert [] == sink.losses

    def test_a_full_group_without_members_loses_its_oldest_and_is_told(self, node, monkeypatch):
        """Who is not there does not stop the others; whoever takes the group next learns how much is missing."""
        monkeypatch.setattr(one_node, "GROUP_BACKLOG", 3)
        broker, sink = node()
        broker.join(WORK, 10, durable=True)
        broker.leave(WORK)
        for number in range(5):
            assert number + 1 == broker.publish(message("jobs/1", number), WORKED).offset
        broker.join(WORK, 10, durable=True)
        until(lambda: len(sink.given) == 3)
        assert [2, 3, 4] == [publication.payload for _, publication, _ in sink.given]
        assert [(WORK, 2, 0)] == sink.losses
        broker.leave(WORK)
        broker.join(WORK, 10, durable=True)
        until(lambda: len(sink.given) == 6)
        assert 1 == len(sink.losses)

    def test_what_need_not_be_acknowledged_displaces_nothing_that_must(self, node, monkeypatch):
        """In a group that has both; what it loses is told, and nothing else."""
        monkeypatch.setattr(one_node, "GROUP_BACKLOG", 3)
        broker, sink = node()
        broker.join(WORK, 1, durable=True)
        broker.publish(message("jobs/1", 0), WORKED)
        until(lambda: sink.given)
        for number in range(10, 15):
            broker.publish(message("jobs/2", number), PLAIN)
        for number in range(1, 4):
            broker.publish(message("jobs/1", number), WORKED)
        for number in range(15, 20):
            broker.publish(message("jobs/2", number), PLAIN)
        for position in itertools.count():
            until(lambda: len(sink.given) > position)  # noqa: B023
            broker.done(WORK, sink.given[position][2])
            got = [publication.payload for _, publication, _ in sink.given]
            if {0, 1, 2, 3} <= {*got} and len(got) + sum(count for _, count, _ in sink.losses) == 14:
                break
        assert [0, 1, 2, 3] == [payload for payload in got if payload < 10]
        assert sink.losses

    def test_a_group_that_is_not_durable_is_told_what_it_loses(self, node, monkeypatch):
        """Before what comes after it. The oldest goes, but for one that another node is just being asked to take."""
        monkeypatch.setattr(one_node, "GROUP_BACKLOG", 3)
        broker, sink = node()
        broker.join(WORK, 1, durable=False)
        broker.publish(message("jobs/1", 0), PLAIN)
        until(lambda: sink.given)
        for number in range(1, 6):
            broker.publish(message("jobs/1", number), PLAIN)
        broker.want(("end",))
        broker.publish(message("end"), PLAIN)
        until(lambda: sink.delivered)  # all have arrived
        for given in range(2, 5):
            broker.done(WORK, sink.given[-1][2])
            until(lambda: len(sink.given) == given)
        payloads = [publication.payload for _, publication, _ in sink.given]
        assert [(WORK, 2, 1)] == sink.losses
        assert payloads == sorted({*payloads}) and [0, 4, 5] == [*payloads[:1], *payloads[2:]]

    def test_a_durable_group_that_nobody_takes_ends_with_its_time(self, node):
        """With its work, which whoever takes it later is told."""
        broker, sink = node()
        broker.join(WORK, 10, durable=True, ttl=1.0)
        self.pass_time(1.5)
        assert [WORK] == broker.groups()
        broker.leave(WORK)
        for number in range(2):
            broker.publish(message("jobs/1", number), WORKED)
        assert [WORK] == broker.groups()
        self.pass_time(1.5)
        until(lambda: broker.groups() == [])
        broker.publish(message("jobs/1", 2), WORKED)
        broker.join(WORK, 10, durable=True, ttl=1.0)
        broker.publish(message("jobs/1", 3), WORKED)
        until(lambda: sink.given)
        assert ([3], [(WORK, 2, 0)]) == ([publication.payload for _, publication, _ in sink.given], sink.losses)

    def test_a_group_is_dropped_with_its_work(self, node):
        """Once it has no members; that is wanted, and no loss."""
        broker, sink = node()
        assert broker.drop_group(WORK) is None
        broker.join(WORK, 10, durable=True)
        for number in range(2):
            broker.publish(message("jobs/1", number), WORKED)
        until(lambda: len(sink.given) == 2)
        with pytest.raises(FailedPrecondition):
            broker.drop_group(WORK)
        broker.leave(WORK)
        assert 2 == broker.drop_group(WORK)
        assert [] == broker.groups()
        broker.publish(message("jobs/1", 2), WORKED)
        broker.join(WORK, 10, durable=True)
        broker.publish(message("jobs/1", 3), WORKED)
        until(lambda: len(sink.given) == 3)
        assert (3, []) == (sink.given[2][1].payload, sink.losses)

    def test_a_group_begins_only_where_there_is_room(self, node):
        """Those count that may get the same publications; one that is there already may be joined at any time."""
        broker, _ = node()
        places = [Places(("jobs", "*"), 2), Places(("**",), 3)]

        def join(name: str, pattern: tuple[str, ...] = ("jobs", "*")) -> GroupName:
            group = GroupName(pattern, name)
            broker.join(group, 1, durable=True, places=places)
            return group

        first = join("a")
        join("b", ("**",))
        with pytest.raises(Overloaded, match="2 groups on jobs"):
            join("c", ("jobs", "1"))
        join("a")
        broker.leave(first)
        join("a")
        broker.leave(first)
        broker.drop_group(first)
        join("c", ("jobs", "1"))
        broker.join(first, 1, durable=True)
        assert {"a", "b", "c"} == {one.name for one in broker.groups()}

    # ------------------------------------------------------------------- records

    def test_a_record_is_claimed_once(self, node):
        """Of all who try."""
        broker, _ = node()
        broker.put("wills", "s1", {"a": 1}, 60.0)
        broker.put("wills", "s1", {"a": 2}, 60.0)
        assert {"s1": {"a": 2}} == dict(broker.records("wills"))
        assert [{"a": 2}, None] == [broker.claim("wills", "s1") for _ in range(2)]
        assert {} == dict(broker.records("wills"))

    def test_a_record_ends_with_its_time(self, node):
        """Unless it is put again in time."""
        broker, _ = node()
        broker.put("present", "x", 1, 1.0)
        broker.put("present", "y", 1, 1.0)
        self.pass_time(0.6)
        broker.put("present", "y", 2, 5.0)
        self.pass_time(0.6)
        assert {"y": 2} == dict(broker.records("present"))
        assert broker.claim("present", "x") is None

    def test_a_large_table_is_read_in_parts(self, node):
        """Each record that stays is in one; what has ended or is another table's is in none."""
        broker, _ = node()
        assert [] == [key for page in broker.pages("wills") for key in page]
        broker.put("present", "x", 1, 60.0)
        broker.put("wills", "ended", 1, 0.2)
        for number in range(600):
            broker.put("wills", f"s{number}", {"a": number}, 60.0)
        self.pass_time(0.4)
        found, parts = {}, 0
        for page in broker.pages("wills", 50):
            if "s7" in found:
                broker.claim("wills", "s7")
            found |= page
            parts += 1
        assert {f"s{number}": {"a": number} for number in range(600)} == found
        assert parts > 5

    # -------------------------------------------------------------------- itself

    def test_it_says_whether_it_is_up(self, node):
        """Between start and stop."""
        broker, _ = node()
        assert broker.up
        broker.stop()
        assert not broker.up


DIES = """
import sys, time
import gevent
from tests.brokers.contract import WORK, RecordingSink
from webmesh.brokers.opening import open_broker

broker, sink = open_broker(sys.argv[1]), RecordingSink()
broker.start(sink)
broker.join(WORK, 10, durable=True)
print("joined", flush=True)
while len(sink.given) < 3:
    gevent.sleep(0.01)
broker.done(WORK, sink.given[0][2])
gevent.sleep(0.2)
print("given", flush=True)
gevent.sleep(60)
"""


class HistoryBytesContract(Nodes):
    """What one node may expect of an engine that bounds history in bytes too, however it packs them."""

    def test_a_history_is_bounded_in_bytes(self, node):
        """The oldest go, and who has missed them learns it; the newest stays, however large."""
        broker, _ = node()
        keep = Keep(history=100, history_bytes=5000)

        def left() -> list[int]:
            return [p.payload[0] for p in broker.history("a/b", Since()).items]

        first = broker.publish(message(payload=[0, os.urandom(1000)]), keep)
        for number in range(1, 7):
            broker.publish(message(payload=[number, os.urandom(1000)]), keep)
        assert [3, 4, 5, 6] == left()
        assert not broker.history("a/b", Since(first.offset, first.epoch)).complete
        assert broker.history("a/b", Since(3, first.epoch)).complete
        broker.publish(message(payload=[7, os.urandom(3000)]), keep)
        assert [6, 7] == left()
        broker.publish(message(payload=[8, os.urandom(9000)]), keep)
        assert [8] == left()
        broker.publish(message(payload=[9, ""]), keep)
        assert [9] == left()
        for number in range(10, 20):
            broker.publish(message("c", payload=[number, os.urandom(1000)]), Keep(history=3, history_bytes=5000))
        assert 3 == len(broker.history("c", Since()).items)


class BytesContract(HistoryBytesContract):
    """The same of one that bounds all that it keeps so."""

    def test_what_waits_for_a_group_is_bounded_in_bytes(self, node, monkeypatch):
        """As it is in numbers."""
        monkeypatch.setattr(one_node, "GROUP_BACKLOG_SIZE", 5000)
        broker, sink = node()
        broker.join(WORK, 1, durable=True)
        for number in range(5):
            broker.publish(message("jobs/1", [number, "x" * 1000]), WORKED)
        until(lambda: sink.given)
        with pytest.raises(Overloaded):
            broker.publish(message("jobs/1", [5, "x" * 1000]), WORKED)
        broker.leave(WORK)
        broker.publish(message("jobs/1", [6, "x" * 3000]), WORKED)
        broker.join(WORK, 10, durable=True)
        until(lambda: len(sink.given) == 4)
        assert [3, 4, 6] == [publication.payload[0] for _, publication, _ in sink.given[1:]]
        assert [3] == [count for _, count, _ in sink.losses]


class TwoNodeContract(Nodes):
    """What several nodes may expect that share an engine's data.

    Attributes:
        lease: Seconds after which the work of a node that has died is given to others, of engines that `open_broker`
            and `url` make here.
    """

    lease = 1.0

    def url(self) -> str:
        """The URL by which a program of its own opens an engine with the same data."""
        raise NotImplementedError

    # ------------------------------------------------------------- live messages

    def test_what_one_publishes_the_others_get(self, node):
        """Once each, the publisher's own node included, in order and as it was published."""
        (one, own), (other, its) = node(), node()
        for broker in (one, other):
            broker.want(("a", "*"))
            broker.want(("**",))
        for number in range(20):
            one.publish(message("a/b", {"n": number}, mine="x"), PLAIN)
        for sink in (own, its):
            until(lambda: len(sink.delivered) >= 20)  # noqa: B023
            assert [{"n": number} for number in range(20)] == [p.payload for p in sink.delivered]
            assert {("x", "me")} == {(p.headers["mine"], p.publisher) for p in sink.delivered}

    def test_a_node_gets_what_it_wants_itself(self, node):
        """Whatever another one wants, and wants no longer."""
        (one, own), (other, its) = node(), node()
        one.want(("a",))
        other.want(("**",))
        other.unwant(("**",))
        other.want(("end",))
        for topic in ("a", "b", "end"):
            one.publish(message(topic), PLAIN)
        until(lambda: its.delivered and own.delivered)
        assert ([("a")], ["end"]) == ([p.topic for p in own.delivered], [p.topic for p in its.delivered])

    # ------------------------------------------------------------------- history

    def test_all_publish_in_one_numbering(self, node):
        """No number is given twice, none is left out, and what each node published stays in its order."""
        nodes = [node(), node()]
        nodes[0][0].want(("a", "b"))
        keep, taken = Keep(history=100), []

        def publish(name: str, broker: Broker) -> None:
            for number in range(20):
                taken.append(broker.publish(message(payload=[name, number]), keep))

        gevent.joinall([gevent.spawn(publish, str(i), broker) for i, (broker, _) in enumerate(nodes)], raise_error=True)
        assert list(range(1, 41)) == sorted(accepted.offset for accepted in taken)
        assert 1 == len({accepted.epoch for accepted in taken})
        until(lambda: len(nodes[0][1].delivered) == 40)
        for items in (nodes[0][1].delivered, nodes[1][0].history("a/b", Since()).items):
            assert list(range(1, 41)) == sorted(p.offset for p in items)
            of_each = defaultdict(list)
            for publication in items:
                of_each[publication.payload[0]].append(publication.payload[1])
            assert {"0": list(range(20)), "1": list(range(20))} == of_each

    def test_the_past_is_the_same_for_all(self, node):
        """History, retained values and ids of what was published already."""
        (one, _), (other, _) = node(), node()
        first = one.publish(message(dedupe_id="x"), Keep(history=5, retain=True))
        found = other.history("a/b", Since(0, first.epoch))
        assert (True, [(1, 1, first.epoch)]) == (found.complete, [(p.payload, p.offset, p.epoch) for p in found.items])
        assert first._replace(duplicate=True) == other.publish(message(dedupe_id="x"), KEPT)
        assert [1] == [p.payload for p in other.retained(("**",))]
        other.publish(message(payload=None), RETAINED)
        assert [] == list(one.retained(("**",)))

    # -------------------------------------------------------------------- groups

    def test_a_group_of_several_nodes_gets_each_message_once(self, node):
        """Each node no more than its window at a time."""
        nodes = [node(), node()]
        for broker, _ in nodes:
            broker.join(WORK, 2, durable=False)
        for number in range(12):
            nodes[0][0].publish(message(f"jobs/{number}", number), PLAIN)
        until(lambda: [2, 2] == [len(sink.given) for _, sink in nodes])
        while sum(len(sink.given) for _, sink in nodes) < 12:
            before = sum(len(sink.given) for _, sink in nodes)
            for broker, sink in nodes:
                for group, _, token in sink.given:
                    broker.done(group, token)
            until(lambda: sum(len(sink.given) for _, sink in nodes) > before)  # noqa: B023
        assert list(range(12)) == sorted(p.payload for _, sink in nodes for _, p, _ in sink.given)

    def test_a_node_without_members_hands_its_work_on(self, node):
        """What it has not done goes to the others, and only that."""
        (one, given), (other, taken) = node(), node()
        one.join(WORK, 10, durable=True)
        for number in range(3):
            one.publish(message(f"jobs/{number}", number), Keep(history=9, ack=True))
        until(lambda: len(given.given) == 3)
        one.done(WORK, given.given[1][2])
        other.join(WORK, 10, durable=True)
        one.leave(WORK)
        until(lambda: len(taken.given) == 2)
        assert [0, 2] == sorted(p.payload for _, p, _ in taken.given)

    def test_a_group_goes_on_while_one_node_has_members(self, node):
        """Whichever leaves; without any, one that is not durable has no messages."""
        (one, given), (other, taken) = node(), node()
        one.join(WORK, 10, durable=False)
        other.join(WORK, 10, durable=False)
        one.leave(WORK)
        one.publish(message("jobs/1", 1), PLAIN)
        until(lambda: taken.given)
        other.done(WORK, taken.given[0][2])
        other.leave(WORK)
        one.publish(message("jobs/2", 2), PLAIN)
        one.join(WORK, 10, durable=False)
        one.publish(message("jobs/3", 3), PLAIN)
        until(lambda: given.given)
        assert ([3], [1]) == ([p.payload for _, p, _ in given.given], [p.payload for _, p, _ in taken.given])

    def test_a_group_is_the_same_for_all(self, node, monkeypatch):
        """Its members may be anywhere: it is full, or can be dropped, for every node; one is told what it lost."""
        monkeypatch.setattr(one_node, "GROUP_BACKLOG", 3)
        (one, given), (other, taken) = node(), node()
        keep = Keep(history=20, ack=True)
        one.join(WORK, 1, durable=True)
        other.publish(message("jobs/1", 0), keep)
        until(lambda: given.given)
        assert [WORK] == other.groups()
        with pytest.raises(FailedPrecondition):
            other.drop_group(WORK)
        for number in range(1, 4):
            other.publish(message("jobs/1", number), keep)
        with pytest.raises(Overloaded):
            other.publish(message("jobs/1", 4), keep)
        one.leave(WORK)
        other.publish(message("jobs/1", 5), keep)
        other.join(WORK, 10, durable=True)
        one.join(WORK, 10, durable=True)
        until(lambda: len(taken.given) + len(given.given) >= 4)
        assert 1 == sum(count for sink in (given, taken) for _, count, _ in sink.losses)
        for broker in (one, other):
            broker.leave(WORK)
        assert one.drop_group(WORK)
        assert [] == other.groups()

    def test_no_more_groups_begin_in_one_moment_than_there_is_room_for(self, node):
        """Whichever nodes make them; the same one may be made by several."""
        nodes, places, refused = [node()[0], node()[0]], [Places(("jobs", "*"), 5)], []

        def join(broker: Broker, number: int) -> None:
            try:
                broker.join(GroupName(("jobs", "*"), f"g{number}"), 1, durable=True, places=places)
            except Overloaded:
                refused.append(number)

        jobs = [gevent.spawn(join, broker, number) for number in range(10) for broker in nodes]
        gevent.joinall(jobs, raise_error=True)
        assert (5, 10) == (len(nodes[0].groups()), len(refused))

    @pytest.mark.once
    def test_a_node_that_dies_hands_its_work_on(self, node):
        """After its lease, but for what it had done; one that lives keeps what it has however long it takes."""
        (one, given) = node()
        child = subprocess.Popen(
            [sys.executable, "-c", DIES, self.url()], stdout=subprocess.PIPE, text=True, env=ENVIRONMENT
        )
        assert child.stdout is not None
        try:
            assert "joined\n" == child.stdout.readline()
            for number in range(3):
                one.publish(message(f"jobs/{number}", number), Keep(history=9, ack=True))
            assert "given\n" == child.stdout.readline()
            one.join(WORK, 10, durable=True)
            gevent.sleep(2 * self.lease)
            assert [] == given.given
        finally:
            child.kill()
            child.wait()
            child.stdout.close()
        until(lambda: len(given.given) == 2, 10 * self.lease + 5)
        assert [1, 2] == sorted(p.payload for _, p, _ in given.given)

    # ------------------------------------------------------------------- records

    def test_a_record_is_for_all_and_claimed_by_one(self, node):
        """However many nodes try at the same moment."""
        (one, _), (other, _) = node(), node()
        for number in range(20):
            one.put("wills", str(number), number, 60.0)
        assert {str(number): number for number in range(20)} == dict(other.records("wills"))
        claimed = []

        def claim(broker: Broker) -> None:
            for number in range(20):
                claimed.append(broker.claim("wills", str(number)))

        gevent.joinall([gevent.spawn(claim, broker) for broker in (one, other, one, other)], raise_error=True)
        assert list(range(20)) == sorted(value for value in claimed if value is not None)
        assert {} == dict(one.records("wills"))

    def test_a_record_that_is_put_again_meanwhile_is_not_missing(self, node):
        """Whoever lives renews its record again and again: a single look without it would make it dead."""
        (one, _), (other, _) = node(), node()
        one.put("nodes", "one", 1, 60.0)
        stopping = []

        def renew() -> None:
            while not stopping:
                one.put("nodes", "one", 1, 60.0)
                gevent.sleep(0.002)

        renewing = gevent.spawn(renew)
        looks = []
        for _ in range(400):
            other.put("nodes", "other", 1, 60.0)
            looks.append({*other.records("nodes")})
        stopping.append(True)
        renewing.join()
        assert [] == [look for look in looks if look != {"one", "other"}]
