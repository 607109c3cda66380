"""Leader and followers: who reads, who handles, who waits, who goes."""

from __future__ import annotations

import gc
import time
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import gevent
import pytest
from gevent import Greenlet
from gevent.event import Event
from gevent.queue import Queue
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.websocket.loopback import PATIENCE, until
from webmesh.testing import FakeClock
from webmesh.websocket.turns import Turns


class Slow:
    """An item whose handling lasts until the test lets it go."""

    def __init__(self, name: str = "slow") -> None:
        self.name = name
        self.go_on = Event()

    def __repr__(self) -> str:
        return self.name


class Stage:
    """A connection's greenlets with what they read, handle and write in the test's hands.

    Attributes:
        begun, ended: What was handled, with the greenlet that did.
        reading: The greenlets that read now: never more than one.
        broken: What something was thrown into while it was handled.
        log: What happened, in order.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.batches: Queue[list[Any] | None] = Queue()
        self.begun: list[tuple[Any, Any]] = []
        self.ended: list[tuple[Any, Any]] = []
        self.switched: list[Any] = []
        self.reading: list[Any] = []
        self.log: list[str] = []
        self.failures = 0
        self.broken: list[Any] = []
        self.running = 0
        self.most = 0
        self.may_flush = Event()
        self.may_flush.set()
        self.done: list[Any] = []
        self.turns: Turns[Any] = Turns(
            self._read, self._handle, self._flush, self._switched, self._fail, self._on_done, clock
        )
        self.resident = gevent.spawn(self.turns.run)

    def _on_done(self) -> None:
        self.done.append((gevent.getcurrent(), self.turns.in_flight))

    def _read(self) -> list[Any] | None:
        self.log.append("read")
        self.reading.append(gevent.getcurrent())
        try:
            assert 1 == len(self.reading), "two greenlets read at once"
            return self.batches.get()
        finally:
            self.reading.remove(gevent.getcurrent())

    def _handle(self, item: Any) -> None:
        self.log.append(f"begin {item}")
        self.begun.append((item, gevent.getcurrent()))
        self.running += 1
        self.most = max(self.most, self.running)
        try:
            if isinstance(item, Slow):
                item.go_on.wait()
            elif isinstance(item, Exception):
                raise item
            elif callable(item):
                item()
        except BaseException:
            self.broken.append(item)
            raise
        finally:
            self.running -= 1
            self.ended.append((item, gevent.getcurrent()))

    def _flush(self) -> None:
        self.log.append("flush")
        self.may_flush.wait()

    def _switched(self, greenlet: Any) -> None:
        assert gevent.getcurrent() is gevent.get_hub()
        self.switched.append(greenlet)

    def _fail(self) -> None:
        self.failures += 1
        self.batches.put(None)

    @property
    def leader(self) -> Any:
        """The greenlet that reads."""
        [leader] = self.reading
        return leader

    def feed(self, *items: Any) -> None:
        """Let one batch be read, and come to rest."""
        self.batches.put(list(items))
        settle()

    def handler_of(self, item: Any) -> Any:
        """The greenlet that handled, or handles, *item*."""
        return next(greenlet for each, greenlet in self.begun if each is item)

    def finish(self) -> None:
        """The connection ends; all greenlets must go."""
        self.batches.put(None)
        self.resident.join(PATIENCE)
        assert self.resident.ready()
        settle()


def settle() -> None:
    """Let everything run that can."""
    for _ in range(8):
        gevent.sleep(0)


def alive() -> int:
    """How many greenlets there are besides the current one."""
    gc.collect()
    return sum(isinstance(each, Greenlet) and bool(each) for each in gc.get_objects())


@pytest.fixture(autouse=True)
def no_leak() -> Iterator[None]:
    """No test leaves a greenlet behind."""
    before = alive()
    yield
    until(lambda: alive() <= before)


@pytest.fixture(autouse=True)
def shown(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[type[BaseException]]]:
    """Errors that the hub would print: none, unless a test expects them and takes them away."""
    errors: list[type[BaseException]] = []

    def print_exception(context: Any, kind: type[BaseException], value: Any, trace: Any) -> None:
        errors.append(kind)

    monkeypatch.setattr(gevent.get_hub(), "print_exception", print_exception)
    yield errors
    assert [] == errors


# ------------------------------------------------------------------ quick and slow


def test_quick_messages_cost_no_switch():
    """One greenlet reads and handles them all, and writes once for all of a turn."""
    stage = Stage()
    stage.feed(1, 2, 3)
    stage.feed(4)
    stage.finish()

    assert [1, 2, 3, 4] == [item for item, _ in stage.begun]
    assert {stage.resident} == {greenlet for _, greenlet in stage.begun}
    assert [] == stage.switched
    assert "flush read begin 1 begin 2 begin 3 flush read begin 4 flush read" == " ".join(stage.log)


@pytest.mark.row(82, 23)
def test_a_batch_of_quick_handlers_gives_way_by_time():
    """Many quick ones in a row are as long as a slow one: the hub turns after ten milliseconds of them."""
    clock = FakeClock()
    stage = Stage(clock)
    seen: list[int] = []

    def watch() -> None:
        while len(stage.ended) < 64:
            seen.append(len(stage.ended))
            gevent.sleep(0)

    watching = gevent.spawn(watch)
    stage.feed(*([lambda: clock.advance(0.0015)] * 64))
    watching.join(PATIENCE)

    assert [7, 14, 21, 28, 35, 42, 49, 56, 63] == sorted({each for each in seen if each})
    assert [stage.resident] == list({greenlet for _, greenlet in stage.ended})
    assert [] == stage.switched
    stage.finish()


def test_it_is_noted_when_a_batch_was_read():
    """Of what comes alone it is not: whoever wants to know reads the clock when its handling begins."""
    clock = FakeClock()
    stage = Stage(clock)
    noted: list[float | None] = []

    def look() -> None:
        noted.append(stage.turns.since)
        clock.advance(0.001)

    began = clock()
    stage.feed(look)
    stage.feed(look, look)
    stage.feed(look)

    assert [None, began + 0.001, began + 0.001, None] == noted
    stage.finish()


def test_what_was_answered_leaves_before_a_batch_gives_way():
    """Nobody waits for the rest of another's batch."""
    clock = FakeClock()
    stage = Stage(clock)
    stage.feed(*([lambda: clock.advance(0.02)] * 3))

    assert ["flush", "read", "flush", "flush", "flush", "read"] == [
        each for each in stage.log if not each.startswith("begin")
    ]
    stage.finish()


