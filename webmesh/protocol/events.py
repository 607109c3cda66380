"""What a session makes of a message: the events that the layers above act on.

A request, a notification and a topic message are events themselves, as `envelope` built them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from webmesh.exceptions import RemoteError

if TYPE_CHECKING:
    from webmesh.protocol.session import Answering, OpenRequest


@dataclass(slots=True)
class Answered:
    """A request of ours got its reply; a stream of items ends with one too."""

    request: OpenRequest
    data: Any


@dataclass(slots=True)
class Failed:
    """A request of ours, or the items of one that we answer, ended in an error.

    `notice` is the wire message to send because of it, if any.
    """

    owner: OpenRequest | Answering
    error: RemoteError
    notice: dict[str, Any] | None = None


@dataclass(slots=True)
class ItemArrived:
    """The next item of a stream, in order and within the credit."""

    owner: OpenRequest | Answering
    item: Any


@dataclass(slots=True)
class ItemsEnded:
    """The asking side has sent its last item."""

    owner: Answering


@dataclass(slots=True)
class CreditArrived:
    """The receiver of our items allows more of them; the sender has counted it already."""

    owner: OpenRequest | Answering


@dataclass(slots=True)
class CancelArrived:
    """The asking side no longer wants this answer."""

    owner: Answering


@dataclass(slots=True)
class Dropped:
    """The message concerns nothing that is open; it is counted and forgotten."""

    reason: str


@dataclass(slots=True)
class PositionLost:
    """A message of the peer's session came before others that it kept for us: the link is of no use any more."""

    number: int


@dataclass(slots=True)
class Refused:
    """A well-formed map that is no valid message: `answer` goes back, then maybe a close with 4501."""

    answer: dict[str, Any]
    fatal: bool
