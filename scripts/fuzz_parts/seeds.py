"""What fuzzing begins with: inputs that are right, and some that nearly are. The first byte mostly says how to cut."""

from __future__ import annotations

import json
import struct
import zlib
from collections.abc import Iterator

import msgpack

_UPGRADE = (
    b"Host: shop.example.com\r\nUpgrade: websocket\r\nConnection: keep-alive, Upgrade\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
)
REQUESTS = tuple(
    b"\x03" + request
    for request in (
        b"GET / HTTP/1.1\r\n" + _UPGRADE + b"\r\n",
        b"GET /a%20b/../c?d=e HTTP/1.1\r\n" + _UPGRADE + b"Origin: https://shop.example.com\r\n\r\n\x81\x80abcd",
        b"GET / HTTP/1.1\r\n" + _UPGRADE + b"Sec-WebSocket-Protocol: webmesh.v1.json, webmesh.v1.msgpack\r\n\r\n",
        b"GET / HTTP/1.1\r\n" + _UPGRADE + b"Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits,"
        b" permessage-deflate; server_max_window_bits=9; server_no_context_takeover\r\n\r\n",
        b"GET http://[::1]:4269/ HTTP/1.1\r\n" + _UPGRADE + b"Content-Length: 0\r\n\r\n",
        b"GET /livez HTTP/1.1\r\nHost: [::1]:80\r\nX-A: b\r\nX-A: c\r\n\r\n",
        b"HEAD /%C3%A9 HTTP/1.1\r\nHost: a\r\n\r\n",
        b"POST / HTTP/1.0\r\nHost: a\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n0\r\n\r\n",
        b"\x16\x03\x01\x00\xc4\x01\x00\x00",
    )
)
# To a key of 16 zeros, which the target asks with.
_ACCEPTS = (
    b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Accept: ICX+Yqv66kxgM0FcWaLWlFLwTAI=\r\n"
)
ANSWERS = tuple(
    b"\x07" + answer
    for answer in (
        _ACCEPTS + b"\r\n",
        _ACCEPTS + b"Sec-WebSocket-Protocol: webmesh.v1.json\r\n\r\n\x81\x01a",
        _ACCEPTS + b"Sec-WebSocket-Extensions: permessage-deflate; server_no_context_takeover;"
        b" client_max_window_bits=10\r\n\r\n",
        b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\nHTTP/1.1 102 Processing\r\n\r\n" + _ACCEPTS + b"\r\n",
        b"HTTP/1.1 503 Service Unavailable\r\nRetry-After: 5\r\nContent-Length: 4\r\n\r\nbusy",
        b"HTTP/1.1 401 Unauthorized\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\nA: b\r\n\r\n",
        b"HTTP/1.1 302 Found\r\nLocation: ws://127.0.0.1/\r\n\r\n",
        b"HTTP/1.0 200 OK\r\n\r\n",
    )
)
URLS = (
    b"ws://127.0.0.1:4269/a?b=c", b"wss://[::1]/", b"ws://[fe80::1%25eth0]:80", b"ws+unix://%2Frun%2Fa.sock/b?c",
    b"ws+unix:///run/a.sock?b", "ws://bücher.example/ä%20".encode(), b"ws://a.example.:99999/", b"http://user:pw@h/#f",
)  # fmt: skip
_V2 = b"\r\n\r\n\x00\r\nQUIT\n"
PROXY_HEADERS = tuple(
    b"\x03" + header
    for header in (
        b"PROXY TCP4 192.0.2.7 10.0.0.1 51724 4269\r\nGET / HTTP/1.1\r\n",
        b"PROXY TCP6 2001:db8::7 fd00::1 51724 4269\r\n",
        b"PROXY UNKNOWN\r\n",
        b"PROXY  \r\n",
        _V2 + b"\x21\x11\x00\x0c" + bytes(range(12)) + b"GET",
        _V2 + b"\x21\x21\x00\x2b" + bytes(range(43)),
        _V2 + b"\x20\x00\x00\x00",
        _V2 + b"\x21\x31\xff\xff" + bytes(216),
    )
)
FORWARDED = (
    b"192.0.2.7", b"192.0.2.7, 10.0.0.2:80, [fd00::1]:4269", b"unknown", b"for=192.0.2.7;proto=https;by=10.0.0.1",
    b'for="[2001:db8::7]:51724", for=10.1.2.3', b'for="_hidden";for=x, for="a,b"', b"::ffff:192.0.2.7",
)  # fmt: skip
CONVERSATIONS = (
    bytes((0, 0, 0, 0, 1, 0, 1, 0)),
    bytes((0, 0, 2, 0, 1, 0, 0, 15, 3, 0, 0, 5, 9, 6, 0, 0, 7, 0, 1, 0)),
    bytes((0, 0, 4, 18)) + b'{"id":0,"data":1}\n' + bytes((0, 0, 4, 24)) + b'{"error":{"code":"a"}}  ' + bytes((2, 0)),
    bytes((0, 4, 0, 5, 0, 6, 3, 0, 0, 3, 0, 1, 3, 1, 3, 2, 1, 1, 1)),
)


