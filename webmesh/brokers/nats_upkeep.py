"""Durable groups of all nodes on NATS: which there are, how long each lasts, and how much may wait for one.

NATS keeps the work of a group for as long as its consumer is there, and knows no bound for one group. So each group
has a record, which says until when it lasts; and who publishes looks how much waits for it: not each time, but as
often as its own publications and `LOOK` demand. Nodes with members answer at a subject of the group, so whether
there are any costs one question and is never out of date.

In the loop of an `AsyncioBridge`.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any, NamedTuple

from webmesh.brokers import one_node
from webmesh.brokers.base import GroupName, Places, check_places
from webmesh.brokers.jetstream import NO_CONSUMER, JetStream, NoStream, Refused
from webmesh.brokers.nats_link import Message, NoReply, NoResponder
from webmesh.brokers.nats_records import Records
from webmesh.brokers.nats_subjects import token
from webmesh.brokers.nats_work import group_key
from webmesh.deadline import Clock
from webmesh.exceptions import BrokerError, FailedPrecondition, Overloaded
from webmesh.protocol.topic_trie import TopicTrie
from webmesh.protocol.topics import ONE, REST, read_topic_pattern

LOOK = 10.0
"""Seconds for which is believed which groups there are and how much waits for each, one's own publications added."""

GROUPS, LOST = "$groups", "$lost"
"""Tables of records: groups, and how much each has lost that no member was told of yet."""

BEGINNING = "$beginning"
"""Table of one record: groups that there is room for and whose own records may not be there yet. It changes only from
what was read to what was made of that, so nobody counts while another one begins."""

LOST_TTL = 30 * 86400.0
"""Seconds for which the latter is known."""

TRIM = 1000
"""Messages that are taken from a group without members at a time."""


class Lasting(NamedTuple):
    """A group's record."""

    name: GroupName
    ttl: float | None
    until: float


