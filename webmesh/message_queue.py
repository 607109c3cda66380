"""What waits for a slow subscriber of this program: bounded, and honest about what had to go.

Pure. What asks for an acknowledgement never has to: the node sends no more of it before it is answered.
"""

from __future__ import annotations

from collections import deque
from typing import Literal, get_args

from webmesh.exceptions import ConfigurationError
from webmesh.messages import Message

Overflow = Literal["drop_oldest", "drop_newest", "close"]
"""What happens when the queue is full: the oldest goes, the new one goes, or the subscription ends."""

_KINDS = get_args(Overflow)


class MessageQueue:
    """Messages in order. In the place of those that were dropped stands one with the event "gap".

    Args:
        most: How many may wait.
        topic: What a gap is told of.

    Attributes:
        most: As given.
        overflowed: Whether it has been full under the policy "close".
    """

    def __init__(self, most: int, overflow: Overflow, topic: str) -> None:
        if type(most) is not int or most < 1:
            raise ConfigurationError(f"queue is a number of messages from 1, not {most!r}")
        if overflow not in _KINDS:
            raise ConfigurationError(f"overflow is one of {', '.join(_KINDS)}, not {overflow!r}")
        self.most = most
        self._overflow = overflow
        self._topic = topic
        self._waiting: deque[Message] = deque()
        self.overflowed = False

    def __len__(self) -> int:
        return len(self._waiting)

    @property
    def full(self) -> bool:
        """Whether the next one costs another one its place."""
        return len(self._waiting) >= self.most

    @property
    def room(self) -> int:
        """How many more find a place."""
        return max(0, self.most - len(self._waiting))

    @property
    def closes(self) -> bool:
        """Whether its overflow ends the subscription."""
        return self._overflow == "close"

    def put(self, message: Message) -> None:
        """Take one; an event takes no place of a publication's."""
        if not self.full or message.event is not None or message.wants_ack:
            self._waiting.append(message)
        elif self._overflow == "close":
            self.overflowed = True
        elif self._overflow == "drop_oldest" and self._drop_oldest():
            self._waiting.append(message)
        else:
            self._mark_last()

    def pop(self) -> Message:
        """The oldest; raises `IndexError` when there is none."""
        return self._waiting.popleft()

    def take(self, most: int) -> list[Message]:
        """The oldest ones, at most so many."""
        return [self._waiting.popleft() for _ in range(min(most, len(self._waiting)))]

    def clear(self) -> list[Message]:
        """All that waited; nothing does any more."""
        return self.take(len(self._waiting))

    def _drop_oldest(self) -> bool:
        """Make room; false when all that wait must stay."""
        waiting = self._waiting
        for number, message in enumerate(waiting):
            if message.event is None and not message.wants_ack:
                before = waiting[number - 1] if number else None
                if before is not None and _is_mark(before):
                    before.payload["lost"] += 1
                    del waiting[number]
                else:
                    waiting[number] = self._mark()
                return True
        return False

    def _mark_last(self) -> None:
        last = self._waiting[-1] if self._waiting else None
        if last is not None and _is_mark(last):
            last.payload["lost"] += 1
        else:
            self._waiting.append(self._mark())

    def _mark(self) -> Message:
        return Message({"reason": "slow", "lost": 1}, self._topic, event="gap")


def _is_mark(message: Message) -> bool:
    return message.event == "gap" and isinstance(message.payload, dict) and "lost" in message.payload
