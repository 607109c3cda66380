"""For tests of programs that use WebMesh: a fake clock, a recording observer, peers without a network.

`memory_pair` carries real frames between two conversations' pure cores, with no hub and no socket;
`connection_pair` joins two real connections by a socket pair in this process. `FaultProxy` does to real bytes
what networks do.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import gevent
import gevent.socket

from webmesh.dispatch import Dispatcher
from webmesh.exceptions import RemoteProtocolError
from webmesh.execution import Executor, stop_home
from webmesh.fault_proxy import FaultProxy
from webmesh.message_serializers import AbstractMessageSerializer, MessagePackSerializer
from webmesh.observer import NO_OBSERVER, Observer
from webmesh.options import Limits, Timeouts
from webmesh.processes import is_patched
from webmesh.protocol.frames import Frames
from webmesh.protocol.session import Event, Session
from webmesh.routing import Router
from webmesh.websocket.hub import HubThread
from webmesh.websocket.upgraded import Upgraded
from webmesh.websocket.websocket_connection import WebSocketConnection

__all__ = [
    "FakeClock", "FaultProxy", "MemoryPeer", "RecordingObserver", "connection_pair", "memory_pair",
]  # fmt: skip


class FakeClock:
    """A monotonic clock that stands still until it is told to move. Call it for its reading."""

    def __init__(self, now: float = 1000.0) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now

    def advance(self, seconds: float) -> float:
        """Move on and return the new reading.

        Raises:
            ValueError: *seconds* is below 0: monotonic clocks do not go back.
        """
        if seconds < 0:
            raise ValueError(f"a monotonic clock cannot go back by {-seconds:g} s")
        self.now += seconds
        return self.now


class RecordingObserver(Observer):
    """Keeps what happened, in order, as tuples whose first element is the hook's name."""

    def __init__(self) -> None:
        self.events: list[tuple[Any, ...]] = []

    def named(self, name: str) -> list[tuple[Any, ...]]:
        """What one hook was given, in order."""
        return [event[1:] for event in self.events if event[0] == name]

    def connection_opened(self, connection: object) -> None:
        """`("connection_opened", connection)`."""
        self.events.append(("connection_opened", connection))

    def connection_closed(self, connection: object, code: int, reason: str) -> None:
        """`("connection_closed", connection, code, reason)`."""
        self.events.append(("connection_closed", connection, code, reason))

    def handshake_refused(self, address: str, status: int, reason: str) -> None:
        """`("handshake_refused", address, status, reason)`."""
        self.events.append(("handshake_refused", address, status, reason))

    def request_finished(self, path: str, code: str, seconds: float) -> None:
        """`("request_finished", path, code)`; the duration is left out, so that events can be compared."""
        self.events.append(("request_finished", path, code))

    def handler_failed(self, path: str, incident: str, error: BaseException) -> None:
        """`("handler_failed", path, incident, error)`."""
        self.events.append(("handler_failed", path, incident, error))

    def refused(self, kind: str, reason: str) -> None:
        """`("refused", kind, reason)`."""
        self.events.append(("refused", kind, reason))

    def link_changed(self, url: str, state: str, reason: str) -> None:
        """`("link_changed", url, state, reason)`."""
        self.events.append(("link_changed", url, state, reason))

    def session_changed(self, state: str, reason: str) -> None:
        """`("session_changed", state, reason)`."""
        self.events.append(("session_changed", state, reason))

    def login_finished(self, address: str, outcome: str) -> None:
        """`("login_finished", address, outcome)`."""
        self.events.append(("login_finished", address, outcome))

    def peer_stalled(self, connection: object, stalled: bool) -> None:
        """`("peer_stalled", connection, stalled)`."""
        self.events.append(("peer_stalled", connection, stalled))

    def call_retried(self, path: str, reason: str) -> None:
        """`("call_retried", path, reason)`."""
        self.events.append(("call_retried", path, reason))

    def call_hedged(self, path: str) -> None:
        """`("call_hedged", path)`."""
        self.events.append(("call_hedged", path))

    def instance_ejected(self, service: str, node: str, reason: str, seconds: float) -> None:
        """`("instance_ejected", service, node, reason, seconds)`."""
        self.events.append(("instance_ejected", service, node, reason, seconds))

    def breaker_changed(self, service: str, route: str, state: str) -> None:
        """`("breaker_changed", service, route, state)`."""
        self.events.append(("breaker_changed", service, route, state))

    def published(self, receivers: int) -> None:
        """`("published", receivers)`."""
        self.events.append(("published", receivers))

    def will_fired(self, topic: str, reason: str) -> None:
        """`("will_fired", topic, reason)`."""
        self.events.append(("will_fired", topic, reason))

    def hub_held(self, where: str, seconds: float, stack: str) -> None:
        """`("hub_held", where, seconds, stack)`."""
        self.events.append(("hub_held", where, seconds, stack))


