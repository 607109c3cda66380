"""Bytes over one connected socket, plain or TLS: read by waiting first, written without ever waiting.

Decides how a socket is watched. Only the socket's own watchers are used, and none is active when it is
closed: libev aborts the process when a closed descriptor is watched. Lives in the hub that owns the socket.
"""

from __future__ import annotations

import errno
import os
import select
import socket as stdlib_socket
import ssl
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import gevent
from gevent import getcurrent, monkey
from gevent.hub import get_hub
from gevent.ssl import SSLSocket  # not the standard library's, also in a process that is not patched

from webmesh.websocket.tcp_info import give_up_after, tcp_state

if TYPE_CHECKING:
    from webmesh.protocol.liveness import TcpState

READ_SIZE = 120 * 1024
"""Bytes asked for in one read: a 64 KiB message in one piece, and a buffer that malloc does not map anew."""
TLS_RECORD = 16 * 1024
"""Bytes that TLS gets at a time: a record (RFC 8446 section 5.1). Of more, OpenSSL tells nothing before all of it is
taken, so a peer that reads slowly would seem not to read at all."""
TLS_RETRY = 0.01
"""Seconds until a read is tried again for which OpenSSL must write first: only the writer may wait for that."""

_switch_to = gevent.Greenlet.switch
"""The switch of every greenlet, for a hub too: its own looks each time whether the hub itself is what would wait. It
never reads."""
_poll = monkey.get_original("select", "poll") if hasattr(select, "POLLIN") else None
_ENDS = getattr(select, "POLLRDHUP", 0)  # a broken connection is told of unasked
_GIVEN_UP = {errno.ETIMEDOUT, errno.EHOSTUNREACH, errno.ENETUNREACH, errno.EHOSTDOWN}
"""How the system says that no acknowledgement came for too long: by `TCP_USER_TIMEOUT`, or by a router's word."""


def wire_for(sock: Any) -> PlainWire | TlsWire:
    """The wire over a connected socket of gevent's, which it takes over."""
    return TlsWire(sock) if isinstance(sock, SSLSocket) else PlainWire(sock)


class PlainWire:
    """A socket without TLS. One greenlet receives at a time.

    Attributes:
        failure: What the system said when it gave the connection up, if it did; `None` for any other end.
        plain: What to `send` by without a step between, for one of thousands; `None` where TLS is.
    """

    __slots__ = (
        "_closed", "_hub", "_raw", "_readable", "_receiver", "_sock", "_watching", "_writable", "failure", "plain",
    )  # fmt: skip

    def __init__(self, sock: Any) -> None:
        sock.settimeout(0.0)
        self._hub = get_hub()
        self._sock = sock
        self._raw = sock._sock
        self._readable, self._writable = sock._read_event, sock._write_event
        self._receiver: Any = None
        self._watching = False
        self._closed = False
        self.failure: str | None = None
        self.plain: Any = self._raw

    def give_up_after(self, seconds: float) -> None:
        """Let the system end the connection when the peer's has acknowledged nothing for so long."""
        give_up_after(self._raw, seconds)

    def tcp_state(self) -> TcpState | None:
        """How far the peer's system has taken what was sent; `None` where nobody tells."""
        return None if self._closed else tcp_state(self._raw)

    def peer_has_ended(self) -> bool:
        """Whether nothing more can come than what has; tells before that has been read. Linux tells of a peer's
        proper end too, other systems only of a broken connection."""
        if self._closed or _poll is None:
            return False
        poll = _poll()
        poll.register(self._raw, _ENDS)
        return bool(poll.poll(0))

    def _failed(self, error: OSError) -> None:
        if error.errno in _GIVEN_UP:
            self.failure = f"the peer's machine does not answer: {error.strerror}"

    def recv(self) -> bytes:
        """What comes next; empty at the end, however it came about. Always lets the hub turn."""
        # Wait, then read: a read that is tried first nearly always fails (half the cost of an echo). The
        # watcher goes on watching from one read to the next: to start and stop it costs half as much again.
        try:
            while not self._closed:
                self._receiver = getcurrent()
                if not self._watching:
                    self._watching = True
                    self._readable.start(self._wake)
                try:
                    _switch_to(self._hub)  # until _wake switches back
                finally:
                    self._receiver = None
                try:
                    return self._raw.recv(READ_SIZE)  # type: ignore[no-any-return]
                except BlockingIOError:
                    continue
        except OSError as error:
            self._failed(error)
        return b""

    def _wake(self) -> None:
        """In the hub: something can be read. When nobody reads, as at the bound of handlers, stop watching."""
        if self._receiver is not None:
            self._receiver.switch()
        else:
            self._unwatch()

    def _unwatch(self) -> None:
        if self._watching:
            self._watching = False
            self._readable.stop()

    def send(self, data: bytes | memoryview) -> int:
        """How many bytes the socket took, 0 when it takes none now.

        Raises:
            OSError: It takes none any more.
        """
        try:
            return self._raw.send(data)  # type: ignore[no-any-return]
        except BlockingIOError:
            return 0

    def wait_writable(self) -> None:
        """Wait until the socket takes bytes again.

        Raises:
            OSError: It was closed meanwhile.
        """
        if self._closed:
            raise OSError(errno.EBADF, os.strerror(errno.EBADF))
        self._hub.wait(self._writable)

    def end_writing(self) -> None:
        """Tell the peer that nothing more comes; what it sends can still be read. Nothing can be sent after it."""
        with suppress(OSError):  # the receiver sees that it has ended
            self._raw.shutdown(stdlib_socket.SHUT_WR)

    def close(self, *, cut: bool = False) -> None:
        """Close the socket; whoever receives gets the end.

        Args:
            cut: More was to be sent; TLS must not call that a proper end.
        """
        self._closed = True
        self._unwatch()
        if self._receiver is not None:
            self._hub.loop.run_callback(self._wake)
        with suppress(OSError):
            # Wakes the peer even if another process shares the descriptor.
            self._raw.shutdown(stdlib_socket.SHUT_RDWR)
        with suppress(OSError):
            self._sock.close()

    def leave(self) -> None:
        """In a forked child: close the descriptor there. The connection is the parent's, and its peer hears nothing."""
        self._closed = True
        self._unwatch()
        self._readable.stop()
        self._writable.stop()
        self._raw.close()


