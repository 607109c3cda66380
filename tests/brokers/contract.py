"""What every engine must do: one suite, run against each of them.

A test module of an engine subclasses `BrokerContract`, gives `open_broker` and runs where its server is.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import gevent
import pytest

from webmesh.brokers.base import Broker, GroupName, Keep, Since
from webmesh.protocol.publication import Publication, read_publication

PLAIN = Keep()
KEPT = Keep(history=5)
RETAINED = Keep(retain=True)
WORK = GroupName(("jobs", "*"), "workers")


class RecordingSink:
    """A node: keeps what it is told."""

    def __init__(self) -> None:
        self.delivered: list[Publication] = []
        self.given: list[tuple[GroupName, Publication, Any]] = []
        self.gaps: list[str] = []
        self.healths: list[bool] = []

    def deliver(self, publication: Publication) -> None:
        self.delivered.append(publication)

    def work(self, group: GroupName, publication: Publication, token: Any) -> None:
        self.given.append((group, publication, token))

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


class BrokerContract:
    """Subclass it; `nodes` is how many nodes share the engine's data."""

    nodes = 1

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

    def test_a_topic_that_nobody_published_to(self, node):
        """Has an empty history."""
        broker, _ = node()
        found = broker.history("never", Since())
        assert ([], 0, True) == (found.items, found.offset, found.complete)

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
            found = broker.retained(pattern)
            assert wanted == sorted(p.payload for p in found)
            assert all(p.retained for p in found)

    def test_null_takes_the_retained_value_away(self, node):
        """As with MQTT."""
        broker, _ = node()
        broker.publish(message(payload=1), RETAINED)
        broker.publish(message(payload=None), RETAINED)
        assert [] == broker.retained(("a", "b"))

    def test_a_retained_value_ends_with_its_time(self, node):
        """Nobody gets it afterwards."""
        broker, _ = node()
        broker.publish(message(ttl_ms="500"), RETAINED)
        self.pass_time(1.0)
        assert [] == broker.retained(("a", "b"))

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

    # -------------------------------------------------------------------- itself

    def test_it_says_whether_it_is_up(self, node):
        """Between start and stop."""
        broker, _ = node()
        assert broker.up
        broker.stop()
        assert not broker.up
