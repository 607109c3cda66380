"""gevent and wsproto, put together in the straight way: what WebMesh would cost without a fast lane."""

from __future__ import annotations

import socket

from gevent.server import StreamServer
from wsproto import ConnectionType, WSConnection
from wsproto.events import AcceptConnection, BytesMessage, CloseConnection, Ping, Request, TextMessage

from bench_parts.servers.announce import announce, prepare


def answers(websocket: WSConnection, whole: list[bytes | bytearray]) -> bytes:
    """The bytes to send back for the events that wait; `whole` gathers the pieces of one message."""
    out = []
    for event in websocket.events():
        if isinstance(event, BytesMessage):
            whole.append(event.data)
            if event.message_finished:
                out.append(websocket.send(BytesMessage(b"".join(whole))))
                whole.clear()
        elif isinstance(event, TextMessage):
            out.append(websocket.send(TextMessage(event.data, message_finished=event.message_finished)))
        elif isinstance(event, Ping):
            out.append(websocket.send(event.response()))
        elif isinstance(event, Request):
            out.append(websocket.send(AcceptConnection()))
        elif isinstance(event, CloseConnection):
            out.append(websocket.send(event.response()))
    return b"".join(out)


def echo(sock: socket.socket, address: object) -> None:
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    websocket = WSConnection(ConnectionType.SERVER)
    whole: list[bytes | bytearray] = []
    while received := sock.recv(65536):
        websocket.receive_data(received)
        sock.sendall(answers(websocket, whole))


if __name__ == "__main__":
    prepare()
    server = StreamServer(("127.0.0.1", 0), echo, backlog=4096)
    server.start()
    announce(server.server_port)
    server.serve_forever()
