"""The connection to NATS servers: kept up, with its subscriptions, in the loop of an `AsyncioBridge`.

nats-py speaks the protocol. What it would do by itself is done here, since its own ways do not fit: it keeps what is
published while there is no connection and gives up for ever at some errors of the server; it hands messages of
different subscriptions to different tasks, which loses their order. So each connection is a client of its own that
never reconnects, and messages are taken where they are parsed.

Everything here runs in the loop's thread: it may not log.
"""

from __future__ import annotations

import asyncio
import os
import random
import time
from collections import deque
from collections.abc import Callable, Coroutine, Hashable, Mapping
from contextlib import suppress
from typing import Any, Generic, NamedTuple, Protocol, TypeVar

from webmesh.brokers.nats_address import Address
from webmesh.exceptions import BrokerError, BrokerUnavailable, ConfigurationError
from webmesh.options import Backoff
from webmesh.protocol.backoff import BackoffSeries

try:
    from nats import errors
    from nats.aio.client import Client
except ImportError as error:
    raise ConfigurationError("topics on NATS need its client: pip install 'webmesh-gevent[nats]'") from error

BACKOFF = Backoff(first=0.1, maximum=5.0, stable_after=10.0)
"""Full jitter, so that nodes that lost one server do not meet again at the next."""

CLOSING = 1.0
"""Seconds for what is still to be written when a connection ends."""

MOST_UNSENT = 16 * 1024 * 1024
"""Bytes of publications that wait to be written; a server that reads slower than that gets no more."""

Take = Callable[["Message"], None]


class Message(NamedTuple):
    """What has arrived. The reply subject is empty where no answer is wanted."""

    subject: str
    reply: str
    data: bytes
    headers: Mapping[str, str]


class NoReply(BrokerUnavailable):
    """The request was sent, and its answer did not come: what it asked for may have happened."""


class NoResponder(BrokerError):
    """Nobody is there who answers such requests."""


K = TypeVar("K", bound=Hashable)
Turns = dict[K, tuple[asyncio.Lock, list[None]]]
"""Key → its lock, and one item for each that has it or waits for it."""


class Turn(Generic[K]):
    """One at a time, in the order of their coming, of those with the same key; nothing is kept of a key in between."""

    def __init__(self, turns: Turns[K], key: K) -> None:
        self._turns, self._key = turns, key
        self._lock, self._users = turns.setdefault(key, (asyncio.Lock(), []))

    async def __aenter__(self) -> None:
        self._users.append(None)
        try:
            await self._lock.acquire()
        except BaseException:
            self._leave()
            raise

    async def __aexit__(self, *raised: object) -> None:
        self._lock.release()
        self._leave()

    def _leave(self) -> None:
        self._users.pop()
        if not self._users:
            del self._turns[self._key]


class Listener(Protocol):
    """What is told of the connection, in the loop's thread."""

    def on_up(self) -> None:
        """There is a connection, with all subscriptions."""

    def on_down(self, reason: str) -> None:
        """There is none any more."""

    def on_trouble(self, text: str) -> None:
        """Something that an operator may want to know."""


