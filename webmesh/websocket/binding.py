"""How a listening socket comes to be, and what it leaves behind.

Decides families, names, stale files and permissions. Accepting from the socket is `listener`.
"""

from __future__ import annotations

import errno
import os
import socket as stdlib_socket
import stat
from dataclasses import dataclass

import gevent
from gevent.socket import AF_INET, AF_INET6, AF_UNIX, SOCK_STREAM, SOL_SOCKET, getaddrinfo, socket

from webmesh.exceptions import ConfigurationError, ListenFailed
from webmesh.websocket.upgraded import TcpAddress, UnixAddress, address_text

Listenable = TcpAddress | UnixAddress | socket | stdlib_socket.socket
"""What one can listen on: an address, or a socket that listens already."""

_BOTH_FAMILIES = "::"
_Identity = tuple[int, int, int]


@dataclass(slots=True)
class Binding:
    """A listening socket of gevent's, and where it listens."""

    sock: socket
    address: str
    """`127.0.0.1:4269`, `[::]:4269` or `unix:/run/shop.sock`, with the port that it really has."""
    port: int | None
    """`None` for a Unix socket."""
    _file: tuple[str, _Identity] | None = None

    @property
    def path(self) -> str:
        """The Unix socket's file; empty for TCP."""
        return self.address.removeprefix("unix:") if self.port is None else ""

    def remove_file(self) -> None:
        """Remove the Unix socket's file, if it is still the one that was made here."""
        if self._file is None:
            return
        path, made = self._file
        self._file = None
        try:
            if _identity(path) == made:  # else a successor has bound the path
                os.unlink(path)
        except OSError:
            pass  # it is gone, or was taken from us with its directory: nothing is left behind by us


def bind(address: Listenable, *, backlog: int, timeout: float) -> Binding:
    """Listen on *address*.

    A socket that listens already is taken over: it is closed with the listener, and its file stays.

    Args:
        backlog: Connections that the kernel keeps until they are accepted.
        timeout: Seconds for the resolution of a name.

    Raises:
        ListenFailed: The system does not allow it, or somebody listens there.
        ConfigurationError: There is no such port or path, or the socket that was given does not listen.
    """
    if isinstance(address, TcpAddress):
        return _bind_tcp(address, backlog, timeout)
    if isinstance(address, UnixAddress):
        return _bind_unix(address, backlog)
    return _adopt(address)


def _bind_tcp(address: TcpAddress, backlog: int, timeout: float) -> Binding:
    sock = hold_port(address, timeout)
    try:
        sock.listen(backlog)
        bound = sock.getsockname()
    except OSError as error:
        sock.close()
        raise _failure(_name(address), error) from error
    return Binding(sock, address_text(sock.family, bound), bound[1])


def hold_port(address: TcpAddress, timeout: float) -> socket:
    """A socket that has the port and does not listen: nobody is sent there, and the system gives the port to nobody
    who asks for any that is free.

    Raises:
        ListenFailed, ConfigurationError: As `bind`.
    """
    name = _name(address)
    if not 0 <= address.port <= 0xFFFF:
        # The resolver would take it modulo 65536 and so listen somewhere else.
        raise ConfigurationError(f"cannot listen on {name}: a port is a number from 0 to 65535")
    sock = None
    try:
        family, where = _resolved(address, timeout)
        sock = socket(family, SOCK_STREAM)
        # A restarted server must not wait until the connections of the last one have left TIME_WAIT.
        sock.setsockopt(SOL_SOCKET, stdlib_socket.SO_REUSEADDR, 1)
        if address.shared:
            sock.setsockopt(SOL_SOCKET, stdlib_socket.SO_REUSEPORT, 1)
        if address.host in ("", _BOTH_FAMILIES) and family == AF_INET6:
            # Whatever the system's setting: one socket for IPv4 and IPv6. No other address is both.
            sock.setsockopt(stdlib_socket.IPPROTO_IPV6, stdlib_socket.IPV6_V6ONLY, 0)
        sock.bind(where)
    except (OSError, UnicodeError) as error:
        if sock is not None:
            sock.close()
        raise _failure(name, error) from error
    return sock


def _name(address: TcpAddress) -> str:
    return f"[{address.host}]:{address.port}" if ":" in address.host else f"{address.host}:{address.port}"


def _resolved(address: TcpAddress, timeout: float) -> tuple[int, tuple[object, ...]]:
    """Family and socket address; IPv4 first for a name, as clients on older systems try only that."""
    host = address.host
    if not host:
        host = _BOTH_FAMILIES if stdlib_socket.has_dualstack_ipv6() else "0.0.0.0"
    with gevent.Timeout(timeout, TimeoutError(f"name not resolved within {timeout:g} s")):
        found = getaddrinfo(host, address.port, 0, SOCK_STREAM, 0, stdlib_socket.AI_PASSIVE)
    candidates = [(entry[0], entry[4]) for entry in found if entry[0] in (AF_INET, AF_INET6)]
    if not candidates:
        raise OSError(errno.EADDRNOTAVAIL, "the name has no IPv4 or IPv6 address")
    return min(candidates, key=lambda candidate: candidate[0] != AF_INET)


def _bind_unix(address: UnixAddress, backlog: int) -> Binding:
    path = os.fspath(address.path)
    name = f"unix:{path}"
    if not path or "\0" in path:
        raise ConfigurationError(f"the path of a Unix socket must be a file's path, not {path!r}")
    sock = None
    try:
        sock = socket(AF_UNIX, SOCK_STREAM)
        _remove_stale(path)
        sock.bind(path)
        if address.mode is not None:
            os.chmod(path, address.mode)  # before listen(): until then nobody can connect
        sock.listen(backlog)
        made = _identity(path)
    except OSError as error:
        if sock is not None:
            sock.close()
        raise _failure(name, error) from error
    return Binding(sock, name, None, (path, made))


def _identity(path: str) -> _Identity:
    found = os.lstat(path)
    # Inode numbers are used again at once; a change of owner or permissions leaves the third one alone.
    return found.st_dev, found.st_ino, found.st_mtime_ns


def _remove_stale(path: str) -> None:
    """Remove a socket's file that a dead server has left at *path*; refuse if it is anything else."""
    try:
        found = os.lstat(path)
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(found.st_mode):
        raise OSError(errno.EEXIST, "there is a file, and it is no socket")
    with socket(AF_UNIX, SOCK_STREAM) as probe:
        probe.setblocking(False)
        if probe.connect_ex(path) != errno.ECONNREFUSED:
            raise OSError(errno.EADDRINUSE, os.strerror(errno.EADDRINUSE))
    os.unlink(path)


def _adopt(given: socket | stdlib_socket.socket) -> Binding:
    if not given.getsockopt(SOL_SOCKET, stdlib_socket.SO_ACCEPTCONN):
        raise ConfigurationError(f"the socket at {given.getsockname()!r} does not listen: call its listen() first")
    # By its descriptor, as only gevent's own class can wait in this hub, whatever class was given.
    sock = socket(given.family, given.type, given.proto, fileno=given.detach())
    bound = sock.getsockname()
    return Binding(sock, address_text(sock.family, bound), None if sock.family == AF_UNIX else bound[1])


def _failure(name: str, error: OSError | UnicodeError) -> ListenFailed:
    if not isinstance(error, OSError):
        return ListenFailed(name, str(error))
    return ListenFailed(name, error.strerror or str(error), error.errno)
