"""The engine on NATS: live messages by subjects, what is kept by JetStream, for any number of nodes.

nats-py runs in a native thread (`asyncio_bridge`); what knows NATS runs there too (`nats_link`, `jetstream`,
`nats_topics`, `nats_records`, `nats_work`). Here is the node's side of it, in the hub.
"""

from __future__ import annotations

import itertools
import logging
import os
import re
import ssl
import time
from collections.abc import Callable, Coroutine, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, TypeVar

from gevent.event import Event

from webmesh.brokers.asyncio_bridge import AsyncioBridge, NoAnswer
from webmesh.brokers.base import PAGE, Accepted, Broker, GroupName, History, Keep, Places, Since, Sink
from webmesh.brokers.nats_address import read_address
from webmesh.brokers.nats_bodies import Arrived, Bodies
from webmesh.brokers.nats_clock import ServerClock
from webmesh.brokers.nats_groups import NatsGroups
from webmesh.brokers.nats_link import MOST_UNSENT, Message
from webmesh.brokers.nats_marks import MARK, Mark
from webmesh.brokers.nats_node import NatsNode
from webmesh.brokers.nats_past import NatsPast, in_pages
from webmesh.brokers.nats_subjects import pattern_subject, topic_subject
from webmesh.brokers.opening import query_options
from webmesh.deadline import Clock
from webmesh.exceptions import BrokerError, BrokerUnavailable, ConfigurationError, PublishDoubtful
from webmesh.options import Limits
from webmesh.protocol.publication import Publication
from webmesh.protocol.topic_trie import TopicTrie

T = TypeVar("T")

MOST_RECENT = 4096
"""Ids of publications by which one is known that comes by several patterns. Those come close together."""

HEADER_ROOM = 1024
"""Bytes of what a server takes that are left to headers."""

UNSETTLED = 256
"""Live messages that are published without waiting for the server. One round trip for so many costs each 2 us."""

MARGIN = 1.0
"""Seconds for which the hub waits longer than the thread does, so that the thread says what was wrong."""

_PREFIX = re.compile("[A-Za-z0-9_-]{1,32}")

logger = logging.getLogger("webmesh.broker")


def open_nats(url: str, **options: Any) -> NatsBroker:
    """The engine of `nats://` and `tls://`; see `open_broker`. *options* are those of `NatsBroker`."""
    query = query_options(
        read_address(url).query,
        {"prefix": str, "lease": float, "replicas": int, "publish_timeout": float, "patience": float},
    )
    return NatsBroker(url.partition("?")[0], **options | query)


