"""`PresenceExchange`: what the nodes of one engine tell each other of presence.

Each keeps one record for each of its topics with somebody present, and names its version in its lease; the others read
records whose version is new to them, and forget what a dead node has told. So a change gets to the others within a
look or two. Lives in the node's hub.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

from webmesh.brokers.base import Broker
from webmesh.node_lease import NodeLease
from webmesh.topic_presence import TopicPresence

TABLE, FACT = "presence", "presence"
KEPT = 3600.0
"""Seconds for which a record stays without renewal; whose node has died does not count before."""
RENEW = 1200
"""Looks after which all are renewed."""

Members = dict[str, tuple[str, Any]]
"""What a node calls its members → key and meta."""


class PresenceExchange:
    """One node's part in it; of an engine that no other node can use there is none.

    Args:
        topics: Those that this node has to do with, by name.
    """

    def __init__(self, broker: Broker, lease: NodeLease, topics: Mapping[str, TopicPresence]) -> None:
        self._broker = broker
        self._lease = lease
        self._topics = topics
        self._versions: dict[str, int] = {}  # of our own records, by their hash
        self._version = 0
        self._changed: dict[str, TopicPresence] = {}
        self._read: dict[tuple[str, str], tuple[int, str, Members]] = {}  # by node and hash
        self._looks = 0
        lease.facts[FACT] = self._versions
        lease.on_look.append(self._look)

    def changed(self, topic: TopicPresence) -> None:
        """Somebody of this node came or went; must not switch."""
        if self._broker.shared:
            self._changed[topic.topic] = topic

    def fill(self, topic: TopicPresence) -> None:
        """Enter what is known of other nodes' members into a topic that this node has had nothing to do with."""
        for (node, _), (_, name, members) in tuple(self._read.items()):
            if name == topic.topic:
                _update(topic, node, members)

    def refresh(self, name: str) -> None:
        """Read what others have told of a topic and this node has not read yet.

        Raises:
            BrokerError: It cannot be read.
        """
        place = _hash(name)
        if any(self._is_news(node, place, version) for node, place_, version in self._told() if place_ == place):
            self._read_all({place})

    def _look(self) -> None:
        """After each look at the other nodes."""
        if not self._broker.shared:
            return
        self._looks += 1
        if self._looks % RENEW == 0 or self._lease.lapsed:
            self._changed.update({name: topic for name, topic in self._topics.items() if topic.local})
        self._tell()
        self._forget_dead()
        wanted = {_hash(name) for name in self._topics}
        if any(place in wanted and self._is_news(node, place, version) for node, place, version in self._told()):
            self._read_all(wanted)

    # ---------------------------------------------------------------------- telling

    def _tell(self) -> None:
        """Let the others know what has changed here.

        Raises:
            BrokerError: They cannot; the next look tries again.
        """
        if not self._changed:
            return
        for name, topic in tuple(self._changed.items()):
            del self._changed[name]
            told = False
            try:
                self._put(_hash(name), name, dict(topic.local))
                told = True
            finally:
                if not told:
                    self._changed.setdefault(name, topic)
        self._lease.renew()

    def _put(self, place: str, name: str, local: Members) -> None:
        key = f"{self._lease.node}.{place}"
        if not local:
            self._versions.pop(place, None)
            self._broker.claim(TABLE, key)
            return
        self._version = version = self._version + 1  # never one again that others have read
        members = {member: list(entry) for member, entry in local.items()}
        self._broker.put(TABLE, key, {"topic": name, "version": version, "members": members}, KEPT)
        self._versions[place] = version

    # ---------------------------------------------------------------------- reading

    def _told(self) -> list[tuple[str, str, Any]]:
        """Node, hash and version of what the others have told."""
        told = []
        for node, facts in self._lease.others.items():
            versions = facts.get(FACT)
            if isinstance(versions, Mapping):
                told += [(node, place, version) for place, version in versions.items()]
        return told

    def _is_news(self, node: str, place: str, version: Any) -> bool:
        known = self._read.get((node, place))
        return known is None or known[0] != version

    def _read_all(self, wanted: set[str]) -> None:
        for key, record in self._broker.records(TABLE).items():
            node, _, place = key.partition(".")
            if place in wanted and node in self._lease.others:
                read = _checked(record)
                if read is not None and _hash(read[1]) == place:
                    self._read[node, place] = read
                    self._update(node, read[1], read[2])

    def _forget_dead(self) -> None:
        """What is told no longer: its node has died, or nobody there is present any more."""
        told = {(node, place) for node, place, _ in self._told()}
        for place, (_, name, _) in tuple(self._read.items()):
            if place not in told or name not in self._topics:
                del self._read[place]
                self._update(place[0], name, {})

    def _update(self, node: str, name: str, members: Members) -> None:
        topic = self._topics.get(name)
        if topic is not None:
            _update(topic, node, members)


def _update(topic: TopicPresence, node: str, members: Members) -> None:
    before = topic.remote.get(node, {})
    for member in before:
        if member not in members:
            topic.go((node, member))
    for member, (key, meta) in members.items():
        topic.come((node, member), key, meta)
    topic.remote[node] = members


def _checked(record: Any) -> tuple[int, str, Members] | None:
    """What a record says; `None` for one that no node of this version has written."""
    try:
        version, name, told = record["version"], record["topic"], record["members"]
        members = {member: (key, meta) for member, (key, meta) in told.items()}
    except (TypeError, KeyError, ValueError, AttributeError):
        return None
    texts = all(isinstance(text, str) for member, (key, _) in members.items() for text in (member, key))
    return (version, name, members) if type(version) is int and isinstance(name, str) and texts else None


def _hash(name: str) -> str:
    return hashlib.sha256(name.encode()).hexdigest()[:24]
