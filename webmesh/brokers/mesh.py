"""The engine of a mesh: no server to run; one of the nodes keeps what all have in common, and another when it is gone.

What is not kept goes from the node where it is published straight to those that want it. What is kept, and what groups
have to do, goes by way of the leader (`protocol.leadership`), which numbers it. Two others have a copy of all that was
acknowledged, and one of them goes on when it is gone (`mesh_copies`).
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, TypeVar

import gevent

from webmesh.brokers.base import Accepted, Broker, GroupName, History, Keep, Places, Since, Sink
from webmesh.brokers.memory import MemoryBroker
from webmesh.brokers.copied_storage import CopiedStorage
from webmesh.brokers.mesh_copies import COPIES
from webmesh.brokers.mesh_council import MeshCouncil
from webmesh.brokers.mesh_interest import MeshInterest
from webmesh.brokers.mesh_lead import MeshLead
from webmesh.brokers.mesh_messages import (
    group_to_wire, keep_to_wire, places_to_wire, publication_to_wire, read_accepted, read_group, read_history,
    read_integer, read_list, read_patterns, read_wire, since_to_wire,
)  # fmt: skip
from webmesh.brokers.mesh_port import Handler, MeshPort
from webmesh.brokers.mesh_questions import NOT_THE_LEADER, PATIENCE, Doubtful, LeaderQuestions
from webmesh.brokers.mesh_wants import MeshWants
from webmesh.deadline import Clock
from webmesh.exceptions import (
    BrokerError, BrokerUnavailable, InvalidArgument, PublishDoubtful, Unavailable, WebMeshError,
)  # fmt: skip
from webmesh.protocol.publication import Publication

T = TypeVar("T")

logger = logging.getLogger("webmesh.broker")


class MeshBroker(Broker):
    """`mesh://`: see `Broker`. Made by a `WebMesh`, which attaches it to its node."""

    def __init__(self, clock: Clock = time.monotonic) -> None:
        self.clock = clock
        self._port: MeshPort | None = None
        self._sink: Sink | None = None
        self._local = MemoryBroker(clock)
        self._interest = MeshInterest()
        self._wants: MeshWants | None = None
        self._joined: dict[GroupName, tuple[int, bool, float | None]] = {}
        self._known: dict[str, int] = {}
        self._council: MeshCouncil | None = None
        self._engine: MeshLead | None = None
        self._copy: CopiedStorage | None = None
        self._asking: LeaderQuestions | None = None
        self._coming: CopiedStorage | None = None
        self._copied_term = 0
        self._led_by: tuple[str | None, int] = (None, 0)
        self._jobs: set[gevent.Greenlet[..., None]] = set()
        self._up = self._was_up = False

    def attach(self, port: MeshPort) -> dict[str, Handler]:
        """Belong to a node; what is to be answered there, by path."""
        self._port = port
        self._wants = MeshWants(port, self._group_patterns)
        handlers: dict[str, Handler] = {
            "$lead": lambda node, said: self.council.received(node, said),
            "$resign": lambda node, said: self.council.resigned(node, said),
            "$engine": self._asked, "$interest": self._told, "$topic": self._forwarded, "$copy": self._copied,
            "$deliver": self._delivered, "$work": self._work, "$done": self._is_done, "$lost": self._lost,
        }  # fmt: skip
        return {path: self._while_it_runs(handler) for path, handler in handlers.items()}

    def _while_it_runs(self, handler: Handler) -> Handler:
        def answering(node: str, said: Any) -> Any:
            if self._council is None:  # its node has links before it, and after it
                raise Unavailable("the engine of this node does not run", details=NOT_THE_LEADER)
            return handler(node, said)

        return answering

    @property
    def port(self) -> MeshPort:
        """The way to the others."""
        if self._port is None:
            raise BrokerError("the engine mesh:// needs a mesh: WebMesh(server, ...) makes it")
        return self._port

    @property
    def wants(self) -> MeshWants:
        """What this node tells the others that it wants."""
        if self._wants is None:
            raise BrokerError("the engine mesh:// needs a mesh: WebMesh(server, ...) makes it")
        return self._wants

    @property
    def sink(self) -> Sink:
        """Whom deliveries are for."""
        if self._sink is None:
            raise BrokerUnavailable("the engine has not started, or has stopped")
        return self._sink

    @property
    def settled(self) -> bool:
        """Whether as many nodes have a copy of what is kept as should: with fewer, a kill may lose it."""
        return self._council is not None and self._council.has_keepers(1 + COPIES)

    @property
    def council(self) -> MeshCouncil:
        """Who leads; once it has started."""
        if self._council is None:
            raise BrokerUnavailable("the engine has not started, or has stopped")
        return self._council

    @property
    def _questions(self) -> LeaderQuestions:
        if self._asking is None or self._council is None:
            raise BrokerUnavailable("the engine has not started, or has stopped")
        return self._asking

    # -------------------------------------------------------------- starting, ending

    def start(self, sink: Sink) -> None:
        """See `Broker.start`."""
        port = self.port
        self._sink = sink
        self._local.start(sink)
        self._council = MeshCouncil(port, self._led, self._looked)
        self._asking = LeaderQuestions(port, self._council, self._asked)
        port.watchers.append(self._links_changed)
        self._council.start()

    def stop(self) -> None:
        """See `Broker.stop`."""
        if self._council is None:
            return
        self._council.stop()
        self._council = None
        gevent.killall(list(self._jobs), block=False)
        self.wants.stop()
        self._end_engine()
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
            self.port.tell_all(nodes, "$topic", publication_to_wire(publication, self.clock()))
        return accepted

    def _publish_by_leader(self, publication: Publication, keep: Keep) -> Accepted:
        said = {
            "op": "publish", "publication": publication_to_wire(publication, self.clock()), "keep": keep_to_wire(keep)
        }  # fmt: skip
        try:
            return _read(read_accepted, self._questions.ask(said, repeatable=publication.dedupe_id is not None))
        except Doubtful as doubtful:
            raise PublishDoubtful(f"{publication.topic}: the leader was lost before it answered") from doubtful
        except _Nonsense as nonsense:
            raise PublishDoubtful(f"{publication.topic}: {nonsense}") from nonsense

    def want(self, pattern: tuple[str, ...]) -> None:
        """See `Broker.want`."""
        self._local.want(pattern)
        self.wants.want(pattern)

    def unwant(self, pattern: tuple[str, ...]) -> None:
        """See `Broker.unwant`."""
        self._local.unwant(pattern)
        self.wants.unwant(pattern)

    def history(self, topic: str, since: Since, *, most: int | None = None, reverse: bool = False) -> History:
        """See `Broker.history`."""
        found: list[Publication] = []
        while True:
            rest = None if most is None else most - len(found)
            said = {"op": "history", "topic": topic, "since": since_to_wire(since), "most": rest, "reverse": reverse}
            answer = self._questions.ask(said)
            part = _read(read_history, answer, self.clock())
            if not part.complete:  # what was asked for, or the rest of it, is not kept any more
                return part
            found += part.items
            if reverse or not answer.get("more") or not part.items:
                return replace(part, items=found)
            since = Since(part.items[-1].offset, part.epoch)

    def topics(self, pattern: tuple[str, ...]) -> list[str]:
        """See `Broker.topics`."""
        return [topic for topic, _ in self._questions.ask_parts({"op": "topics", "pattern": "/".join(pattern)})]

    def retained(self, pattern: tuple[str, ...]) -> Iterator[Publication]:
        """See `Broker.retained`."""
        for _, one in self._questions.ask_parts({"op": "retained", "pattern": "/".join(pattern)}):
            yield _read(read_wire, one, self.clock())

    # -------------------------------------------------------------------- groups

    def join(
        self, group: GroupName, window: int, *, durable: bool, ttl: float | None = None, places: Sequence[Places] = ()
    ) -> None:
        """See `Broker.join`."""
        before = self._joined.get(group)
        self._joined[group] = window, durable, ttl
        joined = False
        try:
            self._questions.ask(self._joining(group) | ({"places": places_to_wire(places)} if places else {}))
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
            self._questions.ask({"op": "leave", "group": group_to_wire(group)})
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
        return [_read(read_group, one) for one in _read(read_list, self._questions.ask({"op": "groups"}))]

    def drop_group(self, group: GroupName) -> int | None:
        """See `Broker.drop_group`."""
        dropped: int | None = self._questions.ask({"op": "drop", "group": group_to_wire(group)}, repeatable=False)
        return dropped

    # ------------------------------------------------------------------- records

    def put(self, table: str, key: str, value: Any, ttl: float) -> None:
        """See `Broker.put`."""
        self._questions.ask({"op": "put", "table": table, "key": key, "value": value, "ttl": ttl})

    def claim(self, table: str, key: str) -> Any | None:
        """See `Broker.claim`."""
        return self._questions.ask({"op": "claim", "table": table, "key": key}, repeatable=False)

    def records(self, table: str) -> Mapping[str, Any]:
        """See `Broker.records`."""
        return {key: value for key, value in self._questions.ask_parts({"op": "records", "table": table})}

    # ------------------------------------------------------------------- the leader

    def _asked(self, node: str, said: Any) -> Any:
        """`$engine`."""
        engine = self._engine
        if engine is None or not self.council.leads:
            raise Unavailable("this node does not lead the mesh", details=NOT_THE_LEADER)
        if not isinstance(said, dict):
            raise InvalidArgument("$engine takes a map")
        return engine.ask(node, said)

    # ------------------------------------------------------------------ the council

    def _led(self, leader: str | None) -> None:
        """In the hub, without waiting: another node leads, or none."""
        self._end_engine()  # of another term, if it is this node again
        self._led_by = (leader, self._led_by[1] + 1)
        self._up = self._up or (leader is not None and not self._was_up)
        self._was_up = self._was_up or self._up
        if leader == self.port.me:
            self._lead_now()
        self._spawn(self._follow, self._led_by)

    def _lead_now(self) -> None:
        leadership = self.council.leadership
        storage = self._copy if leadership.kept and self._copy is not None else CopiedStorage(self.clock)
        self._copy, self._coming = storage, None
        self._engine = MeshLead(self.port, leadership, storage, self._interest, self._here, clock=self.clock)

    def _here(self, path: str, said: Any) -> None:
        """What this node, as the leader, sends itself."""
        {"$deliver": self._delivered, "$work": self._work, "$lost": self._lost}[path](self.port.me, said)

    def _end_engine(self) -> None:
        if self._engine is not None:
            self._engine.stop()
            self._engine = None

    def _looked(self) -> None:
        if self._engine is not None:
            self._engine.look()

    def _copied(self, node: str, said: Any) -> None:
        """`$copy`: from the leader, for a copy of what it keeps."""
        if node != self.council.leader or not isinstance(said, dict):
            raise Unavailable("this node follows another leader", details=NOT_THE_LEADER)
        if said.get("reset") is True:
            self._coming, self._copied_term = CopiedStorage(self.clock), said.get("term", 0)
        coming = self._coming
        if coming is None or self._copied_term != said.get("term"):
            raise Unavailable("that is the rest of a copy whose beginning is not here", details=NOT_THE_LEADER)
        try:
            for operation in said.get("operations", ()):
                coming.apply(operation)
        except (TypeError, ValueError, LookupError, AttributeError, OverflowError) as error:
            raise InvalidArgument(f"an operation makes no sense: {type(error).__name__}") from None
        if said.get("whole") is True:  # until then the former one counts: this node may have to lead with it
            self._copy = coming

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
                self._questions.ask(self._joining(group))
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

    # -------------------------------------------------------------- what others say

    def _local_sink(self, publication: Publication, segments: tuple[str, ...]) -> None:
        if self._sink is not None and self._local.wants(segments):
            self._sink.deliver(publication)

    def _forwarded(self, node: str, said: Any) -> None:
        """`$topic`: what another node's program published and nobody keeps."""
        self._local.publish(read_wire(said, self.clock()), Keep())

    def _delivered(self, node: str, said: Any) -> None:
        """`$deliver`: from the leader."""
        publication = said if isinstance(said, Publication) else read_wire(said, self.clock())
        if self._led_by[0] in (node, None):  # this node may hear of it before it knows who leads
            self._local_sink(publication, tuple(publication.topic.split("/")))

    def _work(self, node: str, said: Any) -> None:
        """`$work`: likewise."""
        if not isinstance(said, dict):
            raise InvalidArgument("$work takes a map")
        group, given = read_group(said.get("group")), said.get("publication")
        publication = given if isinstance(given, Publication) else read_wire(given, self.clock())
        if node == self._led_by[0] and group in self._joined:
            self.sink.work(group, publication, (self._led_by[1], read_integer(said.get("token"), "token")))

    def _lost(self, node: str, said: Any) -> None:
        """`$lost`: likewise."""
        if node == self._led_by[0] and isinstance(said, dict) and isinstance(said.get("count"), int):
            self.sink.lost(read_group(said.get("group")), said["count"])

    def _told(self, node: str, said: Any) -> None:
        """`$interest`: what another node wants."""
        if not isinstance(said, dict):
            raise InvalidArgument("$interest takes a map")
        self._interest.told(
            node, read_patterns(said.get("add", [])), read_patterns(said.get("remove", [])),
            all=said.get("all") is True, more=said.get("more") is True,
        )  # fmt: skip
        if said.get("groups") is not None:
            self._interest.told_groups(node, read_patterns(said["groups"]))

    # ------------------------------------------------------------------ links, interest

    def _links_changed(self) -> None:
        linked = {node: self.port.epoch(node) for node in self.port.linked()}
        ended = self.port.view().dead
        for node in [node for node, epoch in self._known.items() if linked.get(node) != epoch]:
            self._interest.forget(node)
            self.wants.unlink(node)
            if self._engine is not None:
                self._engine.gone(node)
            if self._sink is not None and node not in ended:  # one that has left has sent all it had
                self._sink.gap("the link to a node was lost")
        for node in [node for node, epoch in linked.items() if self._known.get(node) != epoch]:
            self._interest.expect(node)
            self.wants.link(node)
        self._known = linked

    def _tell_groups(self) -> None:
        self._interest.told_groups(self.port.me, read_patterns(self._group_patterns()))
        self.wants.tell_groups()

    def _group_patterns(self) -> list[str]:
        """Of the groups that have members here; a leader tells of those without any, too."""
        groups = {*self._joined, *(self._engine.durable if self._engine is not None else ())}
        return sorted({"/".join(group.pattern) for group in groups})


class _Nonsense(BrokerError):
    """The leader's answer is none."""


def _read(reader: Callable[..., T], *answer: Any) -> T:
    """An answer of the leader: what is wrong with it is not the fault of who asked."""
    try:
        return reader(*answer)
    except InvalidArgument as error:
        raise _Nonsense(f"the answer of the node that leads the mesh makes no sense: {error.message}") from error


def _without(joined: dict[GroupName, Any], group: GroupName) -> dict[GroupName, Any]:
    return {name: value for name, value in joined.items() if name != group}
