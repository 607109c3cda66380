"""The login of one server: when peers are asked who they are, and what becomes of those who do not say.

Decides what is refused, with which status or code, and by when. Whom a token belongs to is the authenticators'
business (`auth`); which roles a call needs is `authorisation`'s. Everything here runs in the server's hub, but for
the authenticators themselves, which in a plain process run in native threads.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextvars import Context
from dataclasses import dataclass, replace
from pathlib import PurePath
from traceback import extract_tb
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl, urlencode

import gevent

from webmesh.auth import Authenticator, Credentials, Identity, first_that_knows
from webmesh.authorisation import Requirement, requirement
from webmesh.exceptions import (
    ConfigurationError, FailedPrecondition, HandlerFailed, Overloaded, PermissionDenied, RemoteError, Unauthenticated,
    Unavailable,
)  # fmt: skip
from webmesh.failed_logins import FailedLogins, network_of
from webmesh.lanes import Lanes
from webmesh.observer import Observer
from webmesh.options import Limits, Timeouts
from webmesh.protocol.http_head import Refusal
from webmesh.websocket.refusals import Refusals

if TYPE_CHECKING:
    from webmesh.execution import Executor
    from webmesh.message_serializers import AbstractMessageSerializer
    from webmesh.protocol.handshake import UpgradeRequest
    from webmesh.routing import Route
    from webmesh.websocket.websocket_connection import WebSocketConnection

NOT_LOGGED_IN, EXPIRED, KICKED, TRY_LATER = 4500, 4001, 4503, 1013
"""Close codes (docs/PROTOCOL.md section 5)."""

HELLO = "$hello"
URL_PARAMETER = "token"

RETRY_AFTER = 5.0
"""Seconds after which a peer may try again whose login could not be checked in time."""

MOST_DOUBTS = 3
"""Times that the authenticators are asked for one login."""

logger = logging.getLogger("webmesh.server")


@dataclass(frozen=True, slots=True)
class Access:
    """Who may use a server, as its program has said."""

    authenticators: tuple[Authenticator, ...] = ()
    token_in_url: bool = False
    requires: Requirement | None = None
    """Of routes that say nothing themselves."""


_Answer = tuple[Identity | None, BaseException | None]


class TooManyFailures(Overloaded):
    """The address of a peer has failed to log in too often, and has to wait."""


class Login:
    """Asks peers of one server who they are.

    Args:
        access: Its authenticators are asked in their order; the first that knows a peer decides.
        executor: Native threads for them.
        context: They get copies of it.
        blocking: Whether they run in native threads.
        welcome: Called with each mesh connection that has logged in by `$hello`, before it is answered.
    """

    def __init__(
        self,
        access: Access,
        executor: Executor,
        context: Context,
        *,
        blocking: bool,
        limits: Limits,
        timeouts: Timeouts,
        observer: Observer,
        welcome: Callable[[WebSocketConnection], object] = lambda connection: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._authenticators = access.authenticators
        self._executor = executor
        self._context = context
        self._blocking = blocking
        self._limits = limits
        self._timeouts = timeouts
        self._observer = observer
        self._token_in_url = access.token_in_url
        self._welcome = welcome
        self._clock = clock
        self._refusals = Refusals(observer)
        self._failures = FailedLogins(limits.failed_logins)
        self._turns, self._after_failures = Lanes(max(1, limits.failed_logins)), Lanes()
        self._strict = replace(limits, message_size=min(limits.login_size, limits.message_size))
        self._serializers: dict[type[AbstractMessageSerializer], AbstractMessageSerializer] = {}
        self._waiting: dict[WebSocketConnection, float] = {}
        self._asking: set[WebSocketConnection] = set()
        self.doubts = 0
        """Grows whenever what the authenticators have said may count no more."""

    # --------------------------------------------------------------- at the upgrade

    def at_upgrade(
        self, request: UpgradeRequest, address: str, certificate: Mapping[str, Any] | None, *, at_once: bool
    ) -> Identity | Refusal | None:
        """Who asks for the upgrade; `None` when it has not said so and may still do, by `$hello`.

        Args:
            at_once: There will be no other occasion, as on a plain route.
        """
        token = self._token_of(request)
        shown = token is not None or "authorization" in request.headers
        if not (at_once or shown or certificate or "cookie" in request.headers):
            return None
        try:
            identity = self._ask(Credentials(token, certificate, address, request.headers, request.path))
        except RemoteError as error:
            return refusal_for(error, shown=shown)
        if identity is not None:
            self._observer.login_finished(address, "ok")
        elif shown or at_once:
            self._failed(address, "unknown", counts=shown)
            return refusal_for(Unauthenticated(), shown=shown)
        return identity

    def _token_of(self, request: UpgradeRequest) -> str | None:
        scheme, _, token = request.headers.get("authorization", "").partition(" ")
        if scheme.lower() == "bearer":
            return token.strip()
        if self._token_in_url:
            return dict(parse_qsl(request.query)).get(URL_PARAMETER)
        return None

    def without_token(self, request: UpgradeRequest) -> UpgradeRequest:
        """*request* with no token in its query and target: the program's own logs may show them."""
        query = parse_qsl(request.query, keep_blank_values=True)
        if URL_PARAMETER not in dict(query):
            return request
        kept = urlencode([pair for pair in query if pair[0] != URL_PARAMETER])
        path = request.target.partition("?")[0]
        return replace(request, query=kept, target=f"{path}?{kept}" if kept else path)

    # ------------------------------------------------------------------- by $hello

    def begin(self, connection: WebSocketConnection) -> None:
        """Look after a new connection: until it has logged in, nothing but `$hello` is read from it."""
        if connection.identity is None:
            self._waiting[connection] = self._clock() + self._timeouts.login
            conversation = connection.conversation
            strict = self._strict_serializer(conversation.serializer)
            conversation.admit_only(self._admits, strict, self._strict.message_size)

    def forget(self, connection: WebSocketConnection) -> None:
        """It has ended."""
        if self._waiting.pop(connection, None) is not None and connection.request is not None:
            if "cookie" in connection.request.headers:  # nobody's, and nothing better came: perhaps it was a guess
                self._failures.failed(connection.address, self._clock())

    def make_place(self) -> bool:
        """Connections are too many: end the one that has waited longest for its login; whether there was one."""
        for connection in self._waiting:
            self._failed(connection.address, "dropped for a newer one", counts=False)
            self.forget(connection)
            connection.abort(TRY_LATER, "dropped for a newer one")
            return True
        return False

    def _strict_serializer(self, serializer: AbstractMessageSerializer) -> AbstractMessageSerializer:
        """The same one with the limit of a login, which also bounds what it inflates."""
        kind = type(serializer)
        if kind not in self._serializers:
            self._serializers[kind] = kind(self._strict)
        return self._serializers[kind]

    def _admits(self, connection: WebSocketConnection, message: object) -> bool:
        """Whether a connection that has not logged in may send *message*; ends it otherwise."""
        if not connection.open:
            return False
        if isinstance(message, dict) and message.get("path") == HELLO:
            return True
        self._end(connection, "message before login", "log in first, by $hello")
        return False

    def authenticate(self, connection: WebSocketConnection, token: str | None) -> Identity:
        """Log a connection in, or renew its login, for its `$hello`. Sets its `identity`.

        Raises:
            Unauthenticated: Nobody knows it; unless it was logged in before, it is closed with 4500.
            PermissionDenied: It may not, or it is somebody else than before; closed with 4500 likewise.
            Overloaded: Its address has failed too often; see `retry_after`.
            Unavailable: The authenticator took too long. HandlerFailed: it crashed.
            FailedPrecondition: A login of this connection is being checked.
        """
        if connection in self._asking:
            raise FailedPrecondition("a login of this connection is being checked")
        before = connection.identity
        self._asking.add(connection)
        try:
            identity = self._known(connection, token)
            self._check_same(connection, before, identity)
        except RemoteError as error:
            if before is None:
                self._refusals.refused("login", error.code, connection.address)
                final = isinstance(error, Unauthenticated | PermissionDenied)
                connection.conversation.close_soon(NOT_LOGGED_IN if final else TRY_LATER, "login refused")
            raise
        finally:
            self._asking.discard(connection)
        self._accept(connection, before, identity)
        return identity

    def _known(self, connection: WebSocketConnection, token: str | None) -> Identity:
        request = connection.request
        headers, path = ({}, "/") if request is None else (request.headers, request.path)
        identity = self._ask(Credentials(token, connection.peer_certificate, connection.address, headers, path))
        if identity is None:
            self._failed(connection.address, "unknown", counts=token is not None)
            raise Unauthenticated("the login was not accepted")
        if not connection.open:
            raise Unauthenticated("the login came too late")
        return identity

    def _check_same(self, connection: WebSocketConnection, before: Identity | None, now: Identity) -> None:
        if before is not None and before.subject != now.subject:
            # Its sessions, subscriptions and open calls are those of the first one.
            self._failed(connection.address, "other subject")
            self._refusals.refused("login", "other subject", connection.address)
            connection.conversation.close_soon(NOT_LOGGED_IN, "login of another subject")
            raise PermissionDenied("this connection belongs to another subject: open a new one")

    def _accept(self, connection: WebSocketConnection, before: Identity | None, identity: Identity) -> None:
        connection.identity = identity
        self._observer.login_finished(connection.address, "ok" if before is None else "renewed")
        if before is None:
            self._waiting.pop(connection, None)
            self._welcome(connection)
            if connection.open:  # the program may have turned it away
                connection.conversation.admit_all(self._limits.message_size)

    # ------------------------------------------------------------ the authenticators

    def _ask(self, credentials: Credentials) -> Identity | None:
        """What the authenticators say; an identity that they give counts now.

        Raises:
            RemoteError: They refuse, or cannot tell.
        """
        address = credentials.address
        self._check_patience(address)
        if credentials.token is not None and len(credentials.token) > self._limits.token_size:
            self._failed(address, "token too long")
            raise Unauthenticated("the token is too long")
        # No more at a time than may fail: else all guesses would be made before the first of them has failed.
        spent = self._failures.spent(address, self._clock())
        with (self._after_failures if spent else self._turns).turn(network_of(address) or object()):
            self._check_patience(address)
            try:
                identity = self._run_without_doubt(credentials)
            except (Unauthenticated, PermissionDenied) as error:
                self._failed(address, error.code)
                raise
        if identity is not None and identity.expired:
            self._failed(address, "expired")
            raise Unauthenticated("the login has expired")
        return identity

    def _check_patience(self, address: str) -> None:
        wait = self._failures.wait(address, self._clock())
        if wait > 0:
            self._failed(address, "too many failures", counts=False)
            raise TooManyFailures("too many failed logins", retry_after=wait)

    def _run_without_doubt(self, credentials: Credentials) -> Identity | None:
        for _ in range(MOST_DOUBTS):
            doubts = self.doubts
            identity = self._run(credentials)
            if doubts == self.doubts:
                return identity
        raise Unavailable("rights are being changed", retry_after=RETRY_AFTER)

    def _run(self, credentials: Credentials) -> Identity | None:
        timeout = gevent.Timeout(self._timeouts.login)
        try:
            with timeout:
                known, error = self._apart(credentials)
        except gevent.Timeout as late:
            if late is not timeout:
                raise  # of whoever waits for us
            self._failed(credentials.address, "too slow", counts=False)
            raise Unavailable("the login could not be checked in time", retry_after=RETRY_AFTER) from None
        if error is None:
            return known
        if isinstance(error, RemoteError | KeyboardInterrupt):
            raise error  # its answer; or the program is being ended
        raise self._incident(credentials, error) from None  # nobody is let in by a crash

    def _apart(self, credentials: Credentials) -> _Answer:
        """What the authenticators return or raise. In a thread or greenlet of their own, so that a timeout or an end
        that they raise themselves is not taken for that of whoever waits here."""
        context = self._context.copy()
        if self._blocking:
            return self._executor.run(context, _answer, self._authenticators, credentials)
        asking = gevent.spawn(context.run, _answer, self._authenticators, credentials)
        try:
            return asking.get()
        finally:
            asking.kill(block=False)

    def _incident(self, credentials: Credentials, error: BaseException) -> RemoteError:
        """Note a crash. Neither its text nor its traceback's lines: either may quote the token."""
        incident = os.urandom(6).hex()
        stack = extract_tb(error.__traceback__)[-4:]
        logger.error(
            "authenticator failed",
            extra={
                "error": type(error).__name__,
                "at": " > ".join(f"{PurePath(at.filename).name}:{at.lineno} {at.name}" for at in stack),
                "incident": incident,
                "address": credentials.address,
            },
        )
        self._failed(credentials.address, "failed", counts=credentials.guessable)
        return HandlerFailed("the login could not be checked", details={"incident": incident})

    def _failed(self, address: str, outcome: str, *, counts: bool = True) -> None:
        """Note a refusal; it *counts* for the address's wait when somebody may have been guessing."""
        if counts:
            self._failures.failed(address, self._clock())
        self._observer.login_finished(address, outcome)

    # ----------------------------------------------------------------- later on

    def doubt(self) -> None:
        """Somebody has lost rights: logins that are being checked are checked again. In the hub."""
        self.doubts += 1

    def look_at(self, connection: WebSocketConnection, now: float) -> None:
        """`Pulse`'s guard: the time for a login is over, or the login itself."""
        identity = connection.identity
        if not connection.open:
            return
        if identity is None:
            if now >= self._waiting.get(connection, now):
                self._end(connection, "no login in time", "no login in time")
        elif identity.expired:
            self._observer.login_finished(connection.address, "expired")
            connection.shut_out(EXPIRED, "login expired: renew")

    def _end(self, connection: WebSocketConnection, outcome: str, reason: str) -> None:
        self._failed(connection.address, outcome, counts=False)
        self._refusals.refused("login", outcome, connection.address)
        connection.shut_out(NOT_LOGGED_IN, reason)


