"""`MeshEngine`: what the leader of a mesh does for all nodes: numbers, history, groups and records.

An engine of one node, in memory, whose deliveries and work go to the nodes that want them. Everything here runs in the
leader's hub.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, Protocol

from webmesh.brokers.base import GroupName
from webmesh.brokers.memory import MemoryStorage
from webmesh.brokers.mesh_messages import (
    accepted_to_wire, fitting, group_to_wire, history_to_wire, part_to_wire, publication_to_wire, read_group,
    read_integer, read_keep, read_number, read_patterns, read_places, read_seconds, read_since, read_text, read_wire,
)  # fmt: skip
from webmesh.brokers.one_node import OneNodeBroker
from webmesh.exceptions import InvalidArgument
from webmesh.protocol.group_shares import GroupShares
from webmesh.protocol.publication import Publication


class Outlet(Protocol):
    """Where the engine's deliveries go."""

    def deliver(self, publication: Publication) -> None:
        """To all nodes that want it."""

    def work(self, node: str, group: GroupName, publication: Publication, token: int) -> None:
        """To one node."""

    def lost(self, node: str, group: GroupName, count: int) -> None:
        """Tell one node of a group what the group has lost."""


class MeshEngine:
    """See above.

    Args:
        clock: Monotonic.
    """

    def __init__(
        self, outlet: Outlet, storage: MemoryStorage | None = None, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._outlet = outlet
        self._clock = clock
        self._shares: dict[GroupName, GroupShares] = {}
        self._kinds: dict[GroupName, tuple[bool, float | None]] = {}
        self._storage = storage or MemoryStorage()
        self._broker = OneNodeBroker(self._storage, clock)
        self._broker.start(self)
        self._broker.want(("**",))
        self._table: dict[str, Callable[[str, dict[str, Any]], Any]] = {
            "publish": self._publish, "history": self._history, "topics": self._topics, "retained": self._retained,
            "join": self._join, "leave": self._leave, "done": self._done, "groups": self._groups,
            "drop": self._drop, "put": self._put, "claim": self._claim, "records": self._records,
        }  # fmt: skip

    def ask(self, node: str, said: dict[str, Any]) -> Any:
        """What a node asks for, as it came from there.

        Raises:
            InvalidArgument: It makes no sense.
            Overloaded, FailedPrecondition: As the engine raises them.
        """
        act = self._table.get(str(said.get("op"))) if isinstance(said, dict) else None
        if act is None:
            raise InvalidArgument("there is no such operation of the engine")
        try:
            return act(node, said)
        except (TypeError, ValueError, KeyError, AttributeError, OverflowError) as error:
            raise InvalidArgument(f"what was asked of the engine makes no sense: {type(error).__name__}") from None

    @property
    def durable(self) -> list[GroupName]:
        """The durable groups, those without members too."""
        return self._broker.groups()

    def gone(self, node: str) -> None:
        """A node cannot be reached: others do its work."""
        for group in [group for group, shares in self._shares.items() if node in shares]:
            self._out(node, group)

    def stop(self) -> None:
        """Another one leads, or nobody."""
        self._broker.stop()

    # ------------------------------------------------------------------ operations

    def _publish(self, node: str, said: dict[str, Any]) -> Any:
        publication = read_wire(said["publication"], self._clock())
        return accepted_to_wire(self._broker.publish(publication, read_keep(said["keep"])))

    def _history(self, node: str, said: dict[str, Any]) -> Any:
        reverse = said.get("reverse") is True
        most = None if said.get("most") is None else read_integer(said["most"], "most")
        topic, since = read_text(said["topic"], "topic"), read_since(said["since"])
        found = self._broker.history(topic, since, most=most, reverse=reverse)
        wire = history_to_wire(found, self._clock())
        items = fitting(wire["items"])
        return wire | {"items": items, "more": len(items) < len(wire["items"])}

    def _topics(self, node: str, said: dict[str, Any]) -> Any:
        (pattern,) = read_patterns([said["pattern"]])
        found = self._storage.topics_after(_after(said), pattern, self._clock())
        return part_to_wire((topic, None) for topic in found)

    def _retained(self, node: str, said: dict[str, Any]) -> Any:
        (pattern,) = read_patterns([said["pattern"]])
        now = self._clock()
        found = self._storage.retained_after(_after(said), pattern, now)
        return part_to_wire((one.topic, publication_to_wire(one, now)) for one in found)

    def _groups(self, node: str, said: dict[str, Any]) -> Any:
        return [group_to_wire(group) for group in self._broker.groups()]

    def _drop(self, node: str, said: dict[str, Any]) -> Any:
        return self._broker.drop_group(read_group(said["group"]))

    def _put(self, node: str, said: dict[str, Any]) -> None:
        table, key = read_text(said["table"], "table"), read_text(said["key"], "key")
        self._broker.put(table, key, said["value"], read_number(said["ttl"], "ttl"))

    def _claim(self, node: str, said: dict[str, Any]) -> Any:
        return self._broker.claim(read_text(said["table"], "table"), read_text(said["key"], "key"))

    def _records(self, node: str, said: dict[str, Any]) -> Any:
        return part_to_wire(
            self._storage.records_after(_after(said), read_text(said["table"], "table"), self._clock())
        )

    # ---------------------------------------------------------------------- groups

    def _join(self, node: str, said: dict[str, Any]) -> None:
        group = read_group(said["group"])
        window = read_integer(said["window"], "window", 1)
        kind = said["durable"] is True, read_seconds(said.get("ttl"), "ttl")
        self._broker.admit(group, read_places(said.get("places", [])))
        shares = self._shares.setdefault(group, GroupShares())
        shares.join(node, window)
        self._kinds[group] = kind
        self._open(group, shares)

    def _open(self, group: GroupName, shares: GroupShares) -> None:
        durable, ttl = self._kinds[group]
        self._broker.join(group, shares.window, durable=durable, ttl=ttl)
        self._give(group, shares)

    def _leave(self, node: str, said: dict[str, Any]) -> None:
        self._out(node, read_group(said["group"]))

    def _out(self, node: str, group: GroupName) -> None:
        shares = self._shares.get(group)
        if shares is None or node not in shares:
            return
        shares.leave(node)
        if len(shares):
            self._open(group, shares)
        else:
            del self._shares[group], self._kinds[group]
            self._broker.leave(group)

    def _done(self, node: str, said: dict[str, Any]) -> None:
        group = read_group(said["group"])
        shares = self._shares.get(group)
        if shares is not None and shares.done(node, said["token"]):
            self._broker.done(group, said["token"])
            self._give(group, shares)

    def _give(self, group: GroupName, shares: GroupShares) -> None:
        for node, token, publication in shares.give():
            self._outlet.work(node, group, publication, token)

    # ------------------------------------------------------- what the engine tells

    def deliver(self, publication: Publication) -> None:
        """`Sink.deliver`."""
        self._outlet.deliver(publication)

    def work(self, group: GroupName, publication: Publication, token: Any) -> None:
        """`Sink.work`."""
        shares = self._shares[group]
        shares.add(token, publication)
        self._give(group, shares)

    def lost(self, group: GroupName, count: int) -> None:
        """`Sink.lost`."""
        self._outlet.lost(self._shares[group].any(), group, count)

    def gap(self, reason: str) -> None:
        """`Sink.gap`: this engine has none."""

    def health(self, up: bool, reason: str) -> None:
        """`Sink.health`: likewise."""


def _after(said: dict[str, Any]) -> str | None:
    """The key behind which a question goes on."""
    return None if said.get("after") is None else read_text(said["after"], "after")
