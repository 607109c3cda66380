"""`WebSocketConnection`: one connection as handlers and programs see it.

Decides what may be asked of a connection, and carries it from any greenlet or thread into the hub that
owns the socket. Messages are `conversation`'s, bytes are `stream`'s, greenlets are `turns`'.
"""

from __future__ import annotations

import os
from collections.abc import Hashable, Iterable, Mapping
from typing import TYPE_CHECKING, Any

from gevent import getcurrent

from webmesh.call import CURRENT
from webmesh.deadline import Deadline
from webmesh.exceptions import ConnectionClosed, LocalProtocolError, ReplyLost
from webmesh.observer import Observer
from webmesh.options import Limits, Timeouts
from webmesh.protocol import envelope
from webmesh.protocol.session import ACCEPTING_SIDE_IDS
from webmesh.websocket.asking import headers_for, keyed, seconds_for
from webmesh.websocket.connection_stats import ConnectionStats, connection_stats
from webmesh.websocket.conversation import Conversation
from webmesh.websocket.future import Future
from webmesh.websocket.hub import Completion, HubThread
from webmesh.websocket.item_stream import ItemStream
from webmesh.websocket.outgoing import Policy, check_key, checked_policy
from webmesh.websocket.plain_messages import PlainMessages
from webmesh.websocket.refusals import tell_end, tell_stall
from webmesh.websocket.roles import Answerer
from webmesh.websocket.sent_call import SentCall, await_room, send_in_background
from webmesh.websocket.stream import OPEN, MessageStream
from webmesh.websocket.topic_connection import TopicConnection
from webmesh.websocket.turns import Turns

if TYPE_CHECKING:
    from webmesh.auth import Identity
    from webmesh.message_serializers import AbstractMessageSerializer
    from webmesh.websocket.upgraded import Upgraded
    from webmesh.protocol.handshake import UpgradeRequest
    from webmesh.sessions import ServerSession

DRAINED = (4001, "drained")
"""How a node closes that has answered all it began: what is still open never did (docs/PROTOCOL.md section 5)."""


