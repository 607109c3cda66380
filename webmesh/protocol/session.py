"""One conversation: which requests are open in each direction, and what a message means for them.

Pure: no socket, clock, greenlet or serializer. Requests that are answered within the turn in which
they came never enter a table here; `begin` is for those that last. Wire form: docs/PROTOCOL.md section 2.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

from webmesh.exceptions import DataLoss, InvalidArgument, Overloaded, error_from_wire
from webmesh.options import Limits
from webmesh.protocol import envelope
from webmesh.protocol.envelope import (
    Cancel, Credit, EndOfItems, ErrorReply, InvalidEnvelope, Item, Notification, Reply, Request, TopicMessage,
)  # fmt: skip
from webmesh.protocol.events import (
    Answered, CancelArrived, CreditArrived, Dropped, Failed, ItemArrived, ItemsEnded, PositionLost, Refused,
)  # fmt: skip
from webmesh.protocol.retained import Received
from webmesh.protocol.streams import ItemReceiver, ItemSender

RequestId: TypeAlias = int | str
Event: TypeAlias = (
    Request | Notification | TopicMessage | Answered | Failed | ItemArrived | ItemsEnded | CreditArrived
    | CancelArrived | Dropped | PositionLost | Refused
)  # fmt: skip
SAFE_INTEGER = 2**53
"""Ids stay below it, so that a peer whose numbers are doubles can hold them (RFC 8259 section 6)."""
ACCEPTING_SIDE_IDS = 2**52
"""First id of the side that accepted the connection; the side that dialled begins at 0.

Items and credit carry an id that either side may have chosen, so equal ids open in both directions
could not be told apart (docs/PROTOCOL.md section 2). Foreign clients count from a small number.
"""


LARGE = 64 * 1024
"""Bytes of a request from which its own size counts, and not only that it is one: 256 handlers with the largest
messages would hold 256 MiB of one peer's."""

_Held: TypeAlias = tuple[Request | Notification, int, float]


class OpenRequest:
    """A request of ours that awaits its answer.

    Attributes:
        waiter: Whatever the layer above gave; the session only hands it back.
        receiver: Counts the items that come back; `None` for a plain call.
        sender: Counts the items that we send; `None` when we announced none.
        batch: For the layer above: which batch of bytes it left with.
    """

    __slots__ = ("batch", "id", "path", "receiver", "sender", "waiter")

    def __init__(
        self, request_id: RequestId, path: str, waiter: Any, receiver: ItemReceiver | None, sender: ItemSender | None
    ) -> None:
        self.id = request_id
        self.path = path
        self.waiter = waiter
        self.receiver = receiver
        self.sender = sender
        self.batch = 0

    @property
    def resumable(self) -> bool:
        """Whether it can go on over another connection: items come to us, and none of ours go."""
        return self.receiver is not None and self.sender is None

    @property
    def position(self) -> list[RequestId]:
        """Where a stream is: its id, how many items have come, how many more may come."""
        return [self.id, 0, 0] if self.receiver is None else [self.id, self.receiver.seq, self.receiver.allowance]

    def __repr__(self) -> str:
        return f"<OpenRequest {self.id!r} {self.path}>"


class Answering:
    """A request of the peer's whose handler has not returned yet.

    Attributes:
        owner: Whatever the layer above gave; the session only hands it back.
        sender: Counts the items that we send, within the credit of the request. Where there is no such bound it is made
            when it is asked for: most calls send none.
        receiver: Counts the items that the asking side sends; `None` when it announced none.
        wanted: Turns false when the asking side has given up, whatever its handler makes of that.
        keeper: The session that keeps it when the connection is lost; `None` when it ends with that.
        away: Whether the asking side has lost its connection and not come back yet.
    """

    __slots__ = ("away", "id", "keeper", "owner", "receiver", "sender", "wanted")

    def __init__(self, request: Request, owner: Any, window: int) -> None:
        self.id = request.id
        self.owner = owner
        self.wanted = True
        self.keeper: Any = None
        self.away = False
        if request.credit is not None:
            self.sender = ItemSender(request.credit)
        self.receiver = ItemReceiver(window) if request.stream else None

    def __getattr__(self, name: str) -> ItemSender:
        if name != "sender":
            raise AttributeError(name)
        self.sender = ItemSender(None)
        return self.sender

    def __repr__(self) -> str:
        return f"<Answering {self.id!r}>"


