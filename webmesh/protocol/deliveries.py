"""At-least-once: what was delivered and not yet acknowledged, and when it is delivered again.

Pure: the clock's reading is passed in; sending is the caller's. One table serves one subscriber or one group. A
subscriber that answers with an error is treated like one that is silent: the wait before the next attempt is the
back-off, and until it is over the message counts as that member's, so that others are preferred for new ones.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Hashable, Iterator
from dataclasses import dataclass
from typing import Generic, TypeVar

from webmesh.exceptions import ConfigurationError

M = TypeVar("M")
T = TypeVar("T", bound=Hashable)


@dataclass(frozen=True, slots=True)
class Redelivery:
    """When a message that nobody acknowledges is delivered again, in seconds.

    Attributes:
        first: After the first delivery; each further wait is *factor* times as long, up to *most*.
        attempts: Deliveries of one message; after the last it is a dead letter.
    """

    first: float = 5.0
    factor: float = 2.0
    most: float = 60.0
    attempts: int = 5

    def __post_init__(self) -> None:
        for name in ("first", "factor", "most"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < math.inf:
                raise ConfigurationError(f"Redelivery.{name} must be a finite number above 0, not {value!r}")
        if type(self.attempts) is not int or self.attempts < 1:
            raise ConfigurationError(f"Redelivery.attempts must be at least 1 delivery, not {self.attempts!r}")

    def wait(self, attempt: int) -> float:
        """Seconds to wait for the acknowledgement of delivery number *attempt*, from 1."""
        try:
            return min(self.most, self.first * self.factor ** (attempt - 1))
        except OverflowError:
            return self.most


@dataclass(slots=True)
class Delivery(Generic[M, T]):
    """One message on its way.

    Attributes:
        number: Names it within its table; the wire's `id`.
        attempt: How many times it has been sent.
        to: Who has it now; `None` while nobody has.
        due: The clock's reading at which its acknowledgement is late.
        redelivery: When it is delivered again.
    """

    number: int
    message: M
    redelivery: Redelivery
    attempt: int = 0
    to: T | None = None
    due: float = 0.0


class Deliveries(Generic[M, T]):
    """Messages that await their acknowledgement.

    A message is in one of two states: *waiting* for somebody to take it, or *pending* at a member.

    Args:
        most: Messages of both kinds; the caller stops at it.
    """

    def __init__(self, redelivery: Redelivery, *, most: int) -> None:
        self._redelivery = redelivery
        self._most = most
        self._next = 0
        self._open: dict[int, Delivery[M, T]] = {}
        self._waiting: list[int] = []  # a heap: the oldest message goes first, also when it comes back
        self._skipped: list[int] = []
        self._pending: dict[T, dict[int, None]] = {}

    def __len__(self) -> int:
        """Messages that are not yet acknowledged."""
        return len(self._open)

    @property
    def full(self) -> bool:
        """Whether no further message has room."""
        return len(self._open) >= self._most

    def pending(self, member: T) -> int:
        """Messages that *member* has and has not acknowledged."""
        return len(self._pending.get(member, ()))

    @property
    def waiting(self) -> int:
        """Messages that nobody has."""
        return len(self._open) - sum(map(len, self._pending.values()))

    def add(self, message: M, redelivery: Redelivery | None = None) -> Delivery[M, T]:
        """Enter a message; it waits. *redelivery* is its own, where it is not the table's."""
        delivery: Delivery[M, T] = Delivery(self._next, message, redelivery or self._redelivery)
        self._next += 1
        self._open[delivery.number] = delivery
        heapq.heappush(self._waiting, delivery.number)
        return delivery

    def peek(self) -> Delivery[M, T] | None:
        """The oldest message that waits; `None` when none does."""
        while self._waiting:
            delivery = self._open.get(self._waiting[0])
            if delivery is not None and delivery.to is None:
                return delivery
            heapq.heappop(self._waiting)
        return None

    def skip(self) -> None:
        """Let what `peek` finds wait until `unskip`: the next one may go before it."""
        self._skipped.append(heapq.heappop(self._waiting))

    def unskip(self) -> int:
        """What was skipped is in its place again; returns how many that are."""
        skipped, self._skipped = self._skipped, []
        for number in skipped:
            heapq.heappush(self._waiting, number)
        return len(skipped)

    def take(self, member: T, now: float) -> Delivery[M, T] | None:
        """The oldest message that waits, now pending at *member*; `None` when none does."""
        delivery = self.peek()
        if delivery is not None:
            heapq.heappop(self._waiting)
            delivery.attempt += 1
            delivery.to = member
            delivery.due = now + delivery.redelivery.wait(delivery.attempt)
            self._pending.setdefault(member, {})[delivery.number] = None
        return delivery

    def acknowledge(self, number: int, member: T) -> bool:
        """*member* has handled it; False when it is nobody's any more, or another's."""
        delivery = self._open.get(number)
        if delivery is None or delivery.to != member:
            return False
        self._release(delivery)
        del self._open[number]
        return True

    def settle(self, number: int) -> Delivery[M, T] | None:
        """It needs no further delivery, whoever has it; `None` when that was so already."""
        delivery = self._open.pop(number, None)
        if delivery is not None:
            self._release(delivery)
        return delivery

    def held(self, member: T) -> list[Delivery[M, T]]:
        """What *member* has and has not acknowledged."""
        return [self._open[number] for number in self._pending.get(member, ())]

    def __iter__(self) -> Iterator[Delivery[M, T]]:
        """All that is not yet acknowledged."""
        return iter(tuple(self._open.values()))

    def leave(self, member: T) -> int:
        """*member* has gone: what it had waits for another, at once. Returns how many that are."""
        numbers = list(self._pending.get(member, ()))
        for number in numbers:
            self._wait_again(self._open[number])
        return len(numbers)

    def late(self, now: float) -> list[Delivery[M, T]]:
        """Take back what was not acknowledged in time; returns those that were tried often enough: dead letters.

        The others wait for the next `take`.
        """
        dead = []
        overdue = [delivery for delivery in self._given() if delivery.due <= now]
        for delivery in overdue:
            if delivery.attempt >= delivery.redelivery.attempts:
                self._release(delivery)
                del self._open[delivery.number]
                dead.append(delivery)
            else:
                self._wait_again(delivery)
        return dead

    def next_late(self) -> float | None:
        """The clock's reading at which `late` has something to do."""
        return min((delivery.due for delivery in self._given()), default=None)

    def _given(self) -> Iterator[Delivery[M, T]]:
        """What members have: not more than their windows, however much waits."""
        for numbers in self._pending.values():
            for number in numbers:
                yield self._open[number]

    def _wait_again(self, delivery: Delivery[M, T]) -> None:
        self._release(delivery)
        heapq.heappush(self._waiting, delivery.number)

    def _release(self, delivery: Delivery[M, T]) -> None:
        member, delivery.to = delivery.to, None
        if member is None:
            return
        numbers = self._pending[member]
        del numbers[delivery.number]
        if not numbers:
            del self._pending[member]
