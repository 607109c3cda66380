"""What a `$subscribe` asks for (docs/PROTOCOL.md section 4). Pure: a decoded map in, a `SubscribeRequest` out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

from webmesh.exceptions import BadPattern, ConfigurationError, InvalidArgument
from webmesh.protocol.envelope import MAX_ID
from webmesh.protocol.topics import ONE, REST, read_topic_pattern
from webmesh.protocol.values import escaped

NAME_SIZE: Final = 256
"""Characters of a group's name and of a presence key."""
LAST: Final = "last"


@dataclass(frozen=True, slots=True)
class SinceOffset:
    """After this publication."""

    offset: int
    epoch: str


@dataclass(frozen=True, slots=True)
class Announced:
    """Who the subscriber is to the others: its key and what it says of itself."""

    key: str
    meta: Any = None


@dataclass(frozen=True, slots=True)
class SubscribeRequest:
    """A valid one.

    Attributes:
        since: After an offset, `LAST`, or the last so many seconds; `None` for nothing of the past.
    """

    pattern: tuple[str, ...]
    group: str | None = None
    since: SinceOffset | str | float | None = None
    presence: bool = False
    announce: Announced | None = None

    @property
    def topic(self) -> str | None:
        """The topic, where the pattern is one."""
        return None if ONE in self.pattern or REST in self.pattern else "/".join(self.pattern)


def read_subscribe(payload: object) -> SubscribeRequest:
    """The request that a payload is.

    Raises:
        InvalidArgument: It is none; says what is wrong.
    """
    if not isinstance(payload, dict):
        raise InvalidArgument("the data of $subscribe must be a map")
    try:
        pattern = read_topic_pattern(payload.get("pattern", ""))
    except (BadPattern, ConfigurationError) as error:
        raise InvalidArgument(str(error)) from error
    presence = payload.get("presence")
    if presence is not None and type(presence) is not bool:
        raise InvalidArgument("presence must be a boolean")
    request = SubscribeRequest(
        pattern, _group(payload.get("group")), read_since(payload.get("since")), presence is True,
        _announced(payload.get("announce")),
    )  # fmt: skip
    if request.topic is None:
        if isinstance(request.since, SinceOffset):
            raise InvalidArgument("an offset is one topic's: since with an offset needs a topic, not a pattern")
        if request.presence or request.announce is not None:
            raise InvalidArgument("presence and announce need a topic, not a pattern")
    if request.group is not None and (request.since is not None or request.presence or request.announce is not None):
        raise InvalidArgument("a group shares what comes: it has no since, presence or announce")
    return request


def read_since(since: object) -> SinceOffset | str | float | None:
    """From where the past is asked for.

    Raises:
        InvalidArgument: It makes no sense.
    """
    if since is None or since == LAST:
        return since
    if isinstance(since, dict):
        offset, epoch = since.get("offset"), since.get("epoch")
        if type(offset) is int and 0 <= offset <= MAX_ID and isinstance(epoch, str | int):
            return SinceOffset(offset, str(epoch))
    elif isinstance(since, int | float) and not isinstance(since, bool) and 0 < since < float("inf"):
        return float(since)
    raise InvalidArgument('since must be {offset, epoch}, "last", or a number of seconds')


def _group(group: object) -> str | None:
    return None if group is None else _name("group", group)


def check_group(group: object) -> str:
    """A group's name, as a program gives it.

    Raises:
        ConfigurationError: It is none.
    """
    try:
        return _name("group", group)
    except InvalidArgument as error:
        raise ConfigurationError(str(error)) from None


def _announced(announce: object) -> Announced | None:
    if announce is None:
        return None
    if not isinstance(announce, dict):
        raise InvalidArgument("announce must be a map of key and meta")
    return Announced(_name("the key of announce", announce.get("key")), announce.get("meta"))


def _name(what: str, name: object) -> str:
    if isinstance(name, str) and 0 < len(name) <= NAME_SIZE and name.isprintable():
        return name
    shown = escaped(name) if isinstance(name, str) else type(name).__name__
    raise InvalidArgument(f"{what} must be 1 to {NAME_SIZE} printable characters, not {shown}")