def test_a_forgotten_timer_that_strikes_while_a_batch_gives_way_ends_nothing():
    """The rest of the batch is handled."""
    clock = FakeClock()
    stage = Stage(clock)
    strike = gevent.Timeout(0.001)

    def forget() -> None:
        strike.start()
        clock.advance(0.02)
        stage.may_flush.clear()
        gevent.get_hub().loop.run_callback(lambda: gevent.spawn_later(0.01, stage.may_flush.set))

    stage.feed(forget, *([lambda: None] * 5))
    until(lambda: 6 == len(stage.ended))

    assert stage.failures == 0 and not stage.resident.ready()
    stage.finish()


def test_a_slow_handler_holds_up_nobody():
    """What comes after it is read and handled by another greenlet, and its own answer is written when it ends."""
    stage, slow = Stage(), Slow()
    stage.feed(slow)
    assert [stage.resident] == stage.switched
    assert stage.leader is not stage.resident

    stage.feed(1)
    assert [(1, stage.leader)] == stage.ended
    assert 1 == stage.turns.in_flight

    stage.log.clear()
    slow.go_on.set()
    settle()
    assert ["flush"] == stage.log
    assert 0 == stage.turns.in_flight
    stage.finish()


def test_the_rest_of_a_batch_is_not_left_behind():
    """Whoever takes the lead over goes on where the slow one stopped, before anything new is read."""
    stage, first, second = Stage(), Slow("first"), Slow("second")
    stage.feed(0, first, 1, second, 2)

    assert [0, first, 1, second, 2] == [item for item, _ in stage.begun]
    assert 3 == len({greenlet for _, greenlet in stage.begun})
    first.go_on.set()
    second.go_on.set()
    stage.finish()


