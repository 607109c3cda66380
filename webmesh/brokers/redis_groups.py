"""One node's share of the groups that it has members of.

A group's work waits in a stream; a node takes as much of it as it has room for and says what is done, both in one
step. It looks when it is told that there is work, when it has room again, and now and then, for what dead nodes held.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import gevent
from gevent.event import Event

from webmesh.brokers.base import GroupName
from webmesh.brokers.redis_messages import GROUP_SEPARATOR, BadMessage, Keys, read_message, read_pattern
from webmesh.exceptions import WebMeshError
from webmesh.options import Limits
from webmesh.protocol.publication import Publication
from webmesh.protocol.topic_trie import TopicTrie

logger = logging.getLogger("webmesh.broker")

Run = Callable[..., Any]
"""Run a script: name, keys, arguments."""


def group_text(group: GroupName) -> str:
    """What a group is called in Redis."""
    return "/".join(group.pattern) + GROUP_SEPARATOR + group.name


def read_group(text: str) -> GroupName:
    """The group of that name.

    Raises:
        BadMessage: It is none.
    """
    pattern, separator, name = text.partition(GROUP_SEPARATOR)
    if not separator:
        raise BadMessage("a group without a name")
    return GroupName(read_pattern(pattern), name)


class GroupTable:
    """All groups of all nodes, as this node last read of them.

    Args:
        key: Of the table.
        refused: Told of what is no group.

    Attributes:
        version: Of what was read; every publication names it.
        passing: Those that end with their last member.
        durable: The others.
    """

    def __init__(self, ask: Run, key: str, refused: Callable[[str, Exception], None]) -> None:
        self._ask, self._key, self._refused = ask, key, refused
        self._trie: TopicTrie[str] = TopicTrie()
        self.version = ""
        self.passing: list[str] = []
        self.durable: list[GroupName] = []

    def read(self) -> None:
        """Read it anew."""
        found = self._ask("HGETALL", self._key)
        trie: TopicTrie[str] = TopicTrie()
        passing: list[str] = []
        durable: list[GroupName] = []
        version = "0"
        for name, value in zip(found[::2], found[1::2], strict=True):
            if not name:
                version = value.decode(errors="replace")
                continue
            try:
                text = name.decode()
                group = read_group(text)
                trie.add(group.pattern, text)
                if value == b"0":
                    passing.append(text)
                else:
                    durable.append(group)
            except (BadMessage, UnicodeDecodeError) as bad:
                self._refused(self._key, bad)
        self._trie, self.passing, self.durable, self.version = trie, passing, durable, version

    def match(self, topic: tuple[str, ...]) -> list[str]:
        """The names of the groups that a publication is for."""
        return self._trie.match(topic)


class NodeGroup:
    """What this node has taken of one group.

    Args:
        node: This node's name.
        keys: Of everything.
        give: Gets each publication with its token.
        lost: Gets how many publications the group has lost.
        refused: Told of what is no message of ours.
    """

    def __init__(
        self, name: GroupName, node: str, *, keys: Keys, window: int, durable: bool, ttl: float | None, limits: Limits,
        run: Run, give: Callable[[GroupName, Publication, Any], None], lost: Callable[[GroupName, int], None],
        refused: Callable[[str, BadMessage], None],
    ) -> None:  # fmt: skip
        self.name, self.text = name, group_text(name)
        self.work = keys.work(self.text)
        self.window, self.durable, self.ttl = window, durable, ttl
        self._node, self._limits = node, limits
        self._keys = [self.work, keys.nodes, keys.lost, keys.plain(self.text)]
        self._run, self._give, self._lost, self._refused = run, give, lost, refused
        self._held: set[bytes] = set()
        self._done: list[bytes] = []
        self._wake = Event()
        self._rescue = self._own = self._closed = False
        self._greenlet: gevent.Greenlet[..., None] | None = None

    def start(self) -> None:
        """Begin to take work."""
        self.wake(rescue=True)
        self._greenlet = gevent.spawn(self._serve)

    def wake(self, *, rescue: bool = False, own: bool = False) -> None:
        """There may be work.

        Args:
            rescue: Also with nodes that are dead.
            own: An answer may have been lost, so what is held here and not known is to be told again.
        """
        self._rescue = self._rescue or rescue
        self._own = self._own or own
        self._wake.set()

    def done(self, token: Any) -> None:
        """Nothing more is to be done about *token*."""
        if token in self._held:
            self._held.discard(token)
            self._done.append(token)
            self._wake.set()

    def close(self) -> list[bytes]:
        """Take no more; returns what is done and was not told yet."""
        self._closed = True
        self._held.clear()
        if self._greenlet is not None and self._greenlet is not gevent.getcurrent():
            self._greenlet.kill()  # until it is dead: what it was about to tell is then in the list again
        return self._done

    def _serve(self) -> None:
        while not self._closed:
            self._wake.wait()
            self._wake.clear()
            try:
                self._turn()
            except WebMeshError as error:  # the link is lost, or Redis refuses: the next beat tries again
                logger.warning("no work from Redis", extra={"group": str(self.name.name), "reason": str(error)})

    def _turn(self) -> None:
        if self._own:
            self._take(0, own=True)
            self._own = False
        while not self._closed:
            room = self.window - len(self._held)
            if room <= 0 and not self._done:
                return
            if not self._take(room):
                return

    def _take(self, room: int, *, own: bool = False) -> bool:
        """Whether there may be more."""
        telling, self._done = self._done[:500], self._done[500:]
        rescue, self._rescue = self._rescue and room > 0, self._rescue and room <= 0
        try:
            more, entries, lost = self._run(
                "take", self._keys, self._node, max(0, room), int(rescue), int(own), self.text, *telling
            )
        except BaseException:
            self._done = telling + self._done
            self._rescue = self._rescue or rescue
            raise
        self._rescue = self._rescue or bool(more and not own)
        if lost and not self._closed:
            self._lost(self.name, lost)
        fresh = sorted((entry for entry in entries if entry[0] not in self._held), key=lambda entry: _order(entry[0]))
        told = set(self._done)
        self._held.update(entry[0] for entry in fresh if entry[0] not in told)
        for token, fields in fresh:
            if token not in told and not self._closed:
                self._hand(token, fields)
        return bool(self._done) or (bool(more) and not own)

    def _hand(self, token: bytes, fields: list[bytes]) -> None:
        named = dict(zip(fields[::2], fields[1::2], strict=False))
        try:
            publication = read_message(named.get(b"t", b""), named.get(b"m"), self._limits)
        except BadMessage as bad:
            self._refused(self.work, bad)
            self.done(token)  # nobody can do it
            return
        self._give(self.name, publication, token)


def _order(token: bytes) -> tuple[int, int]:
    first, _, second = token.partition(b"-")
    return int(first), int(second)
