"""A program for a network of its own: a server, a client, and a link between them that fails. Prints what came of it.

Run by `unshare --net python -m tests.integration.lonely_network STORY`; needs root, `ip` and `tc`.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import gevent
import gevent.socket

from webmesh import (
    Limits, ReplyLost, Timeouts, WebMeshClient, WebMeshError, WebMeshServer, WebSocketConnection,
)  # fmt: skip
from webmesh.protocol.frames import Frames
from webmesh.testing import RecordingObserver

QUICK = Timeouts(ping_interval=0.4, stalled=0.3, liveness=2.5, write=20.0, close=0.5)


def tc(*arguments: str) -> None:
    """Say how the loopback link carries packets."""
    subprocess.run(["tc", "qdisc", "replace", "dev", "lo", "root", *arguments], check=True)


def cut() -> None:
    """Nothing gets through any more, in either direction, and nobody is told."""
    tc("tbf", "rate", "8kbit", "burst", "10", "limit", "10")


def heal() -> None:
    """Everything gets through."""
    tc("pfifo")


def until(condition: Callable[[], object], seconds: float = 10.0) -> bool:
    """Whether *condition* became true in time."""
    end = time.monotonic() + seconds
    while not condition() and time.monotonic() < end:
        gevent.sleep(0.01)
    return bool(condition())


class Story:
    """One server with one client, both watched."""

    def __init__(self, timeouts: Timeouts) -> None:
        self.seen, self.seen_by_client = RecordingObserver(), RecordingObserver()
        self.runs: list[Any] = []
        self.server = WebMeshServer(timeouts=timeouts, observer=self.seen)
        self.server.on("/slow", blocking=False)(self.slow)
        self.server.on("/echo", blocking=False)(lambda payload, path, client: payload)
        self.server.listen(port=0)
        self.server.await_started()
        self.client = WebMeshClient(self.server.url, timeouts=timeouts, observer=self.seen_by_client)
        self.heard: list[int] = []
        self.client.on("/push", blocking=False)(lambda payload, path, client: self.heard.append(len(payload)))
        self.connection = self.client.connect()

    def slow(self, payload: Any, path: str, client: Any) -> Any:
        """A handler that outlasts the link."""
        self.runs.append(payload)
        gevent.sleep(30)

    def ends(self) -> dict[str, int]:
        """With which codes the first connection ended on either side."""
        return {
            who: seen.named("connection_closed")[0][1]
            for who, seen in (("server", self.seen), ("client", self.seen_by_client))
        }

    def stalls(self) -> int:
        """How often anybody was called stalled."""
        return len(self.seen.named("peer_stalled")) + len(self.seen_by_client.named("peer_stalled"))


def partition() -> dict[str, Any]:
    """The link is cut both ways while a call runs, and healed after both sides have noticed."""
    story = Story(QUICK)
    waiting = story.client.spawn("/slow", "once", timeout=20)
    until(lambda: story.runs)
    cut()
    began = time.monotonic()
    try:
        waiting.result()
        outcome = "answered"
    except ReplyLost as lost:
        outcome = f"lost, started={lost.started}"
    seconds = time.monotonic() - began
    until(lambda: story.seen.named("connection_closed") and story.seen_by_client.named("connection_closed"))
    story.client.close()  # or it comes back by itself, at a time of its own
    heal()
    answer = WebMeshClient(story.server.url).call("/echo", "healed")
    return {
        "outcome": outcome, "in time": seconds < 5, "ends": story.ends(), "stalls": story.stalls(),
        "runs": story.runs, "answer": answer, "open": len([each for each in story.server.connections if each.open]),
    }  # fmt: skip


def narrow() -> dict[str, Any]:
    """Far more is sent over a narrow link than it carries until a silent peer would be lost."""
    story = Story(QUICK)
    tc("tbf", "rate", "512kbit", "burst", "4000", "limit", "400000")
    until(lambda: story.server.connections)
    [peer] = story.server.connections
    for size in (200_000, 20_000, 20_000, 20_000):
        peer.notify("/push", os.urandom(size))
    began = time.monotonic()
    arrived = until(lambda: len(story.heard) == 4, 20)
    return {
        "arrived": arrived, "heard": story.heard, "slow": time.monotonic() - began > QUICK.liveness, "open": peer.open,
        "ends": [seen.named("connection_closed") for seen in (story.seen, story.seen_by_client)],
    }  # fmt: skip


def deaf() -> dict[str, Any]:
    """The link is cut while a plain route's handler does not read what its peer has sent."""
    server = WebMeshServer(timeouts=QUICK)
    told: list[Any] = []

    @server.websocket("/deaf", blocking=False)
    def handle(connection: WebSocketConnection) -> None:
        why = connection.wait_closed(15)
        told.append([why.code, why.reason, len(list(connection))])

    server.listen(port=0)
    server.await_started()
    peer = gevent.socket.create_connection(("127.0.0.1", server.port))
    peer.sendall(
        b"GET /deaf HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
    )
    peer.recv(4096)
    frames = Frames(client=True, limits=Limits())
    peer.sendall(b"".join(frames.encode("x") for _ in range(200)))
    gevent.sleep(0.3)
    cut()
    until(lambda: told, 15)
    return {"told": told}


if __name__ == "__main__":
    subprocess.run(["ip", "link", "set", "lo", "mtu", "1500", "up"], check=True)
    try:
        print(json.dumps({"partition": partition, "narrow": narrow, "deaf": deaf}[sys.argv[1]](), default=repr))
    except WebMeshError as error:
        print(json.dumps({"error": repr(error)}))
