"""The engine on Redis: many nodes, live messages by pub/sub, history and groups in streams.

What is numbered, kept and handed out is done inside Redis, by scripts (`redis_scripts`): a publication that was
acknowledged is there as a whole. What a node holds for itself is only which patterns it wants, which groups it has
members of, and a copy of the table of groups, whose version each publication names.
"""

from __future__ import annotations

import itertools
import logging
import os
import random
import ssl
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from typing import Any

from gevent.lock import Semaphore

from webmesh.brokers import one_node
from webmesh.brokers.base import (
    PAGE, Accepted, Broker, GroupName, History, Keep, Places, Since, Sink, check_places,
)  # fmt: skip
from webmesh.brokers.redis_groups import GroupTable, NodeGroup, group_text, read_group
from webmesh.brokers.redis_link import RedisLink
from webmesh.brokers.redis_messages import BadMessage, Keys, body_limits, read_message, write_body
from webmesh.brokers.redis_past import RedisPast
from webmesh.brokers.redis_places import read_url
from webmesh.brokers.redis_records import RedisRecords
from webmesh.deadline import Deadline
from webmesh.exceptions import (
    BrokerError, BrokerUnavailable, ConfigurationError, FailedPrecondition, Overloaded, PublishDoubtful,
)  # fmt: skip
from webmesh.options import Backoff, Limits
from webmesh.protocol.publication import Publication
from webmesh.protocol.topic_trie import TopicTrie
from webmesh.protocol.topics import is_topic

logger = logging.getLogger("webmesh.broker")

MESSAGE_SIZE = 4 * 1024 * 1024
"""Bytes of a message as it is stored: four times `Limits.message_size`, as numbers are longer in msgpack than in
JSON. What is longer is refused, in both directions."""

WATERMARKS = 10_000
"""Topics whose newest number a node remembers, to notice when Redis has lost some of what it had."""

ADMISSIONS = 100
"""Times that a new group is counted anew, as another node has made one meanwhile; each takes about a millisecond."""

SWEPT = 20
"""Groups of other nodes that are looked at with each beat, whether they are over; all nodes together find them all."""

TABLE_READS = 5
"""Times in a row that a publication finds the table of groups changed before it gives up."""