class NatsBroker(Broker):
    """`nats://host:4222`: see `Broker`.

    Args:
        url: Servers of one cluster, separated by commas, with `user:password@` or `token@` before the first; `tls://`
            demands TLS.
        prefix: Before all names at the server: nodes with the same one share topics.
        lease: Seconds after which the work of a node that died is given to others.
        replicas: Servers that keep what is kept; at most as many as there are.
        publish_timeout: Seconds after which publishing, or asking for what is kept, fails.
        patience: Seconds for one answer of a server, and for an attempt to connect; after the same time without
            messages it is checked that the server still answers.
        tls: For `tls://`, where the system's certificates are not what is wanted.
        clock: The wall clock; the server's corrects it, since other nodes read its readings.
    """

    def __init__(
        self,
        url: str,
        *,
        prefix: str = "webmesh",
        lease: float = 15.0,
        replicas: int = 1,
        publish_timeout: float = 5.0,
        patience: float = 2.0,
        tls: ssl.SSLContext | None = None,
        limits: Limits = Limits(),  # noqa: B008 - frozen
        clock: Clock = time.time,
    ) -> None:
        self._address = read_address(url)
        if self._address.query:
            raise ConfigurationError("options in a NATS URL are read by open_broker")
        if not _PREFIX.fullmatch(prefix):
            raise ConfigurationError("the prefix of NATS names has 1 to 32 letters, digits, - or _")
        for name, value in [("lease", lease), ("publish_timeout", publish_timeout), ("patience", patience)]:
            if not 0 < value < 86400:
                raise ConfigurationError(f"{name} is a positive number of seconds, not {value}")
        if not 1 <= replicas <= 5:
            raise ConfigurationError(f"JetStream keeps 1 to 5 replicas, not {replicas}")
        self.clock = self._clock = ServerClock(clock)
        self.invalid = 0
        """Messages that arrived and were none of a node's."""
        self._prefix, self._lease, self._replicas, self._tls = prefix, lease, replicas, tls
        self._timeout, self._patience = publish_timeout, patience
        self._bodies = Bodies(self.clock, limits)
        self._sink: Sink | None = None
        self._name = os.urandom(8).hex()
        self._numbers = itertools.count()
        self._wanted: dict[tuple[str, ...], int] = {}
        self._interest: TopicTrie[tuple[str, ...]] = TopicTrie()
        self._recent: dict[str, None] = {}
        self._was_up = False
        self._posted_bytes = 0
        self._unsettled = 0
        self._settling: Event | None = None

    def __repr__(self) -> str:
        return f"<NatsBroker {self._address} {'up' if self.up else 'down'}>"

    def start(self, sink: Sink) -> None:
        """See `Broker.start`."""
        bridge = AsyncioBridge(lambda thing: thing(), lost=self._on_lost, failed=self._on_failed)
        groups = NatsGroups(bridge, self._read, self._timeout + MARGIN)
        node = groups.node = NatsNode(
            self._address, self, groups, bridge.tell, prefix=self._prefix, lease=self._lease, replicas=self._replicas,
            patience=self._patience, timeout=self._timeout, tls=self._tls, name=f"webmesh {self._name}",
            is_over=self._is_over, clock=self._clock,
        )  # fmt: skip
        self._sink, self._was_up, self._posted_bytes = sink, False, 0
        self._bridge, self._node, self._groups = bridge, node, groups
        self._past = NatsPast(self._ask_up, bridge.post, node.topics, self._read_kept, self.clock)
        bridge.start()
        try:
            bridge.call(node.open, timeout=4 * self._patience * len(self._address.servers))
        except BaseException:
            self._sink = None
            bridge.stop()
            raise

    def stop(self) -> None:
        """See `Broker.stop`."""
        if self._sink is None:
            return
        try:
            self._groups.leave_all()
            self._bridge.call(self._node.close, timeout=2 * self._patience + MARGIN)
        except BrokerUnavailable:
            pass  # it goes without saying good-bye
        finally:
            self._sink = None
            self._bridge.stop()

    @property
    def up(self) -> bool:
        """Whether there is a connection."""
        return self._sink is not None and self._node.link.up

    @property
    def dropped(self) -> int:
        """Messages that arrived faster than this node took them, or could not be sent."""
        return self._bridge.dropped + self._node.unsent if self._sink is not None else 0

    def _ask(self, function: Callable[..., Coroutine[Any, Any, T]], *args: Any) -> T:
        if self._sink is None:
            raise BrokerUnavailable("the engine is not started")
        return self._bridge.call(function, *args, timeout=self._timeout + MARGIN)

    def _ask_up(self, function: Callable[..., Coroutine[Any, Any, T]], *args: Any) -> T:
        """The same for what needs a connection: an outage is told at once."""
        if not self.up:
            raise BrokerUnavailable(f"there is no connection to NATS at {self._address}")
        return self._ask(function, *args)

    # ------------------------------------------------------- what the thread tells

    def on_up(self) -> None:
        """There is a connection, with all subscriptions."""
        if self._sink is None:
            return
        if self._was_up:
            logger.info("connected to NATS again", extra={"servers": str(self._address)})
            self._sink.health(True, "connected to NATS again")
            self._sink.gap("the connection to NATS was lost")
        self._was_up = True

    def on_down(self, reason: str) -> None:
        """There is none any more."""
        if self._sink is not None:
            logger.error("the connection to NATS is lost", extra={"servers": str(self._address), "reason": reason})
            self._sink.health(False, f"the connection to NATS is lost: {reason}")

    def on_trouble(self, text: str) -> None:
        """Something that an operator may want to know."""
        logger.warning("NATS: %s", text, extra={"servers": str(self._address)})

    def _on_lost(self) -> None:
        logger.error("messages from NATS are dropped: this node takes them too slowly", extra={"dropped": self.dropped})
        if self._sink is not None:
            self._sink.gap("messages arrived faster than this node took them")

    def _on_failed(self, error: BaseException) -> None:
        logger.error("handling what NATS brought failed", exc_info=error)

    def _read(self, subject: str, message: Message, mark: Mark | None = None) -> Arrived | None:
        try:
            return self._bodies.read(subject, message.data, mark or message.headers.get(MARK))
        except ValueError as error:
            self.invalid += 1
            logger.warning("a message from NATS is dropped: %s", error, extra={"subject": repr(subject[:100])})
            return None

    def _read_kept(self, subject: str, body: bytes, mark: Mark) -> Arrived | None:
        return self._read(subject, Message("", "", body, {}), mark)

    # -------------------------------------------------------------- publications

    def publish(self, publication: Publication, keep: Keep) -> Accepted:
        """See `Broker.publish`. What is not kept is on its way when this returns, and may be lost with the connection.

        Raises:
            PublishDoubtful: The connection was lost after it was sent.
            Overloaded: The server keeps no more.
        """
        if not self.up:
            raise BrokerUnavailable(f"there is no connection to NATS at {self._address}")
        body = self._bodies.write(publication, f"{self._name}-{next(self._numbers)}", self.clock())
        if len(body) > self._node.link.largest - HEADER_ROOM:
            raise BrokerError(
                f"a message of {len(body)} bytes; the NATS server takes {self._node.link.largest} (its max_payload)"
            )
        subject = topic_subject(publication.topic)
        if keep.numbered or keep.retain or publication.dedupe_id is not None:
            try:
                return self._ask(
                    self._node.topics.publish, subject, body, keep, publication.dedupe_id, self._timeout
                )
            except NoAnswer as error:  # the thread found no time to say it itself
                raise PublishDoubtful(str(error)) from None
        if self._posted_bytes - self._node.taken_bytes > MOST_UNSENT:
            raise BrokerUnavailable("NATS does not take what is published as fast as it comes")
        self._pace()
        self._posted_bytes += len(body)
        self._bridge.post(self._node.send_live, subject, body)
        return Accepted()

    def _pace(self) -> None:
        """Let nobody publish faster than the server reads: now and then all wait until it has read everything.

        It also lets the hub do something else, and so take what comes back.
        """
        self._unsettled += 1
        if self._unsettled < UNSETTLED:
            return
        if self._settling is not None:
            self._settling.wait()
            return
        settling = self._settling = Event()
        try:
            self._ask(self._node.link.settle)
        finally:
            self._unsettled, self._settling = 0, None
            settling.set()

    def want(self, pattern: tuple[str, ...]) -> None:
        """See `Broker.want`. Without a connection it begins with the next one."""
        first = pattern not in self._wanted
        self._wanted[pattern] = self._wanted.get(pattern, 0) + 1
        self._interest.add(pattern, pattern)
        try:
            if first:
                self._ask(self._node.want, pattern_subject(pattern))
            else:
                self._ask(self._node.link.settle)
        except BaseException:
            self.unwant(pattern)
            raise

    def unwant(self, pattern: tuple[str, ...]) -> None:
        """See `Broker.unwant`."""
        count = self._wanted.pop(pattern, 0) - 1
        if count > 0:
            self._wanted[pattern] = count
        elif count == 0:
            self._interest.remove(pattern, pattern)
            if self._sink is not None:
                self._bridge.post(self._node.unwant, pattern_subject(pattern))

    def on_live(self, subject: str, message: Message) -> None:
        """A message on a topic's subject, once for each pattern that is wanted and matches."""
        arrived = self._read(subject, message)
        if arrived is None or self._sink is None:
            return
        publication, id, _ = arrived
        if id in self._recent or not self._interest.match(tuple(publication.topic.split("/"))):
            return
        self._recent[id] = None
        if len(self._recent) > MOST_RECENT:
            del self._recent[next(iter(self._recent))]
        self._sink.deliver(publication)

    def history(self, topic: str, since: Since, *, most: int | None = None, reverse: bool = False) -> History:
        """See `Broker.history`."""
        return self._past.history(topic_subject(topic), since, most=most, reverse=reverse)

    def topics(self, pattern: tuple[str, ...]) -> list[str]:
        """See `Broker.topics`."""
        now = self.clock()
        return [one.publication.topic for one in self._past.newest(pattern_subject(pattern)) if one.in_history(now)]

    def retained(self, pattern: tuple[str, ...]) -> Iterator[Publication]:
        """See `Broker.retained`."""
        now = self.clock()
        for one in self._past.newest(pattern_subject(pattern)):
            if one.is_value(now):
                yield one.publication.as_retained()

    def _is_over(self, subject: str, body: bytes, mark: str | None) -> bool:
        """Whether a topic's newest message is not needed any more, nor what came before it. In the thread."""
        try:
            arrived = self._bodies.read(subject, body, mark)
        except ValueError:
            return True
        now = self.clock()
        return not arrived.in_history(now) and not arrived.is_value(now)

    # -------------------------------------------------------------------- groups

    def join(
        self, group: GroupName, window: int, *, durable: bool, ttl: float | None = None, places: Sequence[Places] = ()
    ) -> None:
        """See `Broker.join`. A durable group keeps what must be acknowledged; the rest is for members that are there.

        Without a connection it begins with the next one, unless there must be room for it.
        """
        if self._sink is None:
            raise BrokerUnavailable("the engine is not started")
        if places:
            self._ask_up(self._node.upkeep.admit, group, places)
        self._groups.join(group, self._sink, window, durable=durable, ttl=ttl)

    def leave(self, group: GroupName) -> None:
        """See `Broker.leave`."""
        self._groups.leave(group)

    def done(self, group: GroupName, token: Any) -> None:
        """See `Broker.done`."""
        self._groups.done(group, token)

    def groups(self) -> list[GroupName]:
        """See `Broker.groups`."""
        return self._ask_up(self._node.upkeep.names)

    def drop_group(self, group: GroupName) -> int | None:
        """See `Broker.drop_group`."""
        return self._ask_up(self._node.upkeep.drop, group)

    # ------------------------------------------------------------------- records

    def put(self, table: str, key: str, value: Any, ttl: float) -> None:
        """See `Broker.put`."""
        body = self._bodies.write_value(value, self.clock() + ttl)
        self._ask_up(self._node.records.put, table, key, body, self._timeout)

    def claim(self, table: str, key: str) -> Any | None:
        """See `Broker.claim`."""
        body = self._ask_up(self._node.records.claim, table, key, self._timeout)
        value, until = (None, 0.0) if body is None else self._value(table, body)
        return value if until > self.clock() else None

    def records(self, table: str) -> Mapping[str, Any]:
        """See `Broker.records`."""
        return {key: value for page in self.pages(table) for key, value in page.items()}

    def pages(self, table: str, most: int = PAGE) -> Iterator[Mapping[str, Any]]:
        """See `Broker.pages`."""
        records = self._node.records
        begin = partial(records.begin, table, self._timeout)
        for part in in_pages(self._ask_up, self._bridge.post, begin, partial(records.part, table=table, most=most)):
            yield self._current(table, part)

    def _current(self, table: str, several: list[tuple[str, int, bytes]]) -> dict[str, Any]:
        now, over, found = self.clock(), [], {}
        for key, delivery, body in several:
            value, until = self._value(table, body)
            if until > now:
                found[key] = value
            else:
                over.append(delivery)
        if over:
            self._bridge.post(self._node.records.drop, over)
        return found

    def _value(self, table: str, body: bytes) -> tuple[Any, float]:
        try:
            return self._bodies.read_value(body)
        except ValueError as error:
            self.invalid += 1
            logger.warning("a record from NATS is dropped: %s", error, extra={"table": table})
            return None, 0.0