def test_a_handler_is_told_of_once_however_often_it_switches():
    """With the greenlet that it runs in; one that does not switch is not told of."""
    stage = Stage()
    stage.feed(settle, 1, 2)
    until(lambda: 3 == len(stage.ended))

    assert [stage.handler_of(settle)] == stage.switched
    stage.finish()


def test_a_handler_that_only_yields_hands_the_lead_on():
    """Although it could go on at once: the callback that it left with the hub comes first."""
    stage = Stage()

    def blink() -> None:
        gevent.sleep(0)

    stage.feed(blink, 1)
    assert stage.handler_of(blink) is stage.resident
    assert stage.handler_of(1) is stage.leader is not stage.resident
    stage.finish()


def test_the_writer_may_wait():
    """Where much is queued for a slow peer, the leader waits before it reads on; so does an old leader."""
    stage, slow = Stage(), Slow()
    stage.feed(slow)
    stage.may_flush.clear()
    stage.feed(1)
    slow.go_on.set()
    settle()

    assert [] == stage.reading
    assert 1 == stage.turns.in_flight
    stage.may_flush.set()
    settle()
    assert 1 == len(stage.reading)
    assert 0 == stage.turns.in_flight
    stage.finish()


# ---------------------------------------------------------------------- when done


def test_whoever_has_made_room_is_told_before_it_rests():
    """In the greenlet whose handler switched, which still counts: there it may handle what waits for room."""
    stage, slow = Stage(), Slow("slow")
    stage.feed(slow)
    handler = stage.handler_of(slow)
    assert [] == stage.done
    slow.go_on.set()
    settle()

    assert [(handler, 1)] == stage.done
    assert 0 == stage.turns.in_flight
    stage.feed("quick")
    assert 1 == len(stage.done)
    stage.finish()


@pytest.mark.row(51)
def test_reading_goes_on_however_many_are_in_hand():
    """What handlers wait for comes by the same connection."""
    stage, items = Stage(), [Slow(str(number)) for number in range(40)]
    for item in items:
        stage.feed(item)

    assert (40, 1) == (stage.turns.in_flight, len(stage.reading))
    for item in items:
        item.go_on.set()
    settle()
    assert 0 == stage.turns.in_flight
    stage.finish()


ACTS = st.one_of(
    st.lists(st.booleans(), min_size=1, max_size=4),  # read a batch: slow ones and quick ones
    st.integers(0, 7),  # let one of the slow ones end
    st.sampled_from(["dismiss", "settle", "settle"]),
)


@settings(max_examples=200)
@given(st.lists(ACTS, max_size=24))
def test_any_schedule_handles_everything_once_and_in_order(acts: list[Any]):
    """Slow and quick ones, in batches of any size, ended in any order, dismissed at any time."""
    stage = Stage()
    sent: list[Any] = []
    for act in acts:
        waiting = [item for item, _ in stage.begun if isinstance(item, Slow) and not item.go_on.is_set()]
        if isinstance(act, list):
            batch = [Slow(f"s{len(sent)}") if slow else object() for slow in act]
            sent += batch
            stage.batches.put(batch)
        elif act == "dismiss":
            stage.turns.dismiss()
        elif act == "settle":
            settle()
        elif waiting:
            waiting[act % len(waiting)].go_on.set()
    while len(stage.ended) < len(sent):
        settle()
        for item, _ in list(stage.begun):
            if isinstance(item, Slow):
                item.go_on.set()
    settle()

    assert sent == [item for item, _ in stage.begun]
    assert Counter(map(id, sent)) == Counter(id(item) for item, _ in stage.ended)
    assert [] == stage.broken
    assert (0, 1) == (stage.turns.in_flight, len(stage.reading))
    stage.turns.dismiss()
    settle()
    assert stage.resident is stage.leader
    stage.finish()
    assert 0 == stage.failures


# ---------------------------------------------------- who parks, who leads, who goes


