"""`websockets` on asyncio: `broadcast` to all that have joined, without compression and pings."""

from __future__ import annotations

import asyncio

from websockets.asyncio.server import ServerConnection, broadcast, serve
from websockets.exceptions import ConnectionClosed

from bench_parts.audience import SIZE
from bench_parts.servers.announce import announce, prepare
from bench_parts.wire import text

joined: set[ServerConnection] = set()


async def talk(connection: ServerConnection) -> None:
    try:
        async for message in connection:
            if message == "join":
                joined.add(connection)
                await connection.send("ok")
            else:
                broadcast(joined, text(SIZE).encode())
    except ConnectionClosed:
        pass
    finally:
        joined.discard(connection)


async def main() -> None:
    async with serve(talk, "127.0.0.1", 0, compression=None, ping_interval=None, backlog=4096) as server:
        announce(next(iter(server.sockets)).getsockname()[1])
        await server.serve_forever()


if __name__ == "__main__":
    prepare()
    asyncio.run(main())
