"""Deliveries that must be acknowledged: who has which, when one is given again, and when it is given up.

Decides that for one subscriber, or for the members of one group: whom a letter goes to is its subclass's business,
how it gets there the member's. Lives in the node's hub.
"""

from __future__ import annotations

import math
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol

from gevent.hub import get_hub

from webmesh.exceptions import EncodeError, RemoteError
from webmesh.protocol.deliveries import Deliveries, Delivery, Redelivery

if TYPE_CHECKING:
    from webmesh.deadline import Clock
    from webmesh.observer import Observer
    from webmesh.protocol.publication import Publication
    from webmesh.topic_options import TopicOptions

MOST_OPEN = 10_000
"""Deliveries that wait for one subscriber, or that it has and has not acknowledged."""

HAND_OVERS = 4
"""Times the attempts of its topic that a message is given to anybody, failed or not: the rest of them are those whose
subscriber went away with it, and one that kills whoever takes it must not do so for ever (RabbitMQ: 20)."""

SILENCE = "not acknowledged in time"

Answer = Callable[[BaseException | None], None]
"""Tells what became of a delivery: `None` for an acknowledgement."""


@dataclass(slots=True, eq=False)
class Letter:
    """One publication for one subscriber or group.

    Attributes:
        token: What the subclass knows it by.
        reason: Why the last attempt failed, for who reads the dead letter.
        forget: Called when no acknowledgement matters any more, for each attempt.
    """

    publication: Publication
    options: TopicOptions
    token: Any = None
    reason: str = SILENCE
    forget: list[Callable[[], object]] = field(default_factory=list)


class Member(Protocol):
    """Who takes letters. Compared by identity.

    Attributes:
        patient: Whether silence says nothing: a function of this program that runs is not called again meanwhile.
    """

    patient: bool

    def hand(self, letter: Letter, attempt: int, answer: Answer | None, *, now: float) -> None:
        """Deliver, and let *answer* know; `None` where nobody waits for that. Must not switch.

        Args:
            now: The reading of the clock of `Publication.at`.

        Raises:
            EncodeError: It cannot be sent to this one.
        """


@dataclass(frozen=True, slots=True)
class Desk:
    """What all deliveries of a node need.

    Attributes:
        now: Reads the clock of `Publication.at`.
        bury: Called with a letter that is given up, the number of its attempts, and what to call when that is done.
        clock: For waits; monotonic.
    """

    now: Clock
    observer: Observer
    bury: Callable[[Letter, int, Callable[[], None]], None]
    clock: Clock = time.monotonic