def test_the_resident_is_the_first_to_lead_again():
    """It stays anyway; further greenlets are for when it is busy."""
    stage, slow, other = Stage(), Slow(), Slow("other")
    stage.feed(slow)
    follower = stage.leader
    slow.go_on.set()
    settle()
    assert follower is stage.leader

    stage.feed(other)
    assert follower is stage.handler_of(other)
    assert stage.resident is stage.leader
    other.go_on.set()
    stage.finish()


def test_a_parked_follower_is_used_again():
    """Greenlets are made only when none is at hand."""
    stage, items = Stage(), [Slow(str(number)) for number in range(3)]
    for item in items:
        stage.feed(item)
    for item in items:
        item.go_on.set()
    settle()
    known = {greenlet for _, greenlet in stage.begun} | set(stage.reading)
    assert 4 == len(known)

    again = [Slow(str(number)) for number in range(3)]
    for item in again:
        stage.feed(item)
    assert known == {stage.handler_of(item) for item in again} | set(stage.reading)
    for item in again:
        item.go_on.set()
    stage.finish()


@pytest.mark.parametrize("slow_ones", [0, 1, 2, 5])
def test_an_idle_connection_is_one_greenlet(slow_ones: int):
    """Whoever leads when it has become quiet: after a while it is the resident, and nobody else is there."""
    before = alive()
    stage, items = Stage(), [Slow(str(number)) for number in range(slow_ones)]
    for item in items:
        stage.feed(item)
    for item in items:
        item.go_on.set()
    settle()
    assert before + slow_ones + 1 == alive()

    stage.turns.dismiss()
    settle()

    assert before + 1 == alive()
    assert stage.resident is stage.leader
    stage.feed(1)
    assert stage.resident is stage.handler_of(1)
    stage.finish()


def test_no_message_is_lost_when_the_resident_takes_the_lead_back():
    """It may have come in the very moment."""
    stage = Stage()
    for number in range(20):
        slow = Slow()
        stage.feed(slow)
        slow.go_on.set()
        settle()
        assert stage.resident is not stage.leader
        if number % 2:
            stage.turns.dismiss()
            stage.batches.put([number])
        else:
            stage.batches.put([number])
            stage.turns.dismiss()
        settle()
        stage.turns.dismiss()
        settle()
        assert stage.resident is stage.leader

    assert list(range(20)) == [item for item, _ in stage.begun if isinstance(item, int)]
    stage.finish()


@pytest.mark.parametrize("order", ["message first", "dismissed first"])
def test_nobody_is_relieved_who_has_just_begun_to_handle(order: str):
    """The message has come and its handler has switched before the hub gets to it: it is in a handler now."""
    stage, slow, other = Stage(), Slow(), Slow("other")
    stage.feed(slow)
    slow.go_on.set()
    settle()
    follower = stage.leader
    if order == "message first":
        stage.batches.put([other])
        stage.turns.dismiss()
    else:
        stage.turns.dismiss()
        stage.batches.put([other])
    settle()
    stage.turns.dismiss()
    settle()

    assert (order == "message first") == (follower is stage.handler_of(other))
    other.go_on.set()
    settle()
    assert [] == stage.broken
    stage.turns.dismiss()
    settle()
    assert stage.resident is stage.leader
    stage.finish()


def test_dismissing_twice_relieves_once():
    """The second time there is nobody to be relieved any more."""
    stage, slow = Stage(), Slow()
    stage.feed(slow)
    slow.go_on.set()
    settle()
    stage.turns.dismiss()
    stage.turns.dismiss()
    settle()

    assert stage.resident is stage.leader
    stage.finish()


def test_the_resident_takes_the_lead_back_from_a_leader_that_waits_to_write():
    """It waits in its place."""
    stage, slow = Stage(), Slow()
    stage.feed(slow)
    slow.go_on.set()
    settle()
    stage.may_flush.clear()
    stage.feed(1)
    assert [] == stage.reading
    stage.turns.dismiss()
    settle()
    stage.may_flush.set()
    settle()

    assert stage.resident is stage.leader
    stage.finish()


def test_dismissing_while_it_ends_is_safe():
    """Before the hub gets to it, and afterwards."""
    stage, slow = Stage(), Slow()
    stage.feed(slow)
    slow.go_on.set()
    settle()
    stage.turns.dismiss()
    stage.batches.put(None)
    stage.turns.dismiss()
    stage.resident.join(PATIENCE)
    stage.turns.dismiss()
    settle()

    assert stage.resident.successful()
    assert 0 == stage.failures