class RedisBroker(Broker):
    """`redis://`, `rediss://`, `unix://`, `redis+sentinel://`, `redis+cluster://`: see `Broker` and docs/BROKERS.md.

    Args:
        url: Its query may hold `prefix`, `timeout`, `patience`, `lease` and `ca_file`, which count more than arguments.
        prefix: Begins the names of all keys. What shares it, shares everything.
        timeout: Seconds for one answer. A Redis that takes longer counts as lost.
        patience: Seconds that a publication waits for a lost Redis to come back before it fails.
        lease: Seconds after which a node that says nothing is dead, and its work is given to others.
        tls: For `rediss://`; without one, the system's authorities or `ca_file` are trusted.
        message_size: See `MESSAGE_SIZE`.
        limits: Bounds of what is read besides its size.

    Attributes:
        refused: How many things were read from Redis that were none of ours, and dropped.
    """

    def __init__(
        self, url: str, *, prefix: str = "webmesh", timeout: float = 5.0, patience: float = 1.0, lease: float = 10.0,
        tls: ssl.SSLContext | None = None, message_size: int = MESSAGE_SIZE, limits: Limits | None = None,
        backoff: Backoff | None = None,
    ) -> None:  # fmt: skip
        place, options = read_url(url, tls)
        numbers = {"timeout": timeout, "patience": patience, "lease": lease} | options
        prefix = numbers.pop("prefix", prefix)
        for name, value in numbers.items():
            if not (0 < value < 86400 or (name == "patience" and value == 0)):
                raise ConfigurationError(f"{name} is a number of seconds above 0, not {value!r}")
        self._keys = Keys(prefix)
        self._lease_ms = int(numbers["lease"] * 1000)
        self._limits = body_limits(limits or Limits(), message_size)
        self._node = os.urandom(8).hex()
        self._counter = itertools.count()
        self._link = RedisLink(
            place, self, name=f"webmesh-{self._node}", key=self._keys.topics, timeout=numbers["timeout"],
            interval=numbers["lease"] / 3, backoff=backoff or Backoff(maximum=5.0),
        )  # fmt: skip
        self._patience = numbers["patience"]
        self._past = RedisPast(self._link.run, self._link.ask, self._keys, self._limits, self._refuse)
        self._records = RedisRecords(self._link.run, self._keys, self._limits, self._refuse)
        self._sink: Sink | None = None
        self._offset_of_clock = 0.0
        self._wanted: dict[tuple[str, ...], int] = {}
        self._interest: TopicTrie[tuple[str, ...]] = TopicTrie()
        self._table = GroupTable(self._link.ask, self._keys.groups, self._refuse)
        self._groups: dict[GroupName, NodeGroup] = {}
        self._admitting = Semaphore()
        self._by_work: dict[bytes, NodeGroup] = {}
        self._epoch = ""
        self._newest: OrderedDict[str, int] = OrderedDict()
        self.refused = 0

    def clock(self) -> float:
        """Redis' clock, as far as it can be told from here; it never jumps with this machine's."""
        return time.monotonic() + self._offset_of_clock

    def start(self, sink: Sink) -> None:
        """See `Broker.start`."""
        self._sink = sink
        try:
            self._link.start()
        except BaseException:
            self._sink = None
            raise

    def stop(self) -> None:
        """See `Broker.stop`. What this node has not done is given back at once, as far as Redis can be reached."""
        if self._sink is None:
            return
        self._sink = None
        for group in list(self._groups):
            self._part(group)
        with suppress(BrokerError, Overloaded):
            self._link.ask("HDEL", self._keys.nodes, self._node)
        self._link.stop()
        self._wanted.clear()
        self._interest = TopicTrie()

    @property
    def up(self) -> bool:
        """See `Broker.up`."""
        return self._sink is not None and self._link.up

    # -------------------------------------------------------------------- the link

    def opened(self) -> None:
        """See `LinkOwner`."""
        self._table.read()
        names = [self._keys.live + "/".join(one) for one in self._wanted if is_topic("/".join(one))]
        names += [group.work for group in self._groups.values()]
        patterns = [self._keys.pattern(one) for one in self._wanted if not is_topic("/".join(one))]
        assert self._link.feed is not None
        self._link.feed.add(names, patterns, self._link.timeout)
        self.beat()

    def back(self, reason: str) -> None:
        """See `LinkOwner`."""
        if self._sink is not None:
            _contained(self._sink.health, True, reason)
            _contained(self._sink.gap, reason)
        for group in self._groups.values():
            group.wake(rescue=True, own=True)

    def down(self, reason: str) -> None:
        """See `LinkOwner`."""
        if self._sink is not None:
            _contained(self._sink.health, False, reason)

    def beat(self) -> None:
        """See `LinkOwner`: says that this node is alive, and looks after groups whose nodes are not."""
        keys = self._keys
        before = time.monotonic()
        seconds, micros = self._link.ask("TIME")  # again and again: two clocks never go at quite the same speed
        self._offset_of_clock = int(seconds) + int(micros) / 1e6 - (before + time.monotonic()) / 2
        self._link.run("beat", [keys.nodes], self._node, self._lease_ms)
        self._end_groups()
        for group in list(self._groups.values()):
            self._enter(group)
            group.wake(rescue=True)
        others = [name for name in self._table.passing if read_group(name) not in self._groups]
        for name in random.sample(others, min(len(others), SWEPT)):
            self._link.run("leave", self._leaving(name), name, "")

    def told(self, name: bytes, data: Any) -> None:
        """See `LinkOwner`."""
        live = self._keys.live.encode()
        if not name.startswith(live):
            group = self._by_work.get(name)
            if group is not None:
                group.wake(rescue=data == b"left")
            return
        try:
            publication = read_message(name[len(live) :], data, self._limits)
        except BadMessage as bad:
            self._refuse(repr(name[:80]), bad)
            return
        if publication.offset is not None:
            self._remember(publication.topic, publication.offset, publication.epoch or "")
        if self._sink is not None and self._interest.match(tuple(publication.topic.split("/"))):
            self._sink.deliver(publication)

    def _refuse(self, where: str, bad: Exception) -> None:
        self.refused += 1
        logger.warning("what stands in Redis is none of ours", extra={"where": where, "reason": str(bad)})

    # -------------------------------------------------------------- publications

    def publish(self, publication: Publication, keep: Keep) -> Accepted:
        """See `Broker.publish`.

        Raises:
            Overloaded: Too many topics are kept already, a group of acknowledged messages has too many to do, or Redis
                has no memory left.
        """
        body = write_body(publication, self._limits)
        patience = Deadline(self._patience)
        doubtful: PublishDoubtful | None = None
        while self._link.wait_up(patience.remaining() or 0.0):
            try:
                return self._publish(publication, keep, body)
            except PublishDoubtful as lost:
                # What has an id may be sent again: it will not be there twice.
                if publication.dedupe_id is None or doubtful is not None:
                    raise
                doubtful, patience = lost, Deadline(self._patience)
            except BrokerUnavailable as nothing_done:
                if patience.expired:
                    raise doubtful or nothing_done from nothing_done
        raise doubtful or BrokerUnavailable(f"no connection to Redis at {self._link.place}; nothing was sent")

    def _publish(self, publication: Publication, keep: Keep, body: bytes) -> Accepted:
        keys, topic = self._keys, publication.topic
        retain = "" if not keep.retain else "0" if publication.payload is None else "1"
        for _ in range(TABLE_READS):
            groups = self._table.match(tuple(topic.split("/")))
            outcome, *rest = self._link.run(
                "publish",
                [keys.topics, keys.retained, keys.seen, keys.answers, keys.groups, keys.log(topic), keys.nodes,
                 keys.lost, *map(keys.work, groups)],
                self._table.version, topic, body, keys.live + topic, keep.history,
                "" if keep.ttl is None else max(1, round(keep.ttl * 1000)), retain, int(keep.ack),
                publication.dedupe_id or "", round(one_node.DEDUPE_WINDOW * 1000), one_node.DEDUPE_MOST,
                one_node.MOST_TOPICS, one_node.GROUP_BACKLOG, os.urandom(6).hex(),
                f"{self._node}.{next(self._counter):x}", self._epoch or "-", self._newest.get(topic, 0),
                keys.log(""), keys.work(""), keys.plain(""), "" if keep.history_bytes is None else keep.history_bytes,
            )  # fmt: skip
            if outcome != b"stale":
                return self._outcome(topic, outcome, rest)
            self._table.read()
        raise Overloaded("groups join and leave so fast that nothing can be published")

    def _outcome(self, topic: str, outcome: bytes, rest: list[bytes]) -> Accepted:
        if outcome == b"full":
            raise Overloaded(f"a group of {topic} has {one_node.GROUP_BACKLOG} messages to do")
        if outcome == b"room":
            raise Overloaded(f"{one_node.MOST_TOPICS} topics are kept, the limit; {topic} would be one more")
        number, _, epoch = rest[0].decode().partition(" ")
        if not number.isdigit():
            return Accepted(duplicate=outcome == b"seen")
        self._remember(topic, int(number), epoch)
        return Accepted(int(number), epoch, outcome == b"seen")

    def _remember(self, topic: str, offset: int, epoch: str) -> None:
        """Keep the newest number of a topic: a Redis that later knows a smaller one has lost publications."""
        if epoch != self._epoch:
            self._epoch = epoch
            self._newest.clear()
        newest = self._newest
        if offset > newest.get(topic, 0):
            newest[topic] = offset
            if len(newest) > WATERMARKS:
                newest.popitem(last=False)

    def want(self, pattern: tuple[str, ...]) -> None:
        """See `Broker.want`; returns when Redis has confirmed it. During an outage it is noted for the time after."""
        count = self._wanted.get(pattern, 0)
        self._wanted[pattern] = count + 1
        if not count:
            self._interest.add(pattern, pattern)
            self._subscribe(pattern)

    def _subscribe(self, pattern: tuple[str, ...]) -> None:
        feed, text = self._link.feed, "/".join(pattern)
        if feed is None:
            return
        if is_topic(text):
            feed.add([self._keys.live + text], [], self._link.timeout)
        else:
            feed.add([], [self._keys.pattern(pattern)], self._link.timeout)

    def unwant(self, pattern: tuple[str, ...]) -> None:
        """See `Broker.unwant`."""
        count = self._wanted.pop(pattern, 0) - 1
        if count > 0:
            self._wanted[pattern] = count
            return
        self._interest.remove(pattern, pattern)
        feed, text = self._link.feed, "/".join(pattern)
        if feed is not None and is_topic(text):
            feed.remove(self._keys.live + text, pattern=False)
        elif feed is not None:
            feed.remove(self._keys.pattern(pattern), pattern=True)

    def history(self, topic: str, since: Since, *, most: int | None = None, reverse: bool = False) -> History:
        """See `Broker.history`."""
        return self._past.history(topic, since, most=most, reverse=reverse)

    def topics(self, pattern: tuple[str, ...]) -> list[str]:
        """See `Broker.topics`."""
        return self._past.topics(pattern)

    def retained(self, pattern: tuple[str, ...]) -> Iterator[Publication]:
        """See `Broker.retained`."""
        return self._past.retained(pattern, self.clock())

    # -------------------------------------------------------------------- groups

    def join(
        self, group: GroupName, window: int, *, durable: bool, ttl: float | None = None, places: Sequence[Places] = ()
    ) -> None:
        """See `Broker.join`."""
        known = self._groups.get(group)
        if known is not None:
            known.window, known.durable, known.ttl = window, durable, ttl
            self._enter(known, places)
            known.wake()
            return
        made = NodeGroup(
            group, self._node, keys=self._keys, window=window, durable=durable, ttl=ttl, limits=self._limits,
            run=self._link.run, give=self._give, lost=self._lost, refused=self._refuse,
        )  # fmt: skip
        self._groups[group] = self._by_work[made.work.encode()] = made
        try:
            feed = self._link.feed
            if feed is not None:
                feed.add([made.work], [], self._link.timeout)
            self._enter(made, places)
        except BaseException:
            self._groups.pop(group, None)
            self._by_work.pop(made.work.encode(), None)
            raise
        made.start()

    def _enter(self, group: NodeGroup, places: Sequence[Places] = ()) -> None:
        if not places:
            self._join(group)
            return
        with self._admitting:  # of several here each would find that another one was quicker
            for _ in range(ADMISSIONS):
                self._table.read()
                check_places(group.name, self._table.durable, places)
                if self._join(group, self._table.version):
                    return
        raise BrokerUnavailable("other nodes make groups faster than this one can count them")

    def _join(self, group: NodeGroup, version: str = "") -> bool:
        """Whether the table of groups was still of that version, where the group is new."""
        keys = self._keys
        joined: int = self._link.run(
            "join", [keys.groups, group.work, keys.nodes, keys.lasts], group.text, int(group.durable), self._node,
            self._lease_ms, "" if group.ttl is None else round(group.ttl * 1000), version,
        )  # fmt: skip
        return joined == 1

    def _leaving(self, group: str) -> list[str]:
        keys = self._keys
        return [keys.groups, keys.work(group), keys.nodes, keys.lost, keys.plain(group)]

    def _end_groups(self) -> None:
        keys = self._keys
        ended = self._link.run(
            "end", [keys.groups, keys.lasts, keys.lost], keys.work(""), keys.plain(""), one_node.MOST_DROPPED
        )
        for name, lost in zip(ended[::2], ended[1::2], strict=True):
            logger.warning("a group without members has ended", extra={"group": repr(name[:200]), "lost": lost})

    def groups(self) -> list[GroupName]:
        """See `Broker.groups`."""
        self._table.read()
        return list(self._table.durable)

    def drop_group(self, group: GroupName) -> int | None:
        """See `Broker.drop_group`."""
        keys, text = self._keys, group_text(group)
        had: int = self._link.run(
            "drop", [keys.groups, keys.work(text), keys.nodes, keys.lasts, keys.lost, keys.plain(text)], text
        )
        if had == -2:
            raise FailedPrecondition(f"the group {group.name!r} has members")
        return had if had >= 0 else None

    def _lost(self, group: GroupName, count: int) -> None:
        if self._sink is not None:
            _contained(self._sink.lost, group, count)

    def _give(self, group: GroupName, publication: Publication, token: Any) -> None:
        if self._sink is not None:
            _contained(self._sink.work, group, publication, token)

    def leave(self, group: GroupName) -> None:
        """See `Broker.leave`. Where Redis cannot be reached, others get the work when this node's lease is over."""
        self._part(group)

    def _part(self, group: GroupName) -> None:
        left = self._groups.pop(group, None)
        if left is None:
            return
        del self._by_work[left.work.encode()]
        done = left.close()
        if self._link.feed is not None:
            self._link.feed.remove(left.work, pattern=False)
        try:
            self._link.run("leave", self._leaving(left.text), left.text, self._node, *done[:1000])
        except BrokerError as error:
            logger.warning("a group was left without telling Redis", extra={"group": group.name, "reason": str(error)})

    def done(self, group: GroupName, token: Any) -> None:
        """See `Broker.done`; told to Redis with the next look for work, and again after an outage."""
        joined = self._groups.get(group)
        if joined is not None:
            joined.done(token)

    # ------------------------------------------------------------------- records

    def put(self, table: str, key: str, value: Any, ttl: float) -> None:
        """See `Broker.put`."""
        self._records.put(table, key, value, ttl)

    def claim(self, table: str, key: str) -> Any | None:
        """See `Broker.claim`."""
        return self._records.claim(table, key)

    def records(self, table: str) -> Mapping[str, Any]:
        """See `Broker.records`."""
        return self._records.records(table)

    def pages(self, table: str, most: int = PAGE) -> Iterator[Mapping[str, Any]]:
        """See `Broker.pages`."""
        return self._records.pages(table, most)


def _contained(tell: Callable[..., None], *arguments: Any) -> None:
    try:
        tell(*arguments)
    except Exception:  # the edge around the node's code: the engine goes on
        logger.exception("the node could not take what the engine told it")
