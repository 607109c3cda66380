"""What one subscription gets of what came."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import gevent
import pytest
from gevent.event import Event

from webmesh import topic_feed
from webmesh.exceptions import ConnectionClosed, HandlerFailed, InvalidArgument, RequestTimeout, Unavailable
from webmesh.message_queue import MessageQueue
from webmesh.messages import HistoryPage, Message, Position
from webmesh.protocol.envelope import TopicMessage
from webmesh.protocol.topic_positions import OwnOffsets
from webmesh.topic_feed import TopicFeed


class Past:
    """A node's history of every topic, from *first* to *last*; says what it is told to instead."""

    def __init__(self, first: int = 1, last: int = 0, epoch: str = "e") -> None:
        self.first, self.last, self.epoch = first, last, epoch
        self.asked: list[tuple[str, int, int]] = []
        self.errors: list[Exception] = []
        self.go = Event()
        self.go.set()

    def __call__(self, topic: str, since: Position, most: int) -> HistoryPage:
        self.asked.append((topic, since.offset, most))
        self.go.wait(10)
        if self.errors:
            raise self.errors.pop(0)
        complete = since.epoch == self.epoch and since.offset + 1 >= self.first
        offsets = range(since.offset + 1, self.last + 1)[:most] if complete else ()
        items = [Message(offset, topic, offset=offset, epoch=self.epoch) for offset in offsets]
        return HistoryPage(items, self.last, self.epoch, complete)


class Feeding:
    """A feed, its queue, and what is published."""

    def __init__(self, past: Past | None = None, pattern: str = "a", queue: int = 100, **options: Any) -> None:
        self.past = past or Past()
        self.ended: list[tuple[int, bool]] = []
        self.own = OwnOffsets()
        self.queue = MessageQueue(queue, options.pop("overflow", "drop_oldest"), pattern)
        self.feed = TopicFeed(pattern, self.queue, self.past, own=self.own, wake=lambda: None, **options)

    def live(self, *offsets: int, topic: str = "a", epoch: str = "e", **more: Any) -> None:
        for offset in offsets:
            self.past.last = max(self.past.last, offset)
            self.feed.take(TopicMessage(topic, offset, None, offset=offset, epoch=epoch, **more))

    def deliver(self, *offsets: int, topic: str = "a", epoch: str = "e", attempt: int = 1) -> None:
        """Deliver what is to be acknowledged; the end of it is noted in `ended`."""
        for offset in offsets:
            self.past.last = max(self.past.last, offset)
            message = TopicMessage(topic, offset, offset, offset=offset, epoch=epoch, attempt=attempt)
            self.feed.take(message, lambda error, offset=offset: self.ended.append((offset, error is None)))

    def begin(self, offset: int = 0) -> None:
        self.feed.began({"sub": 1, "offset": offset, "epoch": "e"}, None)

    def shown(self, until: Callable[[], object] = lambda: True) -> list[Any]:
        """What has come, as offsets, and the reasons and offsets of gaps."""
        with gevent.Timeout(10):
            while not until():
                gevent.sleep(0)
        return [(one.payload["reason"], one.offset) if one.event == "gap" else one.payload for one in self.take()]

    def take(self) -> list[Message]:
        taken = self.queue.clear()
        self.feed.consumed()
        return taken


def test_each_message_once_and_in_order() -> None:
    """One that comes again is dropped."""
    feeding = Feeding()
    feeding.begin(2)
    feeding.live(3, 3, 4, 1)
    assert ([3, 4], []) == (feeding.shown(), feeding.past.asked)
    assert Position(4, "e") == feeding.feed.position


def test_a_hole_is_filled_before_what_follows_it() -> None:
    """What is live waits for what is fetched."""
    feeding = Feeding()
    feeding.begin()
    feeding.past.go.clear()
    feeding.live(1, 4)
    gevent.sleep(0)
    feeding.live(5)
    assert [1] == feeding.shown()
    feeding.past.go.set()
    assert [2, 3, 4, 5] == feeding.shown(lambda: len(feeding.queue) == 4)
    assert [("a", 1)] == [(topic, offset) for topic, offset, _ in feeding.past.asked]


def test_a_hole_that_cannot_be_filled_is_told() -> None:
    """And what is live goes on."""
    feeding = Feeding(Past(first=4))
    feeding.begin()
    feeding.live(1, 4, 5)
    assert [1, ("not kept", 3), 4, 5] == feeding.shown(lambda: len(feeding.queue) == 4)
    feeding.live(6)
    assert [6] == feeding.shown()
    assert feeding.feed.recovered is False


