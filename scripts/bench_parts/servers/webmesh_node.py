"""WebMesh under measurement: calls by routes in every manner of handler, and a plain WebSocket echo.

Options: `--plain` leaves the process unpatched (handlers then run in the thread pool by default), `--json`
makes JSON the serializer, `--no-zlib` switches the serializer's own compression off, `--deflate` offers
permessage-deflate, `--routes N` registers N further routes, half of them with a parameter.
"""

from __future__ import annotations

import sys

if "--plain" not in sys.argv:
    from gevent import monkey

    monkey.patch_all()

import argparse
import threading
from collections.abc import Callable, Iterator

import gevent

from bench_parts.servers.announce import announce, prepare
from webmesh.message_serializers import AbstractMessageSerializer, MessagePackSerializer, StandardJsonSerializer
from webmesh.options import Limits
from webmesh.webmesh_server import WebMeshServer
from webmesh.websocket.websocket_connection import WebSocketConnection

LIMITS = Limits(message_size=4 << 20, send_queue=32 << 20)
"""Raised for the 1 MiB row, whose envelope is a little larger than the default limit."""


class UncompressedMessagePack(MessagePackSerializer):
    """msgpack that never compresses: separates the cost of zlib from that of the call."""

    def __init__(self, limits: Limits = LIMITS) -> None:
        super().__init__(limits, compress_threshold=1 << 40)


def echo(payload: object, path: str, client: WebSocketConnection) -> object:
    return payload


def echo_with_id(payload: object, path: str, client: WebSocketConnection, id: int) -> object:
    return payload


def yields(payload: object, path: str, client: WebSocketConnection) -> object:
    gevent.sleep(0)
    return payload


def sleeps(payload: object, path: str, client: WebSocketConnection) -> object:
    gevent.sleep(0.001)
    return payload


def serializer(options: argparse.Namespace) -> type[AbstractMessageSerializer]:
    if options.json:
        return StandardJsonSerializer
    return UncompressedMessagePack if options.no_zlib else MessagePackSerializer


def register(server: WebMeshServer, routes: int) -> None:
    """The routes that are called, and as many more as asked for."""
    server.on("/echo")(echo)
    server.on("/yields")(yields)
    server.on("/sleeps")(sleeps)
    server.on("/items/<int:id>")(echo_with_id)
    for path, handler in further_routes(routes):
        server.on(path)(handler)

    @server.websocket("/plain")
    def plain(connection: WebSocketConnection) -> None:
        for message in connection:
            connection.send(message)


def further_routes(routes: int) -> Iterator[tuple[str, Callable[..., object]]]:
    for number in range(routes // 2):
        yield f"/area{number % 100}/thing{number}/get", echo
        yield f"/area{number % 100}/thing{number}/<int:id>", echo_with_id


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--routes", type=int, default=0)
    for flag in ("--plain", "--json", "--no-zlib", "--deflate"):
        parser.add_argument(flag, action="store_true")
    options = parser.parse_args()
    prepare()
    server = WebMeshServer(serializer_type=serializer(options), limits=LIMITS, compression=options.deflate)
    register(server, options.routes)
    server.listen("127.0.0.1", 0, blocking=False)
    server.await_started(30)
    announce(server.port)
    threading.Event().wait()


if __name__ == "__main__":
    main()
