"""`websockets` in its synchronous form: threads, the nearest thing that unpatched blocking code has today."""

from __future__ import annotations

from websockets.exceptions import ConnectionClosed
from websockets.sync.server import ServerConnection, serve

from bench_parts.servers.announce import announce, prepare


def echo(connection: ServerConnection) -> None:
    try:
        for message in connection:
            connection.send(message)
    except ConnectionClosed:
        pass


if __name__ == "__main__":
    prepare()
    with serve(echo, "127.0.0.1", 0, compression=None, max_size=4 << 20, ping_interval=None) as server:
        server.socket.listen(4096)
        announce(server.socket.getsockname()[1])
        server.serve_forever()
