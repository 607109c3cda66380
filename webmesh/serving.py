"""One run of a server: from its listening socket to the end of its last connection.

Decides the order in which it starts and stops. What it is made of is `server_parts`; what programs see of
it is `webmesh_server`.
"""

from __future__ import annotations

import atexit
import logging
import os
from collections.abc import Callable, Collection
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import gevent
import gevent.socket

from webmesh.deadline import Deadline
from webmesh.draining import Draining
from webmesh.exceptions import ConnectionClosed, LocalProtocolError
from webmesh.execution import stop_home
from webmesh.message_serializers import AbstractMessageSerializer
from webmesh.protocol.origins import is_loopback_host
from webmesh.routing import Match
from webmesh.websocket.binding import Listenable
from webmesh.websocket.hub import Completion
from webmesh.websocket.http import pages
from webmesh.websocket.listener import Listener
from webmesh.websocket.upgraded import OWN_ADDRESS, TcpAddress, UnixAddress, Upgraded
from webmesh.websocket.websocket_connection import WebSocketConnection

if TYPE_CHECKING:
    from webmesh.auth import Identity
    from webmesh.extension import Extension
    from webmesh.server_parts import ServerParts
    from webmesh.oversight import Oversight

EXIT_TIMEOUT = 1.0
"""Seconds that the end of a process waits for what it forgot to close: a quick peer answers in a millisecond."""

LAST_CHANCE = 0.1
"""Seconds for what takes none unless it hangs, where those before it have used up the time."""

logger = logging.getLogger("webmesh.server")