class Link:
    """See above.

    Args:
        check_every: Seconds between two checks that the server answers.
        patience: Seconds for its answer, and for one attempt to connect.
    """

    def __init__(
        self, address: Address, listener: Listener, *, tls: Any, name: str, check_every: float, patience: float
    ) -> None:
        self._address, self._listener = address, listener
        self._tls, self._name = tls, name
        self._check_every, self.patience = check_every, patience
        self._client: _Client | None = None
        self._came_up = asyncio.Event()
        self._closing = False
        self._takes: dict[tuple[str, str], Take] = {}
        self._sids: dict[tuple[str, str], Any] = {}
        self._turns: Turns[tuple[str, str]] = {}
        self._inbox = f"_INBOX.{os.urandom(11).hex()}"
        self._answers: dict[str, asyncio.Future[Message]] = {}
        self._count = 0
        self._unsent: deque[tuple[str, bytes, str, Mapping[str, str] | None]] = deque()
        self._unsent_bytes = 0
        self._something_unsent = asyncio.Event()
        self._more_servers: list[str] = []
        self._takes[f"{self._inbox}.*", ""] = self._take_answer
        self.largest = 1024 * 1024
        """Bytes of a message that the server takes."""

    @property
    def up(self) -> bool:
        """Whether there is a connection."""
        return self._client is not None

    async def open(self) -> None:
        """Connect, and stay connected until `close`.

        Raises:
            BrokerUnavailable: No server can be reached or takes us.
        """
        client = await self._connect()
        self._keeper = asyncio.create_task(self._keep(client))
        await self._came_up.wait()

    async def close(self) -> None:
        """End the connection, after what is to be sent."""
        with suppress(TimeoutError):
            async with asyncio.timeout(CLOSING):
                while self._unsent:
                    await asyncio.sleep(0.001)
                await self.settle()
        self._closing = True
        self._keeper.cancel()
        with suppress(asyncio.CancelledError):
            await self._keeper

    async def wait_up(self) -> None:
        """Wait until there is a connection."""
        await self._came_up.wait()

    # ------------------------------------------------------------ the connection

    async def _keep(self, client: _Client | None) -> None:
        series = BackoffSeries(BACKOFF, random.random)
        try:
            while True:
                if client is not None:
                    series.opened(time.monotonic())
                    await self._serve(client)
                    series.ended(time.monotonic())
                await asyncio.sleep(series.next_delay())
                try:
                    client = await self._connect()
                except BrokerUnavailable as error:
                    client = None
                    self._listener.on_trouble(f"still no connection: {error}")
        finally:
            await self._end(client, "the engine has been stopped")

    async def _connect(self) -> _Client:
        """A connection to whichever server takes us first, in random order."""
        servers = [*self._address.servers, *self._more_servers]
        random.shuffle(servers)
        failures: list[str] = []
        for server in servers:
            client = _Client(self._take, require_tls=self._address.tls)
            try:
                async with asyncio.timeout(2 * self.patience):
                    await self._connect_to(server, client)
            except (OSError, errors.Error, TimeoutError) as error:
                await _discard(client)
                text = client.trouble or str(error) or type(error).__name__
                failures.append(f"{server}: {text}{client.hint(text)}")
            else:
                return client
        raise BrokerUnavailable("no NATS server can be used: " + "; ".join(failures))

    async def _connect_to(self, server: str, client: _Client) -> None:
        credentials = self._address.credentials
        await client.connect(
            [server],
            name=self._name,
            allow_reconnect=False,
            max_reconnect_attempts=1,
            reconnect_time_wait=0,
            connect_timeout=self.patience,  # type: ignore[arg-type]
            ping_interval=3600,  # `_until_ended` does it
            error_cb=client.on_error,
            closed_cb=client.on_closed,
            tls=self._tls,
            user=credentials.get("user"),
            password=credentials.get("password"),
            token=credentials.get("token"),
        )
        if client.is_closed:
            raise errors.Error(client.trouble or "closed by the server")

    async def _serve(self, client: _Client) -> None:
        """Use a connection for as long as it lasts."""
        reason = "it could not be set up"
        try:
            async with asyncio.timeout(2 * self.patience):
                await self._restore(client)
            scheme = "tls" if self._address.tls else "nats"
            self._more_servers = [f"{scheme}://{one.netloc}" for one in client.discovered_servers]
            self.largest = client.max_payload
            self._client = client
            self._came_up.set()
            self._listener.on_up()
            sender = asyncio.create_task(self._send_all(client))
            try:
                reason = await self._until_ended(client)
            finally:
                sender.cancel()
        except (OSError, errors.Error, TimeoutError) as error:
            reason = str(error) or type(error).__name__
        await self._end(client, client.trouble or reason)

    async def _restore(self, client: _Client) -> None:
        """Subscribe to all that is wanted, and to what is wanted meanwhile."""
        while missing := self._takes.keys() - self._sids.keys():
            for subject, queue in missing:
                await self._subscribe(client, subject, queue)
            await client.flush()

    async def _until_ended(self, client: _Client) -> str:
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout(self._check_every):
                    await client.ended.wait()
            if client.is_closed or not client.is_connected:
                return "the connection has ended"
            for text in client.troubles():
                self._listener.on_trouble(text)
            try:
                async with asyncio.timeout(self.patience):
                    await client.flush()
            except (TimeoutError, errors.TimeoutError):
                return f"no answer within {self.patience:g} seconds"

    async def _end(self, client: _Client | None, reason: str) -> None:
        was_up, self._client = self._client is not None, None
        self._came_up.clear()
        self._sids.clear()
        self._unsent.clear()
        self._unsent_bytes = 0
        answers, self._answers = self._answers, {}
        for answer in answers.values():
            if not answer.done():
                answer.set_exception(NoReply(f"the connection to NATS was lost: {reason}"))
        if was_up and not self._closing:
            self._listener.on_down(reason)
        if client is not None:
            await _discard(client)

    # ------------------------------------------------------------- subscriptions

    async def subscribe(self, subject: str, take: Take, queue: str = "") -> None:
        """Have *take* called with what arrives, in the order of arrival, until `unsubscribe`.

        Without a connection it begins with the next one. With one it has begun when this returns.
        """
        async with Turn(self._turns, (subject, queue)):
            self._takes[subject, queue] = take
            client = self._client
            if client is not None and (subject, queue) not in self._sids:
                with suppress(OSError, errors.Error, TimeoutError):  # then the next connection brings it
                    await self._subscribe(client, subject, queue)
            await self.settle()

    async def settle(self) -> None:
        """Wait until the server has done what was sent to it."""
        if self._client is not None:
            await self._in_time(self._client.flush())

    async def _in_time(self, work: Coroutine[Any, Any, None]) -> None:
        """Wait for it, unless the connection is lost: then the next one begins anew."""
        with suppress(OSError, errors.Error, TimeoutError):
            async with asyncio.timeout(self.patience):
                await work

    async def _subscribe(self, client: _Client, subject: str, queue: str) -> None:
        made = await client.subscribe(subject, queue=queue)
        if not client.is_closed:  # else there may be the next one already
            self._sids[subject, queue] = made

    async def unsubscribe(self, subject: str, queue: str = "") -> None:
        """Have no more of it; *take* is called with all that was on its way."""
        async with Turn(self._turns, (subject, queue)):
            subscription = self._sids.pop((subject, queue), None)
            if subscription is not None and self._client is not None:
                await self._in_time(subscription.drain())
            self._takes.pop((subject, queue), None)

    def _take(self, subscribed: str, queue: str, message: Message) -> None:
        take = self._takes.get((subscribed, queue))
        if take is not None:
            take(message)

    # -------------------------------------------------------- sending and asking

    def send(self, subject: str, data: bytes, reply: str = "", headers: Mapping[str, str] | None = None) -> bool:
        """Have a message written, after those before it; whether there was room, and a connection."""
        if self._client is None or self._unsent_bytes > MOST_UNSENT:
            return False
        self._unsent.append((subject, data, reply, headers))
        self._unsent_bytes += len(data)
        self._something_unsent.set()
        return True

    async def _send_all(self, client: _Client) -> None:
        while True:
            await self._something_unsent.wait()
            self._something_unsent.clear()
            while self._unsent:
                subject, data, reply, headers = self._unsent.popleft()
                try:
                    await client.publish(subject, data, reply, dict(headers) if headers else None)
                except (OSError, errors.Error) as error:
                    self._listener.on_trouble(f"a message was not sent: {error or type(error).__name__}")
                self._unsent_bytes -= len(data)

    async def request(
        self, subject: str, data: bytes = b"", headers: Mapping[str, str] | None = None, *, timeout: float | None = None
    ) -> Message:
        """Send a message and wait for the answer.

        Raises:
            BrokerUnavailable: There is no connection, and nothing was sent.
            NoReply: There was one.
            NoResponder: Nobody listens.
        """
        self._count += 1
        key = str(self._count)
        answer: asyncio.Future[Message] = asyncio.get_running_loop().create_future()
        self._answers[key] = answer
        try:
            if not self.send(subject, data, f"{self._inbox}.{key}", headers):
                raise BrokerUnavailable("there is no connection to NATS" if not self.up else "NATS takes no more")
            async with asyncio.timeout(self.patience if timeout is None else timeout):
                message = await answer
        except TimeoutError:
            raise NoReply(f"no answer to {subject.split('.')[0]} within {timeout or self.patience:g} seconds") from None
        finally:
            self._answers.pop(key, None)
        if message.headers.get("Status") == "503":
            raise NoResponder(f"nobody answers on {subject}")
        return message

    def _take_answer(self, message: Message) -> None:
        answer = self._answers.get(message.subject.rpartition(".")[2])
        if answer is not None and not answer.done():
            answer.set_result(message)


