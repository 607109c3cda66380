"""What one subscription gets, in whatever order a node, its connection and the program act."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

import gevent
import pytest
from gevent.event import AsyncResult
from hypothesis import given, settings
from hypothesis import strategies as st

from webmesh.exceptions import ConnectionClosed, Unavailable
from webmesh.message_queue import MessageQueue
from webmesh.messages import HistoryPage, Message, Position
from webmesh.protocol import topic_positions
from webmesh.protocol.envelope import TopicMessage
from webmesh.protocol.topic_positions import OwnOffsets
from webmesh.topic_feed import TopicFeed

WINDOW = 3
KEPT = 6
TOPICS = ("a", "b")


class Node:
    """A node that numbers what is published, keeps the newest, and delivers to one peer; and the link between."""

    def __init__(self, pattern: str, acks: bool) -> None:
        self.exact, self.acks = "*" not in pattern, acks
        self.own = OwnOffsets()
        self.queue = MessageQueue(5, "drop_oldest", pattern)
        self.feed = TopicFeed(pattern, self.queue, self.history, own=self.own, wake=lambda: None)
        self.runs = 0
        self.begin_run()
        self.connected = True
        self.wire: list[tuple[TopicMessage, int | None]] = []
        self.pending: list[tuple[str, str, int]] = []
        self.open: dict[int, tuple[str, str, int, int]] = {}
        self.requests: list[tuple[str, Position, int, AsyncResult]] = []
        self.pages: list[tuple[AsyncResult, HistoryPage]] = []
        self.needless: set[tuple[str, str, int]] = set()  # nobody misses them
        self.repeated: set[tuple[Any, ...]] = set()
        self.answered: set[int] = set()
        self.sent = 0

    def begin_run(self) -> None:
        """Nothing that was kept is there any more."""
        self.runs += 1
        self.epoch = f"run {self.runs}"
        self.last = dict.fromkeys(TOPICS, 0)

    def lags(self) -> bool:
        """Whether something of a former run is still to come: which of three runs is the newest nobody could tell."""
        return any(message.epoch != self.epoch for message, _ in self.wire) or bool(self.pending)

    # ------------------------------------------------------------------- publishing

    def publish(self, topic: str, *, live: bool = True, brief: bool = False, own: bool = False) -> None:
        """*live*: it is delivered, if it can be; *brief*: its time is over at once, though it may be delivered."""
        self.last[topic] += 1
        number = (topic, self.epoch, self.last[topic])
        if brief or own:
            self.needless.add(number)
        if own:
            self.own.add(*number)
        elif self.connected and self.acks:
            self.pending.append(number)
            self.pump()
        elif self.connected and live:
            self.wire.append((TopicMessage(topic, None, offset=number[2], epoch=self.epoch), None))

    def pump(self) -> None:
        while self.pending and len(self.open) < WINDOW:
            self.deliver(*self.pending.pop(0), 1)

    def deliver(self, topic: str, epoch: str, offset: int, attempt: int) -> None:
        self.sent += 1
        self.open[self.sent] = (topic, epoch, offset, attempt)
        message = TopicMessage(topic, None, self.sent, offset=offset, epoch=epoch, attempt=attempt)
        self.wire.append((message, self.sent))

    def answer(self, number: int, error: Exception | None) -> None:
        """Each delivery is answered once; one of a session that is over concerns nobody."""
        assert number not in self.answered
        self.answered.add(number)
        delivery = self.open.pop(number, None)
        if delivery is None:
            return
        if error is not None:
            self.deliver(*delivery[:3], delivery[3] + 1)
        self.pump()

    def again(self) -> None:
        """The oldest delivery has waited for too long; its answer may be on its way."""
        for number in list(self.open)[:1]:
            *delivery, attempt = self.open.pop(number)
            self.repeated.add(tuple(delivery))
            self.deliver(*delivery, attempt + 1)

    # ---------------------------------------------------------------------- the past

    def kept(self, topic: str, since: Position) -> list[int] | None:
        last = self.last[topic]
        if since.epoch != self.epoch or not max(0, last - KEPT) <= since.offset <= last:
            return None
        offsets = range(since.offset + 1, last + 1)
        return [offset for offset in offsets if (topic, self.epoch, offset) not in self.needless]

    def history(self, topic: str, since: Position, most: int) -> HistoryPage:
        """As the feed asks for it; whoever plays says when the node looks, and when the answer comes."""
        if not self.connected:
            raise ConnectionClosed(1006, "cut")
        answer = AsyncResult()
        self.requests.append((topic, since, most, answer))
        page: HistoryPage = answer.get()
        return page

    def look(self) -> None:
        for topic, since, most, answer in self.requests[:1]:
            found = self.kept(topic, since)
            items = [Message(None, topic, offset=one, epoch=self.epoch) for one in (found or [])[:most]]
            self.pages.append((answer, HistoryPage(items, self.last[topic], self.epoch, found is not None)))
        del self.requests[:1]

    def turn(self) -> None:
        for answer, page in self.pages[:1]:
            answer.set(page)
        del self.pages[:1]

    # ---------------------------------------------------------------------- the link

    def arrive(self) -> None:
        for message, number in self.wire[:1]:
            self.feed.take(message, None if number is None else partial(self.answer, number))
        del self.wire[:1]

    def fail_requests(self) -> None:
        waiting = [one[3] for one in self.requests] + [one[0] for one in self.pages]
        self.requests, self.pages = [], []
        for answer in waiting:
            answer.set_exception(ConnectionClosed(1006, "cut"))

    def resume(self) -> None:
        """Cut, and back in the same session."""
        if self.connected:
            self.fail_requests()
            gevent.sleep(0)
            self.feed.resumed()

    def lose(self) -> None:
        """The session is over."""
        self.connected = False
        self.wire, self.pending, self.open = [], [], {}
        self.fail_requests()

    def join(self, meanwhile: Iterator[object]) -> None:
        """A new session; *meanwhile* happens between the question and its answer."""
        if self.connected:
            return
        since = self.feed.position
        next(meanwhile, None)
        self.connected = True
        answer: dict[str, Any] = {"sub": 1}
        if self.exact:
            found = None if since is None else self.kept("a", since)
            answer |= {"offset": self.last["a"], "epoch": self.epoch, "recovered": found is not None}
            for offset in found or ():
                if self.acks:
                    self.pending.append(("a", self.epoch, offset))
                else:
                    self.wire.append((TopicMessage("a", None, offset=offset, epoch=self.epoch), None))
        self.feed.began_anew(answer, since)
        self.pump()


class Program:
    """Takes, handles, and looks whether it may be so."""

    def __init__(self, node: Node) -> None:
        self.node = node
        self.hands: list[Message] = []
        self.state: dict[tuple[str, str, int], str] = {}
        self.told: dict[str, Position | None] = {}
        self.at: dict[str, Position | None] = {topic: None for topic in TOPICS}

    def take(self, most: int) -> None:
        for message in self.node.queue.take(most):
            if message.event is None:
                self.check(message)
                self.hands.append(message)
            elif not message.payload.get("pattern"):
                self.be_told(message)
        self.node.feed.consumed()

    def be_told(self, gap: Message) -> None:
        assert "lost" not in gap.payload, "what is kept is fetched, and not dropped"
        at = self.at[gap.topic]
        self.told[gap.topic] = gap.position
        if gap.position is None or at is None or gap.epoch != at.epoch:
            self.at[gap.topic] = gap.position
        else:
            self.at[gap.topic] = Position(max(at.offset, gap.position.offset), at.epoch)

    def check(self, message: Message) -> None:
        assert message.position is not None
        offset, epoch = message.position
        number = (message.topic, epoch, offset)
        before, self.state[number] = self.state.get(number), "in hand"
        if before is not None:
            repeated = before == "done" and number in self.node.repeated
            assert before == "rejected" or repeated, f"{number} was {before}, and came again"
            return
        at = self.at[message.topic]
        told = self.told.get(message.topic)
        if self.node.acks and told is not None and (_run(epoch), offset) <= (_run(told.epoch), told.offset):
            return  # a gap told of it, and the node delivers it all the same
        if at is not None:
            assert at.epoch == epoch, f"{number} after {at}, and no gap was told"
            assert at.offset < offset, f"{number} after {at}"
            missing = {(message.topic, epoch, one) for one in range(at.offset + 1, offset)}
            assert missing <= self.node.needless, f"{missing - self.node.needless} are missing before {number}"
        self.at[message.topic] = message.position

    def finish(self, *, well: bool) -> Iterator[None]:
        for message in self.hands[:1]:
            del self.hands[:1]
            assert message.position is not None
            number = (message.topic, message.position.epoch, message.position.offset)
            rejected = not well and message.wants_ack
            self.state[number] = "rejected" if rejected else "done"
            if rejected:
                message.reject(Unavailable("not now"))
            else:
                message.ack()
            yield


def _run(epoch: str) -> int:
    return int(epoch.rpartition(" ")[2])


STEPS = st.one_of(
    st.tuples(st.just("publish"), st.sampled_from(TOPICS), st.sampled_from(["", "", "", "missed", "brief", "own"])),
    st.sampled_from(["arrive", "arrive", "arrive", "look", "turn", "page", "page", "take", "take", "take all"]),
    st.sampled_from(["ack", "ack", "ack", "reject", "again", "outage", "resume", "lose", "join", "flush", "restart"]),
)


def play(node: Node, program: Program, step: Any) -> None:
    if isinstance(step, tuple):
        _, topic, how = step
        topic = "a" if node.exact else topic
        node.publish(topic, live=how != "missed", brief=how == "brief", own=how == "own")
        return
    if step == "restart" or (step == "flush" and not node.lags()):
        node.begin_run()
    if step in ("lose", "restart"):
        node.lose()
    if step in ("look", "page"):
        node.look()
    if step in ("turn", "page"):
        node.turn()
    if step == "outage" and node.connected:
        node.feed.take(TopicMessage("*", {"reason": "outage", "pattern": True}, event="gap"))
    simple = {
        "arrive": node.arrive, "again": node.again, "resume": node.resume,
        "take": partial(program.take, 1), "take all": partial(program.take, 100),
        "ack": lambda: list(program.finish(well=True)), "reject": lambda: list(program.finish(well=False)),
        "join": lambda: node.join(program.finish(well=True)),
    }  # fmt: skip
    simple.get(step, lambda: None)()


def settle(node: Node, program: Program) -> None:
    """All that can still happen does."""
    node.join(iter(()))
    for topic in ("a",) if node.exact else TOPICS:
        node.publish(topic)
    for _ in range(300):
        for step in ("arrive", "page", "take all", "ack"):
            play(node, program, step)
            gevent.sleep(0)
    assert not (node.wire or node.pending or node.open or node.requests or node.pages or program.hands)
    for topic in ("a",) if node.exact else TOPICS:
        assert Position(node.last[topic], node.epoch) == program.at[topic]


@pytest.mark.row(96)
@pytest.mark.parametrize("acks", [False, True], ids=["plain", "acknowledged"])
@pytest.mark.parametrize("pattern", ["a", "*"])
@given(steps=st.lists(STEPS, min_size=40, max_size=80))
@settings(max_examples=150, deadline=None)
def test_whatever_happens_nothing_is_skipped_untold_nor_comes_twice(pattern: str, acks: bool, steps: list[Any]) -> None:
    """Numbers of a topic go up, but for what was rejected; each delivery is answered once, and in the end all are."""
    with pytest.MonkeyPatch.context() as patch, gevent.Timeout(20):
        patch.setattr(topic_positions, "MOST_HELD", 3)
        node = Node(pattern, acks)
        program = Program(node)
        if node.exact:
            node.feed.began({"sub": 1, "offset": 0, "epoch": node.epoch}, None)
            program.at["a"] = Position(0, node.epoch)
        try:
            for step in steps:
                play(node, program, step)
                gevent.sleep(0)
            settle(node, program)
        finally:
            node.feed.stop()