def test_numbers_that_begin_anew_are_told() -> None:
    """Nobody knows what was lost before them."""
    feeding = Feeding(Past(epoch="f"))
    feeding.begin(7)
    feeding.live(2, epoch="f")
    assert [("not kept", 1), 2] == feeding.shown(lambda: len(feeding.queue) == 2)


def test_a_node_that_tells_no_past() -> None:
    """The gap is told, and nobody asks again."""
    feeding = Feeding()
    feeding.begin()
    feeding.past.errors.append(InvalidArgument("no history"))
    feeding.live(1, 3)
    assert [1, ("not kept", 2), 3] == feeding.shown(lambda: len(feeding.queue) == 3)
    feeding.live(5)
    assert [("lost", 4), 5] == feeding.shown()
    assert 1 == len(feeding.past.asked)


@pytest.mark.parametrize("error", [RequestTimeout("$history", 1.0), HandlerFailed("a fault of the node's")])
def test_what_fails_once_is_tried_again(error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    """One page that cannot be had now says nothing of the next try, or of the topic."""
    monkeypatch.setattr(topic_feed, "PAUSE", 0.001)
    feeding = Feeding()
    feeding.begin()
    feeding.past.errors.append(error)
    feeding.live(1, 3)
    assert [1, 2, 3] == feeding.shown(lambda: len(feeding.queue) == 3)


def test_a_node_that_cannot_now_is_asked_again() -> None:
    """After the pause that it wants, or one of our own."""
    feeding = Feeding()
    feeding.begin()
    feeding.past.errors.append(Unavailable("the engine is away", retry_after=0.0))
    feeding.live(1, 3)
    assert [1, 2, 3] == feeding.shown(lambda: len(feeding.queue) == 3)


def test_a_loss_while_fetching_is_followed_by_another_try() -> None:
    """When the session has been resumed."""
    feeding = Feeding()
    feeding.begin()
    feeding.past.errors.append(ConnectionClosed(1006, "cut"))
    feeding.live(1, 3)
    assert [1] == feeding.shown(lambda: not feeding.past.errors)
    feeding.feed.resumed()
    assert [2, 3] == feeding.shown(lambda: len(feeding.queue) == 2)


def test_what_has_no_room_is_fetched_when_there_is() -> None:
    """Page by page, as the subscriber takes them."""
    feeding = Feeding(queue=4)
    feeding.begin()
    feeding.live(*range(1, 31))
    seen: list[Any] = []
    with gevent.Timeout(10):
        while len(seen) < 30:
            seen += [message.payload for message in feeding.take()]
            gevent.sleep(0)
    assert list(range(1, 31)) == seen
    feeding.live(31)
    assert [31] == feeding.shown()


def test_what_is_replayed_is_fetched_too_where_there_is_no_room() -> None:
    """A long past does not push itself out of the queue."""
    feeding = Feeding(queue=4)
    feeding.feed.began({"offset": 20, "epoch": "e"}, 60.0)
    feeding.live(*range(5, 21))
    seen: list[Any] = []
    with gevent.Timeout(10):
        while len(seen) < 16:
            seen += [message.payload for message in feeding.take()]
            gevent.sleep(0)
    assert list(range(5, 21)) == seen


def test_what_may_be_left_out_is_told_and_not_fetched() -> None:
    """The subscriber is slow already; a newer value stands for those that it replaces."""
    feeding = Feeding()
    feeding.begin()
    feeding.live(1)
    feeding.live(4, loose=True)
    feeding.feed.take(TopicMessage("a", {"reason": "slow"}, event="gap", offset=3, epoch="e"))
    feeding.live(7, headers={"conflate-key": "k"}, loose=True)
    assert ([1, ("slow", 3), 4, 7], []) == (feeding.shown(), feeding.past.asked)


def test_what_may_be_left_out_may_be_lost_in_a_session_that_goes_on() -> None:
    """Nobody keeps it for who was cut off: it is fetched, or a gap is told."""
    feeding = Feeding(pattern="*")
    feeding.live(1, loose=True)
    feeding.past.last = 3
    feeding.feed.resumed()
    assert [1, 2, 3] == feeding.shown(lambda: len(feeding.queue) == 3)
    feeding.feed.take(TopicMessage("b", 7, loose=True))
    feeding.feed.resumed()
    assert [7, ("reconnected", None)] == feeding.shown()


def test_own_publications_are_no_hole() -> None:
    """And not delivered when the past is fetched."""
    feeding = Feeding()
    feeding.begin()
    feeding.own.add("a", "e", 2)
    feeding.live(1, 3)
    assert ([1, 3], []) == (feeding.shown(), feeding.past.asked)
    feeding.own.add("a", "e", 4)
    feeding.live(6)
    assert [5, 6] == feeding.shown(lambda: len(feeding.queue) == 2)


def test_gaps_that_the_node_tells() -> None:
    """They move the position; that of a whole pattern has the topics fetched that are known."""
    feeding = Feeding(pattern="*")
    feeding.live(1)
    feeding.feed.take(TopicMessage("a", {"reason": "slow"}, event="gap", offset=3, epoch="e"))
    feeding.feed.take(TopicMessage("b", {"reason": "slow"}, event="gap"))
    feeding.live(4)
    assert [1, ("slow", 3), ("slow", None), 4] == feeding.shown()
    feeding.past.last = 6
    feeding.feed.take(TopicMessage("*", {"reason": "outage", "pattern": True}, event="gap"))
    feeding.live(7)
    assert [("outage", None), 5, 6, 7] == feeding.shown(lambda: len(feeding.queue) == 4)


@pytest.mark.parametrize(
    ("past", "expected"), [(Past(last=3), [1, 2, 3]), (Past(first=3, last=3), [1, ("not kept", 3)])]
)
def test_what_an_engine_has_kept_while_it_was_away(past: Past, expected: list[Any]) -> None:
    """Is fetched for a topic with history; a gap is told only if that cannot be."""
    feeding = Feeding(past)
    feeding.begin()
    feeding.live(1)
    feeding.past.last = 3
    feeding.feed.take(TopicMessage("a", {"reason": "outage", "pattern": True}, event="gap"))
    assert expected == feeding.shown(lambda: len(feeding.queue) == len(expected))


def test_after_a_loss_that_was_recovered() -> None:
    """What came between is replayed; what was fetched at the loss is given up."""
    feeding = Feeding()
    feeding.begin()
    feeding.live(1, 2)
    since = feeding.feed.position
    assert Position(2, "e") == since
    feeding.feed.began_anew({"offset": 4, "epoch": "e", "recovered": True}, since)
    feeding.live(3, 4, 5)
    assert ([1, 2, 3, 4, 5], True) == (feeding.shown(), feeding.feed.recovered)


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ({"offset": 3, "epoch": "f", "recovered": False}, [1, ("not kept", 3), 4]),
        ({"offset": 3, "epoch": "f"}, [1, ("not kept", 3), 4]),
    ],
)
def test_after_a_loss_that_could_not_be(answer: dict[str, Any], expected: list[Any]) -> None:
    """The gap is told, and it goes on from there."""
    feeding = Feeding()
    feeding.begin()
    feeding.live(1)
    feeding.feed.began_anew(answer, feeding.feed.position)
    feeding.live(4, epoch="f")
    assert (expected, False) == (feeding.shown(), feeding.feed.recovered)


