"""Connected pairs of gevent sockets, of each kind that carries messages."""

from __future__ import annotations

import contextlib
import functools
import ssl
from typing import Any

import gevent
import gevent.socket
import pytest
from gevent.socket import SO_RCVBUF, SO_SNDBUF, SOL_SOCKET

from tests.websocket.loopback import PATIENCE, Authority
from webmesh.websocket.tls import ServerTLS, client_context, wrap_client

SMALL = 16 * 1024
"""Bytes that the kernel is asked to hold for a socket that is to be full soon."""


class Wires:
    """Makes pairs of one kind; closes them after the test.

    Attributes:
        kind: `unix`, `tcp`, `tls` (1.3) or `tls12`.
    """

    def __init__(self, kind: str, authority: Authority) -> None:
        self.kind = kind
        self._authority = authority
        self._open: list[Any] = []

    @property
    def tls(self) -> bool:
        """Whether the sockets speak TLS."""
        return self.kind.startswith("tls")

    def pair(self, *, client: bool = False, small: bool = False) -> tuple[Any, Any]:
        """Our socket and the peer's.

        Args:
            client: Whether ours is the one that dialled.
            small: Let the kernel hold only a little.
        """
        served, dialled = gevent.socket.socketpair() if self.kind == "unix" else self._tcp(small)
        if small and self.kind == "unix":
            for sock in (served, dialled):
                sock.setsockopt(SOL_SOCKET, SO_SNDBUF, SMALL)
        if self.tls:
            served, dialled = self._secure(served, dialled)
        for sock in (served, dialled):
            sock.settimeout(PATIENCE)
            self._open.append(sock)
        return (dialled, served) if client else (served, dialled)

    def _tcp(self, small: bool) -> tuple[Any, Any]:
        with gevent.socket.socket() as listener:
            if small:
                listener.setsockopt(SOL_SOCKET, SO_RCVBUF, SMALL)
                listener.setsockopt(SOL_SOCKET, SO_SNDBUF, SMALL)
            listener.bind(("127.0.0.1", 0))
            listener.listen()
            dialled = gevent.socket.socket()
            if small:
                dialled.setsockopt(SOL_SOCKET, SO_RCVBUF, SMALL)
                dialled.setsockopt(SOL_SOCKET, SO_SNDBUF, SMALL)
            dialled.connect(listener.getsockname())
            served, _ = listener.accept()
        for sock in (served, dialled):
            sock.setsockopt(gevent.socket.IPPROTO_TCP, gevent.socket.TCP_NODELAY, 1)
        return served, dialled

    def _secure(self, served: Any, dialled: Any) -> tuple[Any, Any]:
        trusting = client_context(self._authority.file)
        if self.kind == "tls12":
            trusting.maximum_version = ssl.TLSVersion.TLSv1_2
        server, client = site(self._authority).wrap(served), wrap_client(dialled, trusting, "localhost")
        client.suppress_ragged_eofs = False  # a cut must show
        with gevent.Timeout(PATIENCE):
            shaking = gevent.spawn(server.do_handshake)
            client.do_handshake()
            shaking.get()
        return server, client

    def close(self) -> None:
        """Close what is still open."""
        for sock in self._open:
            with contextlib.suppress(OSError):
                sock.close()


def each_kind(*kinds: str) -> pytest.MarkDecorator:
    """Run a test over these kinds of sockets; it takes the fixture `wires`."""
    return pytest.mark.parametrize("wires", kinds or ["unix", "tcp", "tls"], indirect=True)


def ragged(sock: Any) -> bool:
    """Whether what was cut off shows: a TLS stream that ends without a word."""
    try:
        while sock.recv(65536):
            pass
    except ssl.SSLEOFError:
        return True
    return False


@functools.cache
def site(authority: Authority) -> ServerTLS:
    """TLS for a server that is called localhost; making its key is slow."""
    return ServerTLS(authority.issue("localhost"))
