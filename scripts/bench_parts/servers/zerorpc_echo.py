"""zerorpc: one method on an ordinary object, as its README shows it."""

from __future__ import annotations

import zerorpc

from bench_parts.servers.announce import announce, free_port, prepare


class Echo:
    def echo(self, payload: object) -> object:
        return payload


if __name__ == "__main__":
    prepare()
    server = zerorpc.Server(Echo())
    port = free_port()
    server.bind(f"tcp://127.0.0.1:{port}")
    announce(port)
    server.run()
