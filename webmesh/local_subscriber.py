"""`LocalSubscriber`: a function of this program that subscribes, as `@server.subscribe` makes it.

Decides where and in which order it is called, and what waits for it. Lives in the node's hub.
"""

from __future__ import annotations

import logging
import os
import time
from collections import deque
from collections.abc import Callable
from contextvars import Context
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import gevent

from webmesh.exceptions import Aborted
from webmesh.execution import Executor
from webmesh.messages import Message
from webmesh.observer import Observer
from webmesh.protocol.msgpack_body import copied
from webmesh.websocket.hub import HubThread

if TYPE_CHECKING:
    from webmesh.acknowledged import Answer
    from webmesh.deadline import Clock
    from webmesh.protocol.publication import Publication

Handler = Callable[[Any, str, Message], object]
"""`def handler(payload, topic, message)`."""

logger = logging.getLogger("webmesh.topics")


@dataclass(frozen=True, slots=True)
class LocalSubscription:
    """What a program has registered.

    Attributes:
        queue: Publications that may wait for the function; beyond it the oldest are lost to it, and it is told.
    """

    pattern: str
    handler: Handler
    group: str | None = None
    blocking: bool | None = None
    queue: int = 1024


@dataclass(frozen=True, slots=True)
class LocalRunner:
    """Where functions of the program run.

    Attributes:
        context: They get copies of it.
        blocking: Whether those that do not say so run in native threads.
        now: Reads the clock of `Publication.at`.
    """

    home: HubThread
    executor: Executor
    context: Context
    observer: Observer
    blocking: bool
    now: Clock = time.monotonic

    def run(self, subscription: LocalSubscription, message: Message) -> None:
        """Call the function; whatever it raises comes out."""
        context = self.context.copy()
        blocking = self.blocking if subscription.blocking is None else subscription.blocking
        arguments = (message.payload, message.topic, message)
        if blocking:
            self.executor.run(context, subscription.handler, *arguments)
        else:
            context.run(subscription.handler, *arguments)

    def failed(self, subscription: LocalSubscription, message: Message, error: BaseException) -> str:
        """Tell of a function that failed; returns the incident that stands in the log."""
        incident = os.urandom(4).hex()
        names = {"pattern": subscription.pattern, "topic": message.topic, "incident": incident}
        logger.error("subscriber failed", exc_info=error, extra=names)
        self.observer.handler_failed(subscription.pattern, incident, error)
        return incident


class LocalSubscriber:
    """One function; a `Taker`. It is called with one publication after another, in their order.

    Attributes:
        on_handled: Called after each.
    """

    def __init__(self, subscription: LocalSubscription, runner: LocalRunner) -> None:
        self.subscription = subscription
        self._runner = runner
        self._waiting: deque[tuple[Message, float | None]] = deque()
        self._worker: gevent.Greenlet[[], None] | None = None
        self._lost = 0
        self._over = False
        self.on_handled: Callable[[], object] | None = None

    @property
    def pending(self) -> int:
        """Publications that it has not yet handled."""
        return len(self._waiting) + (self._worker is not None)

    @property
    def over(self) -> bool:
        """Whether it is called no more."""
        return self._over

    def lose(self) -> None:
        """It does not get one; it is told before the next."""
        self._runner.observer.refused("delivery", "local queue full")
        self._lost += 1

    @property
    def takes_work(self) -> bool:
        """Whether nothing waits for it."""
        return not self._over and not self._waiting

    def hand(self, publication: Publication, attempt: int, answer: Answer | None) -> None:
        """A publication that it alone gets; *answer* is told how its handling ended, where anybody waits for that."""
        self.put(message_of(publication, attempt=attempt, answer=None if answer is None else self._homeward(answer)))

    def _homeward(self, answer: Answer) -> Answer:
        """The function may say so itself, from any thread."""

        def acknowledge(error: BaseException | None) -> None:
            self._runner.home.run(answer, error)

        return acknowledge

    def take(self, publication: Publication) -> None:
        """`Taker.take`."""
        self.put(message_of(publication), None if publication.ttl is None else publication.at + publication.ttl)

    def gap(self, reason: str, lost: int | None = None) -> None:
        """`Taker.gap`; *lost* tells how many, where that is known."""
        told = {"reason": reason, "pattern": True} | ({} if lost is None else {"lost": lost})
        self.put(Message(told, self.subscription.pattern, event="gap"))

    def put(self, message: Message, until: float | None = None) -> None:
        """Let it have a message, after those that wait; not once its time is over."""
        if self._over:
            return
        if len(self._waiting) >= self.subscription.queue and not message.wants_ack:
            self._drop_oldest()
        self._waiting.append((message, until))
        if self._worker is None:
            self._worker = gevent.spawn(self._work)

    def _drop_oldest(self) -> None:
        """Of those that nobody waits for: what must be acknowledged is given a few at a time anyway."""
        for place, (message, _) in enumerate(self._waiting):
            if not message.wants_ack:
                del self._waiting[place]
                self.lose()
                return

    def _work(self) -> None:
        try:
            while self._waiting and not self._over:
                if self._lost:
                    lost, self._lost = self._lost, 0
                    self._call(Message({"reason": "slow", "lost": lost}, self.subscription.pattern, event="gap"))
                message, until = self._waiting.popleft()
                if until is None or self._runner.now() < until:
                    self._call(message)
                else:
                    self._runner.observer.refused("delivery", "expired")
        finally:
            # A function may end its own greenlet; what waits is not to wait for the next publication.
            self._worker = gevent.spawn(self._work) if self._waiting and not self._over else None

    def _call(self, message: Message) -> None:
        try:
            self._runner.run(self.subscription, message)
            message.ack()
        except (gevent.GreenletExit, KeyboardInterrupt) as error:
            message.reject(Aborted(type(error).__name__))
            raise
        except BaseException as error:  # the edge around user code: sys.exit() must not end the subscription
            self._runner.failed(self.subscription, message, error)
            message.reject(error if isinstance(error, Exception) else Aborted(type(error).__name__))
        if self.on_handled is not None:
            self.on_handled()

    def stop(self, seconds: float) -> None:
        """End it; what it handles now gets *seconds* to end."""
        self._over = True
        self._waiting.clear()
        worker = self._worker
        if worker is not None:
            worker.join(seconds)
            worker.kill(block=False)


def message_of(publication: Publication, *, attempt: int = 1, answer: Answer | None = None) -> Message:
    """A publication as subscribers see it."""
    payload = publication.payload
    if isinstance(payload, dict | list):  # whoever gets it may change it, and others get it too
        payload = copied(payload)
    return Message(
        payload, publication.topic, publication.headers, offset=publication.offset,
        epoch=publication.epoch, attempt=attempt, retained=publication.retained, acknowledge=answer,
    )  # fmt: skip
