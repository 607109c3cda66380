"""What subscribers and publishers get to see of topics: plain values, the same on clients and on nodes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

NO_HEADERS: Mapping[str, str] = {}


class Position(NamedTuple):
    """Where a subscriber stands in a topic that is numbered: it has had everything up to *offset*."""

    offset: int
    epoch: str


class Published(NamedTuple):
    """A publication was accepted.

    Attributes:
        offset, epoch: Its number, where the topic is numbered.
        receivers: Plain subscriptions, and groups, that it reached on the node that accepted it.
        duplicate: Its `dedupe_id` was known: it had been published before, and was not again.
    """

    offset: int | None = None
    epoch: str | None = None
    receivers: int = 0
    duplicate: bool = False


class Message:
    """What a subscriber gets: a publication, or an event.

    Attributes:
        payload: The publisher's object; of an event what it tells.
        topic: Where it was published.
        headers: Text to text: the publisher's own, and publish options.
        offset, epoch: Its number, where the topic is numbered.
        attempt: 1, or more when it is delivered again for want of an acknowledgement.
        retained: Whether it was published before the subscription began.
        event: `None` for a publication; "gap" when some were lost, "presence" when others came or went.
    """

    __slots__ = (
        "_acknowledge", "attempt", "epoch", "event", "headers", "offset", "payload", "retained", "topic",
    )  # fmt: skip

    def __init__(
        self,
        payload: Any,
        topic: str,
        headers: Mapping[str, str] = NO_HEADERS,
        *,
        offset: int | None = None,
        epoch: str | None = None,
        attempt: int = 1,
        retained: bool = False,
        event: str | None = None,
        acknowledge: Callable[[Exception | None], object] | None = None,
    ) -> None:
        self.payload = payload
        self.topic = topic
        self.headers = headers
        self.offset = offset
        self.epoch = epoch
        self.attempt = attempt
        self.retained = retained
        self.event = event
        self._acknowledge = acknowledge

    @property
    def will(self) -> str | None:
        """Why the will fired whose message this is: "lost", "timeout", "kicked" or "goodbye"; `None` for others."""
        return self.headers.get("will")

    @property
    def position(self) -> Position | None:
        """Where a subscriber stands that has handled it; `None` where the topic is not numbered."""
        if self.offset is None or self.epoch is None:
            return None
        return Position(self.offset, self.epoch)

    @property
    def wants_ack(self) -> bool:
        """Whether it is delivered again unless it is acknowledged, which nobody has done yet."""
        return self._acknowledge is not None

    def ack(self) -> None:
        """It has been handled; does nothing where nobody waits for that. Otherwise the end of its handling says so."""
        self._answer(None)

    def reject(self, error: Exception) -> None:
        """It could not be handled: it is delivered again after a while, here or elsewhere."""
        self._answer(error)

    def _answer(self, error: Exception | None) -> None:
        acknowledge, self._acknowledge = self._acknowledge, None
        if acknowledge is not None:
            acknowledge(error)

    def __repr__(self) -> str:
        what = self.topic if self.event is None else f"{self.event} of {self.topic}"
        place = "" if self.offset is None else f" offset={self.offset}"
        return f"<Message {what}{place}{' retained' if self.retained else ''}>"


class HistoryPage(NamedTuple):
    """Part of a topic's past.

    Attributes:
        items: Oldest first, unless the newest were asked for first.
        offset, epoch: Of the newest publication ever; 0 where there was none.
        complete: Whether *items* begin right after the position that was asked for; where not, some are lost.
    """

    items: list[Message]
    offset: int
    epoch: str
    complete: bool = True
