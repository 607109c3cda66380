"""`WebMeshClient`: one connection to a server, shared by all greenlets and threads of a program.

Composes; decides what middleware sees. The connection lives in a thread of the client's own (in a patched
process: in greenlets of the one hub); see `client_link`, and `link_keeper` for how it is kept up. For users:
docs/CLIENT.md.
"""

from __future__ import annotations

import os
import ssl
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from types import TracebackType
from typing import Any, TypeVar

from webmesh.call import IDEMPOTENCY_KEY, NO_HEADERS, Call, CallNext, Middleware, chained, check_callable
from webmesh.call_attempts import CallAttempts, Send, Terms, call_deadline, call_on, send_call
from webmesh.client_link import ClientLink
from webmesh.client_session import ClientSession, TokenSource, made_token
from webmesh.client_topics import ClientTopics
from webmesh.deadline import Deadline, finite
from webmesh.exceptions import ConfigurationError, ConnectionClosed
from webmesh.known_routes import KnownRoutes
from webmesh.link_states import LinkEvent
from webmesh.message_serializers import AbstractMessageSerializer, MessagePackSerializer, subprotocol
from webmesh.observer import NO_OBSERVER, Observer, guarded
from webmesh.options import Backoff, Limits, RetryBudget, Timeouts
from webmesh.processes import is_patched
from webmesh.protocol.deflate import BoundedDeflate
from webmesh.retries import RETRIABLE
from webmesh.route_options import read_options
from webmesh.routing import Router
from webmesh.topic_client import TopicClient
from webmesh.version import VERSION
from webmesh.websocket.asking import keyed
from webmesh.websocket.dial_rounds import DialRounds
from webmesh.websocket.dialer import dial
from webmesh.websocket.future import Future
from webmesh.websocket.item_stream import ItemStream
from webmesh.websocket.outgoing import Policy, checked_policy
from webmesh.websocket.upgraded import Upgraded
from webmesh.websocket.websocket_connection import WebSocketConnection

F = TypeVar("F", bound=Callable[..., Any])