def test_after_a_loss_a_topic_without_numbers_tells_a_gap() -> None:
    """Nobody knows whether there was anything."""
    feeding = Feeding()
    feeding.feed.began({"sub": 1}, None)
    feeding.feed.began_anew({"sub": 1}, None)
    assert [("reconnected", None)] == feeding.shown()


def test_after_a_loss_a_pattern_fetches_what_it_knows() -> None:
    """And tells that there may have been topics that it does not know."""
    feeding = Feeding(pattern="*")
    feeding.live(1)
    feeding.live(1, topic="b")
    feeding.shown()
    feeding.past.last = 3
    feeding.feed.began_anew({"sub": 1}, None)
    feeding.live(4)
    shown = feeding.shown(lambda: len(feeding.queue) == 7)
    assert ("reconnected", None) == shown[0]
    assert [2, 2, 3, 3, 4, 4] == sorted(shown[1:])


def test_a_group_has_no_holes() -> None:
    """Others of it get what it does not, after a loss too."""
    feeding = Feeding(group=True)
    feeding.feed.began({"sub": 1, "offset": 0, "epoch": "e"}, None)
    feeding.live(1, 4, 3)
    feeding.feed.began_anew({"sub": 1}, None)
    assert ([1, 4, 3], []) == (feeding.shown(), feeding.past.asked)


