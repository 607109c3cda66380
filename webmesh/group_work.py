"""Groups on one node: which of its members gets what the engine gives to this node, and what the engine is told.

Decides when the node takes part in a group, with how much work at a time, and which member does it. Lives in the
node's hub.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, TypeVar

import gevent

from webmesh.acknowledged import Acknowledged, Desk, Letter
from webmesh.brokers.base import Broker, GroupName, Places
from webmesh.exceptions import BrokerError, NotFound, Overloaded
from webmesh.lanes import Lanes
from webmesh.protocol.groups import Group
from webmesh.protocol.topic_trie import TopicTrie
from webmesh.protocol.topics import overlap

if TYPE_CHECKING:
    from webmesh.group_members import GroupMember
    from webmesh.protocol.publication import Publication
    from webmesh.topic_options import Segments, TopicOptions, TopicTable

logger = logging.getLogger("webmesh.topics")

MOST_LEFT = 1000
"""Groups without members of which it is remembered what was delivered already."""


MOST_PASSED = 1000
"""Publications that may wait on a node for a member other than their publisher while that one gets what follows."""

NOT_TAKEN = "not taken"
"""Reason of the gap that tells members what their group has lost for want of room, or of members."""

T = TypeVar("T")


class GroupWork(Acknowledged):
    """What this node has to do for one group.

    Args:
        groups: Told when the engine has to know of a change.
        window: Deliveries that one member may have and not have acknowledged.
        durable: Whether what comes while nobody is there waits.
        ttl: Seconds that it lasts then; `None` for ever.

    Attributes:
        joined: The window that the engine knows; 0 for none.
        admitted: Whether there was room for another group.
        lost: Publications that are lost to the group and that no member was told of yet.
    """

    def __init__(
        self, name: GroupName, groups: GroupWorks, desk: Desk, *, window: int, durable: bool, ttl: float | None = None
    ) -> None:
        super().__init__(desk)
        self.name = name
        self.durable, self.ttl = durable, ttl
        self.admitted = not durable
        self.joined = 0
        self.lost = 0
        self._groups = groups
        self._window = window
        self._passed = 0
        self._tokens: set[Any] = set()
        self.before: dict[Any, int] = {}  # attempts of what the engine was given back, by token
        self.members: Group[Any] = Group(lambda member: member.load(self.deliveries.pending(member)))

    @property
    def wanted(self) -> int:
        """The window that the engine should know. A durable group of which all are away leaves the work to others."""
        here = sum(member.here for member in self.members) if self.durable else len(self.members)
        return self._window * here + (self._passed if here else 0)

    def join(self, member: GroupMember) -> None:
        """Add a member; `changed` tells the engine."""
        self.members.join(member)

    def leave(self, member: GroupMember) -> None:
        """Remove one, whose work others get."""
        self.members.leave(member)
        self.away(member)

    def away(self, member: GroupMember) -> None:
        """A member does nothing for now."""
        self.hand_on(member)
        self.changed()

    def hand_on(self, member: GroupMember) -> None:
        """Let others have what *member* has."""
        if self.deliveries.leave(member):
            self.pump()

    def changed(self) -> None:
        """Members came or went: tell the engine, and let those who are there have what waits."""
        self._groups.tell(self)
        self.pump()

    def work(self, publication: Publication, token: Any) -> None:
        """The engine gives a publication."""
        if token in self._tokens:  # the engine took this node for dead
            return
        self._tokens.add(token)
        letter = Letter(publication, self._groups.table.of(tuple(publication.topic.split("/"))), token)
        self.add(letter, attempts=self.before.pop(token, 0))

    def tell_lost(self) -> None:
        """Tell those who are there what is lost: until somebody is, it waits."""
        present = [member for member in self.members if member.here and member.begun] if self.lost else []
        if present:
            lost, self.lost = self.lost, 0
            for member in present:
                member.gap(NOT_TAKEN, lost)

    def choose(self, letter: Letter) -> GroupMember | None:
        """`Acknowledged.choose`: the one with the fewest in hand."""
        own = letter.publication.publisher if letter.publication.exclude_self else None

        def ready(member: GroupMember) -> bool:
            if not member.here or own is not None and member.name == own:
                return False
            return member.ready(self.deliveries.pending(member), letter.options.window)

        return self.members.choose(ready=ready)

    def passes(self, letter: Letter) -> bool:
        """`Acknowledged.passes`: its publisher, who does not want it, has room for something else."""
        own = letter.publication.publisher if letter.publication.exclude_self else None
        if own is None:
            return False
        return any(
            member.name == own and member.here and member.ready(self.deliveries.pending(member), letter.options.window)
            for member in self.members
        )

    def pumped(self, passed: int) -> None:
        """`Acknowledged.pumped`: the engine gives as much more as waits here for others."""
        if passed > self._passed or not passed:
            before, self._passed = self._passed, min(passed, MOST_PASSED)
            if before != self._passed and self.joined:
                gevent.spawn(self._groups.tell, self)

    def unwanted(self, letter: Letter) -> bool:
        """`Acknowledged.unwanted`: only its publisher is there, who does not want it."""
        publication = letter.publication
        if not publication.exclude_self or publication.publisher is None or not len(self.members):
            return False
        return all(member.name == publication.publisher for member in self.members)

    def settled(self, letter: Letter) -> None:
        """`Acknowledged.settled`."""
        self._tokens.discard(letter.token)
        self._groups.done(self.name, letter.token)

    def gave_back(self) -> None:
        """The engine has what was not done, and will give it again."""
        self._tokens.clear()
        self.before = {one.message.token: one.attempt for one in self.drop() if one.attempt}


class GroupWorks:
    """All groups that this node has members of.

    Args:
        table: Says which topics must be acknowledged.
    """

    def __init__(self, broker: Broker, table: TopicTable, desk: Desk) -> None:
        self.table = table
        self._broker = broker
        self._desk = desk
        self._works: dict[GroupName, GroupWork] = {}
        self._trie: TopicTrie[GroupWork] = TopicTrie()
        self._lanes = Lanes()
        self._left: dict[GroupName, dict[Any, int]] = {}
        self._left_lost: dict[GroupName, int] = {}

    def __len__(self) -> int:
        return len(self._works)

    def __iter__(self) -> Iterator[GroupWork]:
        return iter(tuple(self._works.values()))

    def count(self, topic: Segments) -> int:
        """Groups that a publication reaches."""
        return len(self._trie.match(topic)) if self._works else 0

    def of(self, pattern: Segments, name: str) -> GroupWork:
        """A group, for somebody who joins it."""
        key = GroupName(pattern, name)
        work = self._works.get(key)
        if work is None:
            meant = [options for _, options in self._meant(pattern)]
            window = max((options.window for options in meant), default=self.table.of(pattern).window)
            lives = [options.group_ttl for options in meant]
            ttl = None if None in lives else max((one for one in lives if one is not None), default=None)
            work = self._works[key] = GroupWork(key, self, self._desk, window=window, durable=bool(meant), ttl=ttl)
            work.before = self._left.pop(key, {})
            work.lost = self._left_lost.pop(key, 0)
            self._trie.add(pattern, work)
        return work

    def _meant(self, pattern: Segments) -> list[tuple[Segments, TopicOptions]]:
        """What was said of topics whose publications a group of this pattern must acknowledge."""
        return [(other, options) for other, options in self.table.all() if options.ack and overlap(pattern, other)]

    def work(self, name: GroupName, publication: Publication, token: Any) -> None:
        """`Sink.work`."""
        work = self._works.get(name)
        if work is not None:  # else its last member has gone, of which the engine is being told
            work.work(publication, token)

    def lost(self, name: GroupName, count: int) -> None:
        """`Sink.lost`."""
        work = self._works.get(name)
        if work is None:
            self._keep(self._left_lost, name, self._left_lost.get(name, 0) + count)
        else:
            work.lost += count
            work.tell_lost()

    def gap(self, reason: str) -> None:
        """`Sink.gap`: members of groups whose work the engine does not keep are told."""
        for work in self:
            for member in () if work.durable else tuple(work.members):
                member.gap(reason)

    # ------------------------------------------------------------------- the engine

    def tell(self, work: GroupWork) -> None:
        """Let the engine know of members that went or came back."""
        if work.wanted == work.joined and len(work.members):
            return
        if self._broker.immediate:
            self._try(self.settle, work)
        else:
            gevent.spawn(self._try, self.settle, work)

    def _try(self, act: Callable[..., None], *args: Any) -> None:
        try:
            act(*args)
        except (BrokerError, Overloaded) as error:  # what is not joined is tried again, what is not done comes again
            logger.warning("the engine could not be told", extra={"reason": str(error)})

    def tick(self) -> None:
        """About once a second: tell the engine what it could not be told."""
        for work in self:
            if work.wanted != work.joined:
                self.tell(work)

    def settle(self, work: GroupWork) -> None:
        """Let the engine know how much work this node takes; may switch.

        Raises:
            BrokerError: It cannot be told.
            Overloaded: There are too many groups.
        """
        with self._lanes.turn(work.name):
            wanted = work.wanted
            if wanted and wanted != work.joined:
                self._join(work, wanted)
            elif work.joined and not wanted:
                work.joined = 0
                work.gave_back()
                self._broker.leave(work.name)
        if not len(work.members) and self._works.get(work.name) is work:
            del self._works[work.name]
            self._trie.remove(work.name.pattern, work)
            work.end()
            self._remember(work)

    def _places(self, work: GroupWork) -> list[Places]:
        """Durable groups stay when their members have gone: a new one needs a place among those of its topics."""
        if work.admitted or not all(member.bounded for member in work.members):
            return []
        return [Places(pattern, options.groups) for pattern, options in self._meant(work.name.pattern)]

    def drop(self, name: GroupName) -> int:
        """End a durable group; returns how much it had to do.

        Raises:
            NotFound: There is none.
            FailedPrecondition: It has members.
            BrokerError: The engine cannot.
        """
        with self._lanes.turn(name):
            dropped = self._broker.drop_group(name)
            self._left.pop(name, None)
            self._left_lost.pop(name, None)
        if dropped is None:
            raise NotFound(f"there is no durable group {name.name!r} of {'/'.join(name.pattern)}")
        return dropped

    def _join(self, work: GroupWork, window: int) -> None:
        before, work.joined = work.joined, window  # now: it may give work at once
        told = False
        try:
            self._broker.join(work.name, window, durable=work.durable, ttl=work.ttl, places=self._places(work))
            told = True
            work.admitted = work.admitted or all(member.bounded for member in work.members)
        finally:
            if not told:
                work.joined = before

    def _remember(self, work: GroupWork) -> None:
        """What was delivered to members that have all gone: who comes next is told that it is not the first."""
        if work.durable and work.before:
            self._keep(self._left, work.name, work.before)
        if work.durable and work.lost:
            self._keep(self._left_lost, work.name, work.lost)

    @staticmethod
    def _keep(table: dict[GroupName, T], name: GroupName, value: T) -> None:
        table[name] = value
        if len(table) > MOST_LEFT:
            del table[next(iter(table))]

    def done(self, name: GroupName, token: Any) -> None:
        """A publication needs no further delivery."""
        if self._broker.immediate:
            self._broker.done(name, token)
        else:
            gevent.spawn(self._try, self._broker.done, name, token)

    def end(self) -> None:
        """The node stops: what is not done stays with the engine."""
        for work in self:
            work.end()
