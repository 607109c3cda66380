"""What is asked of NATS' JetStream: streams, their messages, and consumers. The server's JSON API, as few calls as do.

In the loop of an `AsyncioBridge`. Requests that are asked again after a lost answer are the business of who asks.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import json
import os
from collections.abc import Mapping
from contextlib import suppress
from typing import Any, NamedTuple

from webmesh.brokers.nats_clock import ServerClock
from webmesh.brokers.nats_link import Link, Message, NoResponder
from webmesh.exceptions import BrokerError, BrokerUnavailable, Overloaded

EXPECTED, MESSAGE_ID = "Nats-Expected-Last-Subject-Sequence", "Nats-Msg-Id"
"""Headers that the server looks at: publish only after this message, and only once."""

NANOSECONDS = 1_000_000_000

BATCH = 1000
"""Messages that are asked for at a time, as many as a connection's buffers hold easily."""

READS = 5
"""How often something is read at most until all of it has come: what is replaced meanwhile the server may leave out."""

UNREAD = 120
"""Seconds after which a server forgets how far something is read that nobody reads on."""

NO_CONSUMER = 10014
"""Number of the refusal where a consumer is not there."""

_NOT_FOUND, _WRONG_LAST, _OTHER_CONFIGURATION, _NO_STREAM = 10037, 10071, 10058, 10059
_FULL = ("maximum", "insufficient", "exceeded")


class Refused(BrokerError):
    """The API says no; *number* is its code for why."""

    def __init__(self, text: str, number: int) -> None:
        super().__init__(text)
        self.number = number


class WrongLast(BrokerError):
    """Another message came before this one, which was not taken."""


class NoStream(BrokerError):
    """The stream is not there."""


class Stored(NamedTuple):
    """A message of a stream."""

    sequence: int
    subject: str
    data: bytes
    headers: Mapping[str, str]


Delivery = tuple[int, int]
"""A stream's sequence, and the time at which the message was kept: another stream of the same name begins anew."""


