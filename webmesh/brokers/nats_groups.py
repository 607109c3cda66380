"""Groups at one node: messages that wait, those that members have, and those that another node may take.

In the hub. NATS gives each message of a queue group to some node, whether that has room or not; so a node without room
asks the others whether one of them has. Which of them that is, is NATS' choice again: only nodes with room listen.
"""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import gevent
from gevent.lock import Semaphore

from webmesh.brokers import one_node
from webmesh.brokers.asyncio_bridge import AsyncioBridge
from webmesh.brokers.base import GroupName, Sink
from webmesh.brokers.jetstream import Delivery
from webmesh.brokers.nats_bodies import Arrived
from webmesh.brokers.nats_link import Message
from webmesh.brokers.nats_node import NatsNode
from webmesh.exceptions import BrokerError
from webmesh.protocol.publication import Publication

CATCH_UP = 1.0
"""Seconds that the last messages of a group may take to come through the hub when the node leaves it."""

PAUSE = 0.25
"""Seconds before another node is looked for again when none had room."""


@dataclass(slots=True)
class Item:
    """One message of a group.

    Attributes:
        delivery: With which the server is told that it is done, where that must be acknowledged.
        message: As it came, to hand it on; only of those that need no acknowledgement.
        offered: Another node is being asked to take it.
    """

    token: int
    publication: Publication
    delivery: Delivery | None
    message: Message | None
    offered: bool = False


class Wire(Protocol):
    """What a group needs of NATS. Only `offer` switches."""

    def listen(self, group: GroupName, *, room: bool) -> None:
        """Take other nodes' messages from now on, or no longer."""

    def offer(self, group: GroupName, message: Message) -> bool:
        """Whether another node with room has taken it."""

    def hand_over(self, group: GroupName, message: Message) -> None:
        """Give it to any other node."""

    def acknowledge(self, group: GroupName, delivery: Delivery) -> None:
        """The server need not deliver it any more."""


class NodeGroup:
    """See above."""

    def __init__(
        self, name: GroupName, sink: Sink, wire: Wire, *, window: int, durable: bool, next_token: Callable[[], int]
    ) -> None:
        self.name, self.durable = name, durable
        self._lost = 0
        self._sink, self._wire, self._window, self._next_token = sink, wire, window, next_token
        self._waiting: deque[Item] = deque()
        self._given: dict[int, Item] = {}
        self._giving = False
        self._closed = False
        self._listening = True
        self._sharing: gevent.Greenlet[[], None] | None = None

    @property
    def has_room(self) -> bool:
        """Whether one more message would find a member."""
        return not self._closed and not self._waiting and len(self._given) < self._window

    def put(
        self, publication: Publication, *, delivery: Delivery | None = None, message: Message | None = None
    ) -> None:
        """Another message; without room the oldest that need not be acknowledged goes."""
        if self._closed:
            return
        self._waiting.append(Item(self._next_token(), publication, delivery, message))
        if len(self._waiting) > one_node.GROUP_BACKLOG:
            self._drop_oldest()
        self._give()

    def done(self, token: int) -> None:
        """See `Broker.done`."""
        item = self._given.pop(token, None)
        if item is not None:
            if item.delivery is not None:
                self._wire.acknowledge(self.name, item.delivery)
            self._give()

    def set_window(self, window: int) -> None:
        """Members came or went."""
        self._window = window
        self._give()

    def lost(self, count: int) -> None:
        """What it has lost while it had no members."""
        self._lost += count
        self._give()

    def pause(self) -> None:
        """Give no more to members: the last one is leaving."""
        self._window = 0

    def close(self) -> None:
        """No member is left: what needs no acknowledgement goes to other nodes, the server has the rest."""
        self._closed = True
        left = [*self._given.values(), *self._waiting]
        self._given.clear()
        self._waiting.clear()
        for item in left:
            if item.message is not None and not item.offered:
                self._wire.hand_over(self.name, item.message)

    def _drop_oldest(self) -> None:
        for position, item in enumerate(self._waiting):
            if item.message is not None and not item.offered:
                del self._waiting[position]
                self._lost += 1
                return

    def _give(self) -> None:
        if self._giving:  # the node was done at once: the loop below goes on with the next
            return
        self._giving = True
        try:
            while len(self._given) < self._window:
                self._tell_lost()
                if not self._waiting or self._waiting[0].offered:
                    break
                item = self._waiting.popleft()
                self._given[item.token] = item
                self._sink.work(self.name, item.publication, item.token)
        finally:
            self._giving = False
        self._tell_room()

    def _tell_lost(self) -> None:
        if self._lost and not self._closed:
            lost, self._lost = self._lost, 0
            self._sink.lost(self.name, lost)

    def _tell_room(self) -> None:
        if self._closed:
            return
        if self._listening != self.has_room:
            self._listening = self.has_room
            self._wire.listen(self.name, room=self._listening)
        if self._waiting and self._sharing is None:
            self._sharing = gevent.spawn(self._share)

    def _share(self) -> None:
        """Look for nodes with room, for as long as something waits here; the newest first, so that the rest stay in
        their order."""
        try:
            while not self._closed:
                item = next((one for one in reversed(self._waiting) if one.message is not None), None)
                if item is None:
                    return
                if not self._offer(item):
                    gevent.sleep(PAUSE)
        finally:
            self._sharing = None

    def _offer(self, item: Item) -> bool:
        assert item.message is not None
        item.offered = True
        try:
            taken = self._wire.offer(self.name, item.message)
        except BrokerError:
            taken = False
        item.offered = False
        if self._closed and not taken:
            self._wire.hand_over(self.name, item.message)
        elif taken and item in self._waiting:
            self._waiting.remove(item)
        self._give()
        return taken


