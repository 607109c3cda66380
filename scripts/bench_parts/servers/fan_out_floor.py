"""The floor of fan-out: the ready-made frame to one socket after the other, by the raw system call.

No gevent, no buffers, no WebSocket handshake: a byte joins, another publishes. What is sent is what WebMesh sends.
"""

from __future__ import annotations

import selectors
import socket

import msgpack

from bench_parts.audience import SIZE, TOPIC
from bench_parts.servers.announce import announce, prepare
from bench_parts.wire import text


def server_frame(body: bytes) -> bytes:
    """As servers send it: not masked."""
    assert 126 <= len(body) < 65536
    return b"\x82\x7e" + len(body).to_bytes(2, "big") + body


def main() -> None:
    ready_made = server_frame(msgpack.packb({"topic": TOPIC, "data": text(SIZE), "subs": [1]}))
    listener = socket.create_server(("127.0.0.1", 0), backlog=4096)
    waiting = selectors.DefaultSelector()
    waiting.register(listener, selectors.EVENT_READ)
    joined: list[socket.socket] = []
    announce(listener.getsockname()[1])
    while True:
        for key, _ in waiting.select():
            if key.fileobj is listener:
                sock, _ = listener.accept()
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                sock.setblocking(False)
                waiting.register(sock, selectors.EVENT_READ)
                continue
            sock = key.fileobj  # type: ignore[assignment]
            said = sock.recv(4096)
            if said == b"J":
                joined.append(sock)
                sock.send(b"\x82\x02ok")
            elif not said:
                return
            for _ in range(said.count(b"P")):
                for receiver in joined:
                    receiver.send(ready_made)


if __name__ == "__main__":
    prepare()
    main()
