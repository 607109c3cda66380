"""The mesh protocol over one stream: what came is decoded and acted on, what is said is encoded and sent.

Runs in the hub that owns the socket. Which handler answers a request is not known here: `Answerer` is
handed in.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Hashable
from typing import TYPE_CHECKING, Any

import gevent
from gevent import getcurrent
from gevent.hub import get_hub

from webmesh.exceptions import (
    ConnectionClosed, DecodeError, InvalidArgument, MessageTooBig, Overloaded,
)  # fmt: skip
from webmesh.observer import Observer
from webmesh.options import Limits, Timeouts
from webmesh.protocol import envelope
from webmesh.protocol.envelope import Notification, Request, TopicMessage
from webmesh.protocol.events import (
    Answered, CancelArrived, CreditArrived, Dropped, Failed, ItemArrived, ItemsEnded, PositionLost, Refused,
)  # fmt: skip
from webmesh.protocol.session import LARGE, Answering, OpenRequest, RequestId, Session
from webmesh.websocket.roles import Answerer, Keeper, Waiter
from webmesh.websocket.turns import HOLD

if TYPE_CHECKING:
    from webmesh.message_serializers import AbstractMessageSerializer
    from webmesh.websocket.outgoing import Policy
    from webmesh.websocket.stream import MessageStream
    from webmesh.websocket.turns import Turns


class Conversation:
    """One peer's and our requests, over one stream.

    Attributes:
        session: What is open.
        stream: The messages' way.
        hub: The hub that owns the stream.
        connection: What handlers get; set by its maker.
        current: The call that the reading greenlet handles now; the answerer's to use.
        keeper: The session that outlives the connection, where one was agreed.
        answerer: Who answers the peer's requests.
        turns: Tells how many handlers run; set by whoever reads.
        credit_timeout: Seconds that items wait for credit.
        serializer: What the messages are written with.
    """

    def __init__(
        self,
        stream: MessageStream,
        serializer: AbstractMessageSerializer,
        answerer: Answerer,
        *,
        limits: Limits,
        observer: Observer,
        dialled: bool,
        credit_timeout: float = Timeouts.credit,
    ) -> None:
        self.session = Session(limits, dialled=dialled)
        self.stream = stream
        self.hub = get_hub()
        self.connection: Any = None
        self.current: Any = None
        self.keeper: Keeper | None = None
        self._awaited: dict[RequestId, Callable[[], object]] | None = None
        self.turns: Turns[Any] | None = None
        self.credit_timeout = credit_timeout
        self._in_flight = limits.in_flight
        self._apart = 0  # greenlets that handle and are not of `turns`
        self._held_up = False  # requests are held because the peer takes too little
        self._places = limits.in_flight  # for what is read now: none while requests are held up
        self.serializer = serializer
        self._wire_type = bytes if serializer.binary else str
        self._serialize = serializer.serialize
        self._deserialize: Callable[[str | bytes], object] = serializer.deserialize
        self.answerer = answerer
        self._receive: Callable[[object], Any] = self.session.receive
        self._observer = observer

    # ----------------------------------------------------------------- incoming

    def handle(self, item: object) -> None:
        """Act on one thing that was read."""
        if type(item) is not self._wire_type:
            self._no_message(item)
            return
        try:
            event = self._receive(self._deserialize(item))
        except (DecodeError, MessageTooBig) as error:
            self._undecodable(error)
            return
        kind = type(event)
        if kind is Request or kind is Notification:
            if event.credit is not None and self._serve_apart(event):
                return
            free = not self.stream.full and (self.turns is None or self.turns.in_flight < self._places)
            if free and len(item) < LARGE:
                self.answerer.serve(event, self)
            else:
                size, item = len(item), None  # a large one would be held twice: as bytes and decoded
                self._find_room(event, size)
        else:
            _ACTS[kind](self, event)

    def _serve_apart(self, request: Request) -> bool:
        """Answer a stream that outlives this connection in a greenlet of its own: those that read are needed for
        the connection's end. False when it is none, or there are too many."""
        keeper = self.keeper
        if keeper is None or request.stream or self.stream.full:
            return False
        if self.turns is not None and self.turns.in_flight >= self._places:
            return False
        try:
            answering = self.session.begin(request, None)  # now: what the peer says of it may come before its greenlet
        except InvalidArgument:
            return False
        if not keeper.enter(answering):
            self.session.finish(answering)
            return False
        self._count_apart(1)
        gevent.spawn(self._run_apart, request, answering)
        return True

    def _run_apart(self, request: Request, answering: Answering) -> None:
        try:
            if answering.wanted:
                self.answerer.serve(request, self, getcurrent())
                self.stream.end_turn()
        finally:
            if answering.owner is None:  # it was refused
                self.session.finish(answering)
                if answering.keeper is not None:
                    answering.keeper.forget(answering)
            try:
                self.serve_waiting()
            finally:
                self._count_apart(-1)

    def _count_apart(self, more: int) -> None:
        self._apart += more
        self._places = 0 if self._held_up else self._in_flight - self._apart

    def admit_only(
        self, admits: Callable[[Any, object], bool], serializer: AbstractMessageSerializer, size: int
    ) -> None:
        """Drop what *admits* refuses, until `admit_all`.

        Args:
            admits: Given the connection and a message.
            serializer: To read with meanwhile.
            size: Bytes that a message may have meanwhile.
        """

        def receive(message: object) -> Any:
            return self.session.receive(message) if admits(self.connection, message) else _NOT_ADMITTED

        self._receive, self._deserialize = receive, serializer.deserialize
        self.stream.limit_messages(size)

    def admit_all(self, size: int) -> None:
        """Read whatever comes, up to *size* bytes a message."""
        self._receive, self._deserialize = self.session.receive, self.serializer.deserialize
        self.stream.limit_messages(size)

    def shut_out(self, code: int, reason: str) -> None:
        """Close, and look at no message that comes before the end; what is being handled goes on."""
        self._receive, self._deserialize = _not_admitted, _unread
        self.stream.refuse(code, reason)

    def close_soon(self, code: int, reason: str) -> None:
        """Close once what the running handler answers is on its way."""
        self.hub.loop.run_callback(self.stream.close, code, reason)

    def _find_room(self, request: Request | Notification, size: int) -> None:
        """Handle a large request, or keep one that finds no room yet, or refuse it."""
        # While the peer takes too little, no request of its is begun: the answer would have to wait. Notifications are.
        behind = self._held_up or self.stream.full and type(request) is Request
        if not behind and self._has_place() and self.session.occupy(size):
            try:
                self.answerer.serve(request, self)
            finally:
                self.session.release(size)
            return
        held = self.session.hold(request, size, time.monotonic())
        while not held and behind and self.turns is not None and self.turns.pause(self.stream.pause):
            held = self.session.hold(request, size, time.monotonic())
        if held:
            if behind and not self._held_up:
                self._held_up = True
                self._serve_beside()
            return
        self._observer.refused("request", Overloaded.code)
        if isinstance(request, Request):
            text = f"{self._in_flight} requests of this connection are handled and too many wait"
            self.say(envelope.error(request.id, Overloaded(text).to_wire()))

    def _has_place(self) -> bool:
        return self.turns is None or self.turns.in_flight < self._in_flight - self._apart

    def serve_waiting(self) -> None:
        """Handle what waits for room, one after another, in the greenlet whose handler has just made some."""
        if not self._held_up and not self.session.waiting:  # nothing does, after nearly every call
            return
        until = time.monotonic() + HOLD
        while self.session.waiting:
            self.stream.drain()
            held = self.session.next_held(time.monotonic())
            if held is None:
                return  # for what is in hand now, after which it is looked at again
            # As in `turns`: if handling switches, somebody else is to go on.
            switched = self.hub.loop.run_callback(self._serve_beside) if self._held_up else None
            try:
                self.answerer.serve(held[0], self, getcurrent())
            finally:
                self.session.release(held[1])
                if switched is not None:
                    switched.stop()
            self.stream.end_turn()
            if time.monotonic() > until:
                self.stream.let_others()
                until = time.monotonic() + HOLD
        self._held_up = False
        self._count_apart(0)

    def _serve_beside(self) -> None:
        """Let another greenlet handle what is held up, as soon as the peer has taken enough."""
        if self._has_place():
            self._count_apart(1)
            gevent.spawn(self._run_beside)

    def _run_beside(self) -> None:
        try:
            self.serve_waiting()
        finally:
            self._count_apart(-1)

    def switched(self, greenlet: Any) -> None:
        """In the hub: handling the current message in *greenlet* has switched."""
        if self.current is not None:
            self.answerer.switched(self, greenlet)

    def _no_message(self, item: object) -> None:
        if isinstance(item, str | bytes):
            wanted = "binary" if self.serializer.binary else "text"
            self._observer.refused("message", "wrong opcode")
            self.stream.refuse(1003, f"{self.serializer.name} messages are {wanted}")
        else:
            self.stream.control(item)

    def _undecodable(self, error: Exception) -> None:
        if isinstance(error, MessageTooBig):
            self._observer.refused("message", "too big")
            self.stream.refuse(1009, "message too big")
        else:
            self._observer.refused("message", "undecodable")
            self.stream.refuse(1007, f"undecodable: {error}"[:100])

    def _answered(self, event: Answered) -> None:
        event.request.waiter.succeed(event.data)

    def _failed(self, event: Failed) -> None:
        if event.notice is not None:
            self.say(event.notice)
        if isinstance(event.owner, OpenRequest):
            event.error.path, event.error.request_id = event.owner.path, event.owner.id
            event.owner.waiter.fail(event.error)
        else:
            self.answerer.end_items(event.owner.owner, event.error)

    def _item(self, event: ItemArrived) -> None:
        if isinstance(event.owner, OpenRequest):
            event.owner.waiter.put(event.item)
        else:
            self.answerer.item(event.owner.owner, event.item)

    def _items_ended(self, event: ItemsEnded) -> None:
        self.answerer.end_items(event.owner.owner, None)

    def _cancel(self, event: CancelArrived) -> None:
        self.session.finish(event.owner)
        self._give_up(event.owner)

    def _give_up(self, answering: Answering) -> None:
        answering.wanted = False
        if answering.keeper is not None:
            answering.keeper.forget(answering)
        if answering.owner is not None:
            self.answerer.cancel(answering.owner)

    def _credit(self, event: CreditArrived) -> None:
        if isinstance(event.owner, OpenRequest):
            event.owner.waiter.credited()
        else:
            self.answerer.credited(event.owner.owner)

    def _dropped(self, event: Dropped) -> None:
        self._observer.refused("message", event.reason)

    def _refused(self, event: Refused) -> None:
        self._observer.refused("message", "invalid envelope")
        self.say(event.answer)
        if event.fatal:
            self.stream.refuse(4501, "too many invalid messages")

    def _lost(self, event: PositionLost) -> None:
        self._observer.refused("message", "position lost")
        self.stream.close(4010, "messages are missing before this one")

    def _topic(self, event: TopicMessage) -> None:
        self.answerer.topic(event, self)

    # ----------------------------------------------------------------- outgoing

    def send(self, message: dict[str, Any]) -> str | bytes:
        """Encode and take a message; the end of the turn, or `MessageStream.flush_soon`, writes it.

        Returns:
            Its bytes or text, for whoever may have to send it again.

        Raises:
            EncodeError: It cannot be sent with this serializer.
            ConnectionClosed: The connection is closing.
        """
        data = self._serialize(message)
        self.stream.send(data)
        return data

    def after_answer(self, request_id: RequestId, act: Callable[[], object]) -> None:
        """Call *act* in the hub when the answer to this request of the peer's has been taken, before anything that
        comes after it; it must not block. Only while that is awaited is anything looked at for it."""
        if self._awaited is None:
            self._awaited = {}
            self._serialize = self._serialize_awaited  # type: ignore[assignment]
        self._awaited[request_id] = act

    def _serialize_awaited(self, message: dict[str, Any]) -> str | bytes:
        if self._awaited is not None and "path" not in message and ("data" in message or "error" in message):
            act = self._awaited.pop(message["id"], None)
            if act is not None:
                self.hub.loop.run_callback(act)  # whoever serializes sends before the hub turns
            if not self._awaited:
                self._awaited = None
                self._serialize = self.serializer.serialize
        return self.serializer.serialize(message)

    def offer(self, message: dict[str, Any], policy: Policy, conflate_key: Hashable) -> bool:
        """Send a message for which a slow peer's queue may have no room; whether it was taken.

        Raises:
            EncodeError, ConnectionClosed: As `send`.
        """
        return self.stream.take(self._serialize(message), policy, conflate_key)

    def say(self, message: dict[str, Any]) -> None:
        """Send a message of the protocol's own, soon; after the end it is dropped."""
        try:
            self.send(message)
        except ConnectionClosed:
            return
        self.stream.flush_soon()

    def ask(
        self,
        path: str,
        data: Any,
        waiter: Waiter,
        *,
        timeout: float | None = None,
        headers: dict[str, str] | None = None,
        credit: int | None = None,
        stream: bool = False,
    ) -> OpenRequest:
        """Send a request; the answer comes to *waiter*.

        Args:
            timeout: Seconds that are left for it, told to the peer.
        """
        timeout_ms = None if timeout is None else max(1, round(timeout * 1000))
        request, message = self.session.ask(
            path, data, waiter, timeout_ms=timeout_ms, headers=headers, credit=credit, stream=stream
        )
        request.batch = self.stream.flushes
        sent = False
        try:
            self.send(message)
            sent = True
        finally:
            if not sent:
                self.session.abandon(request)
        self.stream.flush_soon()
        return request

    def abandon(self, request: OpenRequest) -> None:
        """Nobody waits for this answer any more: tell the peer, unless it has come."""
        cancel = self.session.abandon(request)
        if cancel is not None:
            self.say(cancel)

    def end(self, why: ConnectionClosed) -> tuple[list[OpenRequest], list[Answering]]:
        """The connection has ended: cancel what was being answered; returns what was asked and fails with it."""
        asked, answering = self.session.close()
        if self.keeper is not None:
            asked, answering = self.keeper.keep(self, why, asked, answering)
        for one in answering:
            self._give_up(one)
        return asked, answering

    def release(self) -> None:
        """Nobody reads or handles any more: let go of the connection, which would be freed late, by the collector."""
        if not self._apart and not self.session.waiting:
            self.connection = self.turns = None
            self._receive, self._serialize = _not_admitted, self.serializer.serialize


_NOT_ADMITTED = Dropped("not admitted")


def _not_admitted(message: object) -> Dropped:
    return _NOT_ADMITTED


def _unread(message: object) -> None:
    return None


# One table for all conversations, as in `session`.
_ACTS: dict[type, Callable[[Conversation, Any], None]] = {
    Answered: Conversation._answered,
    Failed: Conversation._failed,
    ItemArrived: Conversation._item,
    ItemsEnded: Conversation._items_ended,
    CancelArrived: Conversation._cancel,
    CreditArrived: Conversation._credit,
    Dropped: Conversation._dropped,
    PositionLost: Conversation._lost,
    Refused: Conversation._refused,
    TopicMessage: Conversation._topic,
}