class GroupUpkeep:
    """See above.

    Args:
        stream: Of what groups have to do.
        ended: Told of a group that has ended, and how much it had to do.
        patience: Seconds for one question.
        clock: That of the server.
    """

    def __init__(
        self, js: JetStream, records: Records, prefix: str, stream: str, *, ended: Callable[[GroupName, int], None],
        patience: float, clock: Clock,
    ) -> None:  # fmt: skip
        self._js, self._records, self._prefix, self._stream = js, records, prefix, stream
        self._ended, self._patience, self._clock = ended, patience, clock
        self._read_at = float("-inf")
        self._known: TopicTrie[GroupName] = TopicTrie()
        self._depths: dict[GroupName, int] = {}
        self._changing = asyncio.Lock()
        self._admitting = asyncio.Lock()
        self._used = False

    def forget(self) -> None:
        """Look again before anything is believed."""
        self._read_at = float("-inf")

    # ------------------------------------------------------------- its members

    def _here(self, group: GroupName) -> str:
        return f"{self._prefix}.here.{group_key(group)}"

    async def join(self, group: GroupName) -> None:
        """This node has members."""
        self._used = True
        await self._js.link.subscribe(self._here(group), self._answer, "here")

    async def leave(self, group: GroupName) -> None:
        """It has none any more."""
        await self._js.link.unsubscribe(self._here(group), "here")

    def _answer(self, message: Message) -> None:
        if message.reply:
            self._js.link.send(message.reply, b"")

    async def _has_members(self, group: GroupName) -> bool:
        try:
            await self._js.link.request(self._here(group), b"", timeout=self._patience)
        except NoResponder:
            return False
        except NoReply:  # somebody listens
            return True
        return True

    # -------------------------------------------------------------- its record

    async def admit(self, group: GroupName, places: Sequence[Places]) -> None:
        """Have room for a group that `enter` follows soon.

        Raises:
            Overloaded: There are as many as there may be.
        """

        async def decide(body: bytes) -> bytes | None:
            known = [one.name for one in await self.end_old()]
            if group in known:
                return None
            now = self._clock()
            beginning = {name: at for name, at in _beginning(body).items() if name not in known and at > now - LOOK}
            check_places(group, [*known, *beginning], places)
            return _begun(beginning | {group: now})

        async with self._admitting:  # of several here each would find that another one was quicker
            await self._records.change(BEGINNING, "all", decide, self._patience)

    async def _ended_early(self, group: GroupName) -> None:
        """It has no record any more, and is not beginning."""

        async def decide(body: bytes) -> bytes | None:
            beginning = _beginning(body)
            return None if beginning.pop(group, None) is None else _begun(beginning)

        await self._records.change(BEGINNING, "all", decide, self._patience)

    async def enter(self, group: GroupName, ttl: float | None) -> None:
        """It goes on, for *ttl* seconds from now without members."""
        until = None if ttl is None else self._clock() + ttl
        body = json.dumps({"p": "/".join(group.pattern), "n": group.name, "t": ttl, "u": until}).encode()
        await self._records.put(GROUPS, group_key(group), body, self._patience)
        self.forget()

    async def names(self) -> list[GroupName]:
        """All groups that have not ended."""
        return [one.name for one in await self.end_old()]

    async def _all(self) -> list[Lasting]:
        found = [_lasting(body) for _, _, body in await self._records.table(GROUPS, self._patience)]
        return [one for one in found if one is not None]

    async def end_old(self) -> list[Lasting]:
        """End those that nobody has taken for too long; returns the others."""
        left = []
        for one in await self._all():
            if one.until > self._clock():
                left.append(one)
            elif await self._has_members(one.name):
                left.append(one)
                await self.enter(one.name, one.ttl)
            else:
                await self._end(one.name, await self._waiting(one.name) or 0)
        return left

    async def _end(self, group: GroupName, lost: int) -> None:
        await self._remove(group)
        await self._lose(group, lost)
        self._ended(group, lost)

    async def _remove(self, group: GroupName) -> None:
        with suppress(Refused, NoStream):  # it is gone already
            await self._js.api(f"CONSUMER.DELETE.{self._stream}.{_consumer(group)}")
        await self._records.claim(GROUPS, group_key(group), self._patience)
        await self._ended_early(group)
        self._depths.pop(group, None)
        self.forget()

    async def drop(self, group: GroupName) -> int | None:
        """See `Broker.drop_group`."""
        if await self._has_members(group):
            raise FailedPrecondition(f"the group {group.name!r} has members")
        waiting = await self._waiting(group, all_of_it=True)
        await self._remove(group)
        await self.take_lost(group)
        return waiting

    # ---------------------------------------------------------- what waits for it

    async def _waiting(self, group: GroupName, *, all_of_it: bool = False) -> int | None:
        """How much nobody has; or has not done."""
        try:
            found = await self._js.api(f"CONSUMER.INFO.{self._stream}.{_consumer(group)}")
        except NoStream:
            return None
        except Refused as error:
            if error.number == NO_CONSUMER:
                return None
            raise
        return int(found["num_pending"]) + (int(found["num_ack_pending"]) if all_of_it else 0)

    async def check(self, subject: str) -> None:
        """Before something is published that groups must do; *subject* is the topic's.

        Raises:
            Overloaded: A group with members has too much to do.
        """
        self._used = True
        if time.monotonic() - self._read_at > LOOK:
            await self._read()
        for group in self._known.match(tuple(subject.split("."))):
            depth = self._depths.get(group)
            if depth is None or depth >= one_node.GROUP_BACKLOG:
                depth = await self._make_room(group)
            self._depths[group] = depth + 1

    async def _read(self) -> None:
        self._read_at = time.monotonic()
        known: TopicTrie[GroupName] = TopicTrie()
        for one in await self._all():
            known.add(tuple(part if part in (ONE, REST) else token(part) for part in one.name.pattern), one.name)
        self._known = known
        self._depths.clear()

    async def _make_room(self, group: GroupName) -> int:
        async with self._changing:
            depth = await self._waiting(group) or 0
            if depth >= one_node.GROUP_BACKLOG:
                if await self._has_members(group):
                    raise Overloaded(f"the group {group.name!r} has {depth} messages to do")
                lost = await self._trim(group, depth - one_node.GROUP_BACKLOG + 1)
                await self._lose(group, lost)
                depth -= lost
        return depth

    async def _trim(self, group: GroupName, count: int) -> int:
        """Take the oldest away from a group that has no members; returns how many that were."""
        inbox, taken, done = f"_INBOX.{os.urandom(11).hex()}", 0, asyncio.Event()
        count = min(count, TRIM)

        def take(message: Message) -> None:
            nonlocal taken
            if message.reply:
                taken += 1
                self._js.link.send(message.reply, b"+ACK")
            if not message.reply or taken == count:
                done.set()

        await self._js.link.subscribe(inbox, take)
        try:
            asked = json.dumps({"batch": count, "no_wait": True}).encode()
            self._js.link.send(f"$JS.API.CONSUMER.MSG.NEXT.{self._stream}.{_consumer(group)}", asked, inbox)
            with suppress(TimeoutError):
                async with asyncio.timeout(self._patience):
                    await done.wait()
        finally:
            await self._js.link.unsubscribe(inbox)
        return taken

    # ------------------------------------------------------------ what it has lost

    async def _lose(self, group: GroupName, count: int) -> None:
        if count:
            count += await self.take_lost(group)
            body = json.dumps({"c": count, "u": self._clock() + LOST_TTL}).encode()
            await self._records.put(LOST, group_key(group), body, self._patience)

    async def take_lost(self, group: GroupName) -> int:
        """How much it has lost that nobody was told of; from now on that counts as told."""
        body = await self._records.claim(LOST, group_key(group), self._patience)
        found = _decoded(body) if body else {}
        count = found.get("c")
        return count if type(count) is int and 0 < count else 0

    # ------------------------------------------------------------------------ time

    async def run(self, joined: Callable[[], dict[GroupName, float | None]]) -> None:
        """Say now and then that this node's groups go on, and end others that do not."""
        while True:
            await asyncio.sleep(LOOK * (0.5 + random.random()))
            with suppress(BrokerError, Overloaded):
                if self._used and self._js.link.up:  # who has no groups needs no JetStream
                    await self._look(joined())

    async def _look(self, joined: dict[GroupName, float | None]) -> None:
        for one in await self.end_old():
            ttl = joined.get(one.name)
            if ttl is not None and one.until - self._clock() < 0.9 * ttl:
                await self.enter(one.name, ttl)


def _consumer(group: GroupName) -> str:
    return f"g_{group_key(group)}"


def _decoded(body: bytes) -> dict[str, Any]:
    try:
        found = json.loads(body)
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def _begun(beginning: dict[GroupName, float]) -> bytes:
    return json.dumps({"g": [["/".join(one.pattern), one.name, at] for one, at in beginning.items()]}).encode()


def _beginning(body: bytes) -> dict[GroupName, float]:
    """What `_begun` wrote; nothing where it is something else."""
    try:
        found = _decoded(body)["g"]
        return {GroupName(read_topic_pattern(pattern), str(name)): float(at) for pattern, name, at in found}
    except (LookupError, TypeError, ValueError):
        return {}


def _lasting(body: bytes) -> Lasting | None:
    """What a record says; `None` where it is nothing that a node writes."""
    found = _decoded(body)
    name, ttl, until = found.get("n"), found.get("t"), found.get("u")
    try:
        pattern = read_topic_pattern(found.get("p", ""))
    except ValueError:
        return None
    if not isinstance(name, str) or not all(one is None or isinstance(one, int | float) for one in (ttl, until)):
        return None
    return Lasting(GroupName(pattern, name), ttl, float("inf") if until is None else until)
