"""The contract of an engine: what carries publications between nodes, numbers them and keeps them.

One page on it, for who writes another engine: docs/BROKERS.md. `memory` is the reference. An engine knows nothing of
connections: who subscribes to what, acknowledgements of single subscribers and rights are the node's business.

All methods are called in the hub of the node, may switch there, and raise `BrokerError`s only. What an engine tells
the node it tells in that hub too.
"""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any, NamedTuple, Protocol, TypeVar

import gevent

from webmesh.deadline import Clock
from webmesh.exceptions import Overloaded
from webmesh.protocol.msgpack_body import written_size
from webmesh.protocol.publication import Publication
from webmesh.protocol.topics import overlap


PAGE = 200
"""Records that are read in one go: decoding them takes some milliseconds."""

HOLD = 0.005
"""Seconds for which reading the past may hold the hub before others are served."""

SLICE = 32
"""Publications between two looks at the clock."""

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Keep:
    """How a topic is kept; see `WebMeshServer.topic`.

    Attributes:
        history: Publications that stay readable; 0 for none.
        history_bytes: How many bytes of them, as `kept_size` counts; `None` for no bound. The newest always stays.
        ttl: Seconds that they stay; `None` for as long as there is room.
        retain: Whether the newest stays as the value that new subscribers get.
        ack: Whether each delivery must be acknowledged: then groups outlive their members.
    """

    history: int = 0
    ttl: float | None = None
    retain: bool = False
    ack: bool = False
    history_bytes: int | None = None

    @property
    def numbered(self) -> bool:
        """Whether publications get offsets."""
        return self.history > 0 or self.ack


def kept_size(publication: Publication) -> int:
    """Bytes that a publication counts for where it is kept: its payload and headers, as msgpack."""
    return written_size([publication.payload, dict(publication.headers)])


class Accepted(NamedTuple):
    """An engine has taken a publication.

    Attributes:
        offset, epoch: Its number, where the topic is numbered.
        duplicate: It was there already, and nothing was published.
    """

    offset: int | None = None
    epoch: str | None = None
    duplicate: bool = False


class GroupName(NamedTuple):
    """A group: subscribers of one pattern that share its messages."""

    pattern: tuple[str, ...]
    name: str

    @property
    def label(self) -> str:
        """For logs; cut, as peers choose both."""
        return f"{'/'.join(self.pattern)} {self.name}"[:200]


class Places(NamedTuple):
    """How many durable groups there may be that get publications of topics that match a pattern."""

    pattern: tuple[str, ...]
    most: int


def check_places(group: GroupName, known: Iterable[GroupName], places: Sequence[Places]) -> None:
    """See whether there may be another group besides those that are *known*.

    Raises:
        Overloaded: There are as many as there may be.
    """
    others = list(known) if places else []
    for pattern, most in () if group in others else places:
        if sum(overlap(one.pattern, pattern) for one in others) >= most:
            raise Overloaded(f"there are {most} groups on {'/'.join(pattern)}, the limit")


@dataclass(frozen=True, slots=True)
class History:
    """Part of a topic's past.

    Attributes:
        items: Oldest first, unless the newest were asked for first.
        offset: The newest publication's ever.
        epoch: In which these offsets count.
        complete: Whether *items* are everything after the offset that was asked for; where not, there are none.
    """

    items: list[Publication]
    offset: int
    epoch: str
    complete: bool = True


@dataclass(frozen=True, slots=True)
class Since:
    """From where to read: after an offset of an epoch, or the last so many seconds; neither reads all."""

    offset: int | None = None
    epoch: str | None = None
    seconds: float | None = None


class Sink(Protocol):
    """What an engine tells the node that uses it."""

    def deliver(self, publication: Publication) -> None:
        """A publication for one of the patterns that the node wants; in order for each publisher and topic."""

    def work(self, group: GroupName, publication: Publication, token: Any) -> None:
        """A publication that this node alone has for one member of a group; it answers with `Broker.done`."""

    def lost(self, group: GroupName, count: int) -> None:
        """A group has lost so many publications for want of room or members, all before the work that comes next."""

    def gap(self, reason: str) -> None:
        """Publications may have been missed since the last one that was delivered."""

    def health(self, up: bool, reason: str) -> None:
        """The engine can be reached no longer, or again."""