class _Client(Client):
    """nats-py's client, which hands over messages where it parses them."""

    def __init__(self, take: Callable[[str, str, Message], None], *, require_tls: bool) -> None:
        super().__init__()
        self.ended = asyncio.Event()
        self.trouble = ""
        self._told: deque[str] = deque(maxlen=16)
        self._taker, self._require_tls = take, require_tls

    async def on_error(self, error: Exception) -> None:
        """nats-py's callback for what nobody waits for."""
        text = str(error) or type(error).__name__
        self._told.append(text)
        self.trouble = text

    async def on_closed(self) -> None:
        """nats-py's callback for the end."""
        self.ended.set()

    def hint(self, text: str) -> str:
        """Why a connection may have ended before it began: a server's refusal can be overtaken by its hanging up."""
        demands = self._server_info.get("auth_required") and "Authorization" not in text
        return " (the server demands a user, and may not take this one)" if demands else ""

    def troubles(self) -> list[str]:
        """What was not told yet, and what was told no longer counts as the reason of the end."""
        told = list(self._told)
        self._told.clear()
        self.trouble = ""
        return told

    def _connect_command(self) -> bytes:
        if self._require_tls and not self._server_info.get("tls_required"):  # before the password goes out
            raise errors.Error("the server offers no TLS, which tls:// demands")
        return super()._connect_command()

    def _build_message(self, sid: int, subject: bytes, reply: bytes, data: bytes, headers: Any) -> None:
        # The one place that sees all messages in their order; with nothing returned nats-py has no more to do.
        subscription = self._subs.get(sid)
        if subscription is not None:
            try:
                message = Message(subject.decode(), reply.decode(), bytes(data), headers or {})
                self._taker(subscription.subject, subscription.queue, message)
            except UnicodeDecodeError:
                self._told.append("a message whose subject is not UTF-8")
            except Exception as error:  # it would end nats-py's reading; this is the edge to what is above
                self._told.append(f"a message could not be taken: {error!r}")


async def _discard(client: _Client) -> None:
    """Close a client; one whose server does not read any more takes no longer than others."""
    # AttributeError: nats-py 2.9 closes what it has never opened.
    with suppress(OSError, errors.Error, TimeoutError, AttributeError):
        async with asyncio.timeout(CLOSING):
            await client.close()
    writer = getattr(client._transport, "_io_writer", None) or getattr(client._transport, "_bare_io_writer", None)
    if writer is not None:
        writer.transport.abort()
