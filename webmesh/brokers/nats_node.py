"""The thread's side of a node on NATS: which subjects it listens on, and what becomes of what arrives.

In the loop of an `AsyncioBridge`; what it tells the node it tells by `tell`, to be handled in the hub.

Subjects, each after the prefix: `t.<topic>` live messages; `log.<topic>`, `once.<topic>`, `work.<topic>` and
`records.<table>.<key>` of the streams; `room.<group>` and `over.<group>` for what nodes hand to each other.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from contextlib import suppress
from functools import partial
from typing import Any, Protocol

from webmesh.brokers.base import GroupName
from webmesh.brokers.jetstream import Delivery, JetStream
from webmesh.brokers.nats_address import Address
from webmesh.brokers.nats_clock import ServerClock
from webmesh.brokers.nats_link import Link, Listener, Message, NoReply, NoResponder
from webmesh.brokers.nats_marks import MARK
from webmesh.brokers.nats_records import Records
from webmesh.brokers.nats_subjects import pattern_subject
from webmesh.brokers.nats_topics import IsOver, Topics
from webmesh.brokers.nats_upkeep import GroupUpkeep
from webmesh.brokers.nats_work import WorkFeed, group_key
from webmesh.exceptions import BrokerError

TOPIC = "Webmesh-Topic"
"""Header of a message that one node hands to another: its topic's subject."""

YES, NO = b"+", b"-"

LARGE = 1024
"""Bytes that each message that waits for the hub counts at least as, for what is around it."""


class Hub(Listener, Protocol):
    """What the node does with what is told; called in its hub."""

    def on_live(self, subject: str, message: Message) -> None:
        """A message for one of the patterns."""


class Groups(Protocol):
    """The same for groups."""

    def on_group(self, group: GroupName, subject: str, message: Message) -> None:
        """This node's share."""

    def on_work(self, group: GroupName, subject: str, message: Message, delivery: Delivery) -> None:
        """This node's share of what must be acknowledged."""

    def on_lost(self, group: GroupName, count: int) -> None:
        """What a group has lost before this node had members of it."""

    def on_offer(self, group: GroupName, subject: str, message: Message) -> None:
        """What another node has no room for."""


