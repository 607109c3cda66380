"""Where the workers of `--workers` listen and meet.

Decides whose socket it is: with TCP each worker binds its own to the common port (SO_REUSEPORT), which the supervisor
holds; a Unix socket, or one that was handed over, is inherited by all.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections.abc import Callable

from webmesh.cli.arguments import ServeOptions
from webmesh.cli.serving import listen_failure
from webmesh.cli.systemd import activated_descriptor, inherited_socket
from webmesh.discovery.folder import file_of
from webmesh.exceptions import ConfigurationError, ListenFailed
from webmesh.options import Limits, Timeouts
from webmesh.websocket.binding import bind, hold_port
from webmesh.websocket.upgraded import TcpAddress, UnixAddress
from webmesh.worker_ticket import WorkerTicket


class Place:
    """As long as it is entered, the address is the workers'.

    Attributes:
        host, port: Where each listens with TCP; the port is `None` where they inherit a socket.
        fd: The number of that socket.
        folder: Where they meet; for this user alone.

    Raises:
        ConfigurationError: The address cannot be listened on, or there is no folder for temporary files.
    """

    def __init__(self, options: ServeOptions) -> None:
        self._options = options
        self.host = options.host
        self.port: int | None = None
        self.fd: int | None = None
        self.folder = ""
        self._leave: Callable[[], object] = lambda: None

    def __enter__(self) -> Place:
        try:
            self._take()
        except ListenFailed as error:
            raise ConfigurationError(listen_failure(self._options, error)) from error
        try:
            self.folder = tempfile.mkdtemp(prefix="webmesh-")
        except OSError as error:
            self._leave()
            raise ConfigurationError(f"the workers have no folder to meet in: {error}") from error
        return self

    def __exit__(self, *error: object) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)
        self._leave()

    def forget(self, ticket: WorkerTicket) -> None:
        """A worker has ended: nobody is to look for it."""
        for path in (ticket.door, file_of(self.folder, ticket.node)):
            with contextlib.suppress(OSError):
                os.unlink(path)

    def _take(self) -> None:
        options, given = self._options, self._options.fd
        activated = activated_descriptor()
        if given is None and options.unix is None and not options.addressed:
            given = activated
        if given is not None:
            sock = inherited_socket(given)
            self.fd, self._leave = sock.fileno(), sock.close
        elif options.unix is not None:
            binding = bind(UnixAddress(options.unix), backlog=Limits().backlog, timeout=Timeouts().start)
            self.fd, self._leave = binding.sock.fileno(), binding.remove_file
        else:
            self._hold_port()

    def _hold_port(self) -> None:
        """Have the port as long as this process lives, while workers come and go."""
        address, seconds = TcpAddress(self._options.host, self._options.port), Timeouts().start
        if address.port:
            # Alone, for a moment: two services of one user that share it would each get half of the other's peers.
            bind(address, backlog=1, timeout=seconds).sock.close()
        sock = hold_port(TcpAddress(address.host, address.port, shared=True), seconds)
        self.port, self._leave = sock.getsockname()[1], sock.close
