"""The server under stress; `python -m webmesh.serve stress_parts.node:server` runs it, as it would any other.

The environment variable WEBMESH_STRESS, a JSON object, sets `limits`, `timeouts`, `server` (other arguments of
`WebMeshServer`), `topics` (options by pattern) and `ledger`, a file to which `/work` appends a line for each run,
and each will that is published on `wills/*` one.
"""

from __future__ import annotations

import gc
import json
import os
import time
from collections.abc import Iterator
from typing import Any

import gevent

from webmesh import ConnectionClosed, Limits, Redelivery, Timeouts, WebMeshServer

options = json.loads(os.environ.get("WEBMESH_STRESS", "{}"))
server = WebMeshServer(
    limits=Limits(**options.get("limits", {})),
    timeouts=Timeouts(**options.get("timeouts", {})),
    **options.get("server", {}),
)
for pattern, kept in options.get("topics", {}).items():
    if "redelivery" in kept:
        kept["redelivery"] = Redelivery(**kept["redelivery"])
    server.topic(pattern, **kept)
ledger = os.open(options.get("ledger", os.devnull), os.O_WRONLY | os.O_APPEND | os.O_CREAT)
published: dict[str, int] = {"messages": 0, "bytes": 0, "refused": 0}
closed: dict[str, int] = {}


@server.on("/echo", blocking=False)
def echo(payload: Any, path: str, client: Any) -> Any:
    """The payload."""
    return payload


@server.on("/after")
def after(payload: Any, path: str, client: Any) -> Any:
    """The payload's `token`, after so many `seconds`."""
    gevent.sleep(payload["seconds"])
    return payload["token"]


@server.on("/recorded")
def recorded(payload: Any, path: str, client: Any) -> Any:
    """Write the payload's `token` into the ledger, and return it after so many `seconds`."""
    os.write(ledger, f"{payload['token']}\n".encode())
    gevent.sleep(payload["seconds"])
    return payload["token"]


@server.on("/work")
def work(payload: Any, path: str, client: Any) -> Any:
    """Write the key into the ledger, in one system call that a killed process has made or not; then its echo."""
    os.write(ledger, f"{payload}\n".encode())
    gevent.sleep(0.001)
    return payload


@server.on("/publish")
def publish(payload: Any, path: str, client: Any) -> dict[str, int]:
    """Notify all others of `size` bytes, `rounds` times; then those that are stuck `stuck` times more."""
    body = os.urandom(payload["size"])  # so that nothing makes it small
    peers = [one for one in server.connections if one is not client and one.is_mesh]
    for _ in range(payload["rounds"]):
        _notify(peers, body)
    for _ in range(payload["stuck"]):
        peers = [one for one in peers if one.open and one.request.query == "stuck"]
        if not peers:
            break
        _notify(peers, body)
        gevent.sleep(0.005)
    return published


def _notify(peers: list[Any], body: bytes) -> None:
    for number, peer in enumerate(peers):
        try:
            peer.notify("/news", body)
        except ConnectionClosed:  # it was too slow, and is told so by the close code
            published["refused"] += 1
            continue
        published["messages"] += 1
        published["bytes"] += len(body)
        if number % 16 == 15:
            gevent.sleep(0)


@server.on_disconnect
def count_closed(connection: Any, why: Any) -> None:
    """By code."""
    closed[str(why.code)] = closed.get(str(why.code), 0) + 1


@server.subscribe("wills/*")
def record_will(payload: Any, topic: str, message: Any) -> None:
    """Write what it says into the ledger."""
    os.write(ledger, f"{payload}\n".encode())


@server.on("/items")
def items(payload: Any, path: str, client: Any) -> Iterator[int]:
    """A stream of numbers."""
    yield from range(payload)


@server.on("/census", blocking=False)
def census(payload: Any, path: str, client: Any) -> dict[str, Any]:
    """What there is of everything that could leak."""
    gc.collect()
    with open("/proc/self/statm") as file:
        resident = int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    return {
        "resident": resident,
        "descriptors": len(os.listdir("/proc/self/fd")),
        "greenlets": sum(1 for one in gc.get_objects() if issubclass(type(one), gevent.Greenlet) and one),
        "connections": len(server.connections),
        "closed": closed,
        "published": published,
        "at": time.monotonic(),
    }
