"""Publications that NATS keeps: numbered, found again, retained.

JetStream numbers the messages of a whole stream; offsets count per topic. So each message says which offset it is, and
is added on the condition that the topic's newest message is still the one that its node has counted on. Of two nodes
that count at the same time one is refused and counts again. The stream hands what it has taken on to the subjects of
live messages: what was refused is never delivered, and all see the same order.

In the loop of an `AsyncioBridge`. Bodies are bytes here; what is in them is the node's business.
"""

from __future__ import annotations

import asyncio
import hashlib
import math
import os
import random
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from types import MappingProxyType
from typing import NamedTuple, TypeVar

from webmesh.brokers import one_node
from webmesh.brokers.base import Accepted, Keep
from webmesh.brokers.jetstream import (
    BATCH, EXPECTED, MESSAGE_ID, NANOSECONDS, JetStream, NoStream, Reading, Stored, WrongLast,
)  # fmt: skip
from webmesh.brokers.nats_link import NoReply, Turn, Turns
from webmesh.brokers.nats_marks import MARK, Mark, mark_for, read_mark
from webmesh.exceptions import BrokerError, BrokerUnavailable, Overloaded, PublishDoubtful

T = TypeVar("T")
IsOver = Callable[[str, bytes, "str | None"], bool]
Newest = tuple[str, bytes, Mark]
"""A topic's subject, without prefix, and body and mark of its newest message."""

MOST_HEADS = 10_000
"""Topics whose newest message is remembered; others cost one more request."""

MOST_STRANGE = 16
"""Messages in a row that no node has written and that are passed over where a number is looked for."""

SPARE = 64
"""Messages before the first that is wanted that are read with it rather than looked for one by one."""

SWEEP = 60.0
"""Seconds between two looks, where there is no room for another topic, at which have ended with their time."""

_RACE_PAUSE = 0.002
"""Seconds, at most, before counting again after the first lost race; twice as many after each further one."""


class Head(NamedTuple):
    """A topic's newest message: its sequence in the stream, 0 without one."""

    sequence: int
    last: int
    epoch: str