class Session:
    """The state of one conversation between two peers; both sides have the same rights.

    Args:
        dialled: Whether this side opened the connection; it decides from where ids are counted.

    Attributes:
        received: Counts what the peer keeps for us; `None` where no session was agreed.
    """

    __slots__ = (
        "_answering", "_asked", "_delivered", "_held", "_held_size", "_in_hand", "_limits", "_next_id", "invalid",
        "received",
    )  # fmt: skip

    def __init__(self, limits: Limits, *, dialled: bool) -> None:
        self._limits = limits
        self._next_id = 0 if dialled else ACCEPTING_SIDE_IDS
        self.invalid = 0
        self._asked: dict[RequestId, OpenRequest] = {}
        self._delivered: dict[RequestId, OpenRequest] | None = None  # made when needed, as the next one
        self._answering: dict[RequestId, Answering] = {}
        self._held: dict[object, _Held] | None = None  # made when needed: most connections never need it
        self._held_size = 0
        self._in_hand = 0
        self.received: Received | None = None

    @property
    def open_requests(self) -> int:
        """Requests and deliveries of ours that await an answer."""
        return len(self._asked) + (len(self._delivered) if self._delivered else 0)

    @property
    def open_calls(self) -> int:
        """Those of them that are no streams, which end by themselves."""
        return sum(one.receiver is None and one.sender is None for one in self._asked.values())

    @property
    def answering(self) -> int:
        """Requests of the peer's that lasted longer than the turn in which they came."""
        return len(self._answering)

    # ------------------------------------------------------------------ asking

    def ask(
        self,
        path: str,
        data: Any,
        waiter: Any,
        *,
        timeout_ms: float | None = None,
        headers: dict[str, str] | None = None,
        credit: int | None = None,
        stream: bool = False,
    ) -> tuple[OpenRequest, dict[str, Any]]:
        """Open a request and return it with the message to send.

        Args:
            credit: Items that may be on their way to us; `None` makes a plain call of it.
            stream: Announces items of ours; the peer grants the first ones.

        Raises:
            Overloaded: `Limits.open_requests` are open already.
        """
        if len(self._asked) >= self._limits.open_requests:
            full = Overloaded(f"{len(self._asked)} requests are open on this connection, the limit")
            full.path = path
            raise full
        request_id = self._fresh_id()
        message = envelope.request(
            path, request_id, data, timeout_ms=timeout_ms, headers=headers, credit=credit, stream=stream
        )
        receiver = None if credit is None else ItemReceiver(credit)
        request = OpenRequest(request_id, path, waiter, receiver, ItemSender(0) if stream else None)
        self._asked[request_id] = request
        return request, message

    def enter(self, topic: str, waiter: Any) -> OpenRequest:
        """Open a publication that is to be answered; its message needs the request's id.

        Raises:
            Overloaded: As `ask`.
        """
        if len(self._asked) >= self._limits.open_requests:
            raise Overloaded(f"{len(self._asked)} requests are open on this connection, the limit")
        request_id = self._fresh_id()
        request = self._asked[request_id] = OpenRequest(request_id, topic, waiter, None, None)
        return request

    def _fresh_id(self) -> int:
        request_id = self._next_id
        # After 2**53 requests an old stream may still hold its number.
        while request_id in self._asked or self._delivered and request_id in self._delivered:
            request_id = (request_id + 1) % SAFE_INTEGER
        self._next_id = (request_id + 1) % SAFE_INTEGER
        return request_id

    def deliver(self, topic: str, waiter: Any) -> OpenRequest:
        """Open a delivery that must be acknowledged, which counts its id like a request. How many there may be is for
        the layer above to bound: they must not take the places of calls."""
        if self._delivered is None:
            self._delivered = {}
        request = OpenRequest(self._fresh_id(), topic, waiter, None, None)
        self._delivered[request.id] = request
        return request

    def forget(self, request: OpenRequest) -> None:
        """A delivery whose acknowledgement would change nothing any more."""
        if self._delivered is not None:
            self._delivered.pop(request.id, None)

    @property
    def next_id(self) -> int:
        """The id of our next request."""
        return self._next_id

    def count_from(self, next_id: int) -> None:
        """Go on where the last conversation of the same session stopped to count its requests."""
        self._next_id = next_id

    def adopt(self, request: OpenRequest) -> None:
        """Go on with a stream that was asked for in an earlier conversation."""
        if request.receiver is not None:
            request.receiver.resumed = request.receiver.seq
        self._asked[request.id] = request

    def abandon(self, request: OpenRequest) -> dict[str, Any] | None:
        """Stop waiting. Returns the cancel to send, or `None` when the answer has come already."""
        if self._asked.pop(request.id, None) is None:
            return None
        return envelope.cancel(request.id)

    # --------------------------------------------------------------- answering

    def begin(self, request: Request, owner: Any) -> Answering:
        """Enter a request of the peer's that lasts, so that cancels, credit and items find it.

        Raises:
            InvalidArgument: A request with this id is being answered already.
        """
        found = self._answering.get(request.id)
        if found is not None:
            if found.owner is not None or owner is None:
                raise InvalidArgument(f"a request with id {request.id!r} is open already")
            found.owner = owner  # it was entered before anybody was there to answer it
            return found
        answering = self._answering[request.id] = Answering(request, owner, self._limits.stream_credit)
        return answering

    def finish(self, answering: Answering) -> None:
        """Its answer is on its way, or nobody wants it: what comes for it now is dropped."""
        self._answering.pop(answering.id, None)

    def take_over(self, answering: Answering) -> bool:
        """Go on answering what was asked in an earlier conversation; False when its id is taken."""
        return self._answering.setdefault(answering.id, answering) is answering

    # ------------------------------------------------------------------ waiting

    def hold(self, request: Request | Notification, size: int, now: float) -> bool:
        """Keep a request until there is room to handle it, as reading must go on: replies, credit and cancels that
        handlers wait for come by the same way.

        Args:
            size: Bytes of its message.
            now: The clock's reading; what it waits here counts against its time.

        Returns:
            False when too many wait already, or too large ones: it is to be refused.
        """
        if self._held is None:
            self._held = {}
        if len(self._held) >= self._limits.open_requests or self._held_size + size > self._limits.waiting_size:
            return False
        key = request.id if isinstance(request, Request) else object()
        if key in self._held:
            return False
        self._held[key] = (request, size, now)
        self._held_size += size
        return True

    @property
    def waiting(self) -> int:
        """Requests that are held."""
        return len(self._held) if self._held else 0

    def occupy(self, size: int) -> bool:
        """Count a request that begins to be handled, if it is a large one; `release` ends that.

        Returns:
            False when large ones have too many bytes in hand already: it has to wait. Alone it always finds room.
        """
        if size < LARGE:
            return True
        if self._in_hand and self._in_hand + size > self._limits.in_flight_size:
            return False
        self._in_hand += size
        return True

    def release(self, size: int) -> None:
        """A request that `occupy` or `next_held` gave room was handled."""
        if size >= LARGE:
            self._in_hand -= size

    def next_held(self, now: float) -> tuple[Request | Notification, int] | None:
        """The request that has waited longest, with what is left of its time, and its size.

        It is counted as in hand, until `release`. `None` when none waits, or it is too large for what is in hand.
        """
        if not self._held:
            return None
        key, (request, size, since) = next(iter(self._held.items()))
        if not self.occupy(size):
            return None
        del self._held[key]
        self._held_size -= size
        if isinstance(request, Request) and request.timeout_ms is not None:
            request.timeout_ms = max(0.0, request.timeout_ms - (now - since) * 1000)
        return request, size

    # ---------------------------------------------------------------- messages

    def receive(self, message: object) -> Event:
        """What a decoded message means; never raises for anything that a peer can send."""
        try:
            parsed = envelope.classify(message, self._limits)
        except InvalidEnvelope as fault:
            return self._refuse(fault)
        kind = type(parsed)
        if kind is Request:  # is its own event
            return parsed  # type: ignore[return-value]
        return _HANDLERS[kind](self, parsed)

    def close(self) -> tuple[list[OpenRequest], list[Answering]]:
        """End the conversation: what was asked, and what was being answered; nothing is open after it.

        Deliveries are forgotten: who sent them knows which were not acknowledged.
        """
        asked, answering = list(self._asked.values()), list(self._answering.values())
        self._asked.clear()
        self._answering.clear()
        self._held = self._delivered = None
        return asked, answering

    def _refuse(self, fault: InvalidEnvelope) -> Refused:
        self.invalid += 1
        error = InvalidArgument(str(fault)).to_wire()
        return Refused(envelope.error(fault.id, error), fatal=self.invalid >= self._limits.invalid_messages)

    def _reply(self, reply: Reply) -> Event:
        request = self._asked.pop(reply.id, None)
        if request is None:
            request = self._acknowledged(reply.id)
        return Dropped("late reply") if request is None else Answered(request, reply.data)

    def _acknowledged(self, request_id: RequestId | None) -> OpenRequest | None:
        return None if not self._delivered or request_id is None else self._delivered.pop(request_id, None)

    def _error(self, reply: ErrorReply) -> Event:
        request = None if reply.id is None else self._asked.pop(reply.id, None)
        if request is None:
            request = self._acknowledged(reply.id)
        return Dropped("late error") if request is None else Failed(request, error_from_wire(reply.error))

    def _item(self, item: Item) -> Event:
        asked, answering = self._asked.get(item.id), self._answering.get(item.id)
        if asked is not None and asked.receiver is not None:
            fault = asked.receiver.accept(item.seq)
            if fault is None:
                return ItemArrived(asked, item.item)
            if item.seq < asked.receiver.resumed:
                return Dropped("item again")
            del self._asked[asked.id]
            return Failed(asked, DataLoss(fault), envelope.cancel(asked.id))
        if answering is not None and answering.receiver is not None:
            fault = answering.receiver.accept(item.seq)
            return ItemArrived(answering, item.item) if fault is None else Failed(answering, DataLoss(fault))
        return Dropped("late item")

    def _unasked(self, message: Notification | TopicMessage) -> Event:
        if message.kept is None or self.received is None:
            return message
        new = self.received.accept(message.kept)
        if new is None:
            return PositionLost(message.kept)
        return message if new else Dropped("kept message again")

    def _end(self, end: EndOfItems) -> Event:
        answering = self._answering.get(end.id)
        if answering is None or answering.receiver is None:
            return Dropped("late end of items")
        return ItemsEnded(answering)

    def _cancel(self, cancel: Cancel) -> Event:
        answering = self._answering.get(cancel.id)
        if answering is not None:
            return CancelArrived(answering)
        held = None if self._held is None else self._held.pop(cancel.id, None)
        if held is None:
            return Dropped("late cancel")
        self._held_size -= held[1]
        return Dropped("cancelled before it began")

    def _credit(self, credit: Credit) -> Event:
        asked, answering = self._asked.get(credit.id), self._answering.get(credit.id)
        if asked is not None and asked.sender is not None:
            asked.sender.grant(credit.credit)
            return CreditArrived(asked)
        if answering is not None:
            answering.sender.grant(credit.credit)
            return CreditArrived(answering)
        return Dropped("late credit")


# One table for all sessions: a table of bound methods in each would take 700 bytes of an idle connection.
_HANDLERS: dict[type, Callable[[Session, Any], Event]] = {
    Reply: Session._reply,
    ErrorReply: Session._error,
    Item: Session._item,
    EndOfItems: Session._end,
    Cancel: Session._cancel,
    Credit: Session._credit,
    Notification: Session._unasked,
    TopicMessage: Session._unasked,
}
