"""A publication: one message on its way from who publishes it to whoever subscribes.

Pure. This file alone decides what the publish options of docs/PROTOCOL.md section 2 mean and which values they may
have. Topics are read by `topics`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from webmesh.exceptions import InvalidArgument

TTL, DEDUPE, CONFLATE, EXCLUDE, KEY = "ttl-ms", "dedupe-id", "conflate-key", "exclude-self", "key"
"""The headers in which publish options travel; others are the publisher's own."""

EXCLUDED = "excluded"
"""Header beside that of `exclude_self`: by what its publisher knows it again, whichever session it has by then."""

DEAD_LETTER = "dead-letter-"
WILL = "will"
"""Header of a last will's message: the reason for which it fired. Only a node may set it."""

OPTION_SIZE = 256
"""Characters of a dedupe id, a conflation key or a key: they are kept in tables."""

MOST_HEADERS = 60
"""Of a program's own: with the options and what nodes add, a message holds 64."""

LONGEST_TTL_MS = 365 * 86400 * 1000


@dataclass(slots=True)
class Publication:
    """One message on a topic.

    Attributes:
        headers: All of them, options included, as they go on to subscribers.
        ttl: Seconds after which nobody wants it; `None` for never.
        dedupe_id: A second publication with the same one is not published.
        conflate_key: Of those that wait for a slow subscriber only the newest with this key is delivered.
        key: For who subscribes: what the publication is about.
        exclude_self: Not to be delivered to the publisher.
        publisher: Who published it; of the node's own choosing, never from the wire.
        offset, epoch: Its number in the topic's history, once the engine has given it one.
        at: The clock's reading when it was accepted.
        retained: It is the topic's retained value, delivered to a new subscriber.
    """

    topic: str
    payload: Any = None
    headers: Mapping[str, str] = field(default_factory=dict)
    ttl: float | None = None
    dedupe_id: str | None = None
    conflate_key: str | None = None
    key: str | None = None
    exclude_self: bool = False
    publisher: str | None = None
    offset: int | None = None
    epoch: str | None = None
    at: float = 0.0
    retained: bool = False

    def expired(self, now: float) -> bool:
        """Whether its time is over."""
        return self.ttl is not None and now >= self.at + self.ttl

    def left_ms(self, now: float) -> int | None:
        """Milliseconds that are left of its time, at least 1; `None` without an end."""
        return None if self.ttl is None else max(1, round((self.at + self.ttl - now) * 1000))

    def as_retained(self) -> Publication:
        """The same, marked as the retained value."""
        return replace(self, retained=True)


def read_publication(
    topic: str, payload: Any, headers: Mapping[str, str] | None, *, publisher: str | None, now: float
) -> Publication:
    """A publication from what a peer or a program gave, with its options read from the headers.

    Raises:
        InvalidArgument: An option has a value that makes no sense, or a header is a node's to set.
    """
    if headers and WILL in headers:
        raise InvalidArgument(f"the header {WILL!r} is set by the node that fires a will")
    if headers and any(isinstance(name, str) and name.startswith(DEAD_LETTER) for name in headers):
        raise InvalidArgument(f"headers that begin with {DEAD_LETTER!r} are set by the node that gives up")
    return read_stored(topic, payload, headers or {}, at=now, publisher=publisher)


def read_stored(
    topic: str, payload: Any, headers: Mapping[str, str], *, at: float, publisher: str | None = None
) -> Publication:
    """The same for what a node has accepted before: an engine's file, another node. It may be a will's message.

    Raises:
        InvalidArgument: An option has a value that makes no sense.
    """
    return Publication(
        topic, payload, headers,
        ttl=_seconds(headers.get(TTL)),
        dedupe_id=_short(DEDUPE, headers.get(DEDUPE)),
        conflate_key=_short(CONFLATE, headers.get(CONFLATE)),
        key=_short(KEY, headers.get(KEY)),
        exclude_self=_flag(EXCLUDE, headers.get(EXCLUDE)),
        publisher=publisher,
        at=at,
    )  # fmt: skip


def option_headers(
    headers: Mapping[str, str] | None = None,
    *,
    ttl: float | None = None,
    dedupe_id: str | None = None,
    conflate_key: str | None = None,
    key: str | None = None,
    exclude_self: bool = False,
) -> dict[str, str]:
    """The headers that carry these options, with the publisher's own.

    Args:
        ttl: Seconds.

    Raises:
        InvalidArgument: No message can carry them: each subscriber would refuse it, and its publisher hear nothing.
    """
    made = dict(headers or {})
    if not all(_is_text(name) and _is_text(value) for name, value in made.items()):
        raise InvalidArgument("headers are a map of text to text, which UTF-8 can say")
    if len(made) > MOST_HEADERS:
        raise InvalidArgument(f"{len(made)} headers are over the limit of {MOST_HEADERS}")
    if ttl is not None:
        if isinstance(ttl, bool) or not isinstance(ttl, int | float) or not 0 < ttl * 1000 <= LONGEST_TTL_MS:
            raise InvalidArgument(f"ttl is a number of seconds, more than 0 and at most a year, not {ttl!r:.40}")
        made[TTL] = str(math.ceil(ttl * 1000))
    for name, value in ((DEDUPE, dedupe_id), (CONFLATE, conflate_key), (KEY, key)):
        if value is not None:
            if not _is_text(value):
                raise InvalidArgument(f"{name} is a text, not {type(value).__name__}")
            made[name] = value
    if exclude_self:
        made[EXCLUDE] = "true"
    return made


def _is_text(value: object) -> bool:
    """Whether UTF-8 can say it."""
    return isinstance(value, str) and not any("\ud800" <= character <= "\udfff" for character in value)


def _seconds(text: str | None) -> float | None:
    if text is None:
        return None
    if not (text.isascii() and text.isdigit() and len(text) <= 12 and 0 < int(text) <= LONGEST_TTL_MS):
        raise InvalidArgument(f"{TTL} is a whole number of milliseconds from 1 to {LONGEST_TTL_MS}")
    return int(text) / 1000


def _short(name: str, text: str | None) -> str | None:
    if text is not None and not 0 < len(text) <= OPTION_SIZE:
        raise InvalidArgument(f"{name} has 1 to {OPTION_SIZE} characters")
    return text


def _flag(name: str, text: str | None) -> bool:
    if text not in (None, "true", "false"):
        raise InvalidArgument(f"{name} is 'true' or 'false'")
    return text == "true"
