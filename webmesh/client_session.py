"""`ClientSession`: the session of one client with its server, over as many connections as it takes.

Decides what `$hello` says, what an answer to it means for what was open, and when a login is renewed. When
and where to dial is `client_link`. Lives in the client's hub. Wire form: docs/PROTOCOL.md sections 4 and 6.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextvars import Context
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, TypeAlias

import gevent

from webmesh.deadline import Deadline
from webmesh.exceptions import (
    ConnectionClosed, PermissionDenied, RemoteError, ReplyLost, RequestTimeout, Unauthenticated,
)  # fmt: skip
from webmesh.observer import NO_OBSERVER, Observer
from webmesh.protocol import envelope
from webmesh.protocol.retained import Received
from webmesh.websocket.hub import Completion

if TYPE_CHECKING:
    from webmesh.client_topics import ClientTopics
    from webmesh.execution import Executor
    from webmesh.protocol.envelope import RequestId
    from webmesh.protocol.session import Answering, OpenRequest
    from webmesh.websocket.conversation import Conversation
    from webmesh.websocket.websocket_connection import WebSocketConnection

TokenSource: TypeAlias = "str | Callable[[], str]"
"""What a client logs in with; a callable is asked anew for each login and each renewal."""
RENEW_AT = 0.8
"""Part of a login's time after which it is renewed: a second try still comes in time."""
REPLACED = 4505
"""How a server closes a link when another one resumes its session, which may be ours."""
SESSION_SECONDS = 30.0
"""How long a server keeps a session that does not say; protocol.md section 6."""

NO_SESSIONS = frozenset({"unimplemented", "not_found"})
"""What a program answers to `$hello` that does not know it."""

NONE: frozenset[int | str] = frozenset()

MOST_REFUSED = 100
"""Ids of refused wills that are looked at; a client has some ten wills."""

logger = logging.getLogger("webmesh.client")


@dataclass(frozen=True, slots=True)
class Greeting:
    """What a server answered to `$hello`.

    Attributes:
        resumed: It has gone on with the session that there was; otherwise what was kept for it is lost.
        session: Its id, a secret; empty where the server has no sessions.
        limits: The server's own, as it told them.
        expires_in: Seconds that the login is good for; `None` for no end.
        streams: Ids of ours that go on.
        topics_epoch: Names the memory of its topics where that ends with it; empty otherwise.
        refused_wills: Ids of last wills that it has not taken.
    """

    resumed: bool = False
    node: dict[str, Any] = field(default_factory=dict)
    session: str = field(default="", repr=False)
    epoch: str = ""
    limits: dict[str, Any] = field(default_factory=dict)
    expires_in: float | None = None
    streams: frozenset[int | str] = NONE
    topics_epoch: str = ""
    refused_wills: tuple[str, ...] = ()


