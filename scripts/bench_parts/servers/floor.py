"""The floor: a plain gevent TCP echo, as anyone would write it. Every ratio is a ratio to this one."""

from __future__ import annotations

import socket

from gevent.server import StreamServer

from bench_parts.servers.announce import announce, prepare


def echo(sock: socket.socket, address: object) -> None:
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    while received := sock.recv(65536):
        sock.sendall(received)


if __name__ == "__main__":
    prepare()
    server = StreamServer(("127.0.0.1", 0), echo, backlog=4096)
    server.start()
    announce(server.server_port)
    server.serve_forever()
