"""What a service manager gives a server and is told by it: a socket that listens already, readiness, signs of life.

The protocol is systemd's (sd_listen_fds(3), sd_notify(3)), which others speak as well. Nothing happens where the
environment names no manager.
"""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Callable, MutableMapping
from typing import Any

from gevent import monkey

from webmesh.exceptions import ConfigurationError

FIRST_DESCRIPTOR = 3
"""Where the sockets begin that a manager hands over: behind standard input, output and error."""

SHARE = 0.5
"""The part of the manager's patience after which it gets a sign of life: as sd_watchdog_enabled(3) advises."""

_socket: Callable[..., Any] = monkey.get_original("socket", "socket")


def activated_descriptor(environment: MutableMapping[str, str] = os.environ) -> int | None:
    """The socket that this process was started with; `None` for none. Its own children are not told of it.

    Raises:
        ConfigurationError: There are several.
    """
    given = {name: environment.pop(name, "") for name in ("LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES")}
    if given["LISTEN_PID"] != str(os.getpid()) or not given["LISTEN_FDS"].isdigit():
        return None  # they are another process's, which has started this one
    count = int(given["LISTEN_FDS"])
    if count > 1:
        raise ConfigurationError(f"{count} sockets were handed over, and one server listens on one: see --fd")
    return FIRST_DESCRIPTOR if count else None


def inherited_socket(descriptor: int) -> Any:
    """The listening socket that has this number.

    Raises:
        ConfigurationError: There is none.
    """
    try:
        os.set_inheritable(descriptor, False)
        return _socket(fileno=descriptor)
    except OSError as error:
        raise ConfigurationError(f"descriptor {descriptor} is no socket: {error.strerror}") from None


class Notifier:
    """Tells the manager how the server is.

    Attributes:
        interval: Seconds between two signs of life; `None` where nobody waits for them.
    """

    def __init__(self, environment: MutableMapping[str, str] = os.environ) -> None:
        self._address = environment.pop("NOTIFY_SOCKET", "")
        microseconds = environment.pop("WATCHDOG_USEC", "")
        owner = environment.pop("WATCHDOG_PID", "") or str(os.getpid())
        watched = bool(self._address) and microseconds.isdigit() and owner == str(os.getpid())
        self.interval = int(microseconds) / 1e6 * SHARE if watched and int(microseconds) else None

    def tell(self, **news: object) -> None:
        """Send it, as `READY=1`; whoever does not listen misses it."""
        if not self._address:
            return
        path = "\0" + self._address[1:] if self._address.startswith("@") else self._address
        text = "\n".join(f"{name}={value}" for name, value in news.items())
        # The system's own socket: this may be said in any hub, and must not wait there.
        with contextlib.suppress(OSError), contextlib.closing(_socket(socket.AF_UNIX, socket.SOCK_DGRAM)) as sock:
            sock.setblocking(False)
            sock.sendto(text.encode(), path)

    def show_life(self) -> None:
        """Tell that the server does not hang: said by its hub, which has to turn for it."""
        self.tell(WATCHDOG=1)
