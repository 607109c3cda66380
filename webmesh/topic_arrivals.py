"""What comes to a client of topics, as its program gets it: messages, pages of the past, positions.

Pure. What a node says is read with distrust. Decides by what a delivery is known when it comes again.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from webmesh.messages import NO_HEADERS, HistoryPage, Message, Position
from webmesh.protocol.publication import DEDUPE

if TYPE_CHECKING:
    from webmesh.protocol.envelope import TopicMessage

Acknowledge = Callable[[Exception | None], object]

Flight = tuple[str, str, int]
"""A delivery that awaits its acknowledgement: topic, epoch, offset; or topic, its dedupe id, 0."""


class Arrival:
    """The acknowledgement of one message; lives as long as somebody has that.

    Attributes:
        acknowledge: Tells the node; that of the latest delivery.
    """

    __slots__ = ("__weakref__", "_arrived", "acknowledge")

    def __init__(self, acknowledge: Acknowledge, arrived: Acknowledge) -> None:
        self.acknowledge = acknowledge
        self._arrived = arrived

    def __call__(self, error: Exception | None) -> None:
        self._arrived(error)
        self.acknowledge(error)


def flight_of(message: TopicMessage) -> Flight | None:
    """What a delivery is known by when it comes again; `None` where nothing tells."""
    if message.offset is not None and message.epoch is not None:
        return message.topic, str(message.epoch), message.offset
    dedupe = (message.headers or NO_HEADERS).get(DEDUPE)
    return None if dedupe is None else (message.topic, dedupe, 0)


def read_message(message: TopicMessage, acknowledge: Acknowledge | None = None) -> Message:
    """What a subscriber gets for what came over the wire."""
    return Message(
        message.data, message.topic, message.headers or NO_HEADERS,
        offset=message.offset, epoch=None if message.epoch is None else str(message.epoch),
        attempt=message.attempt or 1, retained=message.retained, event=message.event, acknowledge=acknowledge,
    )  # fmt: skip


def read_page(topic: str, answer: Any) -> HistoryPage:
    """The answer to `$history`; whatever makes no sense in it counts as not there."""
    said = answer if isinstance(answer, dict) else {}
    offset, epoch, items = said.get("offset"), said.get("epoch"), said.get("items")
    epoch = str(epoch) if isinstance(epoch, str | int) else ""
    messages = [
        Message(
            item.get("data"), topic, headers if isinstance(headers := item.get("headers"), dict) else NO_HEADERS,
            offset=number if type(number := item.get("offset")) is int else None, epoch=epoch,
        )
        for item in (items if isinstance(items, list) else ()) if isinstance(item, dict)
    ]  # fmt: skip
    return HistoryPage(messages, offset if type(offset) is int else 0, epoch, said.get("complete") is not False)


def read_position(answer: dict[str, Any]) -> Position | None:
    """Where a topic stands, as the answer to a `$subscribe` says; `None` where it is not numbered."""
    offset, epoch = answer.get("offset"), answer.get("epoch")
    return Position(offset, str(epoch)) if type(offset) is int and isinstance(epoch, str | int) else None


def is_complete(page: HistoryPage, asked: Position) -> bool:
    """Whether nothing that is still kept is missing between the position and the page. The node is believed: numbers
    that the page leaves out are of publications whose own time was over."""
    return page.complete and page.epoch == asked.epoch and page.offset >= asked.offset


def nobody(error: Exception | None) -> None:
    """The acknowledgement of what was fetched: no node waits for it, unless it delivers the same message, too."""


def to_acknowledge(message: Message, acknowledge: Acknowledge) -> Message:
    """The same message, for a subscriber who is to say when it was handled."""
    return Message(
        message.payload, message.topic, message.headers, offset=message.offset, epoch=message.epoch,
        acknowledge=acknowledge,
    )  # fmt: skip