class WebSocketConnection(TopicConnection):
    """A connection to a peer, of either side.

    On a mesh connection both sides may `call`, `notify` and `stream`. On a plain WebSocket route
    messages are iterated over and sent as they are.

    Attributes:
        id: Unique in this process; stands in logs.
        address: The peer, as `10.0.0.2:51724`.
        request: The upgrade request with its path, headers and query; `None` on the side that dialled.
        subprotocol: What was agreed; `None` on most plain connections.
        peer_certificate: The peer's verified certificate; `None` without one.
        identity: Who the peer has shown to be, on servers that authenticate; `None` elsewhere, and before it has.
        metadata: A dict for the program's own use, as a login; it stays with the session.
        session: What outlives this connection, once the peer has said `$hello`; `None` on the side that dialled.
        slow_peer: What `notify` does while the peer does not keep up, where it is not told otherwise.
    """

    slow_peer: Policy = "wait"
    identity: Any = None
    session: ServerSession | None = None
    subscriber: Any = None
    _told_stalled = False
    _closes = False

    def __init__(
        self,
        upgraded: Upgraded,
        home: HubThread,
        *,
        limits: Limits,
        timeouts: Timeouts,
        observer: Observer,
        dialled: bool,
        service: str | None = None,
        slow_peer: Policy = "wait",
    ) -> None:
        self.id = os.urandom(6).hex()
        self.address = upgraded.address
        self.request: UpgradeRequest | None = upgraded.request
        self.subprotocol = upgraded.subprotocol
        self.peer_certificate = upgraded.peer_certificate
        self.identity: Identity | None = upgraded.identity
        self.metadata: dict[str, Any] = {}
        self._home = home
        self._limits = limits
        self._timeouts = timeouts
        self._observer = observer
        self._dialled = dialled
        self._service = service
        if slow_peer != self.slow_peer:
            self.slow_peer = slow_peer
        self._stream = MessageStream(
            upgraded, client=dialled, limits=limits, timeouts=timeouts, on_closed=self._ended, observer=observer
        )
        self._conversation: Conversation | None = None
        self._turns: Turns[Any] | None = None
        self._plain: PlainMessages | None = None

    # ------------------------------------------------------------ set up and run

    def converse(self, serializer: AbstractMessageSerializer, answerer: Answerer) -> None:
        """Make it a mesh connection. Called once, in the hub, by whoever made it."""
        conversation = Conversation(
            self._stream, serializer, answerer,
            limits=self._limits, observer=self._observer, dialled=self._dialled,
            credit_timeout=self._timeouts.credit,
        )  # fmt: skip
        conversation.connection = self
        self._conversation = conversation
        self._turns = conversation.turns = Turns(
            self._stream.read, conversation.handle, self._stream.end_turn, conversation.switched, self._died,
            conversation.serve_waiting, on_over=self._over,
        )  # fmt: skip

    def run(self) -> None:
        """Read and answer until the connection has ended; in the hub, in a greenlet that has nothing else to do."""
        if self._turns is None:
            raise LocalProtocolError("a plain connection is read by run_plain")
        try:
            self._turns.run()
        finally:
            self._stream.abort(ConnectionClosed(1001, "the reader was stopped"))

    def be_plain(self) -> None:
        """Make it a plain connection. Called once, in the hub, by whoever made it."""
        self._plain = PlainMessages(self._stream, self._home, self._limits)

    def tick(self, now: float, late: float = 0.0) -> None:
        """Look at all deadlines; called about once a second in the hub. See `pulse.Ticking`."""
        conversation = self._conversation
        stalled = self._stream.tick(now, conversation is not None and conversation.session.open_requests > 0, late)
        if stalled is not None:
            self._tell_stalled(stalled)
        if self._turns is not None:
            self._turns.dismiss()
        elif self._plain is not None:
            self._plain.tick(now, self._timeouts.ping_interval)

    def _died(self) -> None:
        self._stream.abort(ConnectionClosed(1011, "internal error"), say=True)

    def _over(self) -> None:
        self._turns = None
        self.conversation.release()

    def _tell_stalled(self, stalled: bool) -> None:
        if stalled is not self._told_stalled:
            self._told_stalled = stalled
            self._observer.peer_stalled(self, stalled)
            if stalled:
                tell_stall(self.id, self.address)

    def _ended(self, why: ConnectionClosed) -> None:
        if self._plain is not None:
            self._plain.end(why)
        if self._conversation is not None:
            # Only the peer can tell what it has begun.
            drained, flushes = not self._closes and (why.code, why.reason) == DRAINED, self._stream.flushes
            for request in self._conversation.end(why)[0]:
                started = not drained and request.batch < flushes
                request.waiter.fail(
                    ReplyLost(request.path, started=started, code=why.code, reason=why.reason, request_id=request.id)
                )
        self._tell_stalled(False)
        if not self._dialled:
            invalid = 0 if self._conversation is None else self._conversation.session.invalid
            tell_end(self.id, self.address, why, self.stats.dropped, invalid)
        self._observer.connection_closed(self, why.code, why.reason)

    # -------------------------------------------------------------------- state

    @property
    def open(self) -> bool:
        """Whether messages can be sent."""
        return self._stream.state is OPEN

    @property
    def stalled(self) -> bool:
        """Whether the peer hangs: its machine takes what is sent, but no answer came to a ping within
        `Timeouts.stalled`. Calls go on waiting; give new work to another one if you can. Only when messages wait for
        it and it takes none for `Timeouts.write` is it closed, with 4008."""
        return self._stream.stalled

    @property
    def stats(self) -> ConnectionStats:
        """What is queued for this peer, and what it was too slow for."""
        return connection_stats(self._stream)

    @property
    def is_mesh(self) -> bool:
        """Whether the mesh protocol is spoken here; otherwise messages are the handler's own."""
        return self._conversation is not None

    @property
    def close_reason(self) -> ConnectionClosed | None:
        """Why it ended; `None` while it has not."""
        return self._stream.closed.wait(0) if self._stream.closed.done else None

    @property
    def ending(self) -> ConnectionClosed | None:
        """As `close_reason`, and already while the closing handshake lasts."""
        return self._stream.ending

    @property
    def requests(self) -> tuple[int, int]:
        """Requests of this side so far, on the session's earlier connections too; and those of either side now open."""
        session = self.conversation.session
        return session.next_id % ACCEPTING_SIDE_IDS, session.open_requests + session.answering

    @property
    def unsent(self) -> bool:
        """Whether bytes wait for the peer's socket, or were left when it ended."""
        return self._stream.queued > 0 or self._stream.cut_short

    def close(self, code: int = 1000, reason: str = "", *, timeout: float | None = None) -> None:
        """Close with the closing handshake and wait for its end.

        Args:
            code: 1000 to 4999 as PROTOCOL.md section 5 says.
            reason: Text for the peer, at most 100 bytes.
            timeout: Seconds to wait; `None` takes `Timeouts.close`, after which TCP is dropped in any case. 0
                does not wait.
        """
        self._home.run(self._close, code, reason)
        try:
            self._stream.closed.wait(self._timeouts.close + 1 if timeout is None else timeout)
        except TimeoutError:
            pass  # the close timer ends it

    def _close(self, code: int, reason: str) -> None:
        if self._stream.state is OPEN:
            self._closes = True
        self._stream.close(code, reason)
        if self._plain is not None:
            self._plain.closing()

    def shut_out(self, code: int, reason: str) -> None:
        """Close, and act on nothing that the peer sends before the end; in the hub."""
        if self._plain is not None:
            self._stream.refuse(code, reason)
            self._plain.shut_out(ConnectionClosed(code, reason))
        else:
            self.conversation.shut_out(code, reason)

    def abort(self, code: int = 1006, reason: str = "") -> None:
        """Drop the connection without a word to the peer."""
        self._home.run(self._stream.abort, ConnectionClosed(code, reason))

    def leave(self) -> None:
        """In a forked child: close what is open there too; the connection is the parent's, which goes on with it."""
        self._stream.leave()

    def wait_closed(self, timeout: float | None = None) -> ConnectionClosed:
        """Wait for the end and return why.

        Raises:
            TimeoutError: It has not ended within *timeout* seconds.
        """
        return self._stream.closed.wait(timeout)

    def ping(self, payload: bytes = b"") -> None:
        """Send a ping; answers are handled by themselves. Keepalive pings are sent without this.

        Args:
            payload: At most 125 bytes.
        """
        if len(payload) > 125:
            raise LocalProtocolError(f"a ping carries at most 125 bytes, not {len(payload)} (RFC 6455 section 5.5)")
        self._home.run(self._stream.ping, payload)

    # ------------------------------------------------------------------ asking

    def call(
        self,
        path: str,
        payload: Any = None,
        *,
        timeout: float | None = None,
        headers: Mapping[str, str] | None = None,
        idempotency_key: str | bool | None = None,
    ) -> Any:
        """Send a request to the peer and wait for its reply.

        Args:
            timeout: Seconds; `None` takes `Timeouts.request`, or what the handler that calls has left, if less.
            headers: Text to text, at most 64 entries, seen by the peer's middleware and handler.
            idempotency_key: The peer runs what carries the same key once. True makes a random key for this call; a text
                of at most 64 bytes names what is to happen once whoever calls.

        Raises:
            RequestTimeout: No reply in time. The handler may have run: retry only what is idempotent.
            ReplyLost: The connection ended while waiting; the same doubt applies when `started` is true.
            ConnectionClosed: It had ended before; nothing was sent.
            RemoteError: The peer answered with an error; see its `code`.
            EncodeError: The payload cannot be sent with this connection's serializer.

        Wire form: docs/PROTOCOL.md, section 2.
        """
        return self.start_call(path, payload, timeout, keyed(headers, idempotency_key)).result()

    def spawn(
        self,
        path: str,
        payload: Any = None,
        *,
        timeout: float | None = None,
        headers: Mapping[str, str] | None = None,
        idempotency_key: str | bool | None = None,
    ) -> Future:
        """Send a request and return at once with a future. Arguments and errors are those of `call`."""
        future = self.start_call(path, payload, timeout, keyed(headers, idempotency_key))
        self._home.post(future.expire_later, self._home)
        return future

    def notify(
        self,
        path: str,
        payload: Any = None,
        *,
        headers: Mapping[str, str] | None = None,
        conflate_key: Hashable = None,
        slow_peer: Policy | None = None,
    ) -> bool:
        """Send a message that is not answered; its handler's failures stay on the other side.

        Args:
            conflate_key: Of messages with an equal key that wait for a slow peer only the newest is sent, in the
                place of the first. For values that make older ones worthless, as a price or a position.
            slow_peer: What happens when `Limits.send_queue` bytes await the peer: "wait" until there is room, "close"
                with 4008, "drop_oldest" (of the messages of this policy that wait) or "drop_newest" (this one).
                `None` takes the server's or client's own.

        Returns:
            Whether it was taken; false when it was left out, or the peer was cut off for it.

        Raises:
            ConnectionClosed: The connection has ended.
            EncodeError: The payload cannot be sent.
            ConfigurationError: There is no such policy, or the key cannot be hashed.
        """
        check_key(conflate_key)
        policy = self.slow_peer if slow_peer is None else checked_policy(slow_peer)
        message = envelope.notification(path, payload, headers_for(headers, self._service, self._limits.call_chain))
        if policy == "wait" and conflate_key is None:
            self._home.run(self._send_message, message)
            return True
        return self._home.run(self.conversation.offer, message, policy, conflate_key)

    def say(self, path: str, payload: Any) -> None:
        """Send a notification of the protocol's own; in the hub. Never waits, and after the end it is dropped."""
        self.conversation.say(envelope.notification(path, payload, None))

    def stream(
        self,
        path: str,
        payload: Any = None,
        *,
        items: Iterable[Any] | bool | None = None,
        credit: int | None = None,
        timeout: float | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> ItemStream:
        """Open a stream: iterate over what the peer's handler yields.

        Args:
            items: What to send to the handler: an iterable, which is sent in the background while
                the caller reads; or True to use `ItemStream.send` and `end` by hand.
            credit: Items that may be on their way to us; `None` takes `Limits.stream_credit`.
            timeout: Seconds for the whole stream; `None` for no end.

        Raises:
            ConnectionClosed: The connection has ended.
            EncodeError: The payload cannot be sent.
        """
        announced = items is not None and items is not False
        window = self._limits.stream_credit if credit is None else credit
        if window < 1:
            raise LocalProtocolError(f"the credit of a stream must be at least 1, not {window}")
        left = seconds_for(path, timeout, None)
        stream = ItemStream(path, self.conversation, self._home)
        extra = headers_for(headers, self._service, self._limits.call_chain)
        self._home.run(self._open_stream, stream, payload, left, extra, window, announced)
        if not (items is None or isinstance(items, bool)):
            send_in_background(stream, items, in_hub=self._home.inside())
        return stream

    @property
    def conversation(self) -> Conversation:
        """The protocol's state; for sessions, not for programs."""
        if self._conversation is None:
            raise LocalProtocolError("this is a plain WebSocket connection: use send and receive")
        return self._conversation

    def start_call(
        self, path: str, payload: Any, timeout: float | None, headers: Mapping[str, str] | None,
        completion: Completion[Any] | None = None, deadline: Deadline | None = None,
    ) -> Future:  # fmt: skip
        """`call` up to the waiting, which is in its future's `result`: nothing else ends it in time. *completion* gets
        its end, where it is the caller's own. A *deadline* is *timeout* seconds away, not after that of the handler."""
        seconds = timeout if deadline is not None else seconds_for(path, timeout, self._timeouts.request)
        if completion is None:
            completion = Completion(self._home.hub)
        sent = SentCall(self.conversation, self._home, completion)
        future = Future(path, completion, deadline or Deadline(seconds), seconds, sent.abandon)
        extra = headers_for(headers, self._service, self._limits.call_chain)
        if not self._home.inside():
            if self._stream.full:  # so that a thread that asks in a row has no more in memory than others
                self._home.run(await_room, self._stream, path, future.deadline, seconds)
            self._home.post(sent.start_or_fail, future, payload, extra)
            call = CURRENT.get()
            if call is not None:
                call.follow(future)
        elif not self._stream.full or getcurrent() is self._home.hub:
            sent.start(path, payload, seconds, extra)
        else:
            sent.start_in_time(future, payload, extra)
        return future

    def _send_message(self, message: dict[str, Any]) -> None:
        conversation = self.conversation
        self._stream.drain()
        conversation.send(message)
        self._stream.flush_soon()

    def _open_stream(
        self, stream: ItemStream, payload: Any, left: float | None, headers: dict[str, str] | None, window: int,
        announced: bool,
    ) -> None:  # fmt: skip
        if self._stream.full:
            deadline = Deadline(left)
            await_room(self._stream, stream.path, deadline, left)
            left = deadline.remaining()
        request = self.conversation.ask(
            stream.path, payload, stream, timeout=left, headers=headers, credit=window, stream=announced
        )
        stream.opened(request)
        if left is not None:
            stream.expire_in(left)

    def __repr__(self) -> str:
        pending = f" pending={self._conversation.session.open_requests}" if self._conversation is not None else ""
        return f"<WebSocketConnection {self.id} peer={self.address} {self._stream.state}{pending}>"
