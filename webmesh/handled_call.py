"""A call that a handler is running: its deadline, its cancel, its place among the open requests.

Nothing is armed until the handler switches for the first time: one that never does cannot be interrupted
anyway, so quick handlers pay nothing (docs/ARCHITECTURE.md, "Hot path").
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import gevent

from webmesh.call import NO_HEADERS, NO_ITEMS, Call
from webmesh.exceptions import Aborted, Cancelled, InvalidArgument, PermissionDenied, RemoteError
from webmesh.protocol import envelope
from webmesh.websocket.hub import Completion, HubThread
from webmesh.websocket.inbox import Inbox

if TYPE_CHECKING:
    from webmesh.routing import Route
    from webmesh.protocol.session import Answering
    from webmesh.websocket.conversation import Conversation


class HandledCall(Call):
    """One request or notification of the peer's, while it is answered. Lives in the hub.

    Attributes:
        armed: Whether there is anything to `disarm`. Only then there are a greenlet, a timer, an expiry and a `since`:
            to set them would cost every call.
        expiry: What is thrown into the greenlet when the time is up; tells ours from a Timeout of the handler's.
        since: When it was read, by the monotonic clock; `None` when its time has been counted.
        bounded: False when neither the caller nor the route named a time: then a stream has no end.
    """

    __slots__ = (
        "_bell", "answering", "armed", "bounded", "conversation", "expiry", "greenlet", "request", "since",
        "timer",
    )  # fmt: skip
    since: float | None
    greenlet: Any
    timer: Any
    expiry: gevent.Timeout | None
    _bell: Completion[None] | None

    def __init__(
        self,
        request: Any,
        conversation: Conversation,
        route: Route,
        arguments: Mapping[str, Any],
        seconds: float,
        bounded: bool,
    ) -> None:
        # Not by way of Call.__init__: this runs for every message, and the detour costs a tenth of it.
        self.path = request.path
        self.payload = request.data
        self.headers = request.headers or NO_HEADERS
        self.connection = conversation.connection
        self.route = route
        self.arguments = arguments
        self.request_id = request.id
        self.seconds = seconds
        self.items = NO_ITEMS
        self.cancelled = False
        self._deadline = None
        self._inner = None
        self.request = request
        self.conversation = conversation
        self.bounded = bounded
        self.armed = False
        self.answering: Answering | None = None

    @property
    def streams(self) -> bool:
        """Whether it answers with a stream, as far as can be seen: one that takes items may do anything with them."""
        if self.answering is None or self.answering.receiver is not None:
            return False
        return self.seconds is None or self.answering.sender.seq > 0

    @property
    def wanted(self) -> bool:
        """Whether the asking side still waits for the answer."""
        return not self.cancelled and (self.answering is None or self.answering.wanted)

    def begin(self) -> Answering | None:
        """Enter it among the open requests, unless it is there; a notification has no place there.

        Raises:
            InvalidArgument: The peer has used the id of a request that is still open.
        """
        if not self.armed:
            self._set_up()
            self.since = time.monotonic()
        if self.answering is None and self.request_id is not None:
            self.answering = self.conversation.session.begin(self.request, self)
        return self.answering

    def arm(self, greenlet: Any, loop: Any, since: float) -> None:
        """In the hub: its handler has switched in *greenlet*, so from now on it can be interrupted."""
        if not self.armed:
            self._set_up()
        self.since = since
        self.greenlet = greenlet
        try:
            if self.answering is None and self.request_id is not None:
                self.answering = self.conversation.session.begin(self.request, self)
        except InvalidArgument as error:
            loop.run_callback(self._throw, error)
            return
        left = self.deadline.remaining()
        if left is not None:
            self.timer = loop.timer(left)
            self.timer.start(self._expire, update=True)

    def _set_up(self) -> None:
        """It lasts: from now on there is what only such a call has."""
        self.armed = True
        self.greenlet = self.timer = self.expiry = self._bell = None

    def unbound(self) -> None:
        """It has become a stream for which nobody named a time: it may last."""
        if not self.bounded:
            self.seconds = None
            self._deadline = None
            if self.armed and self.timer is not None:
                self.timer.close()
                self.timer = None

    def disarm(self) -> None:
        """Its handler is over: nothing may be thrown into that greenlet any more."""
        if not self.armed:
            return
        self.greenlet = None
        if self.timer is not None:
            self.timer.close()
            self.timer = None
        if self.answering is not None:
            self.conversation.session.finish(self.answering)
            if self.request.credit is None:  # nothing that may outlive the connection refers to it
                self.answering.owner = None  # which would be freed late, by the collector
        if self.items is not NO_ITEMS and isinstance(self.items, Inbox):
            self.items.end()

    def give_up(self, mode: str) -> None:
        """In the hub: the peer no longer wants the answer. *mode* is the route's `cancel` option."""
        if self.answering is not None:
            self.answering.wanted = False
        if mode != "never":
            self.cancel()
        if mode == "raise":
            self._throw(Cancelled("the asking side has given up"))
            self._cancel_inner()
        self.credited()

    def deny(self, loop: Any) -> None:
        """Its peer may not have this stream any more: no further item goes out, nor what is kept of them."""
        answering = self.answering
        if answering is not None:
            answering.wanted = False
            if answering.sender.retained is not None:
                answering.sender.retained.clear()
        loop.run_callback(self._throw, PermissionDenied("not allowed any more"))
        loop.run_callback(self.credited)

    def forsake(self) -> None:
        """In the hub: it was answered with an error; whatever still runs for it is to end."""
        self.cancel()
        self._cancel_inner()
        self.credited()

    def fail_items(self, error: RemoteError) -> None:
        """It ends with *error*: a handler that still reads items must not take it for their end."""
        if isinstance(self.items, Inbox):
            self.items.fail(error)

    def _cancel_inner(self) -> None:
        if self._inner:
            for inner in self.interrupt():
                inner.cancel()
        self._inner = ()

    def expired_with(self, error: BaseException) -> bool:
        """Whether *error* is what its handler was interrupted with when its time was up."""
        return self.armed and error is self.expiry

    def _expire(self) -> None:
        self.expiry = gevent.Timeout(self.seconds)
        self._throw(self.expiry)

    def _throw(self, error: BaseException) -> None:
        greenlet = self.greenlet if self.armed else None
        if greenlet is not None and not greenlet.dead:
            greenlet.throw(error)

    # ------------------------------------------------------------------- streams

    def open_items(self, home: HubThread, window: int) -> None:
        """Let the asking side's items in: the handler finds them in `items`."""
        answering = self.begin()
        if answering is None or answering.receiver is None:
            return
        conversation, receiver = self.conversation, answering.receiver

        def consume() -> None:
            credit = receiver.consume()
            if credit and not inbox.over:
                conversation.say(envelope.credit(answering.id, credit))

        def taken() -> None:
            if home.inside():
                consume()
            else:
                home.post(consume)

        inbox: Inbox[Any] = Inbox(home.hub, taken)
        self.items = inbox
        conversation.say(envelope.credit(answering.id, window))

    def put(self, item: Any) -> None:
        """Send an item; waits for the peer's credit and for room.

        Raises:
            Cancelled: The peer has given up.
            Aborted: It has taken nothing for `Timeouts.credit`.
        """
        answering = self.answering
        if answering is None:  # items of a notification go nowhere
            return
        sender = answering.sender
        while not self._takes(answering):
            self._wait(answering)
        if self.conversation.stream.full:
            self.conversation.stream.drain()
            if not self._takes(answering):
                return self.put(item)
        conversation = self.conversation
        data = conversation.send(envelope.item(answering.id, item, sender.seq))
        sender.take()
        if sender.retained is not None:
            sender.retained.add(data)
        conversation.stream.flush_soon()

    def _takes(self, answering: Answering) -> bool:
        """Whether an item may be sent now.

        Raises:
            Cancelled: Nobody wants it. However the route takes a cancel, items cannot be produced for ever.
        """
        there = self.connection.open and not answering.away
        if self.cancelled or not answering.wanted or not there and answering.keeper is None:
            raise Cancelled("the asking side has given up")
        return there and answering.sender.ready

    def _wait(self, answering: Answering) -> None:
        """Wait for credit; while the peer is away, for it to come back, as long as its session waits."""
        bell = self._bell = Completion(self.conversation.hub)
        seconds = self.conversation.credit_timeout if self.connection.open else None
        try:
            bell.wait(seconds)
        except TimeoutError:
            if self.connection.open and not answering.away:
                raise Aborted(f"nobody took an item for {seconds:g} s") from None

    def moved(self, conversation: Conversation) -> None:
        """In the hub: its peer goes on with it over another connection."""
        self.conversation = conversation
        self.connection = conversation.connection
        self.credited()

    def go_unanswered(self) -> None:
        """Let its peer hear nothing of it, over no connection; the handler's end with `Cancelled` is not sent."""
        self.cancel()
        answering = self.answering
        if answering is not None and answering.keeper is not None:
            answering.keeper.forget(answering)

    @property
    def kept(self) -> bool:
        """Whether it outlives its connection: then its answer must find its way, whatever has happened."""
        return self.answering is not None and self.answering.keeper is not None

    def await_room(self) -> None:
        """Wait until its reply finds room, within its time; it can be cancelled meanwhile. Nobody waits for that of a
        peer that is away."""
        if self.request_id is None or self.wanted:
            self.conversation.stream.drain()

    def answer(self, message: dict[str, Any]) -> None:
        """Send its reply or error, over the connection that its peer has now.

        Raises:
            EncodeError: It cannot be sent.
            ConnectionClosed: There is none, and none is waited for.
        """
        if self.answering is not None and self.answering.keeper is not None:
            self.answering.keeper.finish(self.answering, message)
        else:
            self.conversation.send(message)

    def credited(self) -> None:
        """The peer takes more items, or none any more."""
        if not self.armed:
            return
        bell, self._bell = self._bell, None
        if bell is not None:
            bell.succeed(None)
