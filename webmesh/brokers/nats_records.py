"""Records that NATS keeps for all nodes: each is the one message of its subject.

A record is claimed by putting a mark in its place, on the condition that it is still there: of all who try, one
succeeds, and who gets no answer finds out afterwards whose mark it is.

In the loop of an `AsyncioBridge`.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import TypeVar

from webmesh.brokers.jetstream import EXPECTED, JetStream, NoStream, Reading, Stored, WrongLast
from webmesh.brokers.nats_link import NoReply
from webmesh.brokers.nats_subjects import text_of, token
from webmesh.exceptions import BrokerUnavailable

T = TypeVar("T")

CLAIM = "Webmesh-Claim"
"""Header of the mark: whose it is."""


class Records:
    """The records under a prefix.

    Args:
        make: Makes their stream.
    """

    def __init__(self, js: JetStream, stream: str, prefix: str, make: Callable[[], Awaitable[None]]) -> None:
        self._js, self._stream, self._prefix, self._make = js, stream, prefix, make
        self._leaving: set[asyncio.Task[None]] = set()

    def _subject(self, table: str, key: str) -> str:
        return f"{self._prefix}.records.{token(table)}.{token(key)}"

    async def put(self, table: str, key: str, body: bytes, patience: float) -> None:
        """Keep a record, in the place of one with the same key."""

        async def publish() -> None:
            await self._js.publish(self._stream, self._subject(table, key), body, {})

        await self._persist(publish, patience)

    async def claim(self, table: str, key: str, patience: float) -> bytes | None:
        """Take a record away: its body, or `None` where there is none or another node has it."""
        subject, mine, seen = self._subject(table, key), os.urandom(11).hex(), b""

        async def attempt() -> bytes | None:
            nonlocal seen
            while True:
                found = await self._js.last(self._stream, subject)
                if found is None:
                    return None
                owner = found.headers.get(CLAIM)
                if owner is not None:
                    return seen if owner == mine else None
                seen = found.data
                try:
                    headers = {EXPECTED: str(found.sequence), CLAIM: mine}
                    sequence, _ = await self._js.publish(self._stream, subject, b"", headers)
                except WrongLast:
                    continue
                self._drop(sequence)
                return seen

        return await self._persist(attempt, patience)

    async def change(
        self, table: str, key: str, decide: Callable[[bytes], Awaitable[bytes | None]], patience: float
    ) -> None:
        """Put what *decide* makes of a record's body, `b""` where there is none, in its place; `None` leaves it.

        Nobody else has changed it meanwhile: otherwise *decide* is asked again.
        """
        subject = self._subject(table, key)

        async def attempt() -> None:
            while True:
                found = await self._js.last(self._stream, subject)
                body = await decide(b"" if found is None else found.data)
                if body is None:
                    return
                with suppress(WrongLast):
                    expected = {EXPECTED: "0" if found is None else str(found.sequence)}
                    await self._js.publish(self._stream, subject, body, expected)
                    return

        await self._persist(attempt, patience)

    async def table(self, table: str, patience: float) -> list[tuple[str, int, bytes]]:
        """All records of a table, of which there are few: key, sequence for `drop`, body."""
        subject = f"{self._prefix}.records.{token(table)}.*"
        found = await self._persist(lambda: self._js.read(self._stream, subject, newest_only=True), patience)
        return self._in_table(table, found)

    async def begin(self, table: str, patience: float) -> Reading:
        """Read all records of a table, by `part`."""
        subject = f"{self._prefix}.records.{token(table)}.*"
        return await self._persist(
            lambda: self._js.begin_reading(self._stream, subject, newest_only=True), patience
        )

    async def part(self, reading: Reading, table: str, most: int) -> list[tuple[str, int, bytes]]:
        """Some more of them, none at the end."""
        found: list[tuple[str, int, bytes]] = []
        while not found and not reading.over:
            found = self._in_table(table, await reading.next(most))
        return found

    def _in_table(self, table: str, several: list[Stored]) -> list[tuple[str, int, bytes]]:
        start = len(f"{self._prefix}.records.{token(table)}.")
        return [
            (text_of(one.subject[start:]), one.sequence, one.data) for one in several if CLAIM not in one.headers
        ]

    def drop(self, sequences: list[int]) -> None:
        """Records whose time is over: nobody asks for them any more."""
        for sequence in sequences:
            self._drop(sequence)

    def _drop(self, sequence: int) -> None:
        task = asyncio.create_task(self._js.delete(self._stream, sequence))
        self._leaving.add(task)
        task.add_done_callback(self._leaving.discard)

    async def _persist(self, ask: Callable[[], Awaitable[T]], patience: float) -> T:
        """Ask until there is an answer: asking twice changes nothing here."""
        try:
            async with asyncio.timeout(patience):
                return await self._until_answered(ask)
        except TimeoutError:
            raise BrokerUnavailable(f"NATS did not answer within {patience:g} seconds") from None

    async def _until_answered(self, ask: Callable[[], Awaitable[T]]) -> T:
        while True:
            try:
                await self._make()
                return await ask()
            except NoReply:
                await self._js.link.wait_up()
            except NoStream:  # somebody has deleted it
                self._js.forget()