def frames(*, masked: bool, deflate: bool) -> tuple[bytes, ...]:
    """Streams of frames for one role."""
    return tuple(bytes((how,)) + stream for how in (2, 7) for stream in _streams(masked, deflate))


def _streams(masked: bool, deflate: bool) -> Iterator[bytes]:
    def frame(first: int, payload: bytes = b"") -> bytes:
        mark, key = (0x80, b"\0\0\0\0") if masked else (0, b"")  # this key leaves the payload as it is
        size = len(payload)
        head = bytes((first, mark | size)) if size < 126 else struct.pack("!BBH", first, mark | 126, size)
        return head + key + payload

    yield frame(0x81, "größer".encode()) + frame(0x82, bytes(200)) + frame(0x81)
    yield frame(0x01, b"a") + frame(0x89, b"ping") + frame(0x00, b"b") + frame(0x8A, b"pong") + frame(0x80, b"c")
    yield frame(0x88, b"\x03\xe8going") + frame(0x81, b"after it")
    yield frame(0x88) + frame(0x88, b"\x03")
    yield frame(0x81, b"\xff") + frame(0x83) + frame(0xC1, b"a")
    yield bytes((0x82, 0xFF if masked else 0x7F)) + bytes((0x7F,)) + bytes(11)
    if deflate:
        body = _deflated(b"to be compressed, " * 40)
        final = _deflated(b"final", last=True)
        yield frame(0xC1, body) + frame(0xC2, body)
        yield frame(0x41, body[:7]) + frame(0x89) + frame(0x00) + frame(0x80, body[7:]) + frame(0x81, b"plain")
        yield frame(0xC2, final) + frame(0xC2, _deflated(bytes(5000))) + frame(0xC1, b"\x00")


def _deflated(data: bytes, *, last: bool = False) -> bytes:
    compressor = zlib.compressobj(6, zlib.DEFLATED, -15)
    if last:
        return compressor.compress(data) + compressor.flush()
    return (compressor.compress(data) + compressor.flush(zlib.Z_SYNC_FLUSH))[:-4]


_MESSAGES: tuple[dict[str, object], ...] = (
    {"path": "/a/b", "id": 1, "data": [1, -1.5, None, True, "é"]},
    {"path": "/a", "id": "x", "timeout_ms": 5.5, "headers": {"a": "b"}, "credit": 3, "stream": True},
    {"path": "/a"},
    {"id": 2**53 - 1, "data": {"a": {"b": [[], {}]}}},
    {"id": 1, "error": {"code": "internal", "message": "m", "retryable": False, "retry_after_ms": 1, "details": {}}},
    {"id": 1, "item": 2**63, "seq": 0},
    {"id": 1, "end": True},
    {"id": 1, "cancel": True},
    {"id": 1, "credit": 2},
    {"topic": "/t", "data": "x", "id": 0, "subs": [1, "b"], "event": "gap", "offset": 4, "epoch": "e", "attempt": 2},
    {"error": {"code": "a", "message": ""}},
)


def msgpack_messages() -> tuple[bytes, ...]:
    """One of each kind, plain and compressed, and some that are refused."""
    packed = [msgpack.packb(message) for message in _MESSAGES]
    odd = [b"\xc7\x0c\xff" + bytes(12), b"\xdd\xff\xff\xff\xff", b"\x91" * 20, b"\xcb\x7f\xf8" + bytes(6), b"\x78"]
    return (*packed, *map(zlib.compress, packed[:3]), *odd, b"\x82\xa1a\x01\xa1a\x02", b"\x81\x01\x02")


def json_messages() -> tuple[bytes, ...]:
    """The same as text."""
    written = [json.dumps(message, ensure_ascii=False).encode() for message in _MESSAGES]
    odd = [b"1e999", b"NaN", b"[" * 20, b'"\\ud800"', b'{"a":1,"a":2}', b"123456789012345678901", b"\xef\xbb\xbf{}"]
    return (*written, *odd, b'"\\u0000\\uD83D\\uDE00"', b"-0", b"[1.0, 1e3, 1E-9]")
