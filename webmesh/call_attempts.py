"""A client's call, sent as often as it needs and may.

Decides how the deadline is shared among attempts, and which error is raised when there is no further one. What may be
sent again, and how much of it, is `retries`'; the connection is `client_link`'s.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from contextvars import Context, copy_context
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, TypeAlias

import gevent

from webmesh.call import CURRENT, Call, follow_current
from webmesh.deadline import Deadline, finite
from webmesh.exceptions import ConnectionClosed, RequestTimeout, TransportError
from webmesh.observer import Observer
from webmesh.options import RetryBudget
from webmesh.retries import ATTEMPTS, RETRIABLE, RetryTokens, exhausted, retry_delay, retry_reason, surely_not_begun
from webmesh.websocket.future import Future
from webmesh.websocket.hub import Completion, HubThread

if TYPE_CHECKING:
    from webmesh.client_link import ClientLink
    from webmesh.known_routes import KnownRoutes
    from webmesh.websocket.websocket_connection import WebSocketConnection

Send: TypeAlias = "Callable[[WebSocketConnection, float], Any]"
"""Sends a call on a connection, with so many seconds left, and waits for its end."""


@dataclass(frozen=True, slots=True)
class Terms:
    """What a caller has said of one call."""

    idempotent: bool | None
    """`None`: as the route says."""
    fail_fast: bool
    keyed: bool = False


class CallAttempts:
    """Sends calls of one client.

    Args:
        budget: `None` sends nothing twice.
    """

    def __init__(
        self, link: ClientLink, routes: KnownRoutes, budget: RetryBudget | None, observer: Observer
    ) -> None:
        self._link = link
        self._routes = routes
        self._tokens = None if budget is None else RetryTokens(budget)
        self._observer = observer
        self._counted = 0

    def run(
        self,
        send: Send,
        path: str,
        deadline: Deadline,
        terms: Terms,
        connection: WebSocketConnection | None = None,
        error: Exception | None = None,
    ) -> Any:
        """What *send* returns, after as many attempts as are needed and allowed.

        Args:
            connection: The one to begin with; `None` waits for one.
            error: What the first attempt has ended with, if there was one.

        Raises:
            RequestTimeout, ConnectFailed, LinkRefused, ConnectionClosed: Nothing could be sent.
        """
        attempt = 1
        while True:
            if error is not None:
                self._pause(error, attempt, path, deadline, terms, connection)
                attempt += 1
                connection = None  # it may be that of a server that has said goodbye, and is open for what it began
            if connection is None or not connection.open:
                connection = self._next(path, deadline, terms, error)
            try:
                return send(connection, deadline.remaining() or 0.0)
            except ConnectionClosed:
                error = None  # it ended since that look, and nothing was sent
            except RETRIABLE as failure:
                error = failure

    def connection(self, path: str, deadline: Deadline, terms: Terms) -> WebSocketConnection:
        """The open connection, as soon as there is one.

        Raises:
            RequestTimeout, ConnectFailed, LinkRefused, ConnectionClosed: There was none in time, or there will be none.
        """
        connection = self._link.keeper.connection
        if connection is not None and connection.open:
            return connection
        if deadline.expired:
            raise RequestTimeout(path, 0.0)
        return self._link.wait(deadline.remaining() or 0.0, fail_fast=terms.fail_fast)

    def _next(self, path: str, deadline: Deadline, terms: Terms, error: Exception | None) -> WebSocketConnection:
        try:
            return self.connection(path, deadline, terms)
        except (TransportError, RequestTimeout) as failed:
            if error is not None:  # what became of the call is the graver news
                raise error from failed
            raise

    def _pause(
        self,
        error: Exception,
        attempt: int,
        path: str,
        deadline: Deadline,
        terms: Terms,
        connection: WebSocketConnection | None,
    ) -> None:
        """Wait before the next attempt, or raise *error* if there is to be none."""
        tokens = self._tokens
        if tokens is None or self._link.closed:
            raise error
        reason = retry_reason(error, repeatable=self.repeatable(path, terms))
        if reason is None:
            raise error if attempt == 1 else exhausted(error)
        if attempt >= ATTEMPTS:
            raise exhausted(error)
        self._count(connection, tokens)
        moved = self._link.keeper.connection is not connection  # so the next attempt is no concern of who refused this
        delay = retry_delay(None if moved else getattr(error, "retry_after", None), attempt, random.random)
        left = deadline.remaining()
        if not tokens.failed() or (left is not None and delay >= left):
            raise exhausted(error)
        self._observer.call_retried(path, reason)
        pause = Completion[None]()  # not gevent's sleep, which would make a hub for a thread that has none
        follow_current(pause)
        with suppress(TimeoutError):
            pause.wait(delay)

    def repeatable(self, path: str, terms: Terms) -> bool:
        """Whether a call may be sent again although it may have run."""
        if terms.idempotent is None:
            return terms.keyed or self._routes.idempotent(path)
        return terms.keyed or terms.idempotent

    def _count(self, connection: WebSocketConnection | None, tokens: RetryTokens) -> None:
        """Give back for the calls made since the last look: counted here, not at each call."""
        if connection is not None:
            total = connection.requests[0]
            tokens.made(total - self._counted if total >= self._counted else total)
            self._counted = total

    def spawned(
        self, send: Send, path: str, deadline: Deadline, terms: Terms, connection: WebSocketConnection
    ) -> Completion[Any] | None:
        """For the end of a call that is being sent on *connection* and not waited for: where it was not begun, *send*
        begins it anew. `None` where nothing is sent twice."""
        if self._tokens is None:
            return None
        call = (send, path, deadline, terms, connection)
        return Spawned(self._link.home.hub, partial(self._begin_anew, copy_context(), call))

    def _begin_anew(self, context: Context, call: tuple[Any, ...], spawned: Spawned, error: BaseException) -> None:
        """In the hub."""
        failed = None if isinstance(error, ConnectionClosed) else error
        job = gevent.spawn(context.run, _fulfil, spawned, lambda: self.run(*(*call, failed)))
        self._link.home.oversee(spawned)
        spawned.when_done(lambda: job.kill(block=False))

    def spawn(
        self,
        send: Send,
        path: str,
        deadline: Deadline,
        seconds: float | None,
        terms: Terms,
        connection: WebSocketConnection,
    ) -> Future:
        """`run` in a greenlet of the client's hub, with a future for its result."""
        return in_background(
            self._link.home, partial(self.run, send, path, deadline, terms, connection), path, deadline, seconds
        )