class JetStream:
    """The API, as one node uses it.

    Args:
        replicas: Servers that keep each stream.
        clock: Told what time it is at the server.
    """

    def __init__(self, link: Link, replicas: int, clock: ServerClock | None = None) -> None:
        self.link = link
        self._clock = clock or ServerClock()
        self._replicas = replicas
        self._made: set[str] = set()
        self._endings: set[asyncio.Task[None]] = set()

    def forget(self) -> None:
        """Another server may know less than the last one."""
        self._made.clear()

    async def api(self, verb: str, **question: Any) -> dict[str, Any]:
        """Ask the API of the server.

        Raises:
            BrokerError: It refuses.
        """
        body = json.dumps(question).encode() if question else b""
        try:
            answer = await self.link.request(f"$JS.API.{verb}", body)
        except NoResponder:
            raise BrokerError("the NATS server keeps nothing: start it with JetStream (-js)") from None
        return _checked(answer.data)

    async def make_stream(self, name: str, subjects: list[str], **settings: Any) -> None:
        """Have a stream; one that is there already stays as an operator has set it."""
        if name in self._made:
            return
        configuration = {
            "name": name, "subjects": subjects, "retention": "limits", "storage": "file", "discard": "new",
            "max_consumers": -1, "max_msgs": -1, "max_bytes": -1, "max_age": 0, "max_msgs_per_subject": -1,
            "max_msg_size": -1, "num_replicas": self._replicas, "duplicate_window": 120 * NANOSECONDS, **settings,
        }  # fmt: skip
        try:
            await self.api(f"STREAM.CREATE.{name}", **configuration)
        except Refused as error:
            if error.number != _OTHER_CONFIGURATION:
                raise
        self._made.add(name)

    async def subjects(self, stream: str) -> int:
        """How many subjects have messages in a stream."""
        return int((await self.api(f"STREAM.INFO.{stream}"))["state"].get("num_subjects", 0))

    async def publish(self, stream: str, subject: str, data: bytes, headers: Mapping[str, str]) -> tuple[int, bool]:
        """Add a message to a stream; its sequence, and whether it was there by its `MESSAGE_ID`.

        Raises:
            WrongLast: `EXPECTED` names another message than the subject's last one.
            Overloaded: The stream is full.
            NoStream: It is not there.
        """
        try:
            answer = await self.link.request(subject, data, {"Nats-Expected-Stream": stream, **headers})
        except NoResponder:
            self._made.discard(stream)
            raise NoStream(f"the stream {stream} is not there") from None
        found = _checked(answer.data)
        return int(found["seq"]), bool(found.get("duplicate"))

    async def last(self, stream: str, subject: str) -> Stored | None:
        """The newest message of a subject."""
        return await self._get(stream, last_by_subj=subject)

    async def next(self, stream: str, subject: str, sequence: int) -> Stored | None:
        """The first message of a subject from a sequence on."""
        return await self._get(stream, seq=sequence, next_by_subj=subject)

    async def at(self, stream: str, sequence: int) -> Stored | None:
        """The message with a sequence."""
        return await self._get(stream, seq=sequence)

    async def _get(self, stream: str, **which: Any) -> Stored | None:
        try:
            found = (await self.api(f"STREAM.MSG.GET.{stream}", **which))["message"]
            headers = _headers(base64.b64decode(found.get("hdrs", "")))
            return Stored(int(found["seq"]), found["subject"], base64.b64decode(found.get("data", "")), headers)
        except Refused as error:
            if error.number == _NOT_FOUND:
                return None
            raise
        except (KeyError, TypeError, ValueError, binascii.Error) as error:
            raise BrokerError(f"NATS' answer is not understood: {error!r}") from error

    async def trim(self, stream: str, subject: str, keep: int) -> None:
        """Keep only the newest messages of a subject."""
        await self.api(f"STREAM.PURGE.{stream}", filter=subject, keep=keep)

    async def purge(self, stream: str, subject: str) -> None:
        """Keep nothing of a subject."""
        await self.api(f"STREAM.PURGE.{stream}", filter=subject)

    async def delete(self, stream: str, sequence: int) -> None:
        """Take a message away, if it is there."""
        with suppress(BrokerError):
            await self.api(f"STREAM.MSG.DELETE.{stream}", seq=sequence, no_erase=True)

    async def read(
        self, stream: str, subject: str, *, newest_only: bool, start: int | None = None, most: int | None = None
    ) -> list[Stored]:
        """All messages of a subject or, of a pattern, each subject's newest; in the order of their sequences.

        Args:
            start, most: Of a subject, only what begins with this sequence, and at most so many.
        """
        for _ in range(READS):
            found, complete = await self._read(stream, subject, newest_only=newest_only, start=start, most=most)
            if complete:
                break
        return found

    async def _read(
        self, stream: str, subject: str, *, newest_only: bool, start: int | None, most: int | None
    ) -> tuple[list[Stored], bool]:
        """The same, and whether that were as many as the server had promised."""
        reading = await self.begin_reading(stream, subject, newest_only=newest_only, start=start, most=most)
        found: dict[int | str, Stored] = {}
        try:
            while not reading.over:
                found |= {reading.key(one): one for one in await reading.next()}
        finally:
            await reading.end()
        return sorted(found.values(), key=lambda one: one.sequence), reading.complete

    async def begin_reading(
        self, stream: str, subject: str, *, newest_only: bool, start: int | None = None, most: int | None = None
    ) -> Reading:
        """The same for whoever takes it batch by batch, and ends it."""
        begin = {"deliver_policy": "last_per_subject" if newest_only else "all"}
        question = {"stream_name": stream, "config": {
            **(begin if start is None else {"deliver_policy": "by_start_sequence", "opt_start_seq": start}),
            "filter_subject": subject, "ack_policy": "none", "replay_policy": "instant",
            "inactive_threshold": int(UNREAD * NANOSECONDS), "mem_storage": True, "num_replicas": 1,
        }}  # fmt: skip
        reading = Reading(self.link, stream, self._endings, newest_only=newest_only)
        begun, before = False, self._clock.own()
        try:
            await reading.listen()
            made = await self.api(f"CONSUMER.CREATE.{stream}", **question)
            reading.begin(made["name"], int(made["num_pending"]), most)
            self._clock.told(made.get("created"), before, self._clock.own())
            begun = True
        finally:
            if not begun:
                await reading.end()
        return reading


