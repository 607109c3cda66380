"""`Subscription`: what a program holds of a topic, or a pattern of them, that it has subscribed to.

Decides how messages get from the client's hub to the program: to a callback, one after another, or to whoever iterates,
and when one counts as handled. What comes, and in which order, is `topic_feed`'s business.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import suppress
from contextvars import Context
from types import TracebackType
from typing import TYPE_CHECKING, Any, Protocol

import gevent

from webmesh.deadline import Deadline
from webmesh.exceptions import Aborted, ConnectionClosed, HandlerFailed, Overloaded, RemoteError, Unavailable
from webmesh.message_queue import MessageQueue
from webmesh.messages import Message
from webmesh.topic_feed import TopicFeed
from webmesh.websocket.hub import Completion

if TYPE_CHECKING:
    from webmesh.execution import Executor
    from webmesh.messages import Position
    from webmesh.websocket.hub import HubThread

Callback = Callable[[Any, str, Message], object]
"""`def callback(payload, topic, message)`."""

BATCH = 64
"""Messages that whoever iterates gets at a time from the hub: going there costs more than a message."""
NO_THREAD = 0.02
"""Seconds until a callback looks again for a native thread that is free."""

logger = logging.getLogger("webmesh.client")


class Owner(Protocol):
    """The client whose subscription it is."""

    home: HubThread
    context: Context
    executor: Executor | None
    """Native threads for callbacks; `None` where they may run in the hub."""

    def unsubscribe(self, subscription: Subscription) -> None:
        """End it, here and at the node."""


class Subscription:
    """A subscription of a client. Without a callback iterate over it: `for message in subscription:`.

    It lives through reconnects, until `unsubscribe` or the end of its client. A message that asks for an
    acknowledgement is acknowledged when the callback has returned, or when the loop asks for the next one; by hand with
    `Message.ack`, as those that `next` gets. One that nobody has any more, and has not acknowledged, may come again.

    Attributes:
        pattern: What it subscribes to.
        id: The node's name for it; `None` while the node knows of none.
        request: What `$subscribe` says of it, but for `since`.
        since: From where the past was asked for.
        feed: What is done with what comes.
        over: Whether it has ended.
    """

    def __init__(
        self,
        owner: Owner,
        request: dict[str, Any],
        since: Any,
        callback: Callback | None,
        queue: MessageQueue,
        feed: Callable[..., TopicFeed],
    ) -> None:
        self.pattern: str = request["pattern"]
        self.id: int | str | None = None
        self.request = request
        self.since = since
        self.over = False
        self.begun = False
        self._owner = owner
        self._callback = callback
        self._queue = queue
        self.feed = feed(self.pattern, queue, wake=self._wake, group="group" in request)
        self._members: dict[str, list[Any]] = {}
        self._error: BaseException | None = None
        self._runner: gevent.Greenlet[[Callback], None] | None = None
        self._bells: list[Completion[None]] = []
        self._taken: deque[Message] = deque()

    # --------------------------------------------------------------- for programs

    @property
    def state(self) -> dict[str, list[Any]]:
        """Who is present on the topic, with one meta for each of its connections; with `presence=True`."""
        return {key: list(metas) for key, metas in self._members.items()}

    @property
    def recovered(self) -> bool | None:
        """Whether all came that was published since the position that was asked for, or since the last loss of the
        session; `None` where neither was in question."""
        return self.feed.recovered

    @property
    def position(self) -> Position | None:
        """Where it stands in its topic: what has come, and been acknowledged where that is asked for. `None` for a
        pattern, and where the topic is not numbered. To be kept for a later `since`, take `Message.position` of what
        was handled."""
        return self.feed.position

    def next(self, timeout: float | None = None) -> Message:
        """The next message; to be acknowledged by hand where it asks for it.

        Args:
            timeout: Seconds; `None` waits for ever.

        Raises:
            TimeoutError: None came in time.
            ConnectionClosed: The subscription, or its client, has ended.
            LinkRefused: The client has given up connecting; `WebMeshClient.connect` tries anew.
            Overloaded: The queue was full, and `overflow` is "close".
            RemoteError: The node does not take the subscription any more.
        """
        deadline = Deadline(timeout)
        while True:
            with suppress(IndexError):
                return self._taken.popleft()
            if not self._owner.home.run(self._take):
                self._owner.home.run(self._wait, deadline.remaining())

    def __iter__(self) -> Iterator[Message]:
        """Messages until the subscription ends. One is acknowledged when the next one is asked for; the one at which
        the loop was left is rejected."""
        while True:
            try:
                message = self.next()
            except ConnectionClosed:
                if self.over:
                    return
                raise
            left = True
            try:
                yield message
                left = False
            finally:
                if left:
                    message.reject(Unavailable("the loop was left"))
            message.ack()

    def unsubscribe(self) -> None:
        """End it. No callback begins after this, and what waits is dropped; safe to call twice and from callbacks."""
        self._owner.unsubscribe(self)

    def __enter__(self) -> Subscription:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.unsubscribe()

    def __repr__(self) -> str:
        state = "over" if self.over else "waits for a connection" if self.id is None else f"id={self.id}"
        return f"<Subscription {self.pattern} {state}>"

    # ------------------------------------------------------------ in the hub: waiting

    def _take(self) -> bool:
        """Hand out what waits; whether there was any."""
        batch = self._queue.take(BATCH)
        self._taken.extend(batch)
        if batch:
            self.feed.consumed()
        return bool(batch)

    def _wait(self, seconds: float | None) -> None:
        if len(self._queue) or self._taken:
            return
        if self._error is not None:
            raise self._error.with_traceback(None)  # each raise adds to it, which would grow
        bell: Completion[None] = Completion(gevent.get_hub())
        self._bells.append(bell)
        try:
            bell.wait(seconds)
        finally:
            if bell in self._bells:
                self._bells.remove(bell)

    def _wake(self) -> None:
        """Something was put into the queue."""
        if self._queue.overflowed and not self.over:
            self.end(Overloaded(f"the queue of the subscription to {self.pattern} was full"))
            gevent.spawn(self._owner.unsubscribe, self)
        elif self._callback is not None:
            if self._runner is None and not self.over:
                self._runner = gevent.spawn(self._run, self._callback)
        else:
            self._ring()

    def _ring(self) -> None:
        bells, self._bells = self._bells, []
        for bell in bells:
            bell.succeed(None)

    # ----------------------------------------------------------- in the hub: callbacks

    def _run(self, callback: Callback) -> None:
        try:
            while len(self._queue):
                message = self._queue.pop()
                self.feed.consumed()
                self._call(callback, message)
        finally:
            if self._runner is gevent.getcurrent():  # otherwise the client closes
                # A callback may end its own greenlet; what waits is not to wait for the next message.
                self._runner = gevent.spawn(self._run, callback) if len(self._queue) and not self.over else None

    def _call(self, callback: Callback, message: Message) -> None:
        try:
            self._call_in(self._owner.executor, callback, message)
        except gevent.GreenletExit as error:  # the callback's own, or the client closes
            message.reject(Aborted(type(error).__name__))
            raise
        except BaseException as error:  # the edge around user code: sys.exit() must not end the hub's thread
            logger.error("subscriber failed", exc_info=error, extra={"topic": message.topic, "pattern": self.pattern})
            message.reject(error if isinstance(error, RemoteError) else HandlerFailed("the subscriber failed"))
        else:
            message.ack()

    def _call_in(self, executor: Executor | None, callback: Callback, message: Message) -> None:
        context = self._owner.context.copy()
        if executor is None:
            context.run(callback, message.payload, message.topic, message)
            return
        while executor.full:
            gevent.sleep(NO_THREAD)
        executor.run(context, callback, message.payload, message.topic, message)

    # -------------------------------------------------------- in the hub: for its client

    def be_present(self, members: Any, *, tell: bool) -> None:
        """The node says who is present; *tell* the program what has changed since it was last heard."""
        before, self._members = self._members, read_members(members)
        joined = {key: metas for key, metas in self._members.items() if before.get(key) != metas}
        left = {key: metas for key, metas in before.items() if self._members.get(key) != metas}
        if tell and (joined or left):
            self._queue.put(Message({"joined": joined, "left": left}, self.pattern, event="presence"))
            self._wake()

    def change_presence(self, data: Any) -> None:
        """Some have come or left."""
        said = data if isinstance(data, dict) else {}
        for key, metas in read_members(said.get("left")).items():
            rest = list(self._members.get(key, ()))
            for meta in metas:
                if meta in rest:
                    rest.remove(meta)
            if rest:
                self._members[key] = rest
            else:
                self._members.pop(key, None)
        for key, metas in read_members(said.get("joined")).items():
            self._members[key] = [*self._members.get(key, ()), *metas]

    def trouble(self, error: BaseException | None) -> None:
        """No message comes any more, for the time being; `None`: it does again."""
        if not self.over:
            self._error = error
            self._ring()

    def end(self, error: BaseException | None = None) -> None:
        """It is over; whoever waits gets *error*, once nothing is left in the queue."""
        if self.over:
            return
        self.over = True
        self._error = error or ConnectionClosed(1000, "the subscription has ended")
        self.feed.stop()
        if self._callback is not None or error is None:
            for message in (*self._queue.clear(), *self._untaken()):
                message.reject(Unavailable("the subscriber has gone"))
        if self._callback is not None and error is not None:
            logger.warning("subscription ended", extra={"pattern": self.pattern, "error": str(error)})
            self._queue.put(Message({"reason": "ended", "error": str(error)}, self.pattern, event="gap"))
            if self._runner is None:
                self._runner = gevent.spawn(self._run, self._callback)
        self._ring()

    def _untaken(self) -> Iterator[Message]:
        """What was handed out and nobody has asked for yet; other threads may ask meanwhile."""
        with suppress(IndexError):
            while True:
                yield self._taken.popleft()

    def kill(self, closer: object = None) -> None:
        """Its client closes: end the callback, as far as that can be done from outside; but not the greenlet *closer*,
        which has asked for it."""
        runner, self._runner = self._runner, None
        if runner is not None and runner is not closer:
            runner.kill(block=False)


def read_members(members: Any) -> dict[str, list[Any]]:
    """Keys and their metas; whatever makes no sense counts as not there."""
    if not isinstance(members, dict):
        return {}
    return {key: list(metas) for key, metas in members.items() if isinstance(key, str) and isinstance(metas, list)}
