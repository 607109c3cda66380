"""Nodes of one engine in one hub, with a clock that stands still: as many as a test wants, to die as it likes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from webmesh.brokers.memory import MemoryStorage
from webmesh.brokers.one_node import OneNodeBroker
from webmesh.node_lease import BEAT, NodeLease
from webmesh.options import Limits
from webmesh.protocol.publication import Publication
from webmesh.pubsub import Topics
from webmesh.testing import FakeClock, RecordingObserver
from webmesh.topic_access import TopicAccess
from webmesh.topic_options import TopicTable
from webmesh.will_firing import WillFiring
from webmesh.will_records import KEPT, WILLS, StoredWills
from webmesh.will_watch import WillWatch

SESSION = 30.0


class SharedBroker(OneNodeBroker):
    """One node's access to memory that several share; only what is kept is shared, not what is live.

    Attributes:
        failing: What is raised in place of the next calls, one for each; `None` lets one through.
    """

    shared = True

    def __init__(self, storage: MemoryStorage, clock: FakeClock) -> None:
        super().__init__(storage, clock)
        self.published: list[Publication] = []
        self.failing: dict[str, list[Exception | None]] = {}

    def publish(self, publication: Publication, keep: Any) -> Any:
        self._fail("publish")
        accepted = super().publish(publication, keep)
        if not accepted.duplicate:
            self.published.append(publication)
        return accepted

    def put(self, table: str, key: str, value: Any, ttl: float) -> None:
        self._fail("put")
        super().put(table, key, value, ttl)

    def claim(self, table: str, key: str) -> Any:
        self._fail("claim")
        return super().claim(table, key)

    def records(self, table: str) -> Any:
        self._fail("records")
        return super().records(table)

    def _fail(self, name: str) -> None:
        waiting = self.failing.get(name)
        error = waiting.pop(0) if waiting else None
        if error is not None:
            raise error


class WillNode:
    """What of a node has to do with wills, but for its sessions."""

    def __init__(self, storage: MemoryStorage, clock: FakeClock) -> None:
        self.broker = SharedBroker(storage, clock)
        self.observer = RecordingObserver()
        self.table = TopicTable()
        self.topics = Topics(
            self.broker, self.table, limits=Limits(), observer=self.observer, access=TopicAccess(self.table)
        )
        self.topics.connect()
        self.lease = NodeLease(self.broker, clock)
        self.firing = WillFiring(self.topics, self.lease.node, self.observer)
        self.armed: set[str] = set()
        self.watch = WillWatch(
            self.broker, self.lease, self.firing, session=SESSION, clock=clock, armed=self.armed
        )
        self.clock = clock

    def start(self) -> WillNode:
        """Begin, but without beating by itself."""
        self.lease.beat()
        self.watch.start()
        self.lease.beat()
        return self

    def leave_will(self, key: str, *wills: Any) -> None:
        """Keep the wills of a session of this node."""
        self.broker.put(WILLS, key, StoredWills(self.lease.node, wills).to_record(), KEPT)

    def look(self) -> None:
        """One beat, and one tick; what is fired has been fired when it returns."""
        self.lease.beat()
        self.firing._running.join()
        self.watch.tick(self.clock())
        self.firing._running.join()

    @property
    def fired(self) -> list[tuple[str, str]]:
        """Topics and reasons of the wills that were published here."""
        return [(one.topic, one.headers["will"]) for one in self.broker.published]


def pass_time(clock: FakeClock, seconds: float, *living: WillNode) -> None:
    """So many seconds, in which these nodes look around as often as they do, and no others."""
    end = clock.now + seconds
    while clock.now < end:
        clock.advance(min(BEAT, end - clock.now))
        for one in living:
            one.look()


def nodes(count: int) -> tuple[FakeClock, Callable[[], WillNode], list[WillNode]]:
    """A clock, what makes further nodes, and the first ones."""
    storage, clock = MemoryStorage(), FakeClock()

    def make() -> WillNode:
        return WillNode(storage, clock).start()

    made = [make() for _ in range(count)]
    for one in made:
        one.lease.beat()
    return clock, make, made