class Spawned(Completion[Any]):
    """The end of a call that nobody may be waiting for.

    Args:
        again: Sees to it, when an attempt has ended without the call being begun; at most once, in the hub.
    """

    __slots__ = ("_again",)

    def __init__(self, hub: Any, again: Callable[[Spawned, BaseException], None]) -> None:
        super().__init__(hub)
        self._again: Callable[[Spawned, BaseException], None] | None = again

    def succeed(self, value: Any) -> None:
        """The reply."""
        self._again = None  # it holds the payload
        super().succeed(value)

    def fail(self, error: BaseException) -> None:
        """What came instead of it, unless it is sent again for that."""
        again, self._again = self._again, None
        if again is not None and not self.done and surely_not_begun(error):
            again(self, error)
        else:
            super().fail(error)


def in_background(
    home: HubThread, function: Callable[[], Any], path: str, deadline: Deadline, seconds: float | None
) -> Future:
    """Run *function*, which makes a call, in a greenlet of *home*, with a future for its result."""
    completion: Completion[Any] = Completion(home.hub)
    home.oversee(completion)
    context, jobs = copy_context(), []

    def start() -> None:  # there, since a greenlet belongs to the hub in which it is made
        jobs.append(gevent.spawn(context.run, _fulfil, completion, function))

    def kill() -> None:
        gevent.killall(jobs, block=False)

    future = Future(path, completion, deadline, seconds, lambda: home.post(kill))
    home.post(start)
    home.post(future.expire_later, home)
    handled = CURRENT.get()
    if handled is not None and not home.inside():  # as `WebSocketConnection.start_call`
        handled.follow(future)
    return future


def _fulfil(completion: Completion[Any], function: Callable[[], Any]) -> None:
    try:
        completion.succeed(function())
    except gevent.GreenletExit:
        raise  # by the future, which has its result
    except BaseException as error:  # whoever waits must see it
        completion.fail(error)


def call_deadline(path: str, seconds: float) -> Deadline:
    """The end of a call of so many seconds that is made now; not after that of the call that is being handled here.

    Raises:
        RequestTimeout: It has come.
    """
    seconds, now = finite(seconds), time.monotonic()
    handled = CURRENT.get()
    own = None if handled is None else handled.deadline
    deadline = own if own is not None and own.at < now + seconds else Deadline(seconds)
    if deadline.at <= now:
        raise RequestTimeout(path, seconds)
    return deadline


def call_on(
    path: str, payload: Any, headers: Mapping[str, str] | None, connection: WebSocketConnection, seconds: float
) -> Any:
    """A `Send` for this call."""
    return connection.call(path, payload, timeout=seconds, headers=headers)


def send_call(call: Call, connection: WebSocketConnection, seconds: float) -> Any:
    """A `Send` for a call that middleware has seen."""
    call.connection = connection  # the middleware around it may look
    return connection.call(call.path, call.payload, timeout=seconds, headers=dict(call.headers) or None)
