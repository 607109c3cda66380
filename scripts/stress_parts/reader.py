"""Peers that read what they are sent, and some that do not: `reader PORT READING STUCK BYTES`, until its input ends.

Then the stuck ones read, too, to see why they were thrown out.
"""

from __future__ import annotations

import json
import select
import socket
import sys
import time
from collections import Counter

from bench_parts.load import receive_head
from bench_parts.wire import frame, upgrade_request
from stress_parts.attacker import close_code

UPGRADE = upgrade_request("/", subprotocol="webmesh.v1.msgpack")
SMALL = 4096
"""Bytes that the kernel keeps for a stuck peer: the rest has to wait on the other side."""
PATIENCE = 20.0


def opened(port: int, *, stuck: bool) -> socket.socket:
    """An upgraded connection."""
    sock = socket.socket()
    if stuck:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, SMALL)
    sock.settimeout(30)
    sock.connect(("127.0.0.1", port))
    sock.sendall(UPGRADE.replace(b" / ", b" /?stuck ") if stuck else UPGRADE)
    receive_head(sock)
    return sock


def why(sock: socket.socket) -> str:
    """Read to the end; the close code there."""
    sock.settimeout(PATIENCE)
    tail = b""
    try:
        while data := sock.recv(1 << 18):
            tail = (tail + data)[-200:]
            if close_code(tail) != "none":
                sock.sendall(frame(b"\x03\xe8", opcode=8))
    except OSError as error:
        print(f"a stuck peer: {error}", file=sys.stderr)
    return close_code(tail)


def run(port: int, reading: int, stuck: int, size: int) -> dict[str, object]:
    """Read until told to stop, then see."""
    blocked = [opened(port, stuck=True) for _ in range(stuck)]
    socks = [opened(port, stuck=False) for _ in range(reading)]
    got = {sock.fileno(): 0 for sock in socks}
    poll = select.epoll()
    for sock in socks:
        sock.setblocking(False)
        poll.register(sock, select.EPOLLIN)
    by_descriptor = {sock.fileno(): sock for sock in socks}
    poll.register(sys.stdin, select.EPOLLIN)
    print("ready", flush=True)
    buffer = bytearray(1 << 18)
    ends = None
    while ends is None or time.monotonic() < ends:
        for fd, _ in poll.poll(0.2):
            if fd == sys.stdin.fileno():
                poll.unregister(sys.stdin)
                ends = time.monotonic() + 1.0  # what is on its way still comes
                continue
            try:
                count = by_descriptor[fd].recv_into(buffer)
            except OSError:
                count = 0
            got[fd] += count
            if not count:
                poll.unregister(fd)
    codes = Counter(why(sock) for sock in blocked)
    return {"codes": dict(codes), "short": sum(1 for count in got.values() if count < size), "bytes": sum(got.values())}


if __name__ == "__main__":
    print(json.dumps(run(*map(int, sys.argv[1:5]))))
