"""A picows client in a process of its own, told what to do by lines of JSON: asyncio and gevent's patches do not mix.

In: `{"n": 1, "open": url, "subprotocol": text or null}`, `{"n": 1, "text": …}`, `{"n": 1, "bytes": base64}`,
`{"n": 1, "ping": true}`, `{"n": 1, "drop": true}`.
Out, with the same `n`: `opened`, `failed`, `text`, `bytes`, `pong`, `end`.
"""

from __future__ import annotations

import asyncio
import base64
import json
import sys
from typing import Any

from picows import WSFrame, WSListener, WSMsgType, WSTransport, ws_connect


def tell(number: int, **what: Any) -> None:
    print(json.dumps({"n": number, **what}), flush=True)


class Told(WSListener):  # type: ignore[misc]
    """Passes on what it hears."""

    def __init__(self, number: int) -> None:
        super().__init__()
        self._number = number

    def on_ws_frame(self, transport: WSTransport, frame: WSFrame) -> None:
        if frame.msg_type == WSMsgType.CLOSE:
            code, reason = frame.get_close_code(), frame.get_close_message() or b""
            tell(self._number, end=[int(code), bytes(reason).decode()])
            transport.send_close(code)
        elif frame.msg_type == WSMsgType.TEXT:
            tell(self._number, text=frame.get_payload_as_utf8_text())
        elif frame.msg_type == WSMsgType.BINARY:
            tell(self._number, bytes=base64.b64encode(frame.get_payload_as_bytes()).decode())
        elif frame.msg_type == WSMsgType.PONG:
            tell(self._number, pong=True)

    def on_ws_disconnected(self, transport: WSTransport) -> None:
        tell(self._number, end=[1006, ""])


async def main() -> None:
    lines = asyncio.StreamReader(limit=2**24)
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(lines), sys.stdin)
    transports: dict[int, WSTransport] = {}
    while line := await lines.readline():
        order = json.loads(line)
        number = order["n"]
        if "open" in order:
            headers = {"Sec-WebSocket-Protocol": order["subprotocol"]} if order["subprotocol"] else {}
            try:
                transports[number], _ = await ws_connect(
                    lambda number=number: Told(number), order["open"], extra_headers=headers
                )
            except Exception as error:
                tell(number, failed=str(error))
            else:
                tell(number, opened=True)
        elif "text" in order:
            transports[number].send(WSMsgType.TEXT, order["text"].encode())
        elif "bytes" in order:
            transports[number].send(WSMsgType.BINARY, base64.b64decode(order["bytes"]))
        elif "ping" in order:
            transports[number].send_ping(b"p")
        else:
            transports.pop(number).disconnect()


if __name__ == "__main__":
    asyncio.run(main())
