"""The end of a server's connections: each is told to go elsewhere, and loses nothing that was begun for it.

Decides in which order, in which pieces and with which words. When the end comes is `serving`'s business. Wire form:
docs/PROTOCOL.md sections 4 and 5.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from math import ceil
from typing import TYPE_CHECKING

import gevent

from webmesh.deadline import Deadline
from webmesh.websocket.websocket_connection import DRAINED, WebSocketConnection

if TYPE_CHECKING:
    from webmesh.server_parts import ServerParts

BATCH = 50
"""Connections that are told at once: who is told comes back somewhere in the same moment, and a node takes some
thousand handshakes a second."""
BATCHES = 100
"""Pieces at most, so that the pauses between them do not become too short to matter."""
SPREAD = 0.25
"""Of the time for draining, how much goodbyes, and then closes, are spread over."""
INTERVAL = 0.02
"""Seconds between two looks whether peers have left by themselves."""

CUT_OFF = 4001, "the server closes"
"""How it closes where calls were in progress; otherwise it is `DRAINED`."""


class Draining:
    """One end of one server; everything in its hub.

    Args:
        seconds: For calls in progress, from now on.
        alternates: URLs that peers are told to dial instead.
    """

    def __init__(self, parts: ServerParts, seconds: float, alternates: Collection[str]) -> None:
        self._parts = parts
        self._spread = seconds * SPREAD
        self._deadline = Deadline(seconds)
        self._alternates = list(alternates)
        self._closed_all = False
        self._behind: list[WebSocketConnection] = []
        self._cut_off = 0

    def say_goodbye(self) -> None:
        """Tell all peers; from then on each one's new calls are refused, and not before."""
        told: list[WebSocketConnection] = []
        for batch in self._batches(self._spread):
            for connection in batch:
                self._tell(connection)
                told.append(connection)
        self._parts.dispatcher.refuse_all()
        if self._alternates:
            self._let_go([connection for connection in told if _knows_goodbye(connection)])

    def finish_calls(self) -> None:
        """Wait for what is in progress, of either side, and until all answers have left, while there is time; then end
        it: streams so that their readers know it."""
        dispatcher, connections = self._parts.dispatcher, self._parts.connections
        dispatcher.wait_idle(self._deadline.remaining() or 0.0)
        self._wait_while(lambda: any(_asks(one) for one in connections.values() if not self._parts.kept(one)))
        self._wait_while(lambda: any(connection.unsent for connection in connections.values()))
        self._cut_off = dispatcher.cut_off()
        gevent.sleep(0)  # what its handlers ask of peers is given up with them
        self._cut_off += sum(_asks(one) for one in connections.values() if not self._parts.kept(one))

    @property
    def cut_off(self) -> int:
        """Calls whose time ended before they did, so that their callers get no answer; and connections whose time was
        too short for what was to be sent."""
        return self._cut_off + sum(connection.unsent for connection in self._behind)

    def close_connections(self) -> None:
        """Close them all, spread over what is left of the time, and those that come now at once."""
        for batch in self._batches(min(self._spread, self._deadline.remaining() or 0.0)):
            for connection in batch:
                if not self._parts.kept(connection):
                    self.close(connection)
        self._closed_all = True
        for connection in tuple(self._parts.connections.values()):
            if not self._parts.kept(connection):
                self.close(connection)

    def close_kept(self) -> None:
        """Close what was kept open."""
        for connection in tuple(self._parts.connections.values()):
            self.close(connection)

    def await_others(self, seconds: float) -> None:
        """Wait until only what is kept is open, for *seconds* at most."""
        deadline, parts = Deadline(seconds), self._parts
        while not deadline.expired and not all(map(parts.kept, tuple(parts.connections.values()))):
            gevent.sleep(min(INTERVAL, deadline.remaining() or 0.0))

    def admit(self, connection: WebSocketConnection) -> None:
        """One that was being accepted when the end began."""
        if self._closed_all:
            self.close(connection)

    def close(self, connection: WebSocketConnection) -> None:
        """Begin the closing handshake, unless that was done."""
        if connection.open and connection.unsent:
            self._behind.append(connection)
        if not connection.is_mesh:
            connection.close(1001, "the server closes", timeout=0)
        else:
            busy = self._parts.dispatcher.busy(connection)
            connection.close(*(CUT_OFF if busy else DRAINED), timeout=0)

    def _tell(self, connection: WebSocketConnection) -> None:
        self._parts.dispatcher.refuse(connection)
        if _knows_goodbye(connection):
            goodbye = {"reason": "draining"} | ({"alternates": self._alternates} if self._alternates else {})
            connection.say("$goodbye", goodbye)

    def _let_go(self, told: list[WebSocketConnection]) -> None:
        """Who knows where else to go leaves by itself, when its calls are done: nothing is lost by that at all."""
        self._wait_while(lambda: any(connection.open for connection in told))

    def _wait_while(self, busy: Callable[[], bool]) -> None:
        while busy() and not self._deadline.expired:
            gevent.sleep(min(INTERVAL, self._deadline.remaining() or 0.0))

    def _batches(self, seconds: float) -> Iterator[list[WebSocketConnection]]:
        connections = list(self._parts.connections.values())
        size = max(BATCH, ceil(len(connections) / BATCHES))
        pieces = max(1, ceil(len(connections) / size))
        for number in range(pieces):
            if number:
                gevent.sleep(seconds / (pieces - 1))
            yield connections[number * size : (number + 1) * size]


def _asks(connection: WebSocketConnection) -> int:
    """Calls that this side waits for."""
    return connection.conversation.session.open_calls if connection.is_mesh else 0


def _knows_goodbye(connection: WebSocketConnection) -> bool:
    return connection.is_mesh and "node" in connection.metadata
