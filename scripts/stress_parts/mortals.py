"""Processes that leave wills: `mortals PORT`. Each line of the input asks for one more, or ends one.

`live KEY` forks a process that connects, says `$hello` with a will on `wills/KEY`, and waits; it is answered with `KEY`
once the server has answered. `kill KEY` ends that process by SIGKILL, `leave KEY` lets it say `$goodbye`, `drop KEY`
lets it close its connection without a word. Forked from one process without gevent, so that a life costs milliseconds.
"""

from __future__ import annotations

import os
import signal
import socket
import sys

import msgpack

from bench_parts.load import connect, receive_frame
from bench_parts.wire import Speech, frame, inflated, upgrade_request

OPENING = upgrade_request("/", subprotocol="webmesh.v1.msgpack")
SPEECH = Speech(OPENING, lambda ident, size: b"", True, lambda body, ident, size: True)


def say(sock: socket.socket, **message: object) -> None:
    """Send one message."""
    sock.sendall(frame(msgpack.packb(message)))


def live(port: int, key: str, orders: int, news: int) -> None:
    """One life, from the greeting to the order that ends it."""
    with connect(port, SPEECH) as sock:
        will = {"id": "w", "topic": f"wills/{key}", "data": key}
        say(sock, path="$hello", id=0, data={"node": {"id": key, "name": "mortal", "version": "0"}, "wills": [will]})
        while True:
            head, body = receive_frame(sock)
            if head[0] & 0x0F == 2 and msgpack.unpackb(inflated(body)).get("id") == 0:
                break
        os.write(news, b".")
        if os.read(orders, 16) == b"leave":
            say(sock, path="$goodbye", data={"reason": "done"})
            sock.sendall(frame((1000).to_bytes(2, "big"), opcode=8))
            while sock.recv(4096):  # until the server has closed, so that nothing was lost on the way
                pass


class Life:
    """A process that was forked."""

    def __init__(self, port: int, key: str) -> None:
        orders, self._orders = os.pipe()
        self._news, news = os.pipe()
        self.pid = os.fork()
        if not self.pid:
            try:
                os.close(self._orders)
                os.close(self._news)
                live(port, key, orders, news)
            finally:
                os._exit(0)
        os.close(orders)
        os.close(news)

    def begun(self) -> bool:
        """Wait until the server has its will; False when it was not to be had."""
        return os.read(self._news, 1) == b"."

    def end(self, order: str) -> None:
        """By force, or as the order says."""
        if order == "kill":
            os.kill(self.pid, signal.SIGKILL)
        else:
            os.write(self._orders, order.encode())
        os.waitpid(self.pid, 0)
        os.close(self._orders)
        os.close(self._news)


def main() -> None:
    """Do what the input says, line by line, and answer each."""
    lives: dict[str, Life] = {}
    for line in sys.stdin:
        order, key = line.split()
        if order == "live":
            lives[key] = Life(int(sys.argv[1]), key)
            said = key if lives[key].begun() else "-"
        else:
            lives.pop(key).end(order)
            said = key
        print(said, flush=True)


if __name__ == "__main__":
    main()
