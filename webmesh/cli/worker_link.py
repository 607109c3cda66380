"""What a worker and its supervisor tell each other, over a pair of sockets: one line of JSON for each message.

The supervisor gives the ticket and then nothing more: when its end is closed it has gone, and the worker ends. The
worker tells that it is ready, and that it lives.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import shutil
import signal
import socket
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import gevent
from gevent import monkey
from gevent.socket import wait_read

from webmesh.exceptions import ConfigurationError
from webmesh.worker_ticket import WorkerTicket, read_ticket

if TYPE_CHECKING:
    from webmesh.cli.announcing import Banner

LIFE_INTERVAL = 1.0
"""Seconds between two signs of life of a worker."""

READ_SIZE = 65536

_socket: Any = monkey.get_original("socket", "socket")


class WorkerEnd:
    """The worker's end.

    Args:
        descriptor: Of the link; inherited.

    Attributes:
        interval: Seconds between two signs of life.
        ticket: What the supervisor said first.
        orphaned: Whether the supervisor has gone.

    Raises:
        ConfigurationError: There is no supervisor.
    """

    interval = LIFE_INTERVAL

    def __init__(self, descriptor: int) -> None:
        # The system's own socket: life is shown by the server's hub, the rest by the main thread's.
        try:
            os.set_inheritable(descriptor, False)
            self._sock: socket.socket = _socket(fileno=descriptor)
            self.ticket = read_ticket(_first_line(self._sock))
        except (OSError, ValueError) as error:
            raise ConfigurationError(f"no supervisor of workers is at descriptor {descriptor}: {error}") from None
        self.orphaned = False
        self._watcher: gevent.Greenlet[[], None] | None = None

    def mark(self, record: logging.LogRecord) -> bool:
        """A filter of logs that says in each record which worker has made it."""
        record.worker = self.ticket.slot
        return True

    def ready(self, banner: Banner, ends_within: float) -> None:
        """The worker serves, and when it is told to end it takes so many seconds at most."""
        routes = [{"pattern": route.pattern, "where": route.where} for route in banner.routes]
        said = {
            "name": banner.name, "url": banner.url, "mode": banner.mode, "notice": banner.notice, "routes": routes,
            "ends_within": ends_within,
        }  # fmt: skip
        self._sock.setblocking(True)  # many routes make a long message
        self._tell({"event": "ready", **said}, self._sock.sendall)
        self._sock.setblocking(False)

    def show_life(self) -> None:
        """The worker's hub turns."""
        self._tell({"event": "alive"}, self._sock.send)

    def tell(self, **news: object) -> None:
        """As a service manager's `Notifier`: nothing of that concerns the supervisor."""

    def watch(self) -> None:
        """End this process as by SIGTERM when the supervisor has gone; in the main thread's hub."""
        self._watcher = gevent.spawn(self._await_end)

    def _await_end(self) -> None:
        wait_read(self._sock.fileno())  # only its end is to be read
        self.orphaned = True
        os.kill(os.getpid(), signal.SIGTERM)

    def tidy(self) -> None:
        """Do at the end what the supervisor cannot do any more: remove where the workers have met."""
        if self.orphaned:
            shutil.rmtree(self.ticket.folder, ignore_errors=True)

    def _tell(self, message: dict[str, Any], send: Callable[[bytes], object]) -> None:
        with contextlib.suppress(OSError):  # it has gone, or does not listen: then it will see the next sign
            send(json.dumps(message).encode() + b"\n")


def _first_line(sock: socket.socket) -> str:
    sock.setblocking(True)
    line = b""
    while not line.endswith(b"\n"):
        more = sock.recv(READ_SIZE)
        if not more:
            raise ValueError("it has said nothing")
        line += more
    sock.setblocking(False)
    return line.decode()


class SupervisorEnd:
    """The supervisor's end.

    Attributes:
        inherited: The other end; to be closed when the worker has it.
        ended: Whether the worker has closed its end, as it does when it ends.
    """

    def __init__(self) -> None:
        self.sock, self.inherited = socket.socketpair()
        self.sock.setblocking(False)
        self._unread = b""
        self.ended = False

    def give(self, ticket: WorkerTicket) -> None:
        """Say what the worker is."""
        self.sock.send(ticket.to_text().encode() + b"\n")

    def read(self) -> Iterator[dict[str, Any]]:
        """What the worker has told since the last time; nothing of what is no message."""
        try:
            content = self.sock.recv(READ_SIZE)
        except OSError:
            return
        self.ended = not content
        *lines, self._unread = (self._unread + content).split(b"\n")
        for line in lines:
            with contextlib.suppress(ValueError):
                message = json.loads(line)
                if isinstance(message, dict):
                    yield message

    def close(self) -> None:
        """Close it, by which the worker ends."""
        self.sock.close()