class WebMeshClient(TopicClient):
    """Calls a server, and answers it: peers are symmetric.

    Dials at the first use, or with `connect`, and from then on keeps the connection up by itself. Calls made while
    there is none wait for it, within their own time.

    Args:
        url: `ws://host:port`, `wss://host:port`, or `ws+unix:///path/of/socket`; or several, the preferred first,
            that are tried in turn.
        serializer_type: A class, not an instance; the server must know it.
        tls: For wss; `None` verifies the server by the system's authorities. See `client_context`.
        headers: Further headers of the upgrade request, as Authorization.
        name: This program's service name, told along with its calls.
        compression: Offer permessage-deflate.
        backoff: The delays between attempts to connect, and when to give up.
        reconnect: False dials once for each use that finds no connection, and never in the background.
        fail_fast: True lets what is called while there is no connection fail at once.
        retries: How many calls may be sent again; `None` for none, ever.
        watchdog: Tell of handlers that hold the hub for longer than `Timeouts.hub_hold`.
        slow_peer: What `notify` does while the server does not keep up; as `WebMeshServer`.
        token: To log in with, or a function that makes one, called for each login and each renewal.
        session: False says no `$hello`: streams end with their connection then, what the server keeps is lost with it,
            and a token goes into the upgrade's header `Authorization: Bearer`.

    Raises:
        ConfigurationError: The URL or the serializer cannot be used.
    """

    def __init__(
        self,
        url: str | Sequence[str],
        *,
        serializer_type: type[AbstractMessageSerializer] = MessagePackSerializer,
        limits: Limits | None = None,
        timeouts: Timeouts | None = None,
        observer: Observer = NO_OBSERVER,
        tls: ssl.SSLContext | None = None,
        headers: Mapping[str, str] | None = None,
        name: str | None = None,
        compression: bool = False,
        backoff: Backoff | None = None,
        reconnect: bool = True,
        fail_fast: bool = False,
        retries: RetryBudget | None = RetryBudget(),
        watchdog: bool = True,
        slow_peer: Policy = "wait",
        token: TokenSource | None = None,
        session: bool = True,
    ) -> None:
        urls = [url] if isinstance(url, str) or not isinstance(url, Sequence) else list(url)
        rounds = DialRounds(urls, self._dial)  # a wrong URL is the caller's mistake, so it is told here
        self.url: str = urls[0]
        self.limits = limits or Limits()
        self.timeouts = timeouts or Timeouts()
        self.router = Router()
        self._subprotocol = subprotocol(serializer_type)
        self._tls = tls
        self._headers = dict(headers or {})
        self._compression = compression
        self._middleware: list[Middleware] = []
        self._fail_fast = fail_fast
        watched = guarded(observer)
        self._routes = routes = KnownRoutes()
        self._bearer = None if session else token
        node = {"id": os.urandom(8).hex(), "name": name or "", "version": VERSION}
        self._link = ClientLink(
            rounds, serializer_type(self.limits), self.router,
            service=name, limits=self.limits, timeouts=self.timeouts, observer=watched,
            backoff=(backoff or Backoff()) if reconnect else None, routes=None if retries is None else routes,
            watchdog=watchdog,
            session=ClientSession(node, token, watched, keeps_streams=reconnect) if session else None,
        )  # fmt: skip
        self._attempts = CallAttempts(self._link, routes, retries, watched)
        self._keeper = self._link.keeper
        self._link.slow_peer = checked_policy(slow_peer)
        seconds, wills = self.timeouts.request, self.limits.wills
        self._topics = ClientTopics(self._link, self._ask, seconds=seconds, sessions=session, most_wills=wills)
        self._link.serve_topics(self._topics)

    # ------------------------------------------------------------- registration

    def on(self, path: str, **options: Any) -> Callable[[F], F]:
        """Register a handler for requests of the server; as `WebMeshServer.on`, before connecting."""
        read_options(options)
        return self.router.on(path, **options)

    def middleware(self, function: Middleware) -> Middleware:
        """Wrap what is sent: `def middleware(call, call_next): return call_next(call)`. The first is outermost.

        Calls, futures, streams and notifications all pass through it.
        """
        if self._link.begun:
            raise ConfigurationError("middleware comes too late: it belongs before the first use")
        check_callable("middleware", function)
        self._middleware.append(function)
        return function

    # ---------------------------------------------------------------- connection

    def connect(self, timeout: float | None = None) -> WebSocketConnection:
        """Connect now, unless connected; returns the connection.

        One attempt at all addresses, also where the background waits for its next one or has given up.

        Args:
            timeout: Seconds; `None` takes `Timeouts.connect`.

        Raises:
            ConnectFailed: No address could be reached in time.
            HandshakeRejected: The server refused; see its `status`.
            LinkRefused: It refused the login.
            ConnectionClosed: This client was closed.
            ConfigurationError: A header, a route's options or `tls` cannot be used.
        """
        return self._link.connect(self.timeouts.connect if timeout is None else finite(timeout))

    def _dial(self, url: str, *, seconds: float, first: str, last: str) -> Upgraded:
        headers = self._headers
        if self._bearer is not None:
            token = made_token(self._bearer, None if is_patched() else self._link.executor, seconds)
            headers = headers | {"Authorization": f"Bearer {token}"}
        return dial(
            url, timeout=seconds, limits=self.limits, subprotocols=(self._subprotocol,),
            headers=headers.items(), tls=self._tls, first=first, last=last,
            extensions=[BoundedDeflate(self.limits)] if self._compression else (),
        )  # fmt: skip

    @property
    def connected(self) -> bool:
        """Whether there is an open connection now."""
        return self._link.present() is not None

    @property
    def state(self) -> str:
        """`idle` (never used), `connecting`, `connected`, `lost`, `waiting`, `gave_up` or `closed`: see `on_state`."""
        return self._link.states.state

    def on_state(self, function: Callable[[LinkEvent], object]) -> Callable[[LinkEvent], object]:
        """Call *function* with a `LinkEvent` for each change of the link: lost and why, waiting and how long, connected
        and where to. One after another, in the order in which it happened, and never in the connection's own greenlet:
        it may block and may use this client.
        """
        check_callable("a function for states", function)
        self._link.states.functions.append(function)
        return function

    def close(self) -> None:
        """Close the connection with the closing handshake and end the thread. Safe to call twice.

        Who waits for a reply gets `ReplyLost`. Called by a handler of this client, or by a signal handler of a
        patched process, it returns at once, since the end waits for them.
        """
        self._link.close()

    def __enter__(self) -> WebMeshClient:
        connected = False
        try:
            self.connect()
            connected = True
        finally:
            if not connected:  # `__exit__` will not be called
                self.close()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # -------------------------------------------------------------------- asking

    def call(
        self,
        path: str,
        payload: Any = None,
        *,
        timeout: float | None = None,
        headers: Mapping[str, str] | None = None,
        idempotent: bool | None = None,
        idempotency_key: str | bool | None = None,
        fail_fast: bool | None = None,
    ) -> Any:
        """Send a request and wait for its reply; waits for the connection first where needed, within the same time.

        Args:
            idempotent: Whether it may run twice, so that it is sent again where its reply is lost or the server has no
                room; `None`: as the server's route says. docs/CLIENT.md, "Retries".
            idempotency_key: As there; and it is sent again too, with the same key.
            fail_fast: True raises at once when there is no connection; `None` takes what the client was given.

        Raises:
            ConnectFailed: There was no connection in all that time, and nothing was sent; says why.
            LinkRefused: There will be none: the server does not want this client.

        Further arguments and errors are those of `WebSocketConnection.call`.
        """
        connection = self._keeper.connection
        if connection is None or not connection.open or self._middleware or idempotency_key is not None:
            headers = keyed(headers, idempotency_key)
            return self._call_anew(path, payload, timeout, headers, self._terms(idempotent, headers, fail_fast))
        try:
            future = connection.start_call(path, payload, timeout, headers)
        except ConnectionClosed:  # it ended since that look, and nothing was sent: as if it had ended before
            return self._call_anew(path, payload, timeout, headers, self._terms(idempotent, headers, fail_fast))
        try:
            return future.result()
        except (ConnectionClosed, *RETRIABLE) as error:
            failed = None if isinstance(error, ConnectionClosed) else error  # in a thread that is told only here
            terms = self._terms(idempotent, headers, fail_fast)
            send = partial(call_on, path, payload, headers)
            return self._attempts.run(send, path, future.deadline, terms, connection, failed)

    def _terms(self, idempotent: bool | None, headers: Mapping[str, str] | None, fail_fast: bool | None) -> Terms:
        at_once = self._fail_fast if fail_fast is None else fail_fast
        return Terms(idempotent, at_once, headers is not None and IDEMPOTENCY_KEY in headers)

    def _call_anew(
        self, path: str, payload: Any, timeout: float | None, headers: Mapping[str, str] | None, terms: Terms
    ) -> Any:
        """`call` where there is no connection, or more to it."""
        deadline = self._deadline(path, timeout)
        if not self._middleware:
            return self._attempts.run(partial(call_on, path, payload, headers), path, deadline, terms)

        def last(call: Call) -> Any:
            return self._attempts.run(
                partial(send_call, call), call.path, call.deadline, terms, call.connection
            )

        return self._through(last, path, payload, headers, deadline, terms)

    def _ask(self, send: Send, path: str, timeout: float | None, fail_fast: bool | None = None) -> Any:
        """What *send* returns: for the protocol's own paths, and publications, which may be sent again."""
        return self._attempts.run(send, path, self._deadline(path, timeout), self._terms(True, None, fail_fast))

    def _deadline(self, path: str, timeout: float | None) -> Deadline:
        return call_deadline(path, self.timeouts.request if timeout is None else timeout)

    def _through(
        self,
        last: CallNext,
        path: str,
        payload: Any,
        headers: Mapping[str, str] | None,
        deadline: Deadline,
        terms: Terms,
        *,
        endless: bool = False,
    ) -> Any:
        """What *last*, inside of all middleware, makes of a call, once there is a connection for it."""
        connection = self._attempts.connection(path, deadline, terms)
        seconds = None if endless else deadline.remaining()
        call = Call(path, payload, dict(headers or NO_HEADERS), connection, seconds=seconds)
        return chained(self._middleware, last)(call)

    def _ready(self, call: Call, terms: Terms) -> float | None:
        """Give *call* an open connection; returns the seconds that are left of it, `None` for no end."""
        if not call.connection.open:
            left = call.deadline.remaining()
            call.connection = self._attempts.connection(call.path, self._deadline(call.path, left), terms)
        return call.deadline.remaining()

    def spawn(
        self,
        path: str,
        payload: Any = None,
        *,
        timeout: float | None = None,
        headers: Mapping[str, str] | None = None,
        idempotent: bool | None = None,
        idempotency_key: str | bool | None = None,
        fail_fast: bool | None = None,
    ) -> Future:
        """Send a request and return at once with a future; see `WebSocketConnection.spawn`.

        Waits for the connection first where needed, as `call`, and is sent again as that. Middleware gets the future as
        the call's result.
        """
        connection = self._keeper.connection
        plainly = not self._middleware and not idempotent and idempotency_key is None
        if plainly and connection is not None and (idempotent is False or not self._routes.idempotent(path)):
            try:
                terms = self._terms(idempotent, headers, fail_fast)
                return self._spawn_on(
                    connection, path, payload, timeout, headers, self._deadline(path, timeout), terms
                )
            except ConnectionClosed:
                pass  # then nothing was sent
        headers = keyed(headers, idempotency_key)
        terms = self._terms(idempotent, headers, fail_fast)

        def last(call: Call) -> Future:
            left = self._ready(call, terms)
            extra = dict(call.headers) or None
            if self._attempts.repeatable(call.path, terms):
                return self._attempts.spawn(
                    partial(send_call, call), call.path, call.deadline, call.seconds, terms, call.connection
                )
            return self._spawn_on(
                call.connection, call.path, call.payload, left, extra, call.deadline, terms
            )

        future: Future = self._through(last, path, payload, headers, self._deadline(path, timeout), terms)
        return future

    def _spawn_on(
        self,
        connection: WebSocketConnection,
        path: str,
        payload: Any,
        timeout: float | None,
        headers: Mapping[str, str] | None,
        deadline: Deadline,
        terms: Terms,
    ) -> Future:
        send = partial(call_on, path, payload, headers)
        completion = self._attempts.spawned(send, path, deadline, terms, connection)
        future = connection.start_call(path, payload, timeout, headers, completion)
        home = self._link.home
        home.post(future.expire_later, home)
        return future

    def notify(
        self,
        path: str,
        payload: Any = None,
        *,
        headers: Mapping[str, str] | None = None,
        conflate_key: Hashable = None,
        slow_peer: Policy | None = None,
        fail_fast: bool | None = None,
    ) -> bool:
        """Send a message that is not answered; see `WebSocketConnection.notify`, also for what is returned.

        Waits for the connection first where needed, at most `Timeouts.request`.
        """
        connection = self._keeper.connection
        if connection is not None and not self._middleware:
            with suppress(ConnectionClosed):  # then nothing was sent
                return connection.notify(
                    path, payload, headers=headers, conflate_key=conflate_key, slow_peer=slow_peer
                )
        terms = self._terms(None, None, fail_fast)

        def last(call: Call) -> bool:
            self._ready(call, terms)
            return call.connection.notify(
                call.path, call.payload, headers=dict(call.headers) or None, conflate_key=conflate_key,
                slow_peer=slow_peer,
            )  # fmt: skip

        deadline = self._deadline(path, None)
        return self._through(last, path, payload, headers, deadline, terms, endless=True) is not False

    def stream(
        self,
        path: str,
        payload: Any = None,
        *,
        items: Iterable[Any] | bool | None = None,
        credit: int | None = None,
        timeout: float | None = None,
        headers: Mapping[str, str] | None = None,
        fail_fast: bool | None = None,
    ) -> ItemStream:
        """Open a stream; see `WebSocketConnection.stream`.

        Waits for the connection first where needed, at most *timeout*, or `Timeouts.request` where that is `None`.
        Middleware gets the stream as the call's result.
        """
        connection = self._keeper.connection
        if connection is not None and not self._middleware:
            with suppress(ConnectionClosed):  # then nothing was sent
                return connection.stream(path, payload, items=items, credit=credit, timeout=timeout, headers=headers)
        terms = self._terms(None, None, fail_fast)

        def last(call: Call) -> ItemStream:
            left = self._ready(call, terms)
            return call.connection.stream(
                call.path, call.payload, items=items, credit=credit, timeout=left, headers=dict(call.headers) or None
            )

        deadline = self._deadline(path, timeout)
        stream: ItemStream = self._through(last, path, payload, headers, deadline, terms, endless=timeout is None)
        return stream

    def __repr__(self) -> str:
        state = "closed" if self._link.closed else "connected" if self.connected else "not connected"
        return f"<WebMeshClient {self.url.partition('?')[0]} {state}>"  # a query may hold a token
