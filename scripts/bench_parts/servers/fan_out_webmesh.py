"""WebMesh: a node that has topics. `--history` keeps them, so that every delivery has its offset."""

from __future__ import annotations

from gevent import monkey

monkey.patch_all()

import sys  # noqa: E402
import threading  # noqa: E402

from bench_parts.servers.announce import announce, prepare  # noqa: E402
from webmesh import Limits, WebMeshServer  # noqa: E402

if __name__ == "__main__":
    prepare()
    server = WebMeshServer(limits=Limits(connections=20_000))
    if "--history" in sys.argv:
        server.topic("news/**", history=100)
    server.listen("127.0.0.1", 0, blocking=False)
    server.await_started(30)
    announce(server.port)
    threading.Event().wait()
