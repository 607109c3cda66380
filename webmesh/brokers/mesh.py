"""The engine of a mesh: no server to run; one of the nodes keeps what all have in common, and another when it is gone.

What is not kept goes from the node where it is published straight to those that want it. What is kept, and what groups
have to do, goes by way of the leader (`protocol.leadership`), which numbers it. One that is killed takes the history
with it: a new epoch begins, and subscribers are told. Where that is too little, docs/BROKERS.md names others.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from typing import Any

import gevent

from webmesh.brokers.base import Accepted, Broker, GroupName, History, Keep, Since, Sink
from webmesh.brokers.memory import MemoryBroker
from webmesh.brokers.mesh_council import MeshCouncil
from webmesh.brokers.mesh_engine import MeshEngine
from webmesh.brokers.mesh_interest import MeshInterest
from webmesh.brokers.mesh_messages import (
    group_to_wire, keep_to_wire, publication_to_wire, read_accepted, read_group, read_history, read_patterns, read_wire,
    since_to_wire,
)  # fmt: skip
from webmesh.brokers.mesh_port import Handler, MeshPort
from webmesh.deadline import Clock, Deadline
from webmesh.exceptions import (
    NOT_STARTED, BrokerError, BrokerUnavailable, ConnectionClosed, InvalidArgument, PublishDoubtful, RemoteError,
    ReplyLost, RequestTimeout, Unavailable, WebMeshError,
)  # fmt: skip
from webmesh.protocol.publication import Publication

PATIENCE = 5.0
"""Seconds that what needs the leader waits for one: longer than a lease, after which there is another."""
ANSWER = 5.0
"""Seconds for its answer."""
HEARD = 1.0
"""Seconds for other nodes to take note of what this one wants; one that does not is told anew when it is back."""
AGAIN = 0.05
"""Seconds before a node that was no leader is asked again."""

logger = logging.getLogger("webmesh.broker")


class MeshBroker(Broker):
    """`mesh://`: see `Broker`. Made by a `WebMesh`, which attaches it to its node."""

    def __init__(self, clock: Clock = time.monotonic) -> None:
        self.clock = clock
        self._port: MeshPort | None = None
        self._sink: Sink | None = None
        self._local = MemoryBroker(clock)
        self._interest = MeshInterest()
        self._wanted: dict[tuple[str, ...], int] = {}
        self._joined: dict[GroupName, tuple[int, bool, float | None]] = {}
        self._known: set[str] = set()
        self._council: MeshCouncil | None = None
        self._engine: MeshEngine | None = None
        self._led_by: tuple[str | None, int] = (None, 0)
        self._jobs: set[gevent.Greenlet[..., None]] = set()
        self._up = self._was_up = False

    def attach(self, port: MeshPort) -> dict[str, Handler]:
        """Belong to a node; what is to be answered there, by path."""
        self._port = port
        return {
            "$lead": self._lead, "$resign": self._resigned, "$engine": self._asked, "$interest": self._told,
            "$topic": self._forwarded, "$deliver": self._delivered, "$work": self._work, "$done": self._is_done,
            "$lost": self._lost,
        }  # fmt: skip

    @property
    def port(self) -> MeshPort:
        """The way to the others."""
        if self._port is None:
            raise BrokerError("the engine mesh:// needs a mesh: WebMesh(server, ...) makes it")
        return self._port

    @property
    def sink(self) -> Sink:
        """Whom deliveries are for."""
        if self._sink is None:
            raise BrokerUnavailable("the engine has not started, or has stopped")
        return self._sink

    @property
    def council(self) -> MeshCouncil:
        """Who leads; once it has started."""
        if self._council is None:
            raise BrokerUnavailable("the engine has not started, or has stopped")
        return self._council

    # -------------------------------------------------------------- starting, ending

    def start(self, sink: Sink) -> None:
        """See `Broker.start`."""
        port = self.port
        self._sink = sink
        self._local.start(sink)
        self._council = MeshCouncil(port, self._led)
        port.watchers.append(self._links_changed)
        self._council.start()

    def stop(self) -> None:
        """See `Broker.stop`."""
        if self._council is None:
            return
        self._council.stop()
        self._council = None
        gevent.killall(list(self._jobs), block=False)
        if self._engine is not None:
            self._engine.stop()
            self._engine = None
        self._local.stop()
        self._sink, self._up = None, False

    @property
    def up(self) -> bool:
        """See `Broker.up`."""
        return self._up and self._sink is not None

    def _spawn(self, job: Callable[..., Any], *args: Any) -> gevent.Greenlet[..., Any]:
        greenlet: gevent.Greenlet[..., Any] = gevent.spawn(job, *args)
        self._jobs.add(greenlet)
        greenlet.rawlink(self._jobs.discard)
        return greenlet

    # -------------------------------------------------------------- publications

    def publish(self, publication: Publication, keep: Keep) -> Accepted:
        """See `Broker.publish`."""
        segments = tuple(publication.topic.split("/"))
        if keep.numbered or keep.retain or self._interest.grouped(segments):
            return self._publish_by_leader(publication, keep)
        accepted = self._local.publish(publication, keep)
        nodes = () if accepted.duplicate else self._interest.nodes(segments)
        if nodes:
            wire = publication_to_wire(publication, self.clock())
            for node in nodes:
                self.port.tell(node, "$topic", wire)
        return accepted

    def _publish_by_leader(self, publication: Publication, keep: Keep) -> Accepted:
        said = {
            "op": "publish", "publication": publication_to_wire(publication, self.clock()), "keep": keep_to_wire(keep)
        }  # fmt: skip
        try:
            return read_accepted(self._ask(said, repeatable=publication.dedupe_id is not None))
        except _Doubtful as doubtful:
            raise PublishDoubtful(f"{publication.topic}: the leader was lost before it answered") from doubtful

    def want(self, pattern: tuple[str, ...]) -> None:
        """See `Broker.want`."""
        self._local.want(pattern)
        self._wanted[pattern] = self._wanted.get(pattern, 0) + 1
        if self._wanted[pattern] == 1:
            self._tell_all({"add": ["/".join(pattern)]})

    def unwant(self, pattern: tuple[str, ...]) -> None:
        """See `Broker.unwant`."""
        self._local.unwant(pattern)
        count = self._wanted.pop(pattern, 0) - 1
        if count > 0:
            self._wanted[pattern] = count
        elif count == 0:
            self._spawn(self._tell_all, {"remove": ["/".join(pattern)]})

    def history(self, topic: str, since: Since, *, most: int | None = None, reverse: bool = False) -> History:
        """See `Broker.history`."""
        said = {"op": "history", "topic": topic, "since": since_to_wire(since), "most": most, "reverse": reverse}
        return read_history(self._ask(said), self.clock())

    def topics(self, pattern: tuple[str, ...]) -> list[str]:
        """See `Broker.topics`."""
        return list(self._ask({"op": "topics", "pattern": "/".join(pattern)}))

    def retained(self, pattern: tuple[str, ...]) -> list[Publication]:
        """See `Broker.retained`."""
        now = self.clock()
        return [read_wire(one, now) for one in self._ask({"op": "retained", "pattern": "/".join(pattern)})]

    # -------------------------------------------------------------------- groups

    def join(self, group: GroupName, window: int, *, durable: bool, ttl: float | None = None) -> None:
        """See `Broker.join`."""
        before = self._joined.get(group)
        self._joined[group] = window, durable, ttl
        joined = False
        try:
            self._ask(self._joining(group))
            joined = True
        finally:
            if not joined:
                self._joined = self._joined | {group: before} if before else _without(self._joined, group)
        self._tell_groups()

    def _joining(self, group: GroupName) -> dict[str, Any]:
        window, durable, ttl = self._joined[group]
        return {"op": "join", "group": group_to_wire(group), "window": window, "durable": durable, "ttl": ttl}

    def leave(self, group: GroupName) -> None:
        """See `Broker.leave`."""
        if self._joined.pop(group, None) is not None:
            self._ask({"op": "leave", "group": group_to_wire(group)})
            self._tell_groups()

    def done(self, group: GroupName, token: Any) -> None:
        """See `Broker.done`."""
        led_by, number = token
        if led_by != self._led_by[1]:
            return  # of an earlier leader's work the present one knows nothing
        leader, said = self._led_by[0], {"op": "done", "group": group_to_wire(group), "token": number}
        if leader == self.port.me:
            self._is_done(self.port.me, said)
        elif leader is not None:
            self.port.tell(leader, "$done", said)  # if it is lost, so is the link, and the work comes again

    def _is_done(self, node: str, said: Any) -> None:
        """`$done`."""
        if self._engine is not None:
            self._engine.ask(node, said)

    def groups(self) -> list[GroupName]:
        """See `Broker.groups`."""
        return [read_group(one) for one in self._ask({"op": "groups"})]

    def drop_group(self, group: GroupName) -> int | None:
        """See `Broker.drop_group`."""
        dropped: int | None = self._ask({"op": "drop", "group": group_to_wire(group)}, repeatable=False)
        return dropped

    # ------------------------------------------------------------------- records

    def put(self, table: str, key: str, value: Any, ttl: float) -> None:
        """See `Broker.put`."""
        self._ask({"op": "put", "table": table, "key": key, "value": value, "ttl": ttl})

    def claim(self, table: str, key: str) -> Any | None:
        """See `Broker.claim`."""
        return self._ask({"op": "claim", "table": table, "key": key}, repeatable=False)

    def records(self, table: str) -> Mapping[str, Any]:
        """See `Broker.records`."""
        found: dict[str, Any] = self._ask({"op": "records", "table": table})
        return found

    # ----------------------------------------------------------- asking the leader

    def _ask(self, said: dict[str, Any], *, repeatable: bool = True) -> Any:
        """What the leader answers; waits for one.

        Raises:
            BrokerUnavailable: There was none, and nothing has happened.
            _Doubtful: It was lost before it answered, and may not be asked again.
            RemoteError: It says no.
        """
        deadline = Deadline(PATIENCE)
        while True:
            leader = self.council.await_leader(deadline.remaining() or 0.0)
            if leader is None:
                raise BrokerUnavailable("no node leads the mesh: more than half of its nodes must see each other")
            try:
                return self._asked(self.port.me, said) if leader == self.port.me else self._ask_other(leader, said)
            except (ConnectionClosed, Unavailable) as error:
                if isinstance(error, Unavailable) and error.details != NOT_STARTED:
                    raise
            except (ReplyLost, RequestTimeout) as lost:
                if not repeatable and getattr(lost, "started", True):
                    raise _Doubtful(str(lost)) from lost
            if deadline.expired:
                raise BrokerUnavailable("the node that leads the mesh cannot be reached")
            gevent.sleep(AGAIN)

    def _ask_other(self, leader: str, said: dict[str, Any]) -> Any:
        return self.port.ask(leader, "$engine", said, ANSWER)

    def _asked(self, node: str, said: Any) -> Any:
        """`$engine`."""
        engine = self._engine
        if engine is None or not self.council.leads:
            raise Unavailable("this node does not lead the mesh", details=NOT_STARTED)
        if not isinstance(said, dict):
            raise InvalidArgument("$engine takes a map")
        return engine.ask(node, said)

    # ------------------------------------------------------------------ the council

    def _lead(self, node: str, said: Any) -> Any:
        """`$lead`."""
        return self.council.received(node, said)

    def _resigned(self, node: str, said: Any) -> None:
        """`$resign`."""
        self.council.resigned(node, said)

    def _led(self, leader: str | None) -> None:
        """In the hub, without waiting: another node leads, or none."""
        if self._engine is not None:  # of another term, if it is this node again
            self._engine.stop()
            self._engine = None
        self._led_by = (leader, self._led_by[1] + 1)
        self._up = self._up or (leader is not None and not self._was_up)
        self._was_up = self._was_up or self._up
        if leader == self.port.me:
            self._engine = MeshEngine(self, clock=self.clock)
        self._spawn(self._follow, self._led_by)

    def _follow(self, led_by: tuple[str | None, int]) -> None:
        """Take part under a new leader."""
        leader, number = led_by
        if leader is None:
            gevent.sleep(PATIENCE)  # mostly there is another one soon
            if self._led_by == led_by:
                self._tell_health(up=False)
            return
        try:
            for group in tuple(self._joined):
                self._ask(self._joining(group))
        except WebMeshError as error:
            logger.error("groups could not be joined again", extra={"error": str(error)})
        if self._led_by != led_by or self._sink is None:
            return
        self._tell_groups()
        self._tell_health(up=True)
        if number > 1:
            self._sink.gap("another node leads the mesh")

    def _tell_health(self, *, up: bool) -> None:
        if self._up is not up and self._sink is not None:
            self._up = up
            self._sink.health(up, "" if up else "no node leads the mesh")

    # ----------------------------------------------------------- what the engine sends

    def deliver(self, publication: Publication) -> None:
        """`Outlet.deliver`."""
        segments = tuple(publication.topic.split("/"))
        self._local_sink(publication, segments)
        nodes = self._interest.nodes(segments)
        if nodes:
            wire = publication_to_wire(publication, self.clock())
            for node in nodes:
                self.port.tell(node, "$deliver", wire)

    def work(self, node: str, group: GroupName, publication: Publication, token: int) -> None:
        """`Outlet.work`."""
        if node == self.port.me:
            self.sink.work(group, publication, (self._led_by[1], token))
        else:
            wire = publication_to_wire(publication, self.clock())
            self.port.tell(node, "$work", {"group": group_to_wire(group), "publication": wire, "token": token})

    def lost(self, node: str, group: GroupName, count: int) -> None:
        """`Outlet.lost`."""
        if node == self.port.me:
            self.sink.lost(group, count)
        else:
            self.port.tell(node, "$lost", {"group": group_to_wire(group), "count": count})

    def _local_sink(self, publication: Publication, segments: tuple[str, ...]) -> None:
        if self._sink is not None and self._local.wants(segments):
            self._sink.deliver(publication)

    # -------------------------------------------------------------- what others say

    def _forwarded(self, node: str, said: Any) -> None:
        """`$topic`: what another node's program published and nobody keeps."""
        self._local.publish(read_wire(said, self.clock()), Keep())

    def _delivered(self, node: str, said: Any) -> None:
        """`$deliver`: from the leader."""
        publication = read_wire(said, self.clock())
        if node == self._led_by[0]:
            self._local_sink(publication, tuple(publication.topic.split("/")))

    def _work(self, node: str, said: Any) -> None:
        """`$work`: likewise."""
        group, publication = read_group(said.get("group")), read_wire(said.get("publication"), self.clock())
        if node == self._led_by[0] and group in self._joined:
            self.sink.work(group, publication, (self._led_by[1], said.get("token")))

    def _lost(self, node: str, said: Any) -> None:
        """`$lost`: likewise."""
        if node == self._led_by[0] and isinstance(said.get("count"), int):
            self.sink.lost(read_group(said.get("group")), said["count"])

    def _told(self, node: str, said: Any) -> None:
        """`$interest`: what another node wants."""
        if not isinstance(said, dict):
            raise InvalidArgument("$interest takes a map")
        self._interest.told(
            node, read_patterns(said.get("add", [])), read_patterns(said.get("remove", [])), all=said.get("all") is True
        )
        if said.get("groups") is not None:
            self._interest.told_groups(node, read_patterns(said["groups"]))

    # ------------------------------------------------------------------ links, interest

    def _links_changed(self) -> None:
        linked = set(self.port.linked())
        for node in self._known - linked:
            self._interest.forget(node)
            if self._engine is not None:
                self._engine.gone(node)
            if self._sink is not None:
                self._sink.gap("the link to a node was lost")
        for node in linked - self._known:
            self._spawn(self._introduce, node)
        self._known = linked

    def _introduce(self, node: str) -> None:
        """Tell a new link everything that this node wants."""
        said = {"all": True, "add": ["/".join(pattern) for pattern in self._wanted], "groups": self._group_patterns()}
        self._tell_one(node, said)

    def _tell_one(self, node: str, said: dict[str, Any]) -> None:
        try:
            self.port.ask(node, "$interest", said, ANSWER)
        except (RemoteError, WebMeshError) as error:
            logger.info("a node did not hear what is wanted here", extra={"node": node, "error": str(error)})

    def _tell_all(self, said: dict[str, Any]) -> None:
        """Returns when all have taken note, as far as that is quick."""
        jobs = [self._spawn(self._tell_one, node, said) for node in self.port.linked()]
        gevent.joinall(jobs, HEARD)

    def _tell_groups(self) -> None:
        patterns = self._group_patterns()
        self._interest.told_groups(self.port.me, read_patterns(patterns))
        self._tell_all({"groups": patterns})

    def _group_patterns(self) -> list[str]:
        """Of the groups that have members here; a leader tells of those without any, too."""
        groups = {*self._joined, *(self._engine.durable if self._engine is not None else ())}
        return sorted({"/".join(group.pattern) for group in groups})


class _Doubtful(BrokerUnavailable):
    """The leader was lost before it answered."""


def _without(joined: dict[GroupName, Any], group: GroupName) -> dict[GroupName, Any]:
    return {name: value for name, value in joined.items() if name != group}
