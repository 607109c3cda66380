"""`websockets` on asyncio: an echo. `--deflate` leaves its compression on, as it is by default."""

from __future__ import annotations

import asyncio
import sys

from websockets.asyncio.server import ServerConnection, serve
from websockets.exceptions import ConnectionClosed

from bench_parts.servers.announce import announce, prepare

COMPRESSION = "deflate" if "--deflate" in sys.argv else None


async def echo(connection: ServerConnection) -> None:
    try:
        async for message in connection:
            await connection.send(message)
    except ConnectionClosed:
        pass


async def main() -> None:
    # No pings: the load generator counts bytes. The limit is ours, raised for the 1 MiB row.
    async with serve(
        echo, "127.0.0.1", 0, compression=COMPRESSION, max_size=4 << 20, ping_interval=None, backlog=4096
    ) as server:
        announce(next(iter(server.sockets)).getsockname()[1])
        await server.serve_forever()


if __name__ == "__main__":
    prepare()
    asyncio.run(main())
