"""The worst peer: `attacker PORT SECONDS KIND MIB`. Prints what it sent, how often it got in, and why it was thrown
out. A bomb inflates to so many MiB."""

from __future__ import annotations

import json
import socket
import sys
import time
import zlib
from collections import Counter

import msgpack

from bench_parts.load import LoadFailed, connect
from bench_parts.wire import Speech, call_speech, frame, upgrade_request

ANSWER_TIMEOUT = 20.0
"""Seconds for the server to say why, once the peer has stopped to listen to nothing but that."""
BATCH = 2_000
"""Frames in one write."""


def zlib_bomb(size: int) -> bytes:
    """A msgpack body that is a thousand times as large when it is inflated."""
    deflater = zlib.compressobj(9)
    parts = [deflater.compress(b"\xc6" + (size << 20).to_bytes(4, "big"))]
    parts += [deflater.compress(bytes(1 << 20)) for _ in range(size)]
    return b"".join((*parts, deflater.flush()))


def raw_bomb(size: int) -> bytes:
    """The same for permessage-deflate."""
    deflater = zlib.compressobj(9, zlib.DEFLATED, -15)
    parts = [deflater.compress(bytes(1 << 20)) for _ in range(size)]
    return b"".join((*parts, deflater.flush(zlib.Z_SYNC_FLUSH)))[:-4]


def tiny(first: int, payload: bytes) -> bytes:
    """A frame with any first byte."""
    made = bytearray(frame(payload))
    made[0] = first
    return bytes(made)


def arms(kind: str, size: int) -> tuple[bytes, bytes, int, bool]:
    """What is sent first on each connection, what again and again, how many that are, whether deflate is offered."""
    if kind == "fragments":
        return tiny(0x02, b"a"), tiny(0x00, b"b") * BATCH, BATCH, False
    if kind == "pings":
        return b"", tiny(0x89, b"") * BATCH, BATCH, False
    if kind == "empty":
        return b"", tiny(0x82, b"") * BATCH, BATCH, False
    if kind == "calls":
        return b"", frame(msgpack.packb({"path": "/echo", "id": 1})) * BATCH, BATCH, False
    if kind == "zlib":
        return b"", frame(zlib_bomb(size)), 1, False
    bomb = raw_bomb(size)
    if kind == "deflate":
        return b"", tiny(0xC2, bomb), 1, True
    pieces = [bomb[start : start + 16_384] for start in range(0, len(bomb), 16_384)]
    frames = [tiny(0x42 if not number else 0x00, piece) for number, piece in enumerate(pieces)]
    return b"", b"".join(frames), 1, True


def attack(port: int, seconds: float, kind: str, size: int) -> dict[str, object]:
    """Come back as often as it is thrown out."""
    first, load, each, deflate = arms(kind, size)
    subprotocol = "webmesh.v1.msgpack"
    opening = upgrade_request("/", subprotocol=subprotocol, deflate=deflate)
    speech = Speech(opening, call_speech("/").message, True, call_speech("/").holds)
    codes: Counter[str] = Counter()
    sent = connections = 0
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        try:
            sock = connect(port, speech)
        except (LoadFailed, OSError):
            time.sleep(0.05)  # turned away at the door
            continue
        connections += 1
        sent += one(sock, first, load, each, end, codes)
    return {"sent": sent, "connections": connections, "codes": dict(codes)}


def one(sock: socket.socket, first: bytes, load: bytes, each: int, end: float, codes: Counter[str]) -> int:
    """Send on one connection until the server has enough of it; how many were sent."""
    sent = 0
    incoming = b""
    sock.setblocking(False)
    left = memoryview(first + load)
    with sock:
        while time.monotonic() < end:
            try:
                left = left[sock.send(left) :]
            except BlockingIOError:
                time.sleep(0.0005)
            except OSError:
                break
            if not left:
                sent += each
                left = memoryview(load)
            try:
                data = sock.recv(1 << 16)
                if not data:
                    break
                incoming = (incoming + data)[-200:]
            except BlockingIOError:
                continue
            except OSError:
                break
        else:
            return sent
        _ended(sock, incoming, codes)
    return sent


def _ended(sock: socket.socket, incoming: bytes, codes: Counter[str]) -> None:
    """Count why the server ended it: the code of the close frame that came last."""
    sock.settimeout(ANSWER_TIMEOUT)
    try:
        while data := sock.recv(1 << 16):
            incoming = (incoming + data)[-200:]
    except OSError:
        pass
    codes[close_code(incoming)] += 1


def close_code(tail: bytes) -> str:
    """The code of the close frame that *tail* ends with, `none` if it ends with something else."""
    for start in range(len(tail) - 2, -1, -1):
        code, reason = int.from_bytes(tail[start + 2 : start + 4], "big"), tail[start + 4 :]
        if tail[start] == 0x88 and start + 2 + tail[start + 1] == len(tail):
            if 1000 <= code < 5000 and reason.decode("latin-1").isprintable() and reason.isascii():
                return str(code)  # else it was the payload of another frame that looked like one
    return "none"


if __name__ == "__main__":
    print(json.dumps(attack(int(sys.argv[1]), float(sys.argv[2]), sys.argv[3], int(sys.argv[4]))))