class Topics:
    """What is kept of topics under a prefix.

    Args:
        is_over: Whether a topic's newest message, by its subject, body and mark, has ended with its time, and so have
            all before it.

    Attributes:
        before_work: Called with the subject of what groups must do; raises `Overloaded` where they have too much.
    """

    def __init__(self, js: JetStream, prefix: str, is_over: IsOver = lambda *_: False) -> None:
        self._js, self._is_over = js, is_over
        self._swept_at = -math.inf
        self._log, self._once, self._records = f"{prefix}_log", f"{prefix}_once", f"{prefix}_records"
        self.work = f"{prefix}_work"
        self.before_work: Callable[[str], Awaitable[None]] | None = None
        self._prefix = prefix
        self._heads: OrderedDict[str, tuple[Head, int]] = OrderedDict()
        self._ends: OrderedDict[str, tuple[str, int, int]] = OrderedDict()
        self._turns: Turns[str] = {}
        self._trimming: set[asyncio.Task[None]] = set()

    def forget(self) -> None:
        """The connection is another one."""
        self._js.forget()
        self._heads.clear()
        self._ends.clear()

    # ------------------------------------------------------------------- streams

    async def make_log(self) -> None:
        """The stream of all that is kept."""
        source, live = f"{self._prefix}.log.>", f"{self._prefix}.t.>"
        await self._js.make_stream(self._log, [source], republish={"src": source, "dest": live})

    async def _make_once(self) -> None:
        """The stream that knows what was published already, of topics that keep nothing."""
        source, live = f"{self._prefix}.once.>", f"{self._prefix}.t.>"
        await self._js.make_stream(
            self._once, [source], republish={"src": source, "dest": live}, max_msgs_per_subject=1,
            discard="old", max_age=int(one_node.DEDUPE_WINDOW) * NANOSECONDS,
        )  # fmt: skip

    async def make_work(self) -> None:
        """The stream of what groups have to do: each message stays until all groups that want it are done with it."""
        await self._js.make_stream(
            self.work, [f"{self._prefix}.work.>"], retention="interest", max_msgs=one_node.GROUP_BACKLOG * 100
        )

    async def make_records(self) -> None:
        """The stream of records."""
        await self._js.make_stream(self._records, [f"{self._prefix}.records.>"], max_msgs_per_subject=1)

    async def _with_stream(self, make: Callable[[], Awaitable[None]], ask: Callable[[], Awaitable[T]]) -> T:
        await make()
        try:
            return await ask()
        except NoStream:  # somebody has deleted it
            self.forget()
            await make()
            return await ask()

    # ---------------------------------------------------------------- publishing

    async def publish(self, subject: str, body: bytes, keep: Keep, dedupe_id: str | None, patience: float) -> Accepted:
        """Keep a publication; *subject* is the topic's, without prefix.

        Raises:
            BrokerUnavailable: Not within *patience* seconds.
            PublishDoubtful: The same, and it may be kept.
            Overloaded: There is no room.
        """
        attempt = _Attempt(subject, body, keep, dedupe_id)
        try:
            async with asyncio.timeout(patience):
                if not keep.numbered and not keep.retain:
                    return await self._with_stream(self._make_once, lambda: self._publish_once(attempt))
                # Several of one topic at a time would only lose races against each other.
                async with Turn(self._turns, subject):
                    return await self._with_stream(self.make_log, lambda: self._publish_kept(attempt))
        except TimeoutError:
            if attempt.doubtful:
                raise PublishDoubtful(f"NATS did not answer within {patience:g} seconds") from None
            raise BrokerUnavailable(f"NATS did not take it within {patience:g} seconds") from None
        except BrokerUnavailable as error:
            if attempt.doubtful and not isinstance(error, PublishDoubtful):
                raise PublishDoubtful(str(error)) from None
            raise

    async def _publish_once(self, attempt: _Attempt) -> Accepted:
        with attempt.asking():
            _, known = await self._js.publish(
                self._once, f"{self._prefix}.once.{attempt.subject}", attempt.body, attempt.headers()
            )
        return Accepted(duplicate=known)

    async def _publish_kept(self, attempt: _Attempt) -> Accepted:
        if attempt.keep.ack and self.before_work is not None:
            with suppress(BrokerError):  # not to be known now; a bound is no reason to refuse what would be taken
                await self.before_work(attempt.subject)
        subject = f"{self._prefix}.log.{attempt.subject}"
        known_head = self._heads.get(attempt.subject)
        head, untrimmed = known_head or (await self._find_head(subject), 1 << 30)
        races = 0
        while True:
            mark = mark_for(attempt.keep, head.last, head.epoch)
            headers = attempt.headers() | {EXPECTED: str(head.sequence), MARK: str(mark)}
            try:
                with attempt.asking():
                    sequence, known = await self._js.publish(self._log, subject, attempt.body, headers)
            except BrokerUnavailable:
                if not attempt.doubtful:
                    raise
                await self._js.link.wait_up()
            except WrongLast:
                own = await self._find_own(subject, attempt, head) if attempt.doubtful else None
                if own is not None:
                    return await self._taken(attempt, *own)
                races += 1
                await asyncio.sleep(random.random() * _RACE_PAUSE * 2 ** min(races, 5) if races > 1 else 0)
                head = await self._find_head(subject, before=head)
            else:
                if known:
                    return await self._repeated(attempt, sequence)
                self._remember(attempt, Head(sequence, mark.last, mark.epoch), untrimmed + 1)
                return await self._taken(attempt, mark, sequence)

    async def _taken(self, attempt: _Attempt, mark: Mark, sequence: int, *, duplicate: bool = False) -> Accepted:
        """It stands in the log; what groups must do is given to them before anyone is told so."""
        if mark.acknowledged:
            headers = {MESSAGE_ID: f"{mark.epoch}.{sequence}", MARK: str(mark)}
            attempt.doubtful = True  # it is published, and may not be acknowledged yet
            await self._with_stream(self.make_work, lambda: self._js.publish(
                self.work, f"{self._prefix}.work.{attempt.subject}", attempt.body, headers
            ))  # fmt: skip
        if not mark.numbered:
            return Accepted(duplicate=duplicate)
        return Accepted(mark.offset, mark.epoch, duplicate)

    async def _repeated(self, attempt: _Attempt, sequence: int) -> Accepted:
        """The server has had one of this id: ours, whose answer was lost, or an earlier one."""
        first = await self._js.at(self._log, sequence)
        mark = None if first is None else _mark_of(first)
        if first is None or mark is None:
            return Accepted(duplicate=True)
        mine = first.data == attempt.body
        attempt.body = first.data
        return await self._taken(attempt, mark, sequence, duplicate=not mine)

    async def _find_own(self, subject: str, attempt: _Attempt, head: Head) -> tuple[Mark, int] | None:
        """Mark and sequence of the message of which no answer came, unless another one followed *head*."""
        follower = await self._js.next(self._log, subject, head.sequence + 1)
        mark = None if follower is None else _mark_of(follower)
        if follower is not None and mark is not None and follower.data == attempt.body:
            return mark, follower.sequence
        if follower is None or follower.headers.get(EXPECTED) != str(head.sequence):
            raise PublishDoubtful("NATS did not answer, and what was published then is kept no longer")
        attempt.doubtful = False
        return None

    def _remember(self, attempt: _Attempt, head: Head, untrimmed: int) -> None:
        """Keep the head, and let go of history that is too much: rarely, as it costs a request."""
        keep = max(1, attempt.keep.history)
        if untrimmed > 8 + keep // 4:
            untrimmed = 0
            task = asyncio.create_task(self._trim(f"{self._prefix}.log.{attempt.subject}", keep))
            self._trimming.add(task)
            task.add_done_callback(self._trimming.discard)
        self._heads[attempt.subject] = (head, untrimmed)
        self._heads.move_to_end(attempt.subject)
        if len(self._heads) > MOST_HEADS:
            self._heads.popitem(last=False)

    async def _trim(self, subject: str, keep: int) -> None:
        with suppress(BrokerError):  # then the next time; nobody reads what is too much
            await self._js.trim(self._log, subject, keep)

    async def _find_head(self, subject: str, before: Head | None = None) -> Head:
        found = await self._js.last(self._log, subject)
        if found is None:
            if before is not None and before.sequence:  # the log was emptied: these numbers are used up
                await self._begin_epoch()
            count = await self._js.subjects(self._log)
            if count >= one_node.MOST_TOPICS and not await self._make_room():
                raise Overloaded(f"{count} topics are kept, the limit")
            return Head(0, 0, await self.epoch())
        mark = _mark_of(found)
        if mark is None:  # no node has written it: what is below it counts
            kept = [one for one in map(_mark_of, await self._js.read(self._log, subject, newest_only=False)) if one]
            return Head(found.sequence, *((kept[-1].last, kept[-1].epoch) if kept else (0, os.urandom(6).hex())))
        return Head(found.sequence, mark.last, mark.epoch)

    async def _make_room(self) -> bool:
        """Forget topics of which nothing is kept any more, all having ended with its time; whether there were any.

        Their numbers are used up, so what begins from now on counts in another epoch.
        """
        loop = asyncio.get_running_loop()
        if loop.time() - self._swept_at < SWEEP:
            return False
        self._swept_at = loop.time()
        over = [
            one.subject
            for one in await self._js.read(self._log, f"{self._prefix}.log.>", newest_only=True)
            if self._is_over(one.subject[len(self._prefix) + 5 :], one.data, one.headers.get(MARK))
        ]
        if over:
            await self._begin_epoch()
        for subject in over:
            self._heads.pop(subject[len(self._prefix) + 5 :], None)
            await self._js.purge(self._log, subject)
        return bool(over)

    async def epoch(self) -> str:
        """In which topics count that have no message yet; it ends when NATS loses what it keeps."""
        while True:
            subject = f"{self._prefix}.records.%epoch"
            found = await self._with_stream(self.make_records, lambda: self._js.last(self._records, subject))
            if found is not None:
                return found.data.decode("ascii", "replace")
            with suppress(WrongLast):  # another node's
                await self._begin_epoch({EXPECTED: "0"})

    async def _begin_epoch(self, condition: Mapping[str, str] = MappingProxyType({})) -> None:
        await self._js.publish(
            self._records, f"{self._prefix}.records.%epoch", os.urandom(6).hex().encode(), condition
        )

    # ------------------------------------------------------------------- reading

    async def newest_of(self, subject: str) -> tuple[Head, Mark] | str:
        """A topic's newest message and its mark; where it has none, the epoch."""
        full = f"{self._prefix}.log.{subject}"
        found = await self._with_stream(self.make_log, lambda: self._js.last(self._log, full))
        if found is not None and _mark_of(found) is None:  # no node has written it: what is below it counts
            read = await self._js.read(self._log, full, newest_only=False)
            found = next((one for one in reversed(read) if _mark_of(one) is not None), None)
        mark = None if found is None else _mark_of(found)
        if found is None or mark is None:
            return await self.epoch()
        return Head(found.sequence, mark.last, mark.epoch), mark

    async def part(self, subject: str, head: Head, offset: int, most: int | None) -> list[tuple[bytes, Mark]]:
        """The kept numbered publications of a topic from *offset* on to *head*, oldest first, at most so many."""
        full = f"{self._prefix}.log.{subject}"
        epoch, before, sequence = self._ends.get(subject, ("", 0, 0))
        if (epoch, before) == (head.epoch, offset - 1):
            start = sequence + 1
        else:
            start = await self._find(full, head, offset)
        found: list[tuple[bytes, Mark]] = []
        while most is None or len(found) < most:
            size = BATCH if most is None else min(BATCH, most - len(found) + SPARE)
            read = await self._js.read(self._log, full, newest_only=False, start=start, most=size)
            marked = [(one, mark) for one in read if one.sequence <= head.sequence and (mark := _mark_of(one))]
            wanted = [(one, mark) for one, mark in marked if mark.numbered and mark.last >= offset]
            wanted = wanted[: None if most is None else most - len(found)]
            found += [(one.data, mark) for one, mark in wanted]
            if wanted:
                self._note_end(subject, wanted[-1][1], wanted[-1][0].sequence)
            if len(read) < size or read[-1].sequence >= head.sequence:
                break
            start = read[-1].sequence + 1
        return found

    def _note_end(self, subject: str, mark: Mark, sequence: int) -> None:
        """Who reads one page asks for the next."""
        self._ends[subject] = (mark.epoch, mark.last, sequence)
        self._ends.move_to_end(subject)
        if len(self._ends) > MOST_HEADS:
            self._ends.popitem(last=False)

    async def _find(self, subject: str, head: Head, offset: int) -> int:
        """A sequence from which on are all of a topic's messages from *offset* on, and few before them.

        Each has a sequence of its own, so it cannot be nearer to the newest than its number is. From there it goes
        back in steps that grow, as far as other topics are between, and then by halves.
        """
        high = max(1, head.sequence - max(0, head.last - offset))
        upper, low, behind, step = high, 0, 0, 0
        while not low:
            at, behind = await self._place(subject, max(1, high - step), head, offset)
            if behind <= 0 and upper > 1:
                upper = max(1, high - step)
                step = max(1, 4 * step)
            if behind == 0 or (behind < 0 and upper == 1):
                return max(1, at)
            low = at if behind > 0 else 0
        while behind > SPARE and upper - low > 1:
            middle = (low + upper) // 2
            at, ahead = await self._place(subject, middle, head, offset)
            if ahead <= 0:
                upper = middle
            else:
                low, behind = at, ahead
        return low + 1

    async def _place(self, subject: str, sequence: int, head: Head, offset: int) -> tuple[int, int]:
        """The topic's first message from a sequence on, and by how many numbers it is before *offset*.

        It is 0 for *offset* itself and below 0 for what may be behind it.
        """
        mark = None
        for _ in range(MOST_STRANGE):
            found = await self._js.next(self._log, subject, sequence)
            mark = None if found is None else _mark_of(found)
            if found is None or mark is not None:
                break
            sequence = found.sequence + 1
        if found is None or mark is None or (mark.last == offset and not mark.numbered):
            return 1, -1
        if mark.epoch != head.epoch:
            return found.sequence, 1 << 40
        return found.sequence if mark.last <= offset else 1, offset - mark.last

    async def begin(self, subject: str) -> Reading:
        """Read the newest messages of all topics that match, by `newest`."""
        full = f"{self._prefix}.log.{subject}"
        return await self._with_stream(
            self.make_log, lambda: self._js.begin_reading(self._log, full, newest_only=True)
        )

    async def newest(self, reading: Reading) -> list[Newest]:
        """Some more of them, none at the end."""
        found: list[Newest] = []
        while not found and not reading.over:
            found = self._newest(await reading.next())
        return found

    async def newest_one(self, subject: str) -> list[Newest]:
        """That of one topic, if it has any."""
        full = f"{self._prefix}.log.{subject}"
        found = await self._with_stream(self.make_log, lambda: self._js.last(self._log, full))
        return self._newest([] if found is None else [found])

    def _newest(self, several: list[Stored]) -> list[Newest]:
        start = len(self._prefix) + 5
        return [(one.subject[start:], one.data, mark) for one in several if (mark := _mark_of(one)) is not None]


class _Attempt:
    """One publication on its way.

    Attributes:
        doubtful: It was sent and not answered.
    """

    def __init__(self, subject: str, body: bytes, keep: Keep, dedupe_id: str | None) -> None:
        self.subject, self.body, self.keep, self.dedupe_id = subject, body, keep, dedupe_id
        self.doubtful = False

    @contextmanager
    def asking(self) -> Iterator[None]:
        """Around a request that keeps it: without its answer, or with no time left for that, nobody knows."""
        before, self.doubtful = self.doubtful, True
        try:
            yield
        except NoReply:
            raise
        except (BrokerError, Overloaded):
            self.doubtful = before
            raise
        self.doubtful = before

    def headers(self) -> dict[str, str]:
        if self.dedupe_id is None:
            return {}
        # Of any text, and for one topic; the server's table is one for a whole stream.
        digest = hashlib.sha256(f"{self.subject}/{self.dedupe_id}".encode())
        return {MESSAGE_ID: digest.hexdigest()[:40]}


def _mark_of(stored: Stored) -> Mark | None:
    try:
        return read_mark(stored.headers.get(MARK))
    except ValueError:
        return None
