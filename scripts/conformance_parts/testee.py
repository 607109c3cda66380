"""What the Autobahn suite tests: a server that echoes, and a client that does, each a process of its own.

    python -m conformance_parts.testee serve            says `PORT n` and echoes until it is killed
    python -m conformance_parts.testee ask URL AGENT    echoes all cases of the fuzzing server at URL, then ends

Options: --plain (not monkey-patched), --cut N (at most N bytes in each read).
"""

from __future__ import annotations

import argparse
import importlib
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

ROUTE = "/echo"
LIFETIME = 4 * 3600
"""Seconds after which it ends by itself, should the program that started it have died."""
START_TIMEOUT = 30.0
CASE_TIMEOUT = 300.0
"""Seconds for one case as a client: one of the last sections takes a minute on a busy machine."""
READERS = ("wire", "dialer", "arrival")
"""Modules of `webmesh.websocket` that read from sockets, each with a `READ_SIZE`."""


def cut_reads(size: int) -> None:
    """Let each read of a socket give at most so many bytes: handshake and frames."""
    for name in READERS:
        module = importlib.import_module(f"webmesh.websocket.{name}")
        assert isinstance(module.READ_SIZE, int), "what is set here must be what is read there"
        module.READ_SIZE = size


def bounds() -> dict[str, Any]:
    """Limits and timeouts of the testee: 16 MiB messages, 65,536 fragments, bursts of empty frames. None is off."""
    from webmesh.options import Limits, Timeouts

    limits = Limits(message_size=16 << 20, fragments=1 << 16, overhead_rate=1_000_000, send_queue=64 << 20)
    return {"limits": limits, "timeouts": Timeouts(message=300.0, write=60.0)}


def serve() -> None:
    """Be the server under test: print the port, then echo until killed."""
    from webmesh.webmesh_server import WebMeshServer
    from webmesh.websocket.websocket_connection import WebSocketConnection

    server = WebMeshServer(compression=True, **bounds())

    @server.websocket(ROUTE)
    def echo(connection: WebSocketConnection) -> None:
        for message in connection:
            connection.send(message)

    server.listen("127.0.0.1", 0, blocking=False)
    server.await_started(START_TIMEOUT)
    print(f"PORT {server.port}", flush=True)
    threading.Event().wait()


class Asking:
    """The client under test: dials, and echoes what comes, in a hub of its own as `WebMeshClient` does."""

    def __init__(self) -> None:
        from webmesh.websocket.hub import HubThread
        from webmesh.websocket.pulse import Pulse

        self._options = bounds()
        self._open: list[Any] = []
        self._home = HubThread("conformance")
        self._home.start()
        self._pulse = Pulse(self._open, self._options["timeouts"])
        self._home.run(self._pulse.start)

    @contextmanager
    def connection(self, url: str) -> Iterator[Any]:
        """A plain connection to *url*, until it has ended."""
        connection = self._home.run(self._dial, url)
        self._open.append(connection)
        try:
            yield connection
            connection.wait_closed(CASE_TIMEOUT)
        finally:
            self._open.remove(connection)
            connection.abort()

    def _dial(self, url: str) -> Any:
        import gevent

        from webmesh.observer import NO_OBSERVER
        from webmesh.protocol.deflate import BoundedDeflate
        from webmesh.websocket.dialer import dial
        from webmesh.websocket.websocket_connection import WebSocketConnection

        limits = self._options["limits"]
        upgraded = dial(url, timeout=START_TIMEOUT, limits=limits, extensions=[BoundedDeflate(limits)])
        connection = WebSocketConnection(
            upgraded, self._home, observer=NO_OBSERVER, dialled=True, **self._options
        )
        connection.be_plain()
        gevent.spawn(connection.run_plain)
        return connection

    @staticmethod
    def _echo(connection: Any) -> None:
        from webmesh.exceptions import ConnectionClosed

        with suppress(ConnectionClosed):  # it ended before all was sent back, as some cases want it to
            for message in connection:
                connection.send(message)

    def run_all(self, url: str, agent: str) -> None:
        """Every case that the fuzzing server has, then its reports."""
        with self.connection(f"{url}/getCaseCount") as connection:
            count = int(connection.receive(START_TIMEOUT))
        for number in range(1, count + 1):
            try:
                with self.connection(f"{url}/runCase?case={number}&agent={agent}") as connection:
                    self._echo(connection)
            except Exception as error:  # the suite's report tells what became of the case; the next one must run
                print(f"case {number}: {type(error).__name__}: {error}", flush=True)
        with self.connection(f"{url}/updateReports?agent={agent}"):
            pass


def main() -> None:
    """Whatever the command line says."""
    made = argparse.ArgumentParser(prog="conformance_parts.testee")
    made.add_argument("role", choices=["serve", "ask"])
    made.add_argument("url", nargs="?")
    made.add_argument("agent", nargs="?")
    made.add_argument("--plain", action="store_true")
    made.add_argument("--cut", type=int)
    options = made.parse_args()
    if not options.plain:
        from gevent import monkey

        monkey.patch_all()
    signal.alarm(LIFETIME)
    if options.cut:
        cut_reads(options.cut)
    if options.role == "serve":
        serve()
    else:
        Asking().run_all(options.url, options.agent)


if __name__ == "__main__":
    main()