class Acknowledged(ABC):
    """The letters of one subscriber or group.

    Attributes:
        deliveries: Those that are not settled yet.
        over: Whether nothing is delivered any more.
    """

    def __init__(self, desk: Desk) -> None:
        self.desk = desk
        self.deliveries: Deliveries[Letter, Any] = Deliveries(Redelivery(), most=MOST_OPEN)
        self.over = False
        self._pumping = False
        self._timer: Any = None
        self._alarm = math.inf

    # ------------------------------------------------------- for who knows better

    @abstractmethod
    def choose(self, letter: Letter) -> Any | None:
        """The member that gets it now; `None` when it has to wait."""

    def unwanted(self, letter: Letter) -> bool:
        """Whether there is nobody whom it is meant for."""
        return False

    def passes(self, letter: Letter) -> bool:
        """Whether what came after it may go before it, where it has to wait."""
        return False

    @abstractmethod
    def settled(self, letter: Letter) -> None:
        """It needs no further delivery; must not switch."""

    # ------------------------------------------------------------------ deliveries

    def add(self, letter: Letter, *, attempts: int = 0) -> Delivery[Letter, Any]:
        """Another one, which goes out when its turn comes.

        Args:
            attempts: How often it was delivered before, as far as is known.
        """
        delivery = self.deliveries.add(letter, letter.options.redelivery)
        delivery.attempt = attempts
        self.pump()
        return delivery

    def pump(self) -> None:
        """Deliver what waits, in order, as far as somebody takes it."""
        if self._pumping:  # what is settled at once lets the engine give more
            return
        self._pumping = True
        try:
            while not self.over:
                delivery = self.deliveries.peek()
                if delivery is None or not (self._pass_on(delivery) or self._pass_by(delivery)):
                    break
        finally:
            self._pumping = False
            self.pumped(self.deliveries.unskip())

    def pumped(self, passed: int) -> None:
        """Delivered as far as can be; *passed* wait behind what came after them. Must not switch."""

    def _pass_by(self, delivery: Delivery[Letter, Any]) -> bool:
        if not self.passes(delivery.message):
            return False
        self.deliveries.skip()
        return True

    def _pass_on(self, delivery: Delivery[Letter, Any]) -> bool:
        letter = delivery.message
        if letter.publication.expired(self.desk.now()):
            self.desk.observer.refused("delivery", "expired")
            self.settle(delivery)
            return True
        if self.unwanted(letter):
            self.settle(delivery)
            return True
        if delivery.attempt >= HAND_OVERS * letter.options.redelivery.attempts:
            self._give_up(delivery)
            return True
        member = self.choose(letter)
        if member is None:
            return False
        self.deliveries.take(member, self.desk.clock())
        if letter.options.ack:
            self._hand(member, delivery)
        else:
            self._hand_over(member, delivery)
        return True

    def _hand(self, member: Member, delivery: Delivery[Letter, Any]) -> None:
        if member.patient:
            delivery.due = math.inf
        answer = partial(self._answered, delivery, delivery.attempt)
        try:
            member.hand(delivery.message, delivery.attempt, answer, now=self.desk.now())
        except EncodeError as error:
            self.desk.observer.refused("delivery", "not encodable")
            answer(error)
        self._wake_at(delivery.due)

    def _hand_over(self, member: Member, delivery: Delivery[Letter, Any]) -> None:
        """Deliver what nobody acknowledges."""
        try:
            member.hand(delivery.message, delivery.attempt, None, now=self.desk.now())
        except EncodeError:
            self.desk.observer.refused("delivery", "not encodable")
        self.settle(delivery)

    def _answered(self, delivery: Delivery[Letter, Any], attempt: int, error: BaseException | None) -> None:
        if error is None:  # also one that comes late: it was handled, whoever has it by now
            if self.settle(delivery):
                self.pump()
            return
        if delivery.to is None or delivery.attempt != attempt:
            return  # it waits, or was given again
        letter = delivery.message
        letter.reason = (str(error) if isinstance(error, RemoteError) else type(error).__name__)[:200]
        if attempt >= delivery.redelivery.attempts:
            self._give_up(delivery)
            self.pump()
        else:
            delivery.due = self.desk.clock() + delivery.redelivery.wait(attempt)
            self._wake_at(delivery.due)
            self.pump()

    def settle(self, delivery: Delivery[Letter, Any]) -> bool:
        """It is done with; whether it was not before."""
        if self.deliveries.settle(delivery.number) is None:
            return False
        forget(delivery.message)
        self.settled(delivery.message)
        return True

    def _give_up(self, delivery: Delivery[Letter, Any]) -> None:
        letter = delivery.message
        self.deliveries.settle(delivery.number)
        forget(letter)
        self.desk.bury(letter, delivery.attempt, partial(self._buried, letter))

    def _buried(self, letter: Letter) -> None:
        if not self.over:
            self.settled(letter)

    # ----------------------------------------------------------------------- time

    def _wake_at(self, due: float) -> None:
        if due >= self._alarm or self.over:
            return
        self._alarm = due
        if self._timer is not None:
            self._timer.close()
        self._timer = get_hub().loop.timer(max(0.0, due - self.desk.clock()))
        self._timer.start(self._late)

    def _late(self) -> None:
        """In the hub: what was not acknowledged in time goes out again."""
        self._alarm = math.inf
        for delivery in self.deliveries.late(self.desk.clock()):
            self._give_up(delivery)
        due = self.deliveries.next_late()
        if due is not None:
            self._wake_at(due)
        self.pump()

    def drop(self) -> list[Delivery[Letter, Any]]:
        """Let go of everything; returns what was not settled."""
        left = list(self.deliveries)
        for delivery in left:
            self.deliveries.settle(delivery.number)
            forget(delivery.message)
        if self._timer is not None:
            self._timer.close()
            self._timer = None
        self._alarm = math.inf
        return left

    def end(self) -> None:
        """Nothing is delivered any more."""
        self.over = True
        self.drop()


def forget(letter: Letter) -> None:
    """No acknowledgement of an earlier attempt matters any more."""
    forgotten, letter.forget = letter.forget, []
    for one in forgotten:
        one()
