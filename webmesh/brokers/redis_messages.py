"""How publications look inside Redis, and under which names.

Whoever can write to Redis can write anything there, so what is read is validated like a stranger's: topic, numbers,
sizes, strict msgpack, options. What is bad raises `BadMessage`, which the engine counts and drops.

A message is a line `<offset> <epoch> <at> <name>`, `-` where it has no number, and after it a msgpack map of payload
`p`, headers `h` and publisher `b`. The script writes the line, so that the publication needs no second way.
"""

from __future__ import annotations

import re
from dataclasses import replace

from webmesh.exceptions import BrokerError, ConfigurationError, RoutingError, SerializationError, WebMeshError
from webmesh.options import Limits
from webmesh.protocol.msgpack_body import read_msgpack, write_msgpack
from webmesh.protocol.publication import Publication, read_stored
from webmesh.protocol.topics import read_topic, read_topic_pattern

_HEAD = re.compile(rb"(?:([1-9][0-9]{0,15}) ([0-9a-f]{1,32})|- -) ([0-9]{1,16}) [0-9a-f.]{1,64}\n")
_PREFIX = re.compile(r"[A-Za-z0-9_.:-]{1,64}")
_ACCOUNT_SIZE = 256

GROUP_SEPARATOR = "\x1f"
"""Between a group's pattern and its name; no pattern holds a control character."""


class BadMessage(WebMeshError):
    """What stands in Redis is none of ours."""


class Keys:
    """Names of keys, which are those of pub/sub too. One hash tag: all lie in one slot of a Cluster.

    Raises:
        ConfigurationError: The prefix has characters that mean something to Redis, or is too long.
    """

    def __init__(self, prefix: str) -> None:
        if not _PREFIX.fullmatch(prefix):
            raise ConfigurationError(f"a prefix is 1 to 64 letters, digits and any of _.:-, not {prefix!r}")
        self._tag = f"{{{prefix}}}:"
        self.live = self.key("live:")
        self.topics, self.retained, self.groups, self.nodes = map(self.key, ("topics", "retained", "groups", "nodes"))
        self.seen, self.answers = self.key("seen"), self.key("answers")
        self.lasts, self.lost = self.key("lasts"), self.key("lost")

    def key(self, name: str) -> str:
        """The key of something else."""
        return self._tag + name

    def log(self, topic: str) -> str:
        """What is kept of a topic."""
        return self.key("log:" + topic)

    def work(self, group: str) -> str:
        """What a group has to do, and where it is told that there is some."""
        return self.key("work:" + group)

    def plain(self, group: str) -> str:
        """What of that need not be acknowledged."""
        return self.key("plain:" + group)

    def records(self, table: str) -> str:
        """The records of a table."""
        return self.key("records:" + table)

    def pattern(self, segments: tuple[str, ...]) -> str:
        """What to subscribe to for a topic pattern. Redis' `*` crosses `/`: it may bring more, never less."""
        return _escaped(self.live) + glob(segments)


def glob(segments: tuple[str, ...]) -> str:
    """A topic pattern as Redis writes it; what it matches is more, as its `*` crosses `/`."""
    return "/".join("*" if one in ("*", "**") else _escaped(one) for one in segments)


def _escaped(text: str) -> str:
    return re.sub(r"([\\*?\[\]])", r"\\\1", text)


def body_limits(limits: Limits, size: int) -> Limits:
    """What a stored body may be: as much as a message, in a map with the headers, where JSON was shorter."""
    return replace(limits, message_size=size, depth=limits.depth + 2, items=limits.items + 1024)


def write_body(publication: Publication, limits: Limits) -> bytes:
    """What is stored of a publication; the script puts the line before it.

    Raises:
        BrokerError: It cannot be carried.
    """
    stored = {"p": publication.payload, "h": dict(publication.headers), "b": publication.publisher}
    try:
        return write_msgpack(stored, limits)
    except SerializationError as error:
        raise BrokerError(f"a message for {publication.topic} cannot be carried: {error}") from error


def read_message(topic: object, data: object, limits: Limits) -> Publication:
    """A publication from what was sent out or kept as a whole.

    Raises:
        BadMessage: It is none.
    """
    if not isinstance(data, bytes) or len(data) > limits.message_size + 160:
        raise BadMessage("too long, or no message at all")
    head = _HEAD.match(data)
    if head is None:
        raise BadMessage("a message without its line of numbers")
    publication = read_body(topic, data[head.end() :], int(head[3]), limits)
    if head[1] is not None:
        publication.offset, publication.epoch = int(head[1]), head[2].decode()
    return publication


def read_body(topic: object, body: object, at_ms: int, limits: Limits) -> Publication:
    """A publication from its body alone.

    Raises:
        BadMessage: It is none.
    """
    try:
        text = topic.decode() if isinstance(topic, bytes) else str(topic)
        if "/".join(read_topic(text)) != text:
            raise BadMessage("a topic that is not in Unicode's form NFC")
        stored = read_msgpack(body, limits) if isinstance(body, bytes) and len(body) <= limits.message_size else None
    except (UnicodeDecodeError, RoutingError, ConfigurationError, SerializationError) as error:
        raise BadMessage(str(error)) from error
    if not isinstance(stored, dict) or not {"p", "h", "b"} >= stored.keys() or "p" not in stored:
        raise BadMessage("not a map of payload, headers and publisher")
    headers, publisher = stored.get("h", {}), stored.get("b")
    if not isinstance(headers, dict) or not all(isinstance(value, str) for value in headers.values()):
        raise BadMessage("headers that are not text")
    if publisher is not None and not (isinstance(publisher, str) and len(publisher) <= _ACCOUNT_SIZE):
        raise BadMessage("a publisher that is no short text")
    try:
        return read_stored(text, stored["p"], headers, at=at_ms / 1000, publisher=publisher)
    except WebMeshError as error:
        raise BadMessage(str(error)) from error


def read_pattern(text: str) -> tuple[str, ...]:
    """The pattern of a group that stands in Redis.

    Raises:
        BadMessage: It is none.
    """
    try:
        return read_topic_pattern(text)
    except (RoutingError, ConfigurationError) as error:
        raise BadMessage(str(error)) from error