def _answer(authenticators: Sequence[Authenticator], credentials: Credentials) -> _Answer:
    try:
        return first_that_knows(authenticators, credentials), None
    except BaseException as error:  # the edge around user code
        return None, error


def is_subject(connection: WebSocketConnection, subject: str) -> bool:
    """Whether the peer has shown to be *subject*."""
    return connection.identity is not None and connection.identity.subject == subject


def refusal_for(error: RemoteError, *, shown: bool) -> Refusal:
    """The HTTP answer for a login that *error* has ended. Its text is ours: theirs might tell too much in a log."""
    retry = () if error.retry_after is None else (("Retry-After", str(max(1, round(error.retry_after)))),)
    if isinstance(error, Unauthenticated):
        # RFC 6750 section 3.1: no error code where no token was shown.
        challenge = 'Bearer realm="webmesh", error="invalid_token"' if shown else 'Bearer realm="webmesh"'
        return Refusal(401, "not authenticated", (("WWW-Authenticate", challenge),))
    if isinstance(error, PermissionDenied):
        return Refusal(403, "not allowed")
    if isinstance(error, TooManyFailures):
        return Refusal(429, "too many failed logins", retry)
    if isinstance(error, HandlerFailed):
        return Refusal(500, "the login could not be checked")
    return Refusal(503, "the login could not be checked", retry)


def check_login_unneeded(routes: Iterable[Route], access: Access) -> None:
    """Refuse roles on a server without an authenticator, where nobody has any.

    Raises:
        ConfigurationError: A route, or the server, requires roles.
    """
    for route in routes:
        given = route.options.get("requires")
        asked = given if isinstance(given, Requirement) else requirement(given, access.requires)
        if asked is not None and asked.by_roles and not route.pattern.startswith("$"):
            raise ConfigurationError(f"{route} requires roles, and nobody can have any: give the server authenticate=")