class Serving:
    """Serves at one address, once.

    Attributes:
        started: Done when connections are accepted; fails with the reason why they cannot be.
        stopped: Done when everything has ended, however it did.
        closing: Whether the end has begun.
    """

    def __init__(
        self, parts: ServerParts, address: Listenable, oversight: Oversight | None = None, *, shared: bool = False
    ) -> None:
        self.parts = parts
        self._oversight = oversight
        self.watch = oversight.watch(parts) if oversight is not None else None
        self.home = parts.home
        self.started: Completion[None] = Completion()
        self.stopped: Completion[None] = Completion()
        self.closing = False
        self.listener = self._listener(address, shared=shared)
        self._doors: list[Listener] = []
        self._host = address.host if isinstance(address, TcpAddress) else None
        self._starter: gevent.Greenlet[[], None] | None = None
        self._end_unclaimed = [True]
        self._executors = (
            parts.executor, parts.websocket_executor, parts.callback_executor, parts.topic_executor,
            parts.keyed.executor,
        )  # fmt: skip
        self._home_stops = True
        self._draining: Draining | None = None

    def _listener(self, address: Listenable, **options: Any) -> Listener:
        parts = self.parts
        more = self._oversight.pages() if self._oversight is not None else {}
        return Listener(
            address, limits=parts.limits, timeouts=parts.timeouts, observer=parts.observer, **{
                "tls": parts.tls, "decide": parts.endpoints.decide, "serve": self._serve,
                "http": parts.endpoints.page(pages(ready=lambda: self.ready, mount=parts.mount, more=more)),
                "doors": parts.doors,
                "make_place": parts.login.make_place if parts.login is not None else lambda: False,
            } | options,
        )  # fmt: skip

    def start(self) -> None:
        """Start the hub's thread and begin to listen there; `started` tells the outcome."""
        self.home.on_fork = self._leave
        self.home.start()
        atexit.register(self._exit)
        self._starter = self.home.run(gevent.spawn, self._start)

    def close(self, seconds: float, alternates: Collection[str] = ()) -> None:
        """Begin to close, unless that was begun; from any thread and any signal handler. `stopped` tells the end.

        Args:
            seconds: For calls in progress.
            alternates: URLs that peers are told to dial instead.
        """
        if not self.home.inherited and self._claim_end():
            self.home.post(gevent.spawn, self._shut_down, seconds, tuple(alternates))

    def in_hub(self, act: Callable[..., object], *args: object) -> None:
        """Let its hub do something soon that does not wait; from any thread. Nothing happens once it has ended."""
        if not self.home.inherited and not self.stopped.done:
            self.home.post(act, *args)

    @property
    def cut_off(self) -> int:
        """Calls that were in progress when their time was up; final when it has stopped."""
        return 0 if self._draining is None else self._draining.cut_off

    def wait_stopped(self) -> None:
        """Wait until everything has ended, its thread included; that one outlives a handler's that cannot be ended."""
        if not self.home.inherited:
            self.stopped.wait()
            if self._home_stops:
                self.home.stop()

    @property
    def state(self) -> str:
        """What it is doing, in words."""
        if self.stopped.done:
            return "closed"
        if self.closing:
            return "closing"
        if not self.started.done:
            return "not started"
        welcome = sum(map(self.parts.is_welcome, tuple(self.parts.connections.values())))
        return f"at {self.listener.address} connections={welcome}"

    def _exit(self) -> None:
        """The process ends and nobody has closed: say goodbye to the peers, as far as that is quick."""
        if not self.home.inherited:
            self.close(0)
            with suppress(TimeoutError):
                self.stopped.wait(EXIT_TIMEOUT)
            self.home.stop()  # joins its thread: one that ends together with the interpreter can crash it

    def _claim_end(self) -> bool:
        """Whether the caller is the one to end it. Atomic without a lock, which a signal handler could not take."""
        try:
            return self._end_unclaimed.pop()
        except IndexError:
            return False

    @property
    def ready(self) -> bool:
        """Whether new work is welcome: it is not closing, and its engine can be reached."""
        return not self.closing and self.parts.topics.up

    # --------------------------------------------------- in the hub from here on

    def _start(self) -> None:
        try:
            self._begin_parts()
        except Exception as error:  # the supervisor's edge: who awaits the start must learn of it
            self._not_started(error)
            return
        self.started.succeed(None)
        logger.info("listening", extra={"address": self.listener.address, "tls": self.parts.tls is not None})

    def _begin_parts(self) -> None:
        parts, extensions = self.parts, self.parts.registered.extensions
        parts.topics.connect()
        if not extensions:
            parts.topics.start()
        # An engine that lives in the mesh needs links first, and those the address.
        self.listener.start()
        self._guard_hosts()
        parts.pulse.start()
        if self.watch is not None:
            self.watch.start()
        for extension in extensions:
            extension.start(self)
        if extensions:
            parts.topics.start()
        parts.wills.start()

    def _not_started(self, error: Exception) -> None:
        for listener in self._listeners:
            listener.stop_accepting()
        self.parts.pulse.stop()
        self.parts.topics.stop()
        claimed = self._claim_end()
        if claimed:
            self.parts.keyed.close(self.parts.timeouts.close)
            self._stopped()
        self.started.fail(error)
        if claimed:
            self.home.stop()

    def _guard_hosts(self) -> None:
        """Where only this machine gets in, a web page must not bring others in by a name of its own (DNS rebinding)."""
        if self.listener.port is not None and is_loopback_host(self.listener.address):
            self.parts.endpoints.local_names = () if self._host is None else (self._host,)
            if self.parts.endpoints.any_host:
                logger.warning("any web page can reach this server", extra={"allowed_hosts": "*"})

    def _stopped(self) -> None:
        atexit.unregister(self._exit)
        if self._oversight is not None:
            self._oversight.leave()
        self.stopped.succeed(None)

    def _shut_down(self, seconds: float, alternates: tuple[str, ...]) -> None:
        self.closing = True
        count = len(self.parts.connections)
        self._draining = draining = Draining(self.parts, seconds, alternates)
        try:
            self._end_start()
            self.listener.leave_to_others()
            # Else the address is still listened on: new peers, and whoever probes, are told in so many words.
            self.parts.endpoints.closing = not self.listener.shared
            self.parts.sessions.end_away()
            self._tell_extensions(lambda extension: extension.drain())
            self.parts.endpoints.closing = True
            draining.say_goodbye()
            draining.finish_calls()
            for listener in self._listeners:
                listener.stop_accepting()
            draining.close_connections()
            self._end_parts(Deadline(self.parts.timeouts.close), draining)
        finally:
            if self.watch is not None:
                self.watch.stop()
            self._home_stops = stop_home(self.home, *self._executors)
            self._stopped()
        logger.info("closed", extra={"connections": count, "cut_off": draining.cut_off})

    def _tell_extensions(self, tell: Callable[[Extension], None]) -> None:
        for extension in self.parts.registered.extensions:
            try:
                tell(extension)
            except Exception as error:  # a supervisor's edge: the others, and the end, must not suffer for it
                logger.error("an extension failed", exc_info=error, extra={"extension": repr(extension)})

    def _end_start(self) -> None:
        if self._starter is not None:
            self._starter.kill()
        self.started.fail(LocalProtocolError("the server was closed before it had started"))

    def _end_parts(self, deadline: Deadline, draining: Draining) -> None:
        """End what has not ended by itself at *deadline*."""
        parts = self.parts
        extended = bool(parts.registered.extensions)
        if extended:  # what follows may need the links that they keep
            draining.await_others(deadline.remaining() or 0.0)
        else:
            self._close_listeners(deadline.remaining() or 0.0)
        parts.sessions.close()
        parts.dispatcher.stop(parts.timeouts.close)
        parts.wills.stop(deadline.remaining() or LAST_CHANCE)
        parts.topics.end_local(deadline.remaining() or LAST_CHANCE)
        parts.topics.stop()
        if extended:
            self._tell_extensions(lambda extension: extension.stop())
            draining.close_kept()
            self._close_listeners(deadline.remaining() or LAST_CHANCE)
        parts.pulse.stop()
        parts.keyed.close(deadline.remaining() or LAST_CHANCE)
        for executor in self._executors:
            executor.close(deadline.remaining() or LAST_CHANCE)

    @property
    def _listeners(self) -> tuple[Listener, ...]:
        return self.listener, *self._doors

    def _close_listeners(self, seconds: float) -> None:
        for listener in self._listeners:
            listener.close(seconds)

    def open_door(self, address: TcpAddress | UnixAddress, identity: Identity | None = None) -> Listener:
        """Listen at a further address, until the end.

        Args:
            identity: Who all count as that come there, where it is none of the program's business; `None` for peers
                like all others.

        Raises:
            ListenFailed, ConfigurationError: It cannot be listened on.
        """
        options: dict[str, Any] = {}
        if identity is not None:
            if isinstance(address, UnixAddress):
                self.parts.private_folder = f"unix:{os.path.dirname(address.path)}/"
            options = {
                "tls": None, "doors": None,
                "decide": lambda request, address, certificate: self.parts.endpoints.decide_private(request, identity),
                "serve": self._serve_private,
            }  # fmt: skip
        listener = self._listener(address, **options)
        listener.start()
        self._doors.append(listener)
        return listener

    def _serve_private(self, upgraded: Upgraded) -> int | None:
        """As `_serve`; the program does not hear of it."""
        connection = self._made(upgraded, dialled=False)
        connection.identity = upgraded.identity
        self._be_mesh(connection, upgraded.decision)  # type: ignore[arg-type]
        self._live(connection)
        return None

    def _serve(self, upgraded: Upgraded) -> int | None:
        """One connection's life, in the greenlet that holds its place; the code that it closed with."""
        parts = self.parts
        connection = self._made(upgraded, dialled=False)
        if isinstance(upgraded.decision, AbstractMessageSerializer):
            self._be_mesh(connection, upgraded.decision)
        else:
            connection.be_plain()
        try:
            self._begin(connection)
            if parts.login is not None:
                parts.login.begin(connection)
            if parts.is_welcome(connection):
                parts.welcome(connection)
            if self._draining is not None:
                self._draining.admit(connection)
            self._converse(connection, upgraded.decision)
        finally:
            self._end(connection)
            if not self.home.inherited and parts.is_welcome(connection):
                why = connection.close_reason or ConnectionClosed()
                parts.callbacks.tell(parts.registered.closed, connection, why)
        return None if connection.close_reason is None else connection.close_reason.code

    def loop(
        self, serializer: Callable[[], AbstractMessageSerializer], identity: Identity | None
    ) -> WebSocketConnection:
        """A connection of this server to itself, for what is served to others to be called in the same way.

        Args:
            serializer: Makes one for each of its ends.
        """
        ours, theirs = (
            Upgraded(end, None, None, [], b"", OWN_ADDRESS, None)
            for end in gevent.socket.socketpair()
        )
        self.adopt(theirs, serializer(), identity, dialled=False)
        return self.adopt(ours, serializer(), identity)

    def adopt(
        self, upgraded: Upgraded, serializer: AbstractMessageSerializer, identity: Identity | None, *,
        dialled: bool = True,
    ) -> WebSocketConnection:  # fmt: skip
        """A connection that was dialled from here, served like those that came: its peer may call the same routes. It
        is read in a greenlet of its own; `on_connect` and `on_disconnect` do not hear of it.

        Args:
            identity: Who the peer counts as, where peers must log in: it need not.
        """
        connection = self._made(upgraded, dialled=dialled)
        connection.identity = identity
        self._be_mesh(connection, serializer)
        gevent.spawn(self._live, connection)
        return connection

    def _live(self, connection: WebSocketConnection) -> None:
        try:
            self._begin(connection)
            connection.run()
        finally:
            self._end(connection)

    def _made(self, upgraded: Upgraded, *, dialled: bool) -> WebSocketConnection:
        parts = self.parts
        return WebSocketConnection(
            upgraded, parts.home, limits=parts.limits, timeouts=parts.timeouts, observer=parts.observer,
            dialled=dialled, service=parts.service, slow_peer=parts.slow_peer,
        )  # fmt: skip

    def _be_mesh(self, connection: WebSocketConnection, serializer: AbstractMessageSerializer) -> None:
        connection.converse(serializer, self.parts.dispatcher)
        connection.topics = self.parts.topics.on_behalf

    def _begin(self, connection: WebSocketConnection) -> None:
        self.parts.connections[connection.id] = connection
        self.parts.observer.connection_opened(connection)

    def _end(self, connection: WebSocketConnection) -> None:
        parts = self.parts
        with suppress(ConnectionClosed, LocalProtocolError):  # the hub's end, at that of the process; a fork
            connection.abort(1011, "internal error")  # nothing, unless its greenlet was ended from outside
        parts.connections.pop(connection.id, None)
        parts.topics.closed(connection)
        if parts.login is not None:
            parts.login.forget(connection)
        for extension in parts.registered.extensions:
            extension.ended(connection)

    def _leave(self, alive: bool) -> None:
        """In a forked child: all of it is the parent's, which goes on with it."""
        for listener in self._listeners:
            listener.leave(alive=alive)
        for connection in self.parts.connections.values():
            connection.leave()
        if alive:
            self.parts.dispatcher.stop(0)
            self.parts.pulse.stop()

    def _converse(self, connection: WebSocketConnection, decision: object) -> None:
        if connection.is_mesh:
            connection.run()
        elif not connection.open:
            connection.run_plain()  # to its end: `on_connect` has turned it away
        else:
            match: Match = decision  # type: ignore[assignment]
            self.parts.plain.serve(connection, match)