# ------------------------------------------------------------------------ the end


def test_the_end_sends_everybody_home():
    """Those who are parked at once, those who handle when they have ended."""
    stage, slow, other = Stage(), Slow(), Slow("other")
    stage.feed(slow)
    stage.feed(other)
    other.go_on.set()
    settle()
    stage.batches.put(None)
    settle()
    assert not stage.resident.ready()

    slow.go_on.set()
    stage.resident.join(PATIENCE)
    assert stage.resident.successful()
    assert [] == stage.reading


def test_what_was_read_before_the_end_is_handled():
    """By whoever has time, although the end has come; it was received."""
    stage, items = Stage(), [Slow("first"), 1, 2]
    stage.feed(*items)
    stage.batches.put(None)
    items[0].go_on.set()  # type: ignore[attr-defined]
    stage.resident.join(PATIENCE)

    assert items == [item for item, _ in stage.begun]
    assert 3 == len(stage.ended)


# --------------------------------------------------------------- killed, and failures


@pytest.mark.row(95)
def test_a_resident_that_is_killed_while_it_reads_ends_it_all():
    """Its caller learns of it, and closes the connection."""
    stage, slow = Stage(), Slow()
    stage.feed(slow)
    slow.go_on.set()
    settle()
    stage.turns.dismiss()
    settle()
    stage.resident.kill()

    assert [] == stage.reading
    assert isinstance(stage.resident.value, gevent.GreenletExit)


@pytest.mark.row(95)
@pytest.mark.parametrize("where", ["in its handler", "parked"])
def test_a_resident_that_is_killed_elsewhere_ends_the_run(where: str):
    """Whoever reads meanwhile leaves when the connection is closed for that."""
    stage, slow = Stage(), Slow()
    stage.feed(slow)
    if where == "parked":
        slow.go_on.set()
        settle()
    stage.resident.kill()
    assert stage.resident.ready()
    assert 1 == len(stage.reading)

    stage.batches.put(None)  # what closing the socket does
    settle()
    assert [] == stage.reading


@pytest.mark.row(95)
def test_a_follower_that_is_killed_while_it_reads_ends_the_connection():
    """Without a reader it would hang for ever."""
    stage, slow = Stage(), Slow()
    stage.feed(slow)
    stage.leader.kill()
    assert 1 == stage.failures
    slow.go_on.set()
    stage.resident.join(PATIENCE)

    assert stage.resident.successful()


@pytest.mark.row(95)
def test_a_follower_that_is_killed_in_a_handler_ends_the_connection():
    """Whoever handles catches what handlers raise: this is from outside, and the message is lost."""
    stage, slow, other = Stage(), Slow(), Slow("other")
    stage.feed(slow)
    stage.feed(other)
    stage.handler_of(other).kill()
    settle()

    assert 1 == stage.failures
    slow.go_on.set()
    stage.resident.join(PATIENCE)
    assert stage.resident.successful()


@pytest.mark.row(95)
@pytest.mark.parametrize("dismissed", [False, True])
def test_a_parked_follower_that_is_killed_takes_nothing_with_it(dismissed: bool):
    """It had nothing in hand; the others go on, and the next one is not it."""
    stage, items = Stage(), [Slow(str(number)) for number in range(2)]
    stage.feed(items[0])
    stage.feed(items[1])
    items[1].go_on.set()
    settle()
    parked = stage.handler_of(items[1])
    if dismissed:
        stage.turns.dismiss()
    parked.kill(block=False)
    settle()
    assert parked.dead
    assert 0 == stage.failures

    again = Slow("again")
    stage.feed(again)
    stage.feed(1)
    assert 1 == stage.ended[-1][0]
    for item in (items[0], again):
        item.go_on.set()
    stage.finish()