class Reading:
    """What a stream has of some subjects, a batch at a time; a consumer of its own at the server knows how far it is.

    It ends by itself when nobody reads on.

    Args:
        endings: Holds the tasks of those that end.

    Attributes:
        over: Nothing more comes.
    """

    def __init__(self, link: Link, stream: str, endings: set[asyncio.Task[None]], *, newest_only: bool) -> None:
        self.over = False
        self._endings = endings
        self._link, self._stream, self._newest_only = link, stream, newest_only
        self._inbox = f"_INBOX.{os.urandom(11).hex()}"
        self._arrived: asyncio.Queue[Message] = asyncio.Queue()
        self._consumer: str | None = None
        self._count = 0
        self._had: set[int | str] = set()
        self._unread: asyncio.TimerHandle | None = None

    async def listen(self) -> None:
        """Before it begins."""
        await self._link.subscribe(self._inbox, self._arrived.put_nowait)

    def begin(self, consumer: str, count: int, most: int | None) -> None:
        """The server has so many messages; at most so many are wanted."""
        self._consumer, self._count = consumer, count if most is None else min(count, most)
        self.over = not self._count
        self._wait_for_reader()

    def _wait_for_reader(self) -> None:
        if self._unread is not None:
            self._unread.cancel()
        self._unread = asyncio.get_running_loop().call_later(UNREAD, self.end_soon)

    @property
    def complete(self) -> bool:
        """Whether that were as many as the server had promised. What is replaced meanwhile it may leave out."""
        return len(self._had) >= self._count

    def key(self, one: Stored) -> int | str:
        """By which it counts once: a server gives a message twice where the one before it was replaced meanwhile."""
        return one.subject if self._newest_only else one.sequence

    async def next(self, most: int = BATCH) -> list[Stored]:
        """Some more, at most *most*; none at the end, and where all that were left have gone meanwhile.

        Raises:
            BrokerUnavailable: The server does not answer.
        """
        self._wait_for_reader()
        found: list[Stored] = []
        batch = min(most, BATCH, self._count - len(self._had))
        asked = json.dumps({"batch": batch, "no_wait": True}).encode()
        self._link.send(f"$JS.API.CONSUMER.MSG.NEXT.{self._stream}.{self._consumer}", asked, self._inbox)
        while len(found) < batch and not self.over:
            message = await self._arrival()
            if message is not None and message.reply:
                found.append(Stored(delivered_sequence(message), message.subject, message.data, message.headers))
            else:  # a status: some went, or were replaced, meanwhile
                self.over = True
        self._had.update(map(self.key, found))
        self.over = self.over or self.complete
        return found

    async def _arrival(self) -> Message | None:
        """What comes next; `None` where the server has forgotten how far it is, which it does not say by itself."""
        with suppress(TimeoutError):
            async with asyncio.timeout(self._link.patience):
                return await self._arrived.get()
        answer = await self._link.request(f"$JS.API.CONSUMER.INFO.{self._stream}.{self._consumer}")
        try:
            _checked(answer.data)
        except NoStream:
            return None
        except Refused as error:
            if error.number == NO_CONSUMER:
                return None
            raise
        raise BrokerUnavailable("NATS did not give what it has")

    async def end(self) -> None:
        """Read no more."""
        self.over = True
        if self._unread is not None:
            self._unread.cancel()
        await self._link.unsubscribe(self._inbox)
        if self._consumer is not None:
            self._link.send(f"$JS.API.CONSUMER.DELETE.{self._stream}.{self._consumer}", b"")

    def end_soon(self) -> None:
        """The same for those who do not wait."""
        task = asyncio.create_task(self.end())
        self._endings.add(task)
        task.add_done_callback(self._endings.discard)


def delivered_sequence(message: Message) -> int:
    """The stream's sequence of a message that a consumer delivered."""
    return delivery_of(message)[0]


def delivery_of(message: Message) -> Delivery:
    """Which message of a stream a consumer delivered, whenever and however often it does."""
    # $JS.ACK.<stream>.<consumer>.<deliveries>.<stream sequence>.<consumer sequence>.<time>.<pending>, or, from servers
    # that say more, with two more fields after ACK and one at the end.
    fields = message.reply.split(".")
    start = 5 if len(fields) == 9 else 7
    return int(fields[start]), int(fields[start + 2])


def _headers(block: bytes) -> dict[str, str]:
    """NATS' header block: a line with the version, then fields as in HTTP."""
    found = {}
    for line in block.decode("utf-8", "replace").split("\r\n")[1:]:
        name, colon, value = line.partition(":")
        if colon:
            found[name] = value.strip()
    return found


def _checked(data: bytes) -> dict[str, Any]:
    """An answer of the API.

    Raises:
        BrokerError: It is an error, or nothing that such a server answers.
    """
    try:
        answer = json.loads(data)
        error = answer.get("error")
        if error is None:
            return answer  # type: ignore[no-any-return]
        number, text = int(error.get("err_code", 0)), str(error.get("description", ""))
    except (ValueError, AttributeError, TypeError):
        raise BrokerError("NATS' answer is not understood") from None
    if number == _WRONG_LAST:
        raise WrongLast(text)
    if number == _NO_STREAM:
        raise NoStream(text)
    if any(word in text for word in _FULL):
        raise Overloaded(f"NATS keeps no more: {text}")
    raise Refused(f"NATS refuses: {text}", number)