class NatsNode:
    """See above; its attributes are used in the loop only, but for `Link.up`, `Link.largest` and the two counters.

    Attributes:
        unsent: Publications that could not be sent.
        taken_bytes: Bytes of publications that were taken from the hub.
    """

    def __init__(
        self, address: Address, hub: Hub, groups: Groups, tell: Callable[..., bool], *, prefix: str, lease: float,
        replicas: int, patience: float, timeout: float, tls: Any, name: str, is_over: IsOver,
        clock: ServerClock,
    ) -> None:  # fmt: skip
        self._hub, self._groups, self._tell = hub, groups, tell
        self._prefix, self._lease, self._timeout = prefix, lease, timeout
        self.link = Link(address, self, tls=tls, name=name, check_every=patience, patience=patience)
        self._js = JetStream(self.link, replicas, clock)
        self.topics = Topics(self._js, prefix, is_over)
        self.records = Records(self._js, f"{prefix}_records", prefix, self.topics.make_records)
        self.upkeep = GroupUpkeep(
            self._js, self.records, prefix, self.topics.work, ended=self._ended, patience=timeout, clock=clock,
        )  # fmt: skip
        self.topics.before_work = self.upkeep.check
        self._feeds: dict[GroupName, WorkFeed] = {}
        self._keeping: asyncio.Task[None] | None = None
        self._lives: dict[GroupName, float | None] = {}
        self._tasks: set[asyncio.Task[Any]] = set()
        self.unsent = 0
        self.taken_bytes = 0

    async def open(self) -> None:
        """See `Link.open`."""
        await self.link.open()
        self._keeping = asyncio.create_task(self.upkeep.run(lambda: self._lives))

    async def close(self) -> None:
        """See `Link.close`."""
        if self._keeping is not None:
            self._keeping.cancel()
        await self.link.close()

    def _spawn(self, work: Coroutine[Any, Any, Any]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    # ---------------------------------------------------------- of the connection

    def on_up(self) -> None:
        """See `Listener`."""
        self.topics.forget()
        self.upkeep.forget()
        for group, feed in self._feeds.items():
            self._spawn(feed.restore())
            self._spawn(self._enter(group, self._lives[group]))
        self._tell(self._hub.on_up, must=True)

    def on_down(self, reason: str) -> None:
        """See `Listener`."""
        self._tell(partial(self._hub.on_down, reason), must=True)

    def on_trouble(self, text: str) -> None:
        """See `Listener`."""
        self._tell(partial(self._hub.on_trouble, text))

    # -------------------------------------------------------------- live messages

    def send_live(self, subject: str, body: bytes) -> None:
        """Publish what is not kept."""
        self.taken_bytes += len(body)
        if not self.link.send(f"{self._prefix}.t.{subject}", body):
            self.unsent += 1

    async def want(self, pattern: str) -> None:
        """Listen to the topics of a pattern."""
        await self.link.subscribe(f"{self._prefix}.t.{pattern}", self._take_live)

    def unwant(self, pattern: str) -> None:
        """Do so no longer."""
        self._spawn(self.link.unsubscribe(f"{self._prefix}.t.{pattern}"))

    def _take_live(self, message: Message) -> None:
        self._tell(partial(self._hub.on_live, self._topic_of(message), message), len(message.data) + LARGE)

    def _topic_of(self, message: Message) -> str:
        return message.subject[len(self._prefix) + 3 :]

    # -------------------------------------------------------------------- groups

    async def join(self, group: GroupName, window: int, durable: bool, ttl: float | None = None) -> None:
        """Have this node's share of a group's messages."""
        key = group_key(group)
        live = f"{self._prefix}.t.{pattern_subject(group.pattern)}"
        await self.link.subscribe(live, partial(self._take_group, group), key)
        await self.link.subscribe(f"{self._prefix}.over.{key}", partial(self._take_over, group), key)
        await self._listen(group, True)
        if durable:
            await self._enter(group, ttl)
            self._lives[group] = ttl
            feed = self._feeds[group] = WorkFeed(
                self._js, self.topics.work, self._prefix, group, window=window, lease=self._lease,
                make_stream=self.topics.make_work, give=partial(self._take_work, group),
            )  # fmt: skip
            await feed.open()

    async def _enter(self, group: GroupName, ttl: float | None) -> None:
        """Without a connection, `on_up` does so with the next one."""
        await self.upkeep.join(group)
        if not self.link.up:
            return
        with suppress(BrokerError):
            await self.upkeep.enter(group, ttl)
            lost = await self.upkeep.take_lost(group)
            if lost:
                self._tell(partial(self._groups.on_lost, group, lost), must=True)

    def _ended(self, group: GroupName, lost: int) -> None:
        text = f"the group {group.label!r} had no members and has ended with {lost} messages"
        self._tell(partial(self._hub.on_trouble, text))

    def set_window(self, group: GroupName, window: int) -> None:
        """See `WorkFeed.set_window`."""
        feed = self._feeds.get(group)
        if feed is not None:
            feed.set_window(window)

    async def leave(self, group: GroupName) -> None:
        """Have it no longer."""
        feed = self._feeds.pop(group, None)
        if feed is not None:
            await feed.close()
            await self.upkeep.leave(group)
            ttl = self._lives.pop(group, None)
            with suppress(BrokerError):
                if self.link.up:
                    await self.upkeep.enter(group, ttl)
        key = group_key(group)
        await self._listen(group, False)
        await self.link.unsubscribe(f"{self._prefix}.t.{pattern_subject(group.pattern)}", key)
        await self.link.unsubscribe(f"{self._prefix}.over.{key}", key)

    def _take_group(self, group: GroupName, message: Message) -> None:
        topic = self._topic_of(message)
        self._tell(partial(self._groups.on_group, group, topic, message), len(message.data) + LARGE)

    def _take_over(self, group: GroupName, message: Message) -> None:
        topic = message.headers.get(TOPIC, "")
        self._tell(partial(self._groups.on_group, group, topic, message), len(message.data) + LARGE)

    def _take_work(self, group: GroupName, message: Message, delivery: Delivery) -> None:
        # Its feed asked for no more than there is room for: it is never dropped here.
        topic = message.subject[len(self._prefix) + 6 :]
        self._tell(partial(self._groups.on_work, group, topic, message, delivery), must=True)

    def done(self, group: GroupName, delivery: Delivery) -> None:
        """See `WorkFeed.done`."""
        feed = self._feeds.get(group)
        if feed is not None:
            feed.done(delivery)

    def refuse(self, group: GroupName, delivery: Delivery) -> None:
        """See `WorkFeed.refuse`."""
        feed = self._feeds.get(group)
        if feed is not None:
            feed.refuse(delivery)

    # ------------------------------------------------- from one node to another one

    def listen(self, group: GroupName, room: bool) -> None:
        """Say whether this node has room for what others have none for."""
        self._spawn(self._listen(group, room))

    async def _listen(self, group: GroupName, room: bool) -> None:
        subject = f"{self._prefix}.room.{group_key(group)}"
        if room:
            await self.link.subscribe(subject, partial(self._take_offer, group), "room")
        else:
            await self.link.unsubscribe(subject, "room")

    def _take_offer(self, group: GroupName, message: Message) -> None:
        topic = message.headers.get(TOPIC, "")
        self._tell(partial(self._groups.on_offer, group, topic, message), len(message.data) + LARGE)

    async def offer(self, group: GroupName, message: Message) -> bool:
        """Whether a node with room has taken a message. Without an answer it counts as taken: better lost than twice,
        of what nobody acknowledges."""
        try:
            answer = await self.link.request(
                f"{self._prefix}.room.{group_key(group)}", message.data, _handed(message), timeout=self._timeout
            )
        except NoResponder:
            return False
        except NoReply:
            return True
        return answer.data == YES

    def answer(self, reply: str, taken: bool) -> None:
        """Say whether an offered message was taken."""
        if reply:
            self.link.send(reply, YES if taken else NO)

    def hand_over(self, group: GroupName, message: Message) -> None:
        """Give a message to any other node of the group."""
        self.link.send(f"{self._prefix}.over.{group_key(group)}", message.data, headers=_handed(message))


def _handed(message: Message) -> dict[str, str]:
    mark = message.headers.get(MARK)
    return {TOPIC: message.subject} | ({} if mark is None else {MARK: mark})