class NatsGroups:
    """All groups of one node, and their way to NATS.

    Args:
        read: Makes a publication of what arrived, or drops it.
        timeout: Seconds for what is asked of the thread.

    Attributes:
        node: The thread's side.
    """

    node: NatsNode

    def __init__(
        self, bridge: AsyncioBridge, read: Callable[[str, Message], Arrived | None], timeout: float
    ) -> None:
        self._bridge, self._read, self._timeout = bridge, read, timeout
        self._tokens = itertools.count()
        self._changing = Semaphore()
        self._groups: dict[GroupName, NodeGroup] = {}

    def join(self, name: GroupName, sink: Sink, window: int, *, durable: bool, ttl: float | None) -> None:
        """See `Broker.join`."""
        with self._changing:
            known = self._groups.get(name)
            if known is not None and known.durable == durable:
                known.set_window(window)
                self._bridge.post(self.node.set_window, name, window)
                return
            if known is not None:
                self._leave(name)
            self._groups[name] = NodeGroup(
                name, sink, self, window=window, durable=durable, next_token=self._tokens.__next__
            )
            try:
                self._bridge.call(self.node.join, name, window, durable, ttl, timeout=self._timeout)
            except BaseException:
                self._leave(name)
                raise

    def leave(self, name: GroupName) -> None:
        """See `Broker.leave`."""
        with self._changing:
            if name in self._groups:
                self._leave(name)

    def leave_all(self) -> None:
        """The node stops."""
        for name in list(self._groups):
            self.leave(name)

    def _leave(self, name: GroupName) -> None:
        group = self._groups[name]
        group.pause()
        try:
            self._bridge.call(self.node.leave, name, timeout=self._timeout)
            self._bridge.catch_up(CATCH_UP)  # what NATS gave until then goes to others too
        finally:
            del self._groups[name]
            group.close()

    def done(self, name: GroupName, token: int) -> None:
        """See `Broker.done`."""
        group = self._groups.get(name)
        if group is not None:
            group.done(token)

    # ---------------------------------------------------------- what the thread tells

    def on_group(self, name: GroupName, subject: str, message: Message) -> None:
        """A message that NATS gave to this one of a group's nodes."""
        group = self._groups.get(name)
        arrived = self._read(subject, message) if group is not None else None
        if group is None or arrived is None:
            return
        acknowledged = arrived.mark is not None and arrived.mark.acknowledged
        if not (group.durable and acknowledged):  # that comes as work, and no other way
            group.put(arrived.publication, message=message._replace(subject=subject))

    def on_work(self, name: GroupName, subject: str, message: Message, delivery: Delivery) -> None:
        """A message that the server keeps until this group is done with it."""
        group = self._groups.get(name)
        if group is None:
            return
        arrived = self._read(subject, message)
        if arrived is None:
            self._bridge.post(self.node.refuse, name, delivery)
        else:
            group.put(arrived.publication, delivery=delivery)

    def on_lost(self, name: GroupName, count: int) -> None:
        """What a group has lost while it had no members."""
        group = self._groups.get(name)
        if group is not None:
            group.lost(count)

    def on_offer(self, name: GroupName, subject: str, message: Message) -> None:
        """Another node has no room for this; whoever takes it says so."""
        group = self._groups.get(name)
        taken = group is not None and group.has_room
        self._bridge.post(self.node.answer, message.reply, taken)
        if taken:
            self.on_group(name, subject, message)

    # ------------------------------------------------------------ what a group needs

    def listen(self, name: GroupName, *, room: bool) -> None:
        """See `Wire`."""
        self._bridge.post(self.node.listen, name, room)

    def offer(self, name: GroupName, message: Message) -> bool:
        """See `Wire`."""
        return self._bridge.call(self.node.offer, name, message, timeout=self._timeout)

    def hand_over(self, name: GroupName, message: Message) -> None:
        """See `Wire`."""
        if self._bridge.running:
            self._bridge.post(self.node.hand_over, name, message)

    def acknowledge(self, name: GroupName, delivery: Delivery) -> None:
        """See `Wire`."""
        self._bridge.post(self.node.done, name, delivery)
