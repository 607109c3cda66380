"""The lower floor: a gevent TCP echo that waits before it reads and then uses the raw socket.

`gevent.socket.recv` first tries a read that fails nearly always when requests come one by one; this
one saves that system call. It shows what is to be had at best, not how to write a server.
"""

from __future__ import annotations

import socket
from typing import Any

from gevent import get_hub
from gevent.server import StreamServer

from bench_parts.servers.announce import announce, prepare


def echo(sock: Any, address: object) -> None:
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    raw, wait, readable = sock._sock, get_hub().wait, sock._read_event
    while True:
        wait(readable)
        received = raw.recv(65536)
        if not received:
            return
        try:
            sent = raw.send(received)
        except BlockingIOError:
            sent = 0
        if sent < len(received):
            sock.sendall(received[sent:])


if __name__ == "__main__":
    prepare()
    server = StreamServer(("127.0.0.1", 0), echo, backlog=4096)
    server.start()
    announce(server.server_port)
    server.serve_forever()
