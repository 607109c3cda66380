"""What a group must do, as NATS hands it out: one consumer for all nodes, from which each pulls as it has room.

In the loop of an `AsyncioBridge`.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any

from webmesh.brokers.base import GroupName
from webmesh.brokers.jetstream import NANOSECONDS, NO_CONSUMER, Delivery, JetStream, Refused, delivery_of
from webmesh.brokers.nats_link import Message
from webmesh.brokers.nats_subjects import pattern_subject
from webmesh.exceptions import BrokerError, BrokerUnavailable

PULL = 30.0
"""Seconds that the server may let one request for work wait."""

MOST_DONE = 4096
"""Messages that were done and of which that is known, should they come again."""

RETRY = 0.2
"""Seconds before work is asked for again after that was refused."""

_USUAL = ("404", "408")
"""There was nothing, or not as much as asked for."""


def group_key(group: GroupName) -> str:
    """A group's name among NATS' names, which are ASCII and short."""
    return hashlib.sha256("\0".join([*group.pattern, group.name]).encode()).hexdigest()[:32]


class WorkFeed:
    """One node's share of a durable group's work.

    Args:
        window: Messages that this node may have at a time.
        lease: Seconds after which what a dead node had is given to others.
        give: Called with each message, and that with which `done` is called.
    """

    def __init__(
        self, js: JetStream, stream: str, prefix: str, group: GroupName, *, window: int, lease: float,
        make_stream: Callable[[], Awaitable[None]], give: Callable[[Message, Delivery], None],
    ) -> None:  # fmt: skip
        self._js, self._stream = js, stream
        self._consumer = f"g_{group_key(group)}"
        self._filter = f"{prefix}.work.{pattern_subject(group.pattern)}"
        self._window, self._lease, self._make_stream, self._give = window, lease, make_stream, give
        self._inbox = f"_INBOX.{os.urandom(11).hex()}"
        self._held: dict[Delivery, str] = {}
        self._done: dict[Delivery, None] = {}
        self._asked = 0
        self._changed = asyncio.Event()
        self._closing = False
        self._tasks: list[asyncio.Task[None]] = []
        self._restoring: asyncio.Task[None] | None = None

    async def open(self) -> None:
        """Begin; without a connection, with the next one."""
        await self._js.link.subscribe(self._inbox, self._take)
        with suppress(BrokerUnavailable):  # `restore` comes with the connection
            await self._make_consumer()
        self._tasks = [asyncio.create_task(self._pull()), asyncio.create_task(self._renew())]

    async def _make_consumer(self) -> None:
        """Have the group's consumer, with this node's lease.

        It begins with a sequence instead of with what is new: a server that was killed can have lost how far it was
        (seen with 2.9.10), and would then leave out what it has and nobody has done.
        """
        await self._make_stream()
        settings = await self._find_consumer()
        if settings is None:
            state = (await self._js.api(f"STREAM.INFO.{self._stream}"))["state"]
            settings = {
                "durable_name": self._consumer, "filter_subject": self._filter, "ack_policy": "explicit",
                "deliver_policy": "by_start_sequence", "opt_start_seq": int(state["last_seq"]) + 1, "max_deliver": -1,
                "max_ack_pending": 100_000, "replay_policy": "instant",
            }  # fmt: skip
        lease = int(self._lease * NANOSECONDS)
        if settings.get("ack_wait") == lease:
            return
        verb = f"CONSUMER.DURABLE.CREATE.{self._stream}.{self._consumer}"
        try:
            await self._js.api(verb, stream_name=self._stream, config=settings | {"ack_wait": lease})
        except Refused:
            if await self._find_consumer() is None:  # else another node has made it at the same time
                raise

    async def _find_consumer(self) -> dict[str, Any] | None:
        try:
            found = await self._js.api(f"CONSUMER.INFO.{self._stream}.{self._consumer}")
        except Refused as error:
            if error.number == NO_CONSUMER:
                return None
            raise
        settings = found["config"]
        return settings if isinstance(settings, dict) else {}

    async def close(self) -> None:
        """Give what is not done to the other nodes, or keep it for the next one."""
        self._closing = True
        for task in [*self._tasks, *filter(None, [self._restoring])]:
            task.cancel()
        await self._js.link.unsubscribe(self._inbox)
        with suppress(BrokerError):
            # Asked about a consumer, the server forgets requests whose senders have gone. One that it still has when
            # messages come back would swallow the first (seen with 2.9.10): that one comes after the lease only.
            await self._js.api(f"CONSUMER.INFO.{self._stream}.{self._consumer}")
        for delivery in sorted(self._held):
            self._js.link.send(self._held[delivery], b"-NAK")
        self._held.clear()
        await self._js.link.settle()

    def set_window(self, window: int) -> None:
        """Have as many at a time from now on."""
        self._window = window
        self._changed.set()

    def done(self, delivery: Delivery) -> None:
        """This one needs no further delivery."""
        self._end(delivery, b"+ACK")

    def refuse(self, delivery: Delivery) -> None:
        """This one is no message of a node: nobody is to get it again."""
        self._end(delivery, b"+TERM")

    def _end(self, delivery: Delivery, how: bytes) -> None:
        reply = self._held.pop(delivery, None)
        if reply is None:
            return
        self._done[delivery] = None
        if len(self._done) > MOST_DONE:
            del self._done[next(iter(self._done))]
        self._js.link.send(reply, how)
        self._changed.set()

    def renew_connection(self) -> None:
        """What was asked for on the last connection does not come on this one."""
        self._asked = 0
        self._changed.set()

    def _take(self, message: Message) -> None:
        if not message.reply:  # a status: the rest of what was asked for does not come
            if message.headers.get("Status") in _USUAL:
                self.renew_connection()
            elif not self._restoring:
                self._restoring = asyncio.create_task(self.restore())
            return
        delivery = delivery_of(message)
        self._asked = max(0, self._asked - 1)
        if delivery in self._done:  # the server did not hear of it, or has forgotten
            self._js.link.send(message.reply, b"+ACK")
        else:
            known = delivery in self._held
            self._held[delivery] = message.reply
            if not self._closing and not known:  # known: the lease ran out, and it is being done
                self._give(message, delivery)
        if not self._asked:
            self._changed.set()

    async def _pull(self) -> None:
        while True:
            room = self._window - len(self._held)
            if self._asked == 0 and room > 0 and self._js.link.up:
                self._asked = room
                asked = {"batch": room, "expires": int(PULL * NANOSECONDS)}
                subject = f"$JS.API.CONSUMER.MSG.NEXT.{self._stream}.{self._consumer}"
                self._js.link.send(subject, json.dumps(asked).encode(), self._inbox)
            try:
                async with asyncio.timeout(PULL + 2 * self._js.link.patience):
                    await self._changed.wait()
            except TimeoutError:
                self._asked = 0  # the server that was asked is gone
            self._changed.clear()

    async def _renew(self) -> None:
        """Say that this node lives, and that what it holds is being done."""
        while True:
            await asyncio.sleep(self._lease / 3)
            for reply in list(self._held.values()):
                self._js.link.send(reply, b"+WPI")

    async def restore(self) -> None:
        """The server may have lost the consumer: make it, and ask again."""
        try:
            await asyncio.sleep(RETRY)
            self._js.forget()
            with suppress(BrokerError):
                await self._make_consumer()
        finally:
            self._restoring = None
            self.renew_connection()