@pytest.mark.row(95)
def test_a_parked_follower_that_is_thrown_an_error_is_no_longer_parked(shown: list[type[BaseException]]):
    """Nobody does such a thing but a fault of ours: it is shown, and the connection ends."""
    stage, items = Stage(), [Slow(str(number)) for number in range(2)]
    stage.feed(items[0])
    stage.feed(items[1])
    items[1].go_on.set()
    settle()
    stage.handler_of(items[1]).kill(KeyError("ours"))

    assert 1 == stage.failures
    assert KeyError is shown.pop()
    items[0].go_on.set()
    stage.resident.join(PATIENCE)
    assert stage.resident.successful()


@pytest.mark.row(95)
@pytest.mark.parametrize("rounds", [1, 2, 3])
def test_killed_at_any_switch(rounds: int):
    """Whichever greenlets are killed, whatever they do just then: nobody stays behind, and the failure is told."""
    for victim in range(4):
        stage, items = Stage(), [Slow(str(number)) for number in range(4)]
        for item in items:
            stage.feed(item)
        items[1].go_on.set()
        for _ in range(rounds):
            gevent.sleep(0)
        greenlets = list(dict.fromkeys([stage.resident, *(greenlet for _, greenlet in stage.begun), *stage.reading]))
        greenlets[victim % len(greenlets)].kill(block=False)
        stage.turns.dismiss()
        settle()
        for item in items:
            item.go_on.set()
        stage.finish()


def test_a_new_follower_leads_before_anything_else_happens():
    """Between being made and being started it could be killed unseen, and nobody would read."""
    stage, slow = Stage(), Slow()
    stage.feed(slow)
    made: list[Greenlet[..., Any]] = []

    def look() -> None:
        # Runs when the handler switches, after the callback that hands on the lead.
        gevent.get_hub().loop.run_callback(lambda: made.extend(stage.reading))
        gevent.sleep(0)

    stage.batches.put([look])
    until(lambda: bool(made))

    assert [stage.leader] == made
    slow.go_on.set()
    stage.finish()


def test_what_a_handler_raises_ends_the_run_of_the_resident(shown: list[type[BaseException]]):
    """Handlers' errors are caught by whoever handles: what comes through is a fault of ours, and is shown."""
    stage = Stage()
    stage.batches.put([KeyError("ours")])
    stage.resident.join(PATIENCE)

    assert isinstance(stage.resident.exception, KeyError)
    assert KeyError is shown.pop()


def test_what_a_handler_raises_in_a_follower_ends_the_connection(shown: list[type[BaseException]]):
    """And is shown."""
    stage, slow = Stage(), Slow()
    stage.feed(slow)
    stage.feed(KeyError("ours"))

    assert 1 == stage.failures
    assert KeyError is shown.pop()
    slow.go_on.set()
    stage.resident.join(PATIENCE)


@pytest.mark.row(49)
@pytest.mark.parametrize("who", ["resident", "follower"])
@pytest.mark.parametrize("where", ["reading", "parked", "writing"])
def test_a_timer_that_a_handler_has_forgotten_ends_nothing(who: str, where: str):
    """It fires where its greenlet happens to be by then, and that is no longer the handler's business."""
    stage, slow, second = Stage(), Slow(), Slow("second")
    timers: list[gevent.Timeout] = []

    def forget() -> None:
        timers.append(gevent.Timeout.start_new(60))

    if who == "resident":
        stage.feed(forget)
    stage.feed(slow)
    if who == "follower":
        stage.feed(forget)
    victim = stage.handler_of(forget)
    if where == "parked":
        stage.feed(second)
        slow.go_on.set()
        second.go_on.set()
        settle()
        if victim is stage.leader:
            stage.feed(third := Slow("third"))
            third.go_on.set()
            settle()
    else:
        slow.go_on.set()
        settle()
        if victim is not stage.leader:
            stage.turns.dismiss()
            settle()
        if where == "writing":
            stage.may_flush.clear()
            stage.feed(0)
    assert (where == "reading") == (victim in stage.reading)

    gevent.get_hub().loop.run_callback(victim.throw, timers[0])
    settle()
    stage.may_flush.set()
    timers[0].close()
    settle()

    assert not victim.dead
    assert 1 == len(stage.reading)
    stage.feed(1)
    assert 1 == stage.ended[-1][0]
    assert 0 == stage.failures
    stage.finish()