class ClientSession:
    """What a client keeps while its connections come and go.

    Args:
        node: Who this client says it is: `id`, `name`, `version`.
        token: To log in with; `None` for none.
        keeps_streams: False ends streams with their connection, as where nobody dials the next one by himself.

    Attributes:
        executor: Where a callable token runs; `None` in a patched process, where it may run in the hub.
        topics: What goes with the session besides; `None` for nothing.
    """

    def __init__(
        self,
        node: dict[str, Any],
        token: TokenSource | None = None,
        observer: Observer = NO_OBSERVER,
        *,
        keeps_streams: bool = True,
    ) -> None:
        self._keeps_streams = keeps_streams
        self.executor: Executor | None = None
        self.topics: ClientTopics | None = None
        self._node = node
        self._token = token
        self._observer = observer
        self._id = ""
        self._epoch = ""
        self._seconds = SESSION_SECONDS
        self._received = Received()
        self._next_id = 0
        self._kept: list[OpenRequest] = []
        self._conversation: Conversation | None = None
        self._patience: Any = None
        self._renewal: Any = None
        self._greeting = 0
        self._over = False

    @property
    def waiting(self) -> bool:
        """Whether streams wait for the next connection, which somebody may be reading."""
        self._kept = [request for request in self._kept if not request.waiter.over]
        return bool(self._kept)

    # ------------------------------------------------------------------- greeting

    def greet(self, connection: WebSocketConnection, seconds: float) -> Greeting:
        """Say `$hello` on a connection that is being read already, and go on with the session if there is one.

        Raises:
            Unauthenticated, PermissionDenied: The login was refused.
            RemoteError: Something else that `$hello` says, as a will.
            ConnectionClosed: The connection ended, or the server cannot take us now.
            RequestTimeout: No answer within *seconds*.
        """
        deadline = Deadline(seconds)
        said: dict[str, Any] = {"node": self._node}
        if self._token is not None:
            said["token"] = self._ask_token(seconds)
        if self._id:
            said["resume"] = self._resume()
        wills = self.topics.wills.hello() if self.topics is not None else None
        if wills:
            said["wills"] = wills
        self._greeting += 1
        try:
            return self._hello(connection, said, deadline)
        finally:
            self._greeting -= 1

    def _hello(self, connection: WebSocketConnection, said: dict[str, Any], deadline: Deadline) -> Greeting:
        conversation = connection.conversation
        hello = _Hello(self, conversation, said.get("resume", {}).get("streams", []))
        conversation.session.count_from(self._next_id)
        request = conversation.ask("$hello", said, hello, timeout=deadline.remaining())
        try:
            greeting = hello.completion.wait(deadline.remaining())
        except TimeoutError:
            conversation.abandon(request)
            raise RequestTimeout("$hello", None, request_id=request.id) from None
        except ReplyLost as lost:
            raise ConnectionClosed(lost.code, "the connection ended before the server had said hello") from None
        except RemoteError as error:
            if error.retryable:
                raise ConnectionClosed(1013, f"the server cannot take us: {error.code}") from None
            if error.code not in NO_SESSIONS:
                raise  # without its session, its login and its wills the program would not be what it takes itself for
            return self._accepted(conversation, Greeting(), [])
        self._renew_later(connection, greeting.expires_in)
        return greeting

    def _ask_token(self, seconds: float) -> str:
        return "" if self._token is None else made_token(self._token, self.executor, seconds)

    def _resume(self) -> dict[str, Any]:
        asked: dict[str, Any] = {"session": self._id, "epoch": self._epoch, "received": self._received.count}
        if self.topics is not None:
            asked["messages"] = self.topics.counted
        if self.waiting:
            asked["streams"] = [one.position for one in self._kept]
        return asked

    def _accepted(
        self, conversation: Conversation, greeting: Greeting, told: list[list[RequestId]]
    ) -> Greeting:
        """In the hub, between the answer and what follows it. *told*: the positions of streams that it answers."""
        if not greeting.resumed or greeting.session != self._id:
            self._received = Received()
            greeting = replace(greeting, resumed=False, streams=NONE)
        self._id, self._epoch = greeting.session, greeting.epoch
        if self.topics is not None:
            self.topics.entered(conversation, resumed=greeting.resumed, epoch=greeting.topics_epoch)
        if greeting.refused_wills:
            logger.warning("the server does not take last wills any more", extra={"wills": greeting.refused_wills})
        milliseconds = greeting.limits.get("session_ms")
        self._seconds = milliseconds / 1000 if isinstance(milliseconds, int | float) else SESSION_SECONDS
        if self._id:
            conversation.session.received = self._received
            conversation.keeper = self
            self._conversation = conversation
        kept, self._kept = self._kept, []
        self._stop_waiting()
        bounds = {position[0]: _bound(position) for position in told}
        for request in kept:
            if request.id in greeting.streams and request.id in bounds:
                self._go_on(conversation, request, _bound(request.position) - bounds[request.id])
            else:
                self._fail([request], ConnectionClosed(1006, "the server has not kept the stream"))
        return greeting

    def _go_on(self, conversation: Conversation, request: OpenRequest, granted: int) -> None:
        """*granted*: items that our reader has allowed since the server was told, when nothing could be sent."""
        conversation.session.adopt(request)
        if request.waiter.over:  # given up since
            conversation.abandon(request)
            return
        request.waiter.moved(conversation)
        if granted > 0:
            conversation.say(envelope.credit(request.id, granted))

    # -------------------------------------------------------------------- renewal

    def _renew_later(self, connection: WebSocketConnection, seconds: float | None) -> None:
        self._stop_renewal()
        if seconds is not None and callable(self._token):
            self._renewal = connection.conversation.hub.loop.timer(max(seconds * RENEW_AT, 0.001))
            self._renewal.start(gevent.spawn, self._renew, connection, seconds * (1 - RENEW_AT))

    def _renew(self, connection: WebSocketConnection, left: float) -> None:
        """Log in again on the same connection, which the server would close otherwise."""
        try:
            answer = connection.call("$hello", {"node": self._node, "token": self._ask_token(left)}, timeout=left)
        except ConnectionClosed:
            return
        except Exception as error:  # the edge around the program's token source; the server decides what comes of it
            logger.warning("login not renewed", extra={"error": type(error).__name__, "connection": connection.id})
            if left > 1 and connection.open and not isinstance(error, Unauthenticated | PermissionDenied):
                self._renew_later(connection, left)
            return
        if connection.open:
            self._renew_later(connection, _greeting(answer).expires_in)

    def _stop_renewal(self) -> None:
        if self._renewal is not None:
            self._renewal.close()
            self._renewal = None

    # ----------------------------------------------------------------- loss and end

    def keep(
        self, conversation: Conversation, why: ConnectionClosed, asked: list[OpenRequest], answering: list[Answering]
    ) -> tuple[list[OpenRequest], list[Answering]]:
        """`Keeper.keep`: streams of ours that can go on later do not fail now."""
        if conversation is not self._conversation:
            return asked, answering
        self._conversation = None
        self._next_id = conversation.session.next_id
        self._stop_renewal()
        if 4500 <= why.code < 5000 and not (why.code == REPLACED and self._greeting):  # we are not to come back
            self._id = ""
        if self._over or not self._id or not self._keeps_streams:
            return asked, answering
        self._kept = [request for request in asked if request.resumable]
        if self._kept:
            self._patience = conversation.hub.loop.timer(self._seconds)
            self._patience.start(self._give_up, ConnectionClosed(1006, "no new connection in time"))
        return [request for request in asked if not request.resumable], answering

    def enter(self, answering: Answering) -> bool:
        """`Keeper.enter`: streams that the server asks of us end with their connection."""
        return False

    def lost(self, connection: WebSocketConnection, why: ConnectionClosed) -> None:
        """A connection has ended. Nothing is left to do where it had greeted: see `keep`."""
        if connection.conversation is self._conversation:
            self.keep(connection.conversation, why, [], [])

    def leave(self, connection: WebSocketConnection) -> None:
        """In the hub: the client closes. The server need not keep anything for us."""
        self._over = True
        if connection.open and connection.conversation is self._conversation:
            connection.conversation.say(envelope.notification("$goodbye"))

    def forsake(self) -> None:
        """In a forked child: the session is the parent's, and no timer of it runs on here."""
        self._stop_renewal()
        self._stop_waiting()

    def ended(self, error: Exception) -> None:
        """In the hub: no connection follows, unless the program asks for one. What was kept fails."""
        self._id = ""
        self._stop_renewal()
        code = getattr(error, "code", 1006)
        self._give_up(ConnectionClosed(code if isinstance(code, int) else 1006, str(error)))

    def _give_up(self, error: ConnectionClosed) -> None:
        self._stop_waiting()
        kept, self._kept = self._kept, []
        self._fail(kept, error)

    def _stop_waiting(self) -> None:
        if self._patience is not None:
            self._patience.close()
            self._patience = None

    def _fail(self, requests: list[OpenRequest], why: ConnectionClosed) -> None:
        for one in requests:
            self._observer.refused("stream", "not resumed")
            one.waiter.fail(ReplyLost(one.path, started=True, code=why.code, reason=why.reason, request_id=one.id))


