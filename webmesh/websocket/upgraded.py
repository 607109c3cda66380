"""What the two makers of connections hand up: a socket on which WebSocket messages may flow.

Values only, shared by `listener` and `dialer`, and the way in which an address is written down.
Carrying messages over the socket is `stream`.
"""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import gevent.socket

from webmesh.exceptions import ConfigurationError
from webmesh.options import DEFAULT_PORT

if TYPE_CHECKING:
    from webmesh.auth import Identity
    from webmesh.protocol.deflate import BoundedDeflate
    from webmesh.protocol.handshake import UpgradeRequest


OWN_ADDRESS = "self"
"""`Upgraded.address` of a peer that is this server itself."""


@dataclass(frozen=True, slots=True)
class TcpAddress:
    """Where to listen with TCP.

    `host` is an address or a name. A name stands for its first IPv4 address, or its first IPv6 address
    where it has no other. `::` and the empty text take IPv4 as well as IPv6 (see `binding`).
    """

    host: str = "127.0.0.1"
    port: int = DEFAULT_PORT
    """0 lets the system choose: the listener tells which."""
    shared: bool = False
    """Whether other processes of the same user may listen there, too (SO_REUSEPORT): each gets a part of the peers."""


@dataclass(frozen=True, slots=True)
class UnixAddress:
    """Where to listen with a Unix socket."""

    path: str
    mode: int | None = None
    """Permissions of the socket's file, as 0o660; `None` leaves them to the process's umask."""


@dataclass(slots=True)
class Acceptance:
    """The answer yes to an upgrade request."""

    subprotocol: str | None
    """One of those that the client offered, or none."""
    extensions: list[BoundedDeflate] = field(default_factory=list)
    headers: Sequence[tuple[str, str]] = ()
    """More headers for the 101."""
    tag: object = None
    """Whatever the decider wants to find again: becomes `Upgraded.decision`."""
    identity: Identity | None = None
    """Who the peer has shown to be."""
    request: UpgradeRequest | None = None
    """What programs are to see instead of the request as it came; `None` for that itself."""


@dataclass(slots=True)
class Upgraded:
    """A socket whose WebSocket handshake is done, with what was agreed.

    The socket is gevent's also in a process that is not monkey-patched, has no timeout, and does not
    hold small writes back (TCP_NODELAY).
    """

    sock: gevent.socket.socket
    request: UpgradeRequest | None
    """The client's request; `None` on the client's own side."""
    subprotocol: str | None
    extensions: list[BoundedDeflate]
    trailing: bytes = field(repr=False)
    """What came in the same packets behind the handshake: the first bytes of the first frame."""
    address: str
    """The peer: `10.0.0.2:4269`, `[::1]:4269`, `unix:/run/shop.sock`."""
    peer_certificate: dict[str, Any] | None = field(repr=False)
    """The peer's verified certificate as `ssl.SSLSocket.getpeercert` tells it; `None` without one."""
    decision: object = None
    """`Acceptance.tag`."""
    identity: Identity | None = None
    """Who the peer has shown to be in the handshake."""


def tune(sock: gevent.socket.socket) -> None:
    """Make a fresh socket what `Upgraded` promises, whatever defaults the program has set."""
    sock.settimeout(None)  # socket.setdefaulttimeout() must not cut idle connections
    if sock.family != socket.AF_UNIX:
        # A peer that is gone again already makes this fail on some systems; the next read tells.
        with contextlib.suppress(OSError):
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)


def address_text(family: int, address: Any, unix_path: str = "") -> str:
    """A socket's address as people write it.

    Args:
        address: What `getsockname`, `getpeername` or `accept` returned for a socket of that *family*.
        unix_path: Stands in for the address of a Unix socket's client, which has none.
    """
    if family == socket.AF_UNIX:
        path = address.decode("utf-8", "backslashreplace") if isinstance(address, bytes) else address
        return f"unix:{path or unix_path}"
    host, port = address[:2]
    if family != socket.AF_INET6:
        return f"{host}:{port}"
    # A dual-stack socket sees IPv4 peers as ::ffff:10.0.0.2: one peer has one name, however we listen.
    mapped = host.removeprefix("::ffff:")
    return f"{mapped}:{port}" if mapped != host and "." in mapped else f"[{host}]:{port}"


def listening_address(host: str, port: int, unix: str | None, *, shared: bool = False) -> TcpAddress | UnixAddress:
    """Where a server is to listen: the Unix socket if there is one, else TCP.

    Raises:
        ConfigurationError: Host and port are not what an address is made of.
    """
    if unix is not None:
        if shared:
            raise ConfigurationError("reuse_port is for TCP: processes that share a Unix socket inherit it (sock=)")
        return UnixAddress(unix)
    if not isinstance(host, str) or not isinstance(port, int):
        raise ConfigurationError(f"an address is a text and a whole number, not {host!r} and {port!r}")
    return TcpAddress(host, port, shared)
