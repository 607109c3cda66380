"""What a node sends to the others of a publication, and what it takes from whoever can reach the NATS server.

Pure. Anyone may publish there, so what arrives is read as strictly as what comes from a stranger's WebSocket: plain
msgpack, known keys, text where text is due. What does not hold is a `ValueError`, and the message is dropped.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

from webmesh.brokers.nats_marks import Mark, read_mark
from webmesh.brokers.nats_subjects import subject_topic
from webmesh.exceptions import BrokerError, InvalidArgument, MessageTooBig, SerializationError
from webmesh.message_serializers import MessagePackSerializer
from webmesh.options import Limits
from webmesh.protocol.publication import Publication, read_stored
from webmesh.protocol.topic_log import TopicLog

LARGEST = 64 * 1024 * 1024
"""Bytes of a body, inflated: the largest that a NATS server can be set to take. What it is set to counts."""

COMPRESSED_FROM = 64 * 1024
"""Bytes from which a body is compressed: a network of servers is faster than zlib for less."""

_ID_SIZE = 64
_NAME_SIZE = 1024
_KEYS = {"p", "h", "at", "u", "i"}


class Arrived(NamedTuple):
    """A publication that was read.

    Attributes:
        id: Names it among all; it may come several times.
    """

    publication: Publication
    id: str
    mark: Mark | None

    def in_history(self, now: float) -> bool:
        """Whether it is still to be read there."""
        mark = self.mark
        if mark is None or not mark.numbered or not mark.history:
            return False
        return mark.ttl_ms is None or now < self.publication.at + mark.ttl_ms / 1000

    def is_value(self, now: float) -> bool:
        """Whether it is its topic's retained value, where nothing newer is kept. Null takes that away."""
        return bool(self.mark and self.mark.retained) and not (
            self.publication.payload is None or self.publication.expired(now)
        )


def unbroken_log(read: list[Arrived | None], newest: Mark) -> TopicLog[Publication]:
    """What was read of a topic, oldest first, up to *newest*: for as long as one follows the other."""
    found: list[Publication] = []
    for arrived in reversed(read):
        wanted = (newest.last - len(found), newest.epoch)
        if arrived is None or (arrived.publication.offset, arrived.publication.epoch) != wanted:
            break
        found.append(arrived.publication)
    log: TopicLog[Publication] = TopicLog(
        newest.epoch, most=newest.history, ttl=None if newest.ttl_ms is None else newest.ttl_ms / 1000,
        first=newest.last - len(found) + 1,
    )  # fmt: skip
    for publication in reversed(found):
        log.append(publication, publication.at)
    return log


class Bodies:
    """Writes and reads bodies.

    Args:
        clock: Whose readings `Publication.at` may not be ahead of.
    """

    def __init__(self, clock: Callable[[], float], limits: Limits) -> None:
        self._clock, self._most_headers = clock, limits.headers
        self._serializer = MessagePackSerializer(
            Limits(message_size=LARGEST, depth=limits.depth + 1, items=limits.items + 256),
            compress_threshold=COMPRESSED_FROM,
        )

    def write(self, publication: Publication, id: str, at: float) -> bytes:
        """The body of a publication that was accepted at *at*.

        Raises:
            BrokerError: Something in it cannot be sent.
        """
        body = {
            "p": publication.payload, "h": dict(publication.headers), "at": at, "u": publication.publisher,
            "i": id,
        }  # fmt: skip
        try:
            return self._serializer.serialize(body)
        except SerializationError as error:
            raise BrokerError(f"a message for {publication.topic} cannot be sent: {error}") from error

    def write_value(self, value: Any, until: float) -> bytes:
        """The body of a record."""
        try:
            return self._serializer.serialize({"v": value, "until": until})
        except SerializationError as error:
            raise BrokerError(f"a record cannot be kept: {error}") from error

    def read(self, subject: str, data: bytes, mark: Mark | str | None) -> Arrived:
        """The publication on a topic's subject.

        Raises:
            ValueError: It is none; the text holds nothing of what was sent but names.
        """
        topic = subject_topic(subject)
        read = read_mark(mark) if isinstance(mark, str) else mark
        body = self._map(data)
        if body.keys() != _KEYS:
            raise ValueError("a body has other keys than those of a publication")
        headers, at, publisher, id = body["h"], body["at"], body["u"], body["i"]
        if type(headers) is not dict or len(headers) > self._most_headers:
            raise ValueError("headers are no map, or too many")
        if not all(type(name) is str and type(value) is str for name, value in headers.items()):
            raise ValueError("headers are not a map of text to text")
        if type(id) is not str or not 0 < len(id) <= _ID_SIZE:
            raise ValueError("the id is no short text")
        if publisher is not None and (type(publisher) is not str or len(publisher) > _NAME_SIZE):
            raise ValueError("the publisher is no short text")
        try:
            made = read_stored(topic, body["p"], headers, at=self._past(at), publisher=publisher)
        except InvalidArgument as error:
            raise ValueError(str(error)) from error
        if read is not None and read.numbered:
            made.offset, made.epoch = read.offset, read.epoch
        return Arrived(made, id, read)

    def read_value(self, data: bytes) -> tuple[Any, float]:
        """A record's value and until when it holds.

        Raises:
            ValueError: It is none.
        """
        body = self._map(data)
        if body.keys() != {"v", "until"}:
            raise ValueError("a body has other keys than those of a record")
        return body["v"], _number(body["until"])

    def _map(self, data: bytes) -> dict[str, Any]:
        try:
            body = self._serializer.deserialize(data)
        except (SerializationError, MessageTooBig) as error:
            raise ValueError(str(error)) from error
        if type(body) is not dict:
            raise ValueError("a body is no map")
        return body

    def _past(self, at: object) -> float:
        return min(_number(at), self._clock())


def _number(value: object) -> float:
    if type(value) not in (int, float) or not math.isfinite(value):  # type: ignore[arg-type]
        raise ValueError("a time is no number")
    return float(value)  # type: ignore[arg-type]
