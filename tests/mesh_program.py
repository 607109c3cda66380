"""A node of a mesh in a process of its own, which does what it reads from its standard input, line by line, in JSON.

Run by `tests.mesh_processes`; the argument is a JSON object, see `main`.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import time
from typing import Any

from webmesh import GossipSettings, WebMesh, WebMeshClient, WebMeshError, WebMeshServer
from webmesh.brokers.mesh import MeshBroker


class Program:
    """One node, what it has heard, and what it is asked."""

    def __init__(
        self, name: str, *, host: str = "127.0.0.1", port: int = 0, seeds: list[str], gossip: dict[str, Any],
        ledger: str, advertise: list[str] | None = None,
    ) -> None:  # fmt: skip
        self.heard: list[list[Any]] = []
        self.events: list[list[Any]] = []
        self.led: list[list[Any]] = []
        self.changes: list[list[Any]] = []
        self._ledger = os.open(ledger, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        self.server = server = WebMeshServer(name=name)
        server.topic("kept/**", history=10_000, retain=True)
        server.topic("room/**", presence=True)
        server.on("/echo", idempotent=True)(lambda payload, path, client: payload)
        server.on("/once")(self.once)
        server.on("/hop")(lambda payload, path, client: self.mesh.call(payload["service"], "/echo", payload["data"]))
        self.mesh = WebMesh(server, *seeds, gossip=GossipSettings(**gossip), advertise=advertise)
        self.mesh.subscribe("plain/**", self.hear)
        self.mesh.subscribe("kept/**", self.hear)
        self.mesh.subscribe("jobs/*", self.work, group="workers")
        self.mesh.watch(lambda before, after: self.changes.append([(after or before).id, after and after.state]))
        self.mesh.start(host=host, port=port)

    def once(self, payload: Any, path: str, client: Any) -> Any:
        """Write the payload into the ledger, and return it."""
        os.write(self._ledger, f"once {payload}\n".encode())
        time.sleep(0.002)
        return payload

    def work(self, payload: Any, topic: str, message: Any) -> None:
        """A group's."""
        if message.event is None:
            os.write(self._ledger, f"job {payload}\n".encode())

    def hear(self, payload: Any, topic: str, message: Any) -> None:
        """A subscription's."""
        if message.event is None:
            self.heard.append([topic, payload, message.offset])
        else:
            self.events.append([topic, message.event])

    # ------------------------------------------------------------------- commands

    def call(self, service: str, path: str, payload: Any, **options: Any) -> Any:
        """A call of a service."""
        return self.mesh.call(service, path, payload, **options)

    def publish(self, topic: str, payload: Any) -> int | None:
        """The offset."""
        return self.mesh.publish(topic, payload).offset

    def state(self) -> dict[str, Any]:
        """What it knows of the mesh."""
        return {
            "nodes": sorted([view.id, view.state] for view in self.mesh.nodes()), "changes": self.changes,
            "leader": self.council.leader, "leads": self.council.leads,
            "term": self.council.leadership.term, "council": self.council.leadership.council.to_wire(),
            "dead": sorted(self.council._port.view().dead), "settled": self.server.broker.settled,
            "linked": sorted(view.id for view in self.mesh.nodes() if view.link is not None),
        }  # fmt: skip

    def took(self) -> dict[str, Any]:
        """What it has heard."""
        return {"heard": self.heard, "events": self.events}

    def history(self, topic: str) -> list[Any]:
        """The payloads that are kept."""
        with WebMeshClient(self.server.url) as client:
            payloads: list[Any] = []
            since = None
            while items := client.history(topic, since=since).items:  # a page has a thousand at most
                payloads += [one.payload for one in items]
                since = items[-1].position
            return payloads

    @property
    def council(self) -> Any:
        """Of the engine."""
        assert isinstance(self.server.broker, MeshBroker)
        return self.server.broker.council

    def hold(self, seconds: float) -> None:
        """Hold the hub."""
        self.mesh._node.serving.home.run(time.sleep, seconds)

    def watch_lead(self) -> None:
        """From now on write down when it leads: `leading`."""
        threading.Thread(target=self._watch_lead, daemon=True).start()

    def _watch_lead(self) -> None:
        """Stretches of the monotonic clock, which all processes of a machine share."""
        while True:
            before, leads, after = time.monotonic(), self.council.leads, time.monotonic()
            if not leads:
                self.led.append([])
            elif self.led and self.led[-1]:
                self.led[-1][1] = before
            else:
                self.led.append([after, after])
            time.sleep(0.01)

    def leading(self) -> list[Any]:
        """When it led."""
        return [stretch for stretch in self.led if stretch]

    def run(self) -> None:
        """Do what is asked, each in a thread of its own."""
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
        print(json.dumps({"url": self.mesh.server.url, "id": self.mesh.id}), flush=True)
        try:
            for line in sys.stdin:
                threading.Thread(target=self._do, args=(json.loads(line),), daemon=True).start()
        finally:
            self.mesh.close()

    def _do(self, asked: dict[str, Any]) -> None:
        try:
            answer = {"answer": getattr(self, asked["do"])(**asked["with"])}
        except WebMeshError as error:
            answer = {"error": type(error).__name__, "text": str(error)}
        line = json.dumps(answer | {"id": asked["id"]}) + "\n"
        os.write(1, line.encode())


def main() -> None:
    """Be a node, until the input ends or SIGTERM comes."""
    Program(**json.loads(sys.argv[1])).run()


if __name__ == "__main__":
    main()