class TlsWire(PlainWire):
    """A socket with TLS."""

    __slots__ = ("_said_all",)

    def __init__(self, sock: Any) -> None:
        super().__init__(sock)
        self._said_all = False
        self.plain = None

    def recv(self) -> bytes:
        """What comes next; empty at the end, however it came about. Lets the hub turn unless bytes were decrypted."""
        try:
            while not self._closed:
                if not self._sock.pending():
                    self._hub.wait(self._readable)
                try:
                    return self._sock.recv(READ_SIZE)  # type: ignore[no-any-return]
                except ssl.SSLWantReadError:
                    continue
                except ssl.SSLWantWriteError:  # as for a new key while the socket is full
                    gevent.sleep(TLS_RETRY)
        except OSError as error:
            self._failed(error)
        except ValueError:  # closed by another greenlet between the two steps
            pass
        return b""

    def send(self, data: bytes | memoryview) -> int:
        """How many bytes the socket took, 0 when it takes none now.

        Raises:
            OSError: It takes none any more.
        """
        if len(data) <= TLS_RECORD:
            return self._send_record(data)
        view, sent = memoryview(data), 0
        while sent < len(data):
            taken = self._send_record(view[sent : sent + TLS_RECORD])
            if not taken:
                break
            sent += taken
        return sent

    def _send_record(self, data: bytes | memoryview) -> int:
        if self._said_all:  # gevent's socket would send it in the clear
            raise OSError(errno.EPIPE, os.strerror(errno.EPIPE))
        try:
            return self._sock.send(data)  # type: ignore[no-any-return]
        except (ssl.SSLWantReadError, ssl.SSLWantWriteError):
            return 0
        except ValueError as error:  # closed by another greenlet
            raise OSError(str(error)) from error

    def _say_all(self) -> None:
        """Tell the peer that nothing was cut off (RFC 8446 section 6.1)."""
        if not self._said_all:
            self._said_all = True
            with suppress(OSError, ValueError):  # it also looks for the peer's own, which is not there yet
                self._sock.unwrap()

    def end_writing(self) -> None:
        """See `PlainWire.end_writing`."""
        self._say_all()
        super().end_writing()

    def close(self, *, cut: bool = False) -> None:
        """See `PlainWire.close`."""
        if not cut:
            self._say_all()
        super().close(cut=cut)
