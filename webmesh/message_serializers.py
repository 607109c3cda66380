"""Serializers: objects to messages and back.

Decides which serializers there are and what their interface is; a custom one is a subclass. How strict
the two built-in ones are is decided in `protocol.json_text` and `protocol.msgpack_body`, what a plain
value is in `protocol.values`. No serializer here can make anything but plain values of what arrives.

Where values do not come out as they went in, or do not go in at all:

| value | msgpack | JSON |
|---|---|---|
| tuple, named tuple | arrives as list | the same |
| enum of `str` or `int`, subclass of a plain type | arrives as the plain value | the same |
| bytes, bytearray, memoryview | arrives as bytes | refused |
| NaN, infinities | refused both ways | the same |
| integer beyond -2^63 … 2^64 - 1 | refused both ways | the same, never a float |
| key that is no text | refused both ways | the same (not turned into text) |
| set, datetime, Decimal, UUID, dataclass, any other object | refused, with a hint | the same |
| text with a lone surrogate | refused both ways | the same |
| 1.0 | arrives as 1.0 | the same from here; JavaScript sends 1 |
| key that stands twice | outermost map: refused; further in: the last wins | the same |
| msgpack extension types, timestamps | refused both ways | there are none |
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from typing import ClassVar

from webmesh.exceptions import ConfigurationError, DecodeError
from webmesh.options import Limits
from webmesh.protocol.json_text import read_json, write_json
from webmesh.protocol.msgpack_body import ZLIB_FIRST_BYTE, compress, inflate, read_msgpack, write_msgpack

DEFAULT_LIMITS = Limits()

_TOKEN = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
"""RFC 9110 section 5.6.2: what a subprotocol may be made of."""


class AbstractMessageSerializer(ABC):
    """Turns one object into one message and back. One instance serves all connections, from any greenlet or thread.

    Attributes:
        name: What it is called in the subprotocol, `webmesh.v1.<name>`.
        binary: Whether its messages are binary (`bytes`) or text (`str`).
    """

    name: ClassVar[str]
    binary: ClassVar[bool]

    def __init__(self, limits: Limits = DEFAULT_LIMITS) -> None:
        self._limits = limits

    @abstractmethod
    def serialize(self, obj: object) -> str | bytes:
        """One whole message for *obj*.

        Raises:
            EncodeError: The object cannot be sent; nothing was.
        """

    @abstractmethod
    def deserialize(self, data: str | bytes) -> object:
        """The object of one whole message.

        Raises:
            DecodeError: The message is not what this serializer accepts.
            MessageTooBig: It is larger than `Limits.message_size` once it is inflated.
        """


class StandardJsonSerializer(AbstractMessageSerializer):
    """JSON in text messages: for browsers, other languages and people. Carries no bytes."""

    name = "json"
    binary = False

    def serialize(self, obj: object) -> str:
        """Compact JSON, not escaped beyond what JSON needs."""
        return write_json(obj, self._limits)

    def deserialize(self, data: str | bytes) -> object:
        """The value of a JSON text; bytes are taken as UTF-8, and as nothing else."""
        if not isinstance(data, str):
            try:
                data = str(data, "utf-8")
            except UnicodeDecodeError as error:
                raise DecodeError(f"not UTF-8: {error.reason} at byte {error.start}") from error
        return read_json(data, self._limits)


class MessagePackSerializer(AbstractMessageSerializer):
    """msgpack in binary messages, as a zlib stream when they are large: smaller and faster than JSON. Carries bytes.

    Args:
        compress_threshold: Bytes of a message from which it is compressed. Above `Limits.message_size`: never.
        compress_level: Of zlib, 1 to 9. Level 1 makes typical rows 60 % smaller at 7 us per KiB; level 6 takes three
            times as long for a few per cent.
    """

    name = "msgpack"
    binary = True

    def __init__(
        self, limits: Limits = DEFAULT_LIMITS, *, compress_threshold: int = 1024, compress_level: int = 1
    ) -> None:
        super().__init__(limits)
        if compress_threshold < 1:
            raise ConfigurationError(f"compress_threshold must be at least 1 byte, not {compress_threshold}")
        if not 1 <= compress_level <= 9:
            raise ConfigurationError(f"compress_level must be from 1 to 9, not {compress_level}")
        self._compress_threshold = compress_threshold
        self._compress_level = compress_level

    def serialize(self, obj: object) -> bytes:
        """msgpack, or a zlib stream of it where that is asked for and shorter."""
        packed = write_msgpack(obj, self._limits)
        if len(packed) >= self._compress_threshold:
            packed = compress(packed, self._compress_level)
        # The number 120 alone, which is no message of ours, would look like the beginning of a zlib stream.
        return packed if packed != b"\x78" else b"\xcc\x78"

    def deserialize(self, data: str | bytes) -> object:
        """The value of a msgpack body, plain or in one zlib stream."""
        if type(data) is not bytes:
            if isinstance(data, str):
                raise DecodeError("text where msgpack, which is binary, was expected")
            data = bytes(data)
        if data and data[0] == ZLIB_FIRST_BYTE:
            data = inflate(data, self._limits.message_size)
        return read_msgpack(data, self._limits)


def subprotocol(serializer_type: type[AbstractMessageSerializer]) -> str:
    """The WebSocket subprotocol of a serializer.

    Raises:
        ConfigurationError: It is no serializer's class, has no usable `name` or does not say whether it is `binary`.
    """
    if not isinstance(serializer_type, type) or not issubclass(serializer_type, AbstractMessageSerializer):
        raise ConfigurationError(
            f"serializer_type must be a class derived from AbstractMessageSerializer, not {serializer_type!r}"
        )
    name = getattr(serializer_type, "name", None)
    if not isinstance(name, str) or not _TOKEN.fullmatch(name):
        raise ConfigurationError(f"{serializer_type.__qualname__}.name must be letters, digits, - or _, not {name!r}")
    if not isinstance(getattr(serializer_type, "binary", None), bool):
        raise ConfigurationError(f"{serializer_type.__qualname__}.binary must be True or False")
    return f"webmesh.v1.{name}"