def made_token(token: TokenSource, executor: Executor | None, seconds: float) -> str:
    """The token to log in with now; in the hub.

    Raises:
        RequestTimeout: It was not made within *seconds*.
    """
    if not callable(token):
        return token
    with gevent.Timeout(seconds, RequestTimeout("$hello", seconds)):
        return token() if executor is None else executor.run(Context(), token)


class _Hello:
    """Waits for the answer to `$hello`, and acts on it before anything that came behind it is read."""

    def __init__(self, session: ClientSession, conversation: Conversation, told: list[list[RequestId]]) -> None:
        self.completion: Completion[Greeting] = Completion(conversation.hub)
        self._session = session
        self._conversation = conversation
        self._told = told

    def succeed(self, value: Any) -> None:
        """The reply."""
        self.completion.succeed(self._session._accepted(self._conversation, _greeting(value), self._told))

    def fail(self, error: BaseException) -> None:
        """The error that came instead of it."""
        self.completion.fail(error)


def _bound(position: list[RequestId]) -> int:
    """How many items its sender may have sent in all, where a stream is at *position*."""
    return int(position[1]) + int(position[2])


def _greeting(answer: Any) -> Greeting:
    """What a peer's answer says; whatever makes no sense in it counts as not there."""
    said = answer if isinstance(answer, dict) else {}
    node, session, epoch, limits = said.get("node"), said.get("session"), said.get("epoch"), said.get("limits")
    streams, expires, topics_epoch = said.get("streams"), said.get("expires_ms"), said.get("topics_epoch")
    refused = said.get("refused_wills")
    refused = refused[:MOST_REFUSED] if isinstance(refused, list) else []
    return Greeting(
        resumed=said.get("resumed") is True,
        node=node if isinstance(node, dict) else {},
        session=session if isinstance(session, str) else "",
        epoch=str(epoch) if isinstance(epoch, str | int) else "",
        limits=limits if isinstance(limits, dict) else {},
        expires_in=expires / 1000 if isinstance(expires, int | float) and not isinstance(expires, bool) else None,
        streams=frozenset(id for id in streams if isinstance(id, str | int)) if isinstance(streams, list) else NONE,
        topics_epoch=topics_epoch if isinstance(topics_epoch, str) else "",
        refused_wills=tuple(will[:64] for will in refused if isinstance(will, str)),
    )
