"""What the load generator says: upgrade requests, frames and envelopes, all built before the clock runs.

A *ring* is the messages of one connection laid end to end, twice over, so that any run of up to
`count` consecutive messages is one slice of it and is sent by one system call.
"""

from __future__ import annotations

import json
import random
import struct
import zlib
from collections.abc import Callable
from dataclasses import dataclass

import msgpack

KEY = b"\x1d\xa7\x53\xc2"
"""The masking key of every frame: any key costs a server the same."""

FIRST_ID = 100_000
"""Request ids start here, so that all of them have the same length in both serializers."""

COMPRESS_THRESHOLD = 1024
"""From this size on a WebMesh client compresses a msgpack message (docs/PROTOCOL.md)."""

WORDS = "mesh route call reply frame topic peer node airport runway altitude ticket order invoice customer".split()


def text(size: int) -> str:
    """ASCII text of exactly `size` characters: words and numbers, so it compresses as ordinary payloads do."""
    source = random.Random(size)
    parts: list[str] = []
    length = 0
    while length < size:
        part = f"{source.choice(WORDS)} {source.randrange(10_000)} "
        parts.append(part)
        length += len(part)
    return "".join(parts)[:size]


def frame(payload: bytes, *, opcode: int = 2, compressed: bool = False) -> bytes:
    """One masked frame as clients send it (RFC 6455 section 5.2)."""
    size = len(payload)
    first = 0x80 | opcode | (0x40 if compressed else 0)
    if size < 126:
        head = bytes((first, 0x80 | size))
    elif size < 65536:
        head = struct.pack("!BBH", first, 0x80 | 126, size)
    else:
        head = struct.pack("!BBQ", first, 0x80 | 127, size)
    key = int.from_bytes((KEY * (size // 4 + 1))[:size], "little")
    return head + KEY + (int.from_bytes(payload, "little") ^ key).to_bytes(size, "little")


def deflated(payload: bytes) -> bytes:
    """A message body for permessage-deflate that leans on no earlier message (RFC 7692 section 7.2.1)."""
    compressor = zlib.compressobj(6, zlib.DEFLATED, -15)
    return (compressor.compress(payload) + compressor.flush(zlib.Z_SYNC_FLUSH))[:-4]


def upgrade_request(path: str, *, subprotocol: str | None = None, deflate: bool = False) -> bytes:
    """The head of an opening handshake."""
    lines = [
        f"GET {path} HTTP/1.1",
        "Host: 127.0.0.1",
        "Upgrade: websocket",
        "Connection: Upgrade",
        "Sec-WebSocket-Key: dGhlIGJlbmNoIGhlcmUuLg==",
        "Sec-WebSocket-Version: 13",
    ]
    if subprotocol:
        lines.append(f"Sec-WebSocket-Protocol: {subprotocol}")
    if deflate:
        lines.append("Sec-WebSocket-Extensions: permessage-deflate")
    return "\r\n".join((*lines, "", "")).encode()


@dataclass(frozen=True)
class Speech:
    """How to talk to one contestant: how to open, what one message looks like, what its answer must hold."""

    opening: bytes
    """Sent first on every connection; empty for plain TCP."""
    message: Callable[[int, int], bytes]
    """(id, size) → the bytes of one message."""
    answers_are_frames: bool
    """Whether answers are WebSocket frames, or as many bytes as were sent."""
    holds: Callable[[bytes, int, int], bool]
    """(body of the answer, id, size) → whether it is the right one."""
    deflate: bool = False
    """Whether permessage-deflate has to be agreed to. Later answers then lean on earlier ones, so that only
    the first is checked and sizes vary."""


def raw_speech() -> Speech:
    """Bytes over TCP."""

    def message(ident: int, size: int) -> bytes:
        return text(size).encode()

    def holds(body: bytes, ident: int, size: int) -> bool:
        return body == message(ident, size)

    return Speech(b"", message, False, holds)


def websocket_speech(path: str = "/", *, deflate: bool = False) -> Speech:
    """Binary WebSocket messages that come back as they are."""

    def message(ident: int, size: int) -> bytes:
        payload = text(size).encode()
        return frame(deflated(payload), compressed=True) if deflate else frame(payload)

    def holds(body: bytes, ident: int, size: int) -> bool:
        return body == text(size).encode()

    return Speech(upgrade_request(path, deflate=deflate), message, True, holds, deflate=deflate)


def inflated_message(body: bytes) -> bytes:
    """What a first message under permessage-deflate says (RFC 7692 section 7.2.2)."""
    return zlib.decompressobj(-15).decompress(body + b"\x00\x00\xff\xff")


def call_speech(path: str, *, serializer: str = "msgpack", compress: bool = True) -> Speech:
    """WebMesh requests by route (docs/PROTOCOL.md sections 1 and 2)."""

    def message(ident: int, size: int) -> bytes:
        envelope = {"path": path, "id": FIRST_ID + ident, "data": text(size)}
        if serializer == "json":
            return frame(json.dumps(envelope, separators=(",", ":")).encode(), opcode=1)
        body = msgpack.packb(envelope)
        return frame(zlib.compress(body, 1) if compress and len(body) >= COMPRESS_THRESHOLD else body)

    def holds(body: bytes, ident: int, size: int) -> bool:
        answer = json.loads(body) if serializer == "json" else msgpack.unpackb(inflated(body))
        return bool(answer == {"id": FIRST_ID + ident, "data": text(size)})

    return Speech(upgrade_request("/", subprotocol=f"webmesh.v1.{serializer}"), message, True, holds)


def inflated(body: bytes) -> bytes:
    """A msgpack map never begins with 0x78, a zlib stream does (docs/PROTOCOL.md section 1)."""
    return zlib.decompress(body) if body[:1] == b"x" else body


@dataclass(frozen=True)
class Ring:
    """Messages end to end, twice over; `offsets[i]` is where the i-th begins."""

    stream: memoryview
    offsets: list[int]
    count: int

    def part(self, position: int, messages: int) -> memoryview:
        """`messages` consecutive ones from the one at `position` (0 … count - 1); at most `count`."""
        return self.stream[self.offsets[position] : self.offsets[position + messages]]


def ring(speech: Speech, size: int, window: int) -> Ring:
    """A ring for `window` messages in flight.

    It holds many windows of small messages, because an id must not be used again while its first
    request is open, and answers need not come in order.
    """
    count = window if window == 1 else max(2 * window, min(64 * window, (1 << 18) // size))
    messages = [speech.message(ident, size) for ident in range(count)] * 2
    offsets = [0]
    for message in messages:
        offsets.append(offsets[-1] + len(message))
    return Ring(memoryview(b"".join(messages)), offsets, count)