def test_what_is_delivered_again_while_it_is_handled() -> None:
    """Is handled once, and acknowledged where it was delivered last."""
    feeding, told = Feeding(), []
    feeding.begin()
    first = TopicMessage("a", 1, 10, offset=1, epoch="e")
    again = TopicMessage("a", 1, 11, offset=1, epoch="e", attempt=2)
    feeding.feed.take(first, lambda error: told.append("first"))
    feeding.feed.take(again, lambda error: told.append("again"))
    (message,) = feeding.take()
    assert Position(0, "e") == feeding.feed.position
    message.ack()
    assert (["again"], Position(1, "e")) == (told, feeding.feed.position)
    feeding.feed.take(again, lambda error: told.append("third"))
    assert [2] == [message.attempt for message in feeding.take()]


@pytest.mark.parametrize("again", ["acknowledged", "plain"])
def test_what_is_not_acknowledged_comes_again_after_a_loss(again: str) -> None:
    """What was rejected is handled again; what is being handled is known."""
    feeding = Feeding()
    feeding.begin()

    def deliver(*offsets: int) -> None:
        for offset in offsets:
            feeding.feed.take(TopicMessage("a", offset, offset, offset=offset, epoch="e"), lambda error: None)

    deliver(1, 2, 3)
    feeding.queue.pop().ack()
    feeding.queue.pop().reject(ValueError("not now"))
    since = feeding.feed.position
    assert Position(1, "e") == since
    feeding.feed.began_anew({"offset": 3, "epoch": "e", "recovered": True}, since)
    if again == "plain":
        feeding.live(2, 3, 4)
    else:
        deliver(2, 3, 4)
    assert [3, 2, 4] == feeding.shown()


def test_a_message_that_was_dropped_comes_again() -> None:
    """Nobody has it any more, so nobody will acknowledge it."""
    feeding = Feeding()
    feeding.begin()
    for attempt in (1, 2):
        feeding.feed.take(TopicMessage("a", 1, 7, offset=1, epoch="e", attempt=attempt), lambda error: None)
        assert [attempt] == [message.attempt for message in feeding.take()]


def test_what_is_delivered_while_older_ones_are_fetched_waits_for_them() -> None:
    """And is handled once, by that delivery."""
    feeding, told = Feeding(pattern="*"), []
    feeding.live(1)
    feeding.past.last = 4
    feeding.past.go.clear()
    feeding.feed.began_anew({"sub": 1}, None)
    for offset in (4, 5):
        message = TopicMessage("a", offset, offset, offset=offset, epoch="e")
        feeding.feed.take(message, lambda error, offset=offset: told.append(offset))
    feeding.past.go.set()
    with gevent.Timeout(10):
        while len(feeding.queue) < 6:
            gevent.sleep(0)
    messages = feeding.take()
    assert [1, 2, 3, 4, 5] == [message.payload for message in messages if message.event is None]
    for message in messages:
        message.ack()
    assert [4, 5] == told


def test_what_waits_for_the_past_is_kept_where_the_node_waits_for_it() -> None:
    """Falling behind once more must not let it go: it would be fetched, and delivered again."""
    feeding = Feeding(pattern="*")
    feeding.live(1)
    feeding.past.go.clear()
    outage = TopicMessage("*", {"reason": "outage", "pattern": True}, event="gap")
    feeding.feed.take(outage)
    feeding.deliver(4)
    feeding.feed.take(outage)
    feeding.past.go.set()
    with gevent.Timeout(10):
        while len(feeding.queue) < 6:
            gevent.sleep(0)
    messages = feeding.take()
    assert [1, 2, 3, 4] == [message.payload for message in messages if message.event is None]
    for message in messages:
        message.ack()
    assert [(4, True)] == feeding.ended


def test_what_was_fetched_and_is_delivered_too_is_handled_once() -> None:
    """The node learns the end of it, be that before or after."""
    feeding = Feeding(pattern="*")
    feeding.deliver(1)
    feeding.take()[0].ack()
    feeding.past.last = 5
    feeding.feed.take(TopicMessage("*", {"reason": "outage", "pattern": True}, event="gap"))
    with gevent.Timeout(10):
        while len(feeding.queue) < 5:
            gevent.sleep(0)
    two, three, four, _ = feeding.take()[1:]
    two.ack()
    feeding.deliver(2, 3)
    three.ack()
    four.reject(ValueError("not now"))
    assert ([(1, True), (2, True), (3, True)], 0) == (feeding.ended, len(feeding.queue))
    feeding.deliver(4)
    assert [4] == feeding.shown()


