"""What the three services have in common: the command line, joining the mesh, a last will, an end without a loss.

    python -m examples.flights.SERVICE [PEER…] [--port PORT]
"""

from __future__ import annotations

import argparse
import os
import signal
import threading
from collections.abc import Callable
from typing import Any

from webmesh import WebMesh, WebMeshClient, WebMeshServer

Background = Callable[[WebMesh, threading.Event], object]


def new_server(name: str) -> WebMeshServer:
    """A server of this example. All nodes declare the same topics: any of them may come to keep what is published."""
    server = WebMeshServer(name=name)
    server.topic("fares/*", history=100, retain=True)  # what a currency costs now, and did
    server.topic("instances/*", history=10_000)  # which instances are gone: the last wills
    server.router.converter("code", str.upper, pattern="[0-9A-Za-z]{3,4}")
    return server


def parser(description: str) -> argparse.ArgumentParser:
    """What every service takes."""
    made = argparse.ArgumentParser(description=description)
    made.add_argument("peers", nargs="*", metavar="PEER", help="the URL of a node that is up; none for the first one")
    made.add_argument("--port", type=int, default=0, help="0, the default, is any that is free")
    return made


def run(mesh: WebMesh, options: argparse.Namespace, background: Background | None = None) -> None:
    """Be an instance until SIGTERM or Ctrl-C; then finish what is in progress, and leave.

    Args:
        background: Runs beside the server, in a thread, until the event is set.
    """
    over = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: over.set())
    mesh.start(port=options.port)
    with WebMeshClient(mesh.server.url) as client:
        # Whoever publishes is not this process, which is gone by then, but one of the other nodes.
        client.set_will(f"instances/{mesh.server.name}", about(mesh))
        client.connect()
        print(f"{mesh.server.name} {mesh.id} at {mesh.server.url}, pid {os.getpid()}", flush=True)
        beside = None if background is None else threading.Thread(target=background, args=(mesh, over), daemon=True)
        if beside is not None:
            beside.start()
        while not over.wait(1.0):  # in pieces, so that a signal is seen on every system
            pass
        if beside is not None:
            beside.join(5)
    mesh.close()  # no will: the client has said goodbye


def about(mesh: WebMesh) -> dict[str, Any]:
    """What the will says."""
    return {"gone": mesh.server.name, "node": mesh.id, "pid": os.getpid()}