class Broker(ABC):
    """An engine. One instance serves one node.

    Attributes:
        clock: What `Publication.at` is read from.
        immediate: Whether `publish` never switches: then publications cannot overtake each other.
        shared: Whether other nodes may use it at the same time.
        run: A name of its own where what it remembers, as dedupe ids, ends with this instance; `None` otherwise.
    """

    clock: Clock
    immediate = False
    shared = True
    run: str | None = None

    @abstractmethod
    def start(self, sink: Sink) -> None:
        """Connect; from now on *sink* is told.

        Raises:
            BrokerUnavailable: It cannot be reached.
        """

    @abstractmethod
    def stop(self) -> None:
        """Disconnect; nothing is told any more. What is kept stays where the engine keeps it."""

    @property
    @abstractmethod
    def up(self) -> bool:
        """Whether it can be reached."""

    # -------------------------------------------------------------- publications

    @abstractmethod
    def publish(self, publication: Publication, keep: Keep) -> Accepted:
        """Number and keep a publication as *keep* says, and carry it to every node that wants it.

        Raises:
            BrokerUnavailable: It cannot be reached; nothing was published.
            Overloaded: There is no room; nothing was published.
            PublishDoubtful: It was lost before it answered; of this subclass alone that cannot be said.
        """

    @abstractmethod
    def want(self, pattern: tuple[str, ...]) -> None:
        """Deliver what is published on topics that match. Wanting one twice needs it unwanted twice."""

    @abstractmethod
    def unwant(self, pattern: tuple[str, ...]) -> None:
        """Deliver them no longer."""

    @abstractmethod
    def history(self, topic: str, since: Since, *, most: int | None = None, reverse: bool = False) -> History:
        """What is kept of a topic."""

    @abstractmethod
    def topics(self, pattern: tuple[str, ...]) -> list[str]:
        """The numbered topics that match and of which anything is kept."""

    @abstractmethod
    def retained(self, pattern: tuple[str, ...]) -> Iterator[Publication]:
        """The retained values of all topics that match, each once, read as they are taken: there may be many.

        Of a topic whose value changes meanwhile it is one of those that it has had, or none.
        """

    # -------------------------------------------------------------------- groups

    @abstractmethod
    def join(
        self, group: GroupName, window: int, *, durable: bool, ttl: float | None = None, places: Sequence[Places] = ()
    ) -> None:
        """This node has members of *group*: give it its share, at most *window* publications that are not done.

        Another call says what has changed.

        Args:
            durable: Whether what comes while no node has members waits for the next one.
            ttl: Seconds that a durable group lasts without members; `None` for ever.
            places: What a new group needs room in, however many nodes make others in the same moment.

        Raises:
            Overloaded: There are as many groups as there may be.
        """

    @abstractmethod
    def leave(self, group: GroupName) -> None:
        """This node has no member any more: what it has not done goes to others."""

    @abstractmethod
    def done(self, group: GroupName, token: Any) -> None:
        """A publication that was given as work needs no further delivery."""

    @abstractmethod
    def groups(self) -> list[GroupName]:
        """The durable groups that there are."""

    @abstractmethod
    def drop_group(self, group: GroupName) -> int | None:
        """End a durable group, with what it has to do; returns how much that was, `None` where there is no such group.

        Raises:
            FailedPrecondition: It has members.
        """

    # ------------------------------------------------------------------- records

    @abstractmethod
    def put(self, table: str, key: str, value: Any, ttl: float) -> None:
        """Keep a record for all nodes, for *ttl* seconds; a later one with the same key replaces it."""

    @abstractmethod
    def claim(self, table: str, key: str) -> Any | None:
        """Take a record away; of all who try, one gets it and the others get `None`."""

    @abstractmethod
    def records(self, table: str) -> Mapping[str, Any]:
        """The records of a table whose time is not over."""

    def pages(self, table: str, most: int = PAGE) -> Iterator[Mapping[str, Any]]:
        """The same in parts of about *most*, for tables that may be large: others may run between two of them.

        A record that is put or claimed meanwhile may be in a part or in none, and one that is put again in two.
        """
        yield from in_parts(self.records(table), most)


def in_parts(records: Mapping[str, Any], most: int) -> Iterator[Mapping[str, Any]]:
    """Records in parts of at most so many."""
    rest = iter(records.items())
    while part := dict(islice(rest, most)):
        yield part


def give_way_in(things: Iterable[T], every: int = SLICE) -> Iterator[T]:
    """*things*, with a turn for others now and then; the clock is looked at behind so many."""
    until = time.monotonic() + HOLD
    for number, thing in enumerate(things, 1):
        yield thing
        if number % every == 0 and time.monotonic() > until:
            gevent.sleep(0)
            until = time.monotonic() + HOLD


Opener = Callable[..., Broker]
