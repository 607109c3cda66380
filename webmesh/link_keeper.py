"""What keeps a client's link up: dials, looks after the connection's end, and dials again.

Everything here runs in the client's hub. Decides when the next attempt begins and when there is none; what an end means
is `protocol.comeback`, which address comes next is `websocket.dial_rounds`. Threads and the end are `client_link`'s.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Protocol

import gevent
from gevent import getcurrent
from gevent.event import Event

from webmesh.deadline import Deadline
from webmesh.exceptions import (
    ConfigurationError, ConnectFailed, ConnectionClosed, HandshakeRejected, LinkRefused, TransportError, WebMeshError,
)  # fmt: skip
from webmesh.lanes import Lanes
from webmesh.link_states import LinkEvent, LinkStates
from webmesh.protocol.backoff import BackoffSeries
from webmesh.protocol.comeback import Comeback, after_close, after_failure
from webmesh.websocket.upgraded import Upgraded

if TYPE_CHECKING:
    from webmesh.websocket.websocket_connection import WebSocketConnection

RETIRE_INTERVAL = 0.05
"""Seconds between two looks whether a connection that new calls have left is idle and can be closed."""


class Rounds(Protocol):
    """See `websocket.dial_rounds.DialRounds`."""

    url: str

    @property
    def alone(self) -> bool:
        """Whether there is only one URL."""

    @property
    def asked(self) -> float | None:
        """Seconds that all servers asked to wait."""

    def dial(self, seconds: float) -> Upgraded:
        """A connection within so many seconds."""

    def leave(self) -> None:
        """Another address first."""

    def suggest(self, urls: Sequence[object]) -> bool:
        """These first, once."""


class Greeter(Protocol):
    """Says hello on each new connection, before anybody else may use it."""

    def greet(self, connection: WebSocketConnection, seconds: float) -> Any:
        """Whatever has attributes `resumed` and `refused_wills`; raises what makes the attempt a failure."""

    def lost(self, connection: WebSocketConnection, why: ConnectionClosed) -> None:
        """A connection that was greeted has ended."""

    def ended(self, error: Exception) -> None:
        """There will be no further one, unless the program asks for it."""


class LinkKeeper:
    """At most one open connection at a time for all who use the client.

    Args:
        rounds: Dials.
        made: Makes a connection of what was dialled, and has it read.
        greeter: `None` says no hello.
        series: `None` dials only for those who ask, once for each.
        seconds: For each attempt that nobody waits for.
        on_open: Called with each connection that may be used from now on; must not wait.
        on_give_up: Called when nothing is dialled any more unless somebody asks, with what makes the reason.

    Attributes:
        connection: The one to be used; open or not, `None` while there is none.
        stopped: Whether nothing is to be dialled any more.
    """

    def __init__(
        self,
        rounds: Rounds,
        made: Callable[[Upgraded], WebSocketConnection],
        greeter: Greeter | None,
        series: BackoffSeries | None,
        states: LinkStates,
        *,
        seconds: float,
        clock: Callable[[], float] = time.monotonic,
        on_open: Callable[[WebSocketConnection], object] = lambda connection: None,
        on_give_up: Callable[[Callable[[], Exception]], object] = lambda refusal: None,
    ) -> None:
        self.connection: WebSocketConnection | None = None
        self.stopped = False
        self._rounds = rounds
        self._made = made
        self._greeter = greeter
        self._series = series
        self._states = states
        self._seconds = seconds
        self._clock = clock
        self._on_open = on_open
        self._on_give_up = on_give_up
        self._lane = Lanes()
        self._dialler: Any = None
        self._greenlet: gevent.Greenlet[[bool], None] | None = None
        self._retiring: dict[WebSocketConnection, gevent.Greenlet[[WebSocketConnection], None]] = {}
        self._ever_connected = False
        self._comeback = Comeback("first use")
        self._error: Exception | None = None
        self._refusal: Callable[[], Exception] | None = None
        self._waiting = 0
        self._moved = False  # by a goodbye, since there was a stable connection
        self._next_at = 0.0  # when the background's next attempt is due
        self._settled = Event()
        """Set while there is a connection, or none will come: those who wait look again."""
        self._hurry = Event()
        """Set to cut a delay short."""

    @property
    def busy(self) -> int:
        """How many are at it at the moment: who dials, and who waits."""
        return len(self._lane) + self._waiting

    # ------------------------------------------------------------------ asking

    def connect(self, seconds: float) -> WebSocketConnection:
        """The open connection; dialled now, whatever was decided before, where there is none.

        Raises:
            ConnectFailed, HandshakeRejected, ConfigurationError, LinkRefused: There is none.
            ConnectionClosed: The client was closed.
        """
        deadline = Deadline(seconds)
        patience = gevent.Timeout.start_new(seconds)
        try:
            with self._lane.turn("dial"):
                patience.close()
                connection = self._present()
                return connection if connection is not None else self._dial(deadline)
        except gevent.Timeout as expired:
            if expired is not patience:
                raise
            text = f"another attempt had not ended within {seconds:g} s"
            raise ConnectFailed(self._rounds.url, [text]) from None
        finally:
            patience.close()

    def wait(self, seconds: float, *, fail_fast: bool) -> WebSocketConnection:
        """The open connection, as soon as there is one.

        Raises:
            ConnectFailed: There was none in time; or with *fail_fast*, there is none now and it is being worked on.
            LinkRefused: There will be none.
            ConnectionClosed: The client was closed.
        """
        if self._series is None or (fail_fast and self._greenlet is None and self._refusal is None):
            return self._connect_once(min(seconds, self._seconds))
        deadline = Deadline(seconds)
        self._waiting += 1
        try:
            while (connection := self._present()) is None:
                self._check()
                self._keep_up()
                if fail_fast or not self._settled.wait(deadline.remaining()):
                    now = "there is no connection now" if fail_fast else f"no connection within {seconds:.3g} s"
                    raise self._not_there(now)
            return connection
        finally:
            self._waiting -= 1

    def _connect_once(self, seconds: float) -> WebSocketConnection:
        try:
            return self.connect(seconds)
        except TransportError:
            if self._wanted() and self._series is not None:
                self._keep_up(at_once=False)
            raise

    def _present(self) -> WebSocketConnection | None:
        connection = self.connection
        if connection is None or connection.open:
            return connection
        self.ended(connection)  # it is closing, and what it still waits for is nobody's concern
        return None

    def _check(self) -> None:
        if self.stopped:
            raise ConnectionClosed(1000, "the client was closed")
        if self._refusal is not None:
            raise self._refusal()

    def _not_there(self, now: str) -> ConnectFailed:
        attempts = getattr(self._error, "attempts", None) or [str(self._error)] if self._error is not None else []
        failed = ConnectFailed(str(self._rounds), [f"{now} ({self._comeback.reason})", *attempts])
        failed.__cause__ = self._error
        return failed

    # ----------------------------------------------------------------- dialling

    def _keep_up(self, *, at_once: bool = True) -> None:
        """Have a connection dialled, if that is not being done."""
        self._settled.clear()
        if self._greenlet is None and not self.stopped:
            self._greenlet = gevent.spawn(self._run, at_once)

    def _run(self, at_once: bool) -> None:
        try:
            while self._wanted():
                if not at_once and not self._delay():
                    continue
                at_once = False
                with suppress(WebMeshError):
                    self.connect(self._seconds)
        finally:
            self._greenlet = None

    def _wanted(self) -> bool:
        return self.connection is None and self._refusal is None and not self.stopped

    def _delay(self) -> bool:
        """Wait until the next attempt; whether there is to be one."""
        series = self._series
        assert series is not None, "without one nothing is dialled in the background"
        if series.over(self._clock()):
            self._give_up("given up", lambda: self._not_there("given up, connect() tries anew"))
            return False
        delay = series.next_delay(self._comeback.asked if self._rounds.alone else self._rounds.asked)
        self._next_at = self._clock() + delay
        self._tell_waiting(delay)
        self._hurry.clear()
        self._hurry.wait(delay)
        return self._present() is None

    def _tell_waiting(self, delay: float) -> None:
        attempt = 0 if self._series is None else self._series.attempt
        self._tell("waiting", self._comeback.reason, error=self._error, delay=delay, attempt=attempt)

    def _dial(self, deadline: Deadline) -> WebSocketConnection:
        if self.stopped:
            raise ConnectionClosed(1000, "the client was closed")
        self._dialler = getcurrent()
        self._refusal = None
        ended = False
        try:
            self._tell("connecting", self._comeback.reason)
            connection, greeted = self._attempt(deadline)
            ended = True
        except gevent.GreenletExit:
            if self.stopped:  # `stop` has thrown it
                raise ConnectionClosed(1000, "the client was closed") from None
            raise
        except Exception as error:
            ended = True
            if not isinstance(error, WebMeshError):
                # Of the program's own, as of what makes tokens: its text may quote one. The cause has it all.
                told = ConnectFailed(self._rounds.url, [type(error).__name__])
                told.__cause__ = error
                self._failed(told, cause=error)
                raise told from error
            self._failed(error)
            if self._refusal is not None and not isinstance(error, HandshakeRejected | ConfigurationError):
                raise self._refusal() from error
            raise
        finally:
            self._dialler = None
            if not ended:  # by whoever waited for it
                self._tell("lost", "the attempt was given up")
        self._opened(connection, **greeted)
        return connection

    def _attempt(self, deadline: Deadline) -> tuple[WebSocketConnection, dict[str, Any]]:
        """Dial and greet; with what a `LinkEvent` says of the latter."""
        connection = self._made(self._rounds.dial(deadline.remaining() or 0.0))
        if self._greeter is None:
            return connection, {}
        greeted = False
        try:
            greeting = self._greeter.greet(connection, deadline.remaining() or 0.0)
            greeted = connection.open
        finally:
            if not greeted:
                connection.close(1000, timeout=0)
        if not greeted:
            raise connection.ending or ConnectionClosed()
        return connection, {"resumed": bool(greeting.resumed), "refused_wills": tuple(greeting.refused_wills)}

    def _opened(self, connection: WebSocketConnection, **greeted: Any) -> None:
        if self._series is not None:
            self._series.opened(self._clock())
        self._ever_connected = True
        self._error = None
        self.connection = connection
        self._tell("connected", self._comeback.reason, **greeted)
        self._settled.set()
        self._hurry.set()
        self._on_open(connection)

    def _failed(self, error: Exception, cause: Exception | None = None) -> None:
        self._error = error
        self._comeback = after_failure(cause or error, ever_connected=self._ever_connected)
        if self._series is not None:
            self._series.failed(self._clock())
        if self._comeback.final:
            self._refuse(error)
        elif self._greenlet is None:
            self._tell("lost", self._comeback.reason, error=error)
        elif self._greenlet is not getcurrent():
            self._tell_waiting(max(0.0, self._next_at - self._clock()))  # still, for the next one in the background

    # -------------------------------------------------------------------- ending

    def ended(self, connection: WebSocketConnection) -> None:
        """A connection that `made` has made is closing or has ended."""
        retiring = self._retiring.pop(connection, None)
        if retiring is not None:
            retiring.kill(block=False)  # it may sleep for longer than the hub lives
        why = connection.ending or ConnectionClosed()
        if connection is not self.connection:
            return
        self.connection = None
        self._settled.clear()
        self._comeback = after_close(why.code)
        self._error = why
        if self._series is not None and self._series.ended(self._clock()):
            self._moved = False
        if self.stopped:
            return
        self._tell("lost", self._comeback.reason, error=why)
        if self._comeback.elsewhere:
            self._rounds.leave()
        if self._greeter is not None:
            self._greeter.lost(connection, why)
        if self._comeback.final:
            self._refuse(why)
        elif self._series is not None:
            self._keep_up(at_once=False)
        else:
            self._on_give_up(lambda: ConnectionClosed(why.code, why.reason))

    def goodbye(self, connection: WebSocketConnection, payload: object) -> None:
        """The server goes: what comes from now on goes elsewhere, what is open may end where it is."""
        if connection is not self.connection or self.stopped or self._series is None:
            return
        alternates = payload.get("alternates") if isinstance(payload, dict) else None
        self._rounds.leave()
        better = isinstance(alternates, list) and self._rounds.suggest(alternates)
        self._comeback = Comeback("goodbye of the server", elsewhere=True)
        self._error = None
        self.connection = None
        self._retiring[connection] = gevent.spawn(self._retire, connection)
        if self._series.ended(self._clock()):
            self._moved = False
        # Where this is the only address, it is that of a server that takes nobody in for the moment. And servers that
        # send us away one after another, or to and fro, are dialled ever more slowly.
        at_once = not self._moved and (better or not self._rounds.alone)
        self._moved = True
        self._keep_up(at_once=at_once)

    def _retire(self, connection: WebSocketConnection) -> None:
        while connection.open:
            gevent.sleep(RETIRE_INTERVAL)  # first: whoever has just taken it for a call may not have sent it yet
            if not connection.requests[1]:
                connection.close(1000, timeout=0)

    def _refuse(self, cause: Exception) -> None:
        url, reason = self._rounds.url, self._comeback.reason
        status, code = getattr(cause, "status", 0), getattr(cause, "code", 0)

        def refusal() -> Exception:
            refused = LinkRefused(url, reason, status=status, code=code if isinstance(code, int) else 0)
            refused.__cause__ = cause
            return refused

        self._give_up(reason, cause_of(cause) if isinstance(cause, ConfigurationError) else refusal)

    def _give_up(self, reason: str, refusal: Callable[[], Exception]) -> None:
        self._refusal = refusal
        if self._series is not None:
            self._series.reset()
        error = refusal()
        self._tell("gave_up", reason, error=error)
        self._settled.set()
        if self._greeter is not None:
            self._greeter.ended(error)
        self._on_give_up(refusal)

    def stop(self) -> None:
        """Dial no more. Whoever waits is told that the client was closed; returns when they have been."""
        self.stopped = True
        self._settled.set()
        self._hurry.set()
        while self.busy or self._greenlet is not None:
            dialler = self._dialler
            if dialler is not None:
                gevent.get_hub().loop.run_callback(self._interrupt, dialler)
            gevent.sleep(0)
        gevent.killall(list(self._retiring.values()), block=False)  # whoever stops closes those connections, too
        if self._greeter is not None:
            self._greeter.ended(ConnectionClosed(1000, "the client was closed"))

    def _interrupt(self, dialler: Any) -> None:
        if dialler is self._dialler:
            dialler.throw(gevent.GreenletExit)

    def leave(self) -> None:
        """In a forked child, where the hub lives on: nothing is dialled there."""
        self.stopped = True
        if self._greenlet is not None:
            self._greenlet.kill(block=False)

    def _tell(self, state: str, reason: str, **details: Any) -> None:
        self._states.change(LinkEvent(state=state, reason=reason, url=self._rounds.url, **details))


def cause_of(error: Exception) -> Callable[[], Exception]:
    """Makes *error* anew for each who gets it: every raise adds to a traceback, which would grow."""
    return lambda: type(error)(*error.args)
