"""picows on asyncio: a loop over its transports."""

from __future__ import annotations

import asyncio

from picows import WSFrame, WSListener, WSMsgType, WSTransport, WSUpgradeRequest, ws_create_server

from bench_parts.audience import SIZE
from bench_parts.servers.announce import announce, prepare
from bench_parts.wire import text

joined: set[WSTransport] = set()


class Listener(WSListener):
    def on_ws_frame(self, transport: WSTransport, frame: WSFrame) -> None:
        if frame.msg_type == WSMsgType.CLOSE:
            transport.disconnect()
        elif frame.get_payload_as_bytes() == b"join":
            joined.add(transport)
            transport.send(WSMsgType.TEXT, b"ok")
        else:
            payload = text(SIZE).encode()
            for receiver in joined:
                receiver.send(WSMsgType.BINARY, payload)

    def on_ws_disconnected(self, transport: WSTransport) -> None:
        joined.discard(transport)


def listener(request: WSUpgradeRequest) -> Listener:
    return Listener()


async def main() -> None:
    server = await ws_create_server(listener, "127.0.0.1", 0, backlog=4096)
    announce(server.sockets[0].getsockname()[1])
    await server.serve_forever()


if __name__ == "__main__":
    prepare()
    asyncio.run(main())
