"""`ServerSession`: what a server keeps of one peer while its connections come and go.

Decides when something is sent now and when it waits, and what comes again after a resume. Which session a
peer may resume, and how long one waits for its peer, is `sessions`. Lives in the server's hub.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any

from webmesh.exceptions import ConnectionClosed
from webmesh.protocol import envelope
from webmesh.protocol.envelope import RequestId
from webmesh.protocol.kept_streams import KeptStreams, Position
from webmesh.protocol.retained import Retained, Room

if TYPE_CHECKING:
    from webmesh.node_wills import SessionWills
    from webmesh.peer_subscriber import PeerSubscriber
    from webmesh.protocol.session import Answering, OpenRequest
    from webmesh.sessions import Sessions
    from webmesh.websocket.conversation import Conversation
    from webmesh.websocket.websocket_connection import WebSocketConnection

RECEIPT_SIZE = 64 * 1024
"""Bytes after which the peer is asked, by a ping, whether it has had them: a sixteenth of what a session keeps."""
MESSAGE_COST = 256
"""Bytes that a message counts for besides its own, so that many small ones are asked for too."""
_RECEIPT = b"kept"
POSITION_LOST = 4010

logger = logging.getLogger("webmesh.server")


class ServerSession:
    """A peer's session. Handlers find it as `client.session`, and may use it while the peer is away.

    Attributes:
        id: Unguessable, since whoever knows it may resume; never log it.
        epoch: Of the server's run: ids mean nothing to another one.
        identity: Who logged in; only the same may resume. With the rights of the latest login.
        judged: The identity by whose rights its subscriptions and wills were looked at last.
        metadata: The dict of all its connections.
        connection: The present one; `None` while the peer is away.
        on_end: Called with the reason, once, in the hub, when the session is over: "goodbye", "timeout", "position
            lost", "closed", "kicked", "too many", "too many bytes". They must not block.
        on_resume: Called in the hub with this session, when its peer is back and has had what was kept.
        subscriber: What it subscribes to; `None` while that is nothing.
        wills: Its last wills; `None` while it has set none.
    """

    __slots__ = (
        "_answerer", "_asked_at", "_conversation", "_live", "_mark", "_messages", "_resumed_from", "_room",
        "_serializer", "_sessions", "_streams", "_unasked", "connection", "epoch", "id", "identity", "judged",
        "metadata", "on_end", "on_resume", "over", "resumed", "subscriber", "wills",
    )  # fmt: skip

    def __init__(self, session_id: str, epoch: str, sessions: Sessions) -> None:
        self.id = session_id
        self.epoch = epoch
        self.identity: Any = None
        self.judged: Any = None
        self.metadata: dict[str, Any] = {}
        self.connection: WebSocketConnection | None = None
        self.on_end: list[Callable[[str], object]] = []
        self.on_resume: list[Callable[[ServerSession], object]] = []
        self.over = False
        """Whether it has ended."""
        self.resumed = False
        """Whether the present connection is not its first one."""
        self._sessions = sessions
        self._conversation: Conversation | None = None
        self._serializer: Any = None
        self._answerer: Any = None
        self.subscriber: PeerSubscriber | None = None
        self.wills: SessionWills | None = None
        self._live = False  # whether what is sent may go out at once
        self._room: Room | None = None
        self._messages: Retained | None = None  # made when needed, as is what follows
        self._streams: KeptStreams | None = None
        self._resumed_from = 0
        self._mark: int | None = None  # how many messages were sent when the loss was noticed
        self._unasked = 0
        self._asked_at = 0.0

    # --------------------------------------------------------------- for programs

    def notify(self, path: str, payload: Any = None, *, headers: Mapping[str, str] | None = None) -> None:
        """Send a message that is not answered, in order with all that this session sends; once, even when the peer
        loses its connection and resumes. While it is away the message is kept, within `Limits.session_backlog`.

        Raises:
            ConnectionClosed: The session has ended.
            EncodeError: The payload cannot be sent.
        """
        self.send_kept(envelope.notification(path, payload, dict(headers) if headers else None))

    def send_kept(self, message: dict[str, Any]) -> None:
        """Send any message that needs no answer, as `notify` does; it gets the key `kept`."""
        self._sessions.home.run(self._send, message)

    def _send(self, message: dict[str, Any]) -> None:
        if self._conversation is not None:
            self._conversation.stream.drain()
        if self.over:
            raise ConnectionClosed(1001, "the session has ended")
        messages = self._messages
        if messages is None:
            messages = self._messages = Retained(self.room)
        data = self._serializer.serialize({**message, "kept": messages.next + 1})
        if not messages.add(data) and not self._live:
            self._sessions.observer.refused("session", "backlog full")
        if self._live and not self._pass_on(data) and self._mark is None:
            self._mark = messages.next - 1

    def _pass_on(self, data: str | bytes) -> bool:
        """Send what has been retained; False when the peer is not there."""
        conversation = self._conversation
        if conversation is None or not self._live:
            return False
        try:
            conversation.stream.send(data)
        except ConnectionClosed:  # the end of this connection has begun
            return False
        conversation.stream.flush_soon()
        self.sent(len(data))
        return True

    def sent(self, size: int) -> None:
        """Something of so many bytes has been sent that is kept until its receipt."""
        self._sessions.unsettled.add(self)
        self._unasked += size + MESSAGE_COST
        if self._unasked >= RECEIPT_SIZE:
            self.ask_receipt()

    @property
    def room(self) -> Room:
        """For everything that is kept."""
        if self._room is None:
            cut = partial(self._sessions.cut, self)
            self._room = Room(self._sessions.limits.session_backlog, self._sessions.room, cut)
        return self._room

    # ------------------------------------------------------------------- receipts

    def ask_receipt(self) -> None:
        """Ping: all that was sent before it has arrived when the pong is there (RFC 6455 section 5.5.3)."""
        conversation = self._conversation
        if conversation is None or not self._live:
            return
        self._unasked = 0
        self._asked_at = self._sessions.clock()
        messages = 0 if self._messages is None else self._messages.next
        ended = 0 if self._streams is None else self._streams.ended
        conversation.stream.on_pong = self._receipt
        delivered = 0 if self.subscriber is None else self.subscriber.delivered
        conversation.stream.ping(_RECEIPT + b"".join(n.to_bytes(8, "big") for n in (messages, ended, delivered)))

    def _receipt(self, payload: bytes) -> None:
        if len(payload) != len(_RECEIPT) + 24 or not payload.startswith(_RECEIPT):
            return
        if self._messages is not None:
            self._messages.acknowledge(int.from_bytes(payload[4:12], "big"))
        if self._streams is not None:
            self._streams.acknowledge(int.from_bytes(payload[12:20], "big"))
        if self.subscriber is not None:
            self.subscriber.acknowledge(int.from_bytes(payload[20:], "big"))
        if not self._unsettled:
            self._sessions.unsettled.discard(self)

    @property
    def _unsettled(self) -> bool:
        """Whether anything is kept that its peer may not have."""
        streams, subscriber = self._streams, self.subscriber
        return bool(self._messages) or streams is not None and streams.unsettled or (
            subscriber is not None and subscriber.unsettled
        )

    def let_go(self) -> None:
        """Retain nothing of what has been sent, as far as its peer can go on without a resume."""
        if self._messages is not None:
            self._messages.clear()
        if self._streams is not None:
            self._streams.let_go()
        if self.subscriber is not None and self.subscriber.kept is not None:
            self.subscriber.kept.let_go()

    def settle(self, now: float, patience: float) -> None:
        """Ask for a receipt of what is left, unless that was done within *patience* seconds."""
        if now - self._asked_at >= patience:
            self.ask_receipt()

    # --------------------------------------------------------------- for `sessions`

    def speaks(self, connection: WebSocketConnection) -> bool:
        """Whether what is kept can be sent over *connection*: it has its serializer's form already."""
        return self._serializer is not None and self._serializer.name == connection.conversation.serializer.name

    def attach(
        self, connection: WebSocketConnection, received: int | None, positions: list[Position],
        deliveries: int | None = None,
    ) -> list[RequestId] | None:
        """The peer speaks by *connection* from now on; what it has missed follows when `release` is called.

        Args:
            received: Kept messages that it has had; `None` for as many as were sent when its loss was noticed.
            positions: Its streams.
            deliveries: Counted deliveries of topics that it has had; `None` likewise.

        Returns:
            The ids of the streams that go on; `None` when the peer has missed what is not kept any more.
        """
        messages = self._messages
        if messages is not None:
            mark = messages.next if self._mark is None else self._mark
            self._resumed_from = mark if received is None else received
            if messages.after(self._resumed_from) is None:
                return None
            messages.acknowledge(self._resumed_from)
            self._mark = self._resumed_from
        elif received:
            return None
        if self.subscriber is not None and not self.subscriber.can_resume(deliveries):
            return None
        conversation = connection.conversation
        going: list[RequestId] = []
        if self._streams is not None:
            going, unwanted = self._streams.resume(positions)
            self._cancel(unwanted)
            going = [request_id for request_id in going if self._take_over(conversation, request_id)]
        self._conversation = conversation
        self._serializer = conversation.serializer
        self._answerer = conversation.answerer
        self._live = False
        self.connection = connection
        for name, value in connection.metadata.items():
            self.metadata.setdefault(name, value)
        connection.metadata = self.metadata
        connection.session = self
        conversation.keeper = self
        return going

    def follow_identity(self, connection: WebSocketConnection) -> None:
        """Its rights are those of *connection* now; whose it is stays."""
        now, before = connection.identity, self.identity
        if now is not None and before is not None and now.subject == before.subject:
            self.identity = now

    def _take_over(self, conversation: Conversation, request_id: RequestId) -> bool:
        """Go on with a stream in *conversation*; one whose id the peer has used again, for this hello, ends."""
        assert self._streams is not None
        missed = self._streams.missed(request_id)
        if missed is None or conversation.session.take_over(missed[0]):
            return missed is not None
        self._streams.forget(request_id)
        self._cancel([missed[0]])
        return False

    @property
    def _behind(self) -> bool:
        """Whether something that the peer, which is back, misses is not kept any more."""
        if self._messages is not None and self._messages.after(self._resumed_from) is None:
            return True
        return self.subscriber is not None and self.subscriber.behind

    def release(self, going: list[RequestId]) -> None:
        """In the hub: the answer to `$hello` is on its way. What was kept follows it, and then what is live."""
        conversation = self._conversation
        if conversation is None or self._live:
            return
        if self._behind:  # since it was granted; the answer has said that nothing is missing
            why = ConnectionClosed(POSITION_LOST, "what was missed is not kept any more: resume again")
            conversation.stream.flush()
            conversation.stream.abort(why, say=True)
            return
        self._live = True
        resumed = self.resumed
        for data in (self._messages.after(self._resumed_from) or ()) if self._messages is not None else ():
            with suppress(ConnectionClosed):
                conversation.stream.send(data)
        if self.subscriber is not None:
            self.subscriber.come_back(conversation)
        for request_id in going:
            self._go_on(conversation, request_id)
        self._mark = None if conversation.stream.state == "open" else self._mark
        conversation.stream.flush_soon()
        if self._unsettled:
            self._sessions.unsettled.add(self)
            self.ask_receipt()
        if resumed:
            self._call(self.on_resume, self)

    def _go_on(self, conversation: Conversation, request_id: RequestId) -> None:
        assert self._streams is not None
        missed = self._streams.missed(request_id)
        if missed is None:  # cancelled since
            return
        answering, messages = missed
        with suppress(ConnectionClosed):
            for data in messages:
                conversation.stream.send(data)
        answering.away = False
        answering.owner.moved(conversation)

    def end(self, reason: str) -> None:
        """In the hub: it is over, and nothing of it is kept. Safe to call twice."""
        if self.over:
            return
        self.over = True
        self._live = False
        if self._messages is not None:
            self._messages.clear()
        if self._streams is not None:
            running = self._streams.running()
            self._streams.clear()
            for answering in running:
                answering.keeper = None
            self._cancel([answering for answering in running if answering.away])
        if self._room is not None:
            self._room.close()
        self._conversation = self.connection = None
        self._call(self.on_end, reason)

    def _cancel(self, answerings: list[Answering]) -> None:
        for answering in answerings:
            answering.keeper = None
            if answering.owner is not None:
                self._answerer.cancel(answering.owner)

    def _call(self, functions: list[Callable[..., object]], argument: object) -> None:
        for function in tuple(functions):
            try:
                function(argument)
            except Exception as error:  # a supervisor's edge: one that fails must not cost the others theirs
                logger.error("session callback failed", exc_info=error, extra={"callback": repr(function)})

    # ----------------------------------------------------------- for its connections

    def keep(
        self, conversation: Conversation, why: ConnectionClosed, asked: list[OpenRequest], answering: list[Answering]
    ) -> tuple[list[OpenRequest], list[Answering]]:
        """`Keeper.keep`: the connection is lost, and its streams wait for the next one."""
        if conversation is not self._conversation:
            return asked, answering
        if self.connection is not None:
            self.follow_identity(self.connection)
        self._conversation = self.connection = None
        self._live = False
        if self.subscriber is not None:
            self.subscriber.leave()
        if self._mark is None:
            self._mark = 0 if self._messages is None else self._messages.next
        if not self._sessions.lost(self, why) or self._streams is None:
            return asked, answering
        return asked, self._streams.leave(answering)

    def enter(self, answering: Answering) -> bool:
        """`Keeper.enter`: a stream begins; whether it outlives its connection."""
        if self._streams is None:
            self._streams = KeptStreams(self.room, self._sessions.limits.in_flight)
        if self.over or not self._streams.enter(answering):
            return False
        answering.keeper = self
        return True

    def forget(self, answering: Answering) -> None:
        """The asking side has given up a stream."""
        answering.keeper = None
        if self._streams is not None:
            self._streams.forget(answering.id)

    def finish(self, answering: Answering, message: dict[str, Any]) -> None:
        """A stream ends with *message*, which is sent now and kept until it has arrived.

        Raises:
            EncodeError: It cannot be sent; nothing has changed.
        """
        data = self._serializer.serialize(message)
        if self._streams is not None:
            self._streams.finish(answering, data)
        if not answering.away:
            self._pass_on(data)

    def __repr__(self) -> str:
        state = "over" if self.over else "away" if self.connection is None else f"by {self.connection.id}"
        return f"<ServerSession {state}>"