class MemoryPeer:
    """One end of a `memory_pair`: frames, serializer and session of a connection, and no more.

    Attributes:
        session: Opens requests; see `protocol.session`.
        wire: Bytes that were sent to this end and not yet received.
    """

    def __init__(self, *, client: bool, serializer: AbstractMessageSerializer, limits: Limits) -> None:
        self.session = Session(limits, dialled=client)
        self.wire = bytearray()
        self._frames = Frames(client=client, limits=limits)
        self._serializer = serializer
        self._other = self

    def join(self, other: MemoryPeer) -> None:
        """Make *other* the one that `send` reaches."""
        self._other = other

    def send(self, message: dict[str, Any]) -> None:
        """Frame a message's bytes and leave them on the other end's wire."""
        self._other.wire += self._frames.encode(self._serializer.serialize(message))

    def receive(self, size: int | None = None) -> list[Event]:
        """The events of what has arrived.

        Args:
            size: Take only so many bytes; `None` takes all.

        Raises:
            RemoteProtocolError: The other end has broken the protocol; a connection would close with its `close_code`.
            DecodeError: A message cannot be decoded.
        """
        data = bytes(self.wire[:size])
        del self.wire[: len(data)]
        incoming = self._frames.receive(data)
        while self._frames.pending:
            incoming += self._frames.receive()
        events: list[Event] = []
        for item in incoming:
            if isinstance(item, RemoteProtocolError):
                raise item
            if isinstance(item, str | bytes):
                events.append(self.session.receive(self._serializer.deserialize(item)))
        return events


def memory_pair(
    *, serializer_type: type[AbstractMessageSerializer] = MessagePackSerializer, limits: Limits | None = None
) -> tuple[MemoryPeer, MemoryPeer]:
    """The side that dialled and the side that accepted, joined by real WebSocket frames in memory."""
    bounds = limits or Limits()
    dialled, accepted = (
        MemoryPeer(client=client, serializer=serializer_type(bounds), limits=bounds) for client in (True, False)
    )
    dialled.join(accepted)
    accepted.join(dialled)
    return dialled, accepted


@contextmanager
def connection_pair(
    *,
    client: Router | None = None,
    server: Router | None = None,
    serializer_type: type[AbstractMessageSerializer] = MessagePackSerializer,
    limits: Limits | None = None,
    timeouts: Timeouts | None = None,
    observer: Observer = NO_OBSERVER,
) -> Iterator[tuple[WebSocketConnection, WebSocketConnection]]:
    """Two real connections, the dialled and the accepted one, joined by a socket pair without a handshake.

    Args:
        client, server: What each side serves; `None` serves nothing.
    """
    home = HubThread("webmesh-pair")
    home.start()
    pair = _Pair(home, serializer_type, limits or Limits(), timeouts or Timeouts(), observer)
    try:
        # Made here, since handlers see the context of whoever starts to serve; connected in the hub.
        dispatchers = pair.dispatcher(client or Router()), pair.dispatcher(server or Router())
        yield home.run(pair.open, *dispatchers)
    finally:
        if home.run(pair.close):
            home.stop()


class _Pair:
    def __init__(
        self,
        home: HubThread,
        serializer_type: type[AbstractMessageSerializer],
        limits: Limits,
        timeouts: Timeouts,
        observer: Observer,
    ) -> None:
        self._home = home
        self._serializer_type = serializer_type
        self._limits = limits
        self._timeouts = timeouts
        self._observer = observer
        self._connections: list[WebSocketConnection] = []
        self._executors: list[Executor] = []
        self._dispatchers: list[Dispatcher] = []
        self._readers: list[gevent.Greenlet[[], None]] = []

    def dispatcher(self, router: Router) -> Dispatcher:
        executor = Executor(self._limits.threads, self._limits.thread_queue)
        dispatcher = Dispatcher(
            router, [], self._home, executor, limits=self._limits, timeouts=self._timeouts,
            observer=self._observer, blocking=not is_patched(),
        )  # fmt: skip
        dispatcher.freeze()
        self._executors.append(executor)
        self._dispatchers.append(dispatcher)
        return dispatcher

    def open(self, client: Dispatcher, server: Dispatcher) -> tuple[WebSocketConnection, WebSocketConnection]:
        left, right = gevent.socket.socketpair()
        dialled = self._connect(left, client, dialled=True)
        accepted = self._connect(right, server, dialled=False)
        return dialled, accepted

    def _connect(self, sock: Any, dispatcher: Dispatcher, *, dialled: bool) -> WebSocketConnection:
        upgraded = Upgraded(sock, None, None, [], b"", "pair", None)
        connection = WebSocketConnection(
            upgraded, self._home, limits=self._limits, timeouts=self._timeouts, observer=self._observer,
            dialled=dialled,
        )  # fmt: skip
        connection.converse(self._serializer_type(self._limits), dispatcher)
        self._connections.append(connection)
        self._readers.append(gevent.spawn(connection.run))
        return connection

    def close(self) -> bool:
        """End both; whether the hub's thread ends with them, and not after a handler that cannot be ended."""
        for connection in self._connections:
            connection.abort(1001, "the pair was closed")
        gevent.joinall(self._readers, self._timeouts.close)
        gevent.killall(self._readers, block=False)
        for dispatcher in self._dispatchers:
            dispatcher.stop(self._timeouts.close)
        for executor in self._executors:
            executor.close(self._timeouts.close)
        return stop_home(self._home, *self._executors)