def test_numbers_that_begin_anew_are_told_where_they_are_acknowledged() -> None:
    """And what the node still delivers again of the former ones moves nothing."""
    feeding = Feeding(Past(epoch="f"))
    feeding.begin(7)
    feeding.deliver(8)
    feeding.deliver(2, epoch="f")
    assert [8, ("not kept", 1), 2] == feeding.shown(lambda: len(feeding.queue) == 3)
    feeding.past.last = 2
    feeding.feed.take(TopicMessage("a", 8, 9, offset=8, epoch="e", attempt=2), lambda error: None)
    assert [8] == feeding.shown(lambda: len(feeding.queue) == 1)
    feeding.deliver(3, epoch="f")
    assert [3] == feeding.shown()


def test_numbers_that_begin_anew_behind_a_past_that_is_complete() -> None:
    """A page may have been read before: nobody asks for ever."""
    feeding = Feeding()
    feeding.begin()
    feeding.live(1)
    feeding.past.last = 2
    feeding.live(1, epoch="f")
    assert [1, 2, ("not kept", 0), 1] == feeding.shown(lambda: len(feeding.queue) == 4)


def test_what_was_acknowledged_does_not_come_again_with_what_was_not() -> None:
    """After a loss, when everything behind that one comes."""
    feeding = Feeding()
    feeding.begin()
    feeding.deliver(1, 2, 3)
    one, two, three = feeding.take()
    one.ack()
    three.ack()
    two.reject(ValueError("not now"))
    since = feeding.feed.position
    assert Position(1, "e") == since
    feeding.feed.began_anew({"offset": 3, "epoch": "e", "recovered": True}, since)
    feeding.live(2, 3, 4)
    assert [2, 4] == feeding.shown()


class Expiring(Past):
    """Some of it had a time of their own, which is over."""

    gone: frozenset[int] = frozenset()

    def __call__(self, topic: str, since: Position, most: int) -> HistoryPage:
        page = super().__call__(topic, since, 1000)
        return page._replace(items=[item for item in page.items if item.offset not in self.gone][:most])


@pytest.mark.parametrize("gone", [{2}, {2, 3}, {2, 3, 4, 5}, {3, 5}])
def test_what_had_its_time_is_no_gap(gone: set[int]) -> None:
    """The page is complete all the same; what came live in time is delivered."""
    feeding = Feeding(Expiring(), queue=4)
    feeding.past.gone = frozenset(gone)  # type: ignore[attr-defined]
    feeding.begin()
    feeding.live(1, 5)
    expected = [offset for offset in (1, 2, 3, 4, 5, 6) if offset not in gone - {5}]
    seen: list[Any] = []
    with gevent.Timeout(10):
        while len(seen) < len(expected) - 1:
            seen += feeding.shown()
            gevent.sleep(0)
    feeding.live(6)
    assert expected == seen + feeding.shown()


def test_a_gap_that_the_node_tells_waits_for_the_past_too() -> None:
    """It is told in its place, unless what it tells of was fetched."""
    for told, expected in ((3, [1, 2, 3, 4, 5]), (6, [1, 2, 3, 4, 5, ("slow", 6), 7])):
        feeding = Feeding()
        feeding.begin()
        feeding.live(1, 5)
        feeding.feed.take(TopicMessage("a", {"reason": "slow"}, event="gap", offset=told, epoch="e"))
        if told == 6:
            feeding.live(7, loose=True)
        assert expected == feeding.shown(lambda most=len(expected): len(feeding.queue) == most)


def test_a_pattern_knows_what_is_being_handled_too() -> None:
    """When it fetches what came between."""
    feeding = Feeding(pattern="*")
    for offset in (1, 2):
        feeding.feed.take(TopicMessage("a", offset, offset, offset=offset, epoch="e"), lambda error: None)
    feeding.past.last = 3
    feeding.feed.began_anew({"sub": 1}, None)
    assert [1, 2, ("reconnected", None), 3] == feeding.shown(lambda: len(feeding.queue) == 4)


def test_what_has_no_number_is_known_by_its_dedupe_id() -> None:
    """Without one nothing tells, and it is handled as often as it is delivered."""
    feeding = Feeding(group=True)
    for headers in ({"dedupe-id": "x"}, {"dedupe-id": "x"}, {}, {}):
        feeding.feed.take(TopicMessage("a", 1, 7, headers), lambda error: None)
    assert 3 == len(feeding.queue)


def test_an_event_that_nobody_knows_is_left_out() -> None:
    """A later version of the protocol may have some."""
    feeding = Feeding()
    feeding.feed.take(TopicMessage("a", None, event="of later days"))
    feeding.feed.take(TopicMessage("a", {"joined": {}}, event="presence"))
    assert ["presence"] == [message.event for message in feeding.take()]
