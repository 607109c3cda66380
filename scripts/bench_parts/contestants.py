"""Who takes part: every server under measurement, how it is spoken to, and in which rows it appears."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from functools import partial

from bench_parts.wire import Speech, call_speech, raw_speech, websocket_speech

SIZES = (128, 4096, 65536, 1 << 20)
SMALL = (128,)
COMPRESSED_BY_MSGPACK = (4096, 65536)
DEFLATE_SIZES = (128, 4096, 65536)
FLOOR = "floor"


@dataclass(frozen=True)
class Contestant:
    """One row's server."""

    name: str
    what: str
    """What it is, for the reader of the table."""
    module: str
    """Its program in `bench_parts.servers`."""
    needs: tuple[str, ...]
    """Modules that must be installed."""
    speech: Speech | None = None
    """How the load generator talks to it; None for those with a client of their own."""
    client: str | None = None
    """Its load program in `bench_parts.clients`."""
    options: tuple[str, ...] = ()
    sizes: tuple[int, ...] = SIZES
    windows: tuple[int, ...] = (1, 10)
    handshakes: bool = False
    """Whether its handshakes are counted."""
    idle: bool = False
    """Whether the memory of its idle connections is measured."""

    def missing(self) -> str | None:
        """Why it cannot take part here, or None."""
        absent = [module for module in self.needs if importlib.util.find_spec(module) is None]
        return f"not installed: {', '.join(absent)}" if absent else None


NODE = ("gevent", "wsproto", "h11", "msgpack", "ujson")

node = partial(Contestant, module="webmesh_node", needs=NODE)
small_node = partial(node, sizes=SMALL)
floor = partial(Contestant, needs=("gevent",), speech=raw_speech())
echo = partial(Contestant, speech=websocket_speech())

ROUTE_COUNTS = (10, 100, 1000, 10_000)


def routed(count: int) -> tuple[Contestant, Contestant]:
    """Calls to a server that has so many routes more: by a fixed path and by one with a parameter."""
    chosen = count // 4
    path = f"/area{chosen % 100}/thing{chosen}"
    by_route = partial(small_node, options=("--routes", str(count)))
    return (
        by_route(f"routes-{count}", f"WebMesh call, {count:,} routes", speech=call_speech(f"{path}/get")),
        by_route(
            f"routes-{count}-parameter",
            f"WebMesh call, {count:,} routes, parameter",
            speech=call_speech(f"{path}/4269"),
        ),
    )


CONTESTANTS = (
    floor(FLOOR, "plain gevent TCP echo", "floor", handshakes=True, idle=True),
    floor("floor-raw", "gevent TCP echo, wait first, raw socket", "floor_raw"),
    echo(
        "wsproto",
        "gevent + wsproto, straight",
        "wsproto_straight",
        ("gevent", "wsproto"),
        handshakes=True,
        idle=True,
    ),
    echo("websockets", "websockets, asyncio", "websockets_asyncio", ("websockets",), handshakes=True, idle=True),
    echo("websockets-threads", "websockets, one thread a connection", "websockets_threads", ("websockets",)),
    echo("picows", "picows, asyncio", "picows_echo", ("picows",), handshakes=True, idle=True),
    echo(
        "gevent-websocket",
        "gevent-websocket on pywsgi",
        "gevent_websocket",
        ("geventwebsocket",),
        handshakes=True,
        idle=True,
    ),
    node("plain", "WebMesh, plain WebSocket route", speech=websocket_speech("/plain"), handshakes=True, idle=True),
    echo(
        "websockets-deflate",
        "websockets, permessage-deflate",
        "websockets_asyncio",
        ("websockets",),
        speech=websocket_speech(deflate=True),
        options=("--deflate",),
        sizes=DEFLATE_SIZES,
    ),
    node(
        "plain-deflate",
        "WebMesh, plain route, permessage-deflate",
        speech=websocket_speech("/plain", deflate=True),
        options=("--deflate",),
        sizes=DEFLATE_SIZES,
    ),
    node("call", "WebMesh call, msgpack", speech=call_speech("/echo"), handshakes=True, idle=True),
    node(
        "call-no-zlib",
        "WebMesh call, msgpack, zlib off",
        speech=call_speech("/echo", compress=False),
        options=("--no-zlib",),
        sizes=COMPRESSED_BY_MSGPACK,
    ),
    node("call-json", "WebMesh call, JSON", speech=call_speech("/echo", serializer="json"), options=("--json",)),
    small_node("call-parameter", "WebMesh call, path with a parameter", speech=call_speech("/items/4269")),
    small_node("call-yields", "WebMesh call, handler does gevent.sleep(0)", speech=call_speech("/yields")),
    small_node("call-sleeps", "WebMesh call, handler sleeps 1 ms", speech=call_speech("/sleeps")),
    small_node(
        "call-threads", "WebMesh call, unpatched, thread pool", speech=call_speech("/echo"), options=("--plain",)
    ),
    *(contestant for count in ROUTE_COUNTS for contestant in routed(count)),
    Contestant("grpc", "gRPC Python, sync server, bytes", "grpc_sync", ("grpc",), client="grpc_calls"),
    Contestant("zerorpc", "zerorpc", "zerorpc_echo", ("zerorpc",), client="zerorpc_calls"),
)
