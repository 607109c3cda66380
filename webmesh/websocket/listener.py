"""Accepting: from a listening socket to greenlets that each meet one peer.

Decides what happens when places or descriptors run out. What one peer gets is `arrival`. Everything
here runs in the hub of the thread that calls `start`.
"""

from __future__ import annotations

import contextlib
import errno
import io
import os
from collections.abc import Callable
from typing import Any

import gevent
from gevent import Greenlet
from gevent.pool import Pool
from gevent.server import StreamServer
from gevent.socket import AF_UNIX, socket

from webmesh.exceptions import LocalProtocolError
from webmesh.observer import Observer
from webmesh.options import Limits, Timeouts
from webmesh.protocol.handshake import HttpRequest, ServerHandshake
from webmesh.websocket.addresses import Addresses
from webmesh.websocket.admission import Admission
from webmesh.websocket.arrival import BANNED, FULL, READ_SIZE, Arrival, Decide, Reception, Serve
from webmesh.websocket.binding import Binding, Listenable, bind
from webmesh.websocket.doors import Doors
from webmesh.websocket.http import HttpAnswer
from webmesh.websocket.refusals import Refusals
from webmesh.websocket.tls import ServerTLS
from webmesh.websocket.upgraded import TcpAddress, address_text

_NO_DESCRIPTOR = frozenset({errno.EMFILE, errno.ENFILE})
_NO_MEMORY = frozenset({errno.ENOBUFS, errno.ENOMEM})
# accept(2): these are errors of the connection that was to be accepted; the next one may be well.
_LOST_IN_QUEUE = frozenset({
    errno.ECONNABORTED, errno.EPROTO, errno.ENETDOWN, errno.ENOPROTOOPT, errno.EHOSTDOWN, errno.ENONET,
    errno.EHOSTUNREACH, errno.EOPNOTSUPP, errno.ENETUNREACH, errno.EPERM,
})  # fmt: skip


class Listener:
    """Turns what connects to one address into WebSocket connections.

    Args:
        address: Where to listen, or a socket that listens already and is taken over.
        tls: `None` speaks plain TCP.
        decide: Says of each valid upgrade request whether it is accepted and with what. It may wait,
            within `Timeouts.upgrade`. It gets the request, the peer's address and its certificate.
        serve: Given each accepted connection in a greenlet of its own; the socket is closed when it
            returns. What it returns is the close code, or anything else when there is none to tell.
        http: Answers what is no upgrade.
        doors: Who stands before it; `None` for nobody.
        make_place: Called when there are as many connections as may be; ends one that is worth less, or returns false.
        shared: Other processes accept at the same address.
    """

    def __init__(
        self,
        address: Listenable,
        *,
        limits: Limits,
        timeouts: Timeouts,
        observer: Observer,
        tls: ServerTLS | None,
        decide: Decide,
        serve: Serve,
        http: Callable[[HttpRequest], HttpAnswer],
        doors: Doors | None = None,
        make_place: Callable[[], bool] = lambda: False,
        shared: bool = False,
    ) -> None:
        self._wanted = address
        self.shared = shared
        self._limits = limits
        self._timeouts = timeouts
        self._admission: Admission[Arrival] = Admission(
            limits.connections, limits.spare_connections, limits.handshakes, limits.handshakes_per_address
        )
        doors = doors or Doors()
        addresses = Addresses(limits, timeouts, exempt=doors.exempt)
        self._reception = Reception(
            limits, timeouts, tls, self._admission, addresses, doors, Refusals(observer), decide, serve, http,
            make_place,
        )
        self._binding: Binding | None = None
        self._server: _Server | None = None
        self._pool: Pool | None = None
        self._closing = False

    def start(self) -> None:
        """Listen and accept from now on, in the calling thread's hub.

        Raises:
            ListenFailed: The address cannot be listened on.
        """
        if self._binding is not None:
            raise LocalProtocolError(f"already listened on {self._binding.address}: make a new Listener")
        self._binding = bind(self._wanted, backlog=self._limits.backlog, timeout=self._timeouts.start)
        # One place more than there is room: a full pool does not accept, and then no newcomer could
        # make the oldest one leave.
        self._pool = Pool(self._admission.capacity + 1)
        self._server = _Server(self._binding, self._pool, self._accepted, self._reception)
        self._server.start()

    @property
    def address(self) -> str:
        """Where it listens: `127.0.0.1:43121`, `[::]:4269`, `unix:/run/shop.sock`."""
        return self._bound.address

    @property
    def port(self) -> int | None:
        """The port that it really has; `None` for a Unix socket."""
        return self._bound.port

    @property
    def connections(self) -> int:
        """Connections that are served now."""
        return self._admission.connections

    @property
    def newcomers(self) -> int:
        """Peers that have not become connections: silent ones, handshakes under way, answers being read."""
        return self._admission.newcomers

    def leave_to_others(self) -> None:
        """Accept what waits, and leave all that comes to the other processes; where there are none, do nothing."""
        if self.shared and self._server is not None:
            if isinstance(self._wanted, TcpAddress):
                self._server.take_queued()  # its queue is this process's own, and is reset when the socket is closed
            self.stop_accepting()

    def stop_accepting(self) -> None:
        """Close the listening socket and remove its file; connections live on. Safe to call twice."""
        if self._server is not None:
            self._server.close()
        if self._binding is not None:
            self._binding.remove_file()

    def close(self, timeout: float) -> None:
        """Stop accepting, and wait until the connections have ended.

        May be called from within one of them, which is then left to end by itself.

        Args:
            timeout: Seconds; what is left after them is killed.
        """
        self.stop_accepting()
        if self._pool is None:
            return
        self._closing = True
        for newcomer in self._admission.drain():
            newcomer.evict("the server closes")
        current = gevent.getcurrent()
        others = [greenlet for greenlet in self._pool if greenlet is not current]
        gevent.joinall(others, timeout)
        gevent.killall(others, block=False)
        gevent.joinall(others, self._timeouts.close)

    def leave(self, *, alive: bool) -> None:
        """In a forked child: close the listening socket there, else it would keep the address when the parent has gone.

        Args:
            alive: Whether the greenlets run on in the child; what they were doing is the parent's.
        """
        if self._server is not None and self._binding is not None:
            self._server.stop_accepting()
            # At once: gevent's own close waits for the hub, which may be the parent's.
            self._binding.sock._sock.close()  # type: ignore[attr-defined]
        if self._pool is not None and alive:
            gevent.killall(list(self._pool), block=False)

    @property
    def _bound(self) -> Binding:
        if self._binding is None:
            raise LocalProtocolError("the listener has not been started")
        return self._binding

    def _accepted(self, sock: socket, address: Any) -> None:
        """The life of one accepted socket, in its own greenlet."""
        if not self._closing:
            host = None if sock.family == AF_UNIX else address[0]
            Arrival(self._reception, sock, address_text(sock.family, address, self._bound.path), host).run()

    def __repr__(self) -> str:
        where = self._binding.address if self._binding is not None else "not started"
        return f"<Listener {where} connections={self.connections} newcomers={self.newcomers}>"


class _Server(StreamServer):
    """gevent's server, which knows what to do when descriptors run out.

    With none left `accept` fails while the connections stay in the queue: whoever asks again at once
    spins, and whoever waits leaves the clients hanging. So one descriptor is kept in spare, given up
    to accept one client, tell it to come back, and taken again.
    """

    max_accept = 16
    """Connections that are accepted before the hub serves others: gevent's 100 handshakes in a row take 30 ms."""

    def __init__(
        self, binding: Binding, pool: Pool, handle: Callable[[socket, Any], None], reception: Reception
    ) -> None:
        super().__init__(binding.sock, handle, spawn=pool)
        self._path = binding.path
        self._reception = reception
        self._spare = _open_spare()
        self._refusal = b"" if reception.tls else ServerHandshake(reception.limits).refuse(FULL)
        self._pause: Greenlet[[], None] | None = None
        self._delay = self.min_delay

    def do_read(self) -> Any:
        """Accept one connection; called by gevent in the hub, may not switch."""
        try:
            accepted = super().do_read()
        except OSError as error:
            if error.errno in _LOST_IN_QUEUE:
                return None
            if error.errno in _NO_DESCRIPTOR and self._turn_one_away():
                return None
            if error.errno in _NO_DESCRIPTOR or error.errno in _NO_MEMORY:
                self._rest(error)
                return None
            raise
        self._delay = self.min_delay
        return accepted

    def do_handle(self, sock: socket, address: Any) -> None:
        """Have one accepted connection met; called by gevent in the hub, may not switch."""
        if sock.family != AF_UNIX and self._reception.addresses.banned(address[0]):
            sock.close()
            self._reception.refusals.handshake(address_text(sock.family, address), 0, BANNED, quiet=True)
            return
        super().do_handle(sock, address)

    def take_queued(self) -> None:
        """Accept all that waits to be."""
        while self.started and not self.full():
            try:
                accepted = self.do_read()
            except OSError:
                return
            if not accepted:
                return
            self.do_handle(*accepted)

    def close(self) -> None:
        """Close the listening socket, at once and for good."""
        super().close()
        if self._pause is not None:
            self._pause.kill(block=False)
            self._pause = None
        if self._spare is not None:
            self._spare.close()
            self._spare = None

    def _turn_one_away(self) -> bool:
        """Answer one client with the spare descriptor; False when another thread has taken even that."""
        if self._spare is None:
            self._spare = _open_spare()
        if self._spare is None:
            return False
        self._spare.close()
        self._spare = None
        try:
            accepted = super().do_read()
        except OSError:
            return False
        if accepted:  # Linux looks for a descriptor first, so this may have been about nobody
            self._refuse(*accepted)
        self._spare = _open_spare()
        return True

    def _refuse(self, sock: socket, address: Any) -> None:
        status = FULL.status if self._refusal else 0
        with sock, contextlib.suppress(OSError):
            sock.setblocking(False)  # in the hub nothing may wait
            with contextlib.suppress(BlockingIOError):
                sock.recv(READ_SIZE)  # closing on unread bytes would reset the connection
            sock.send(self._refusal)
        self._reception.refusals.shortage(
            "out of descriptors", address_text(sock.family, address, self._path), status=status
        )

    def _rest(self, error: OSError) -> None:
        """Accept nothing for a while, as nothing can be accepted: twice as long each time, up to a bound."""
        self._reception.refusals.shortage(os.strerror(error.errno or 0))
        self.stop_accepting()
        if self._pause is None:
            self._pause = gevent.spawn_later(self._delay, self._resume)
        self._delay = min(self.max_delay, 2 * self._delay)

    def _resume(self) -> None:
        self._pause = None
        if self.started:
            self.start_accepting()


def _open_spare() -> io.FileIO | None:
    # A file object: in a patched process `os.close` is gevent's and closes only when the hub turns.
    try:
        return io.FileIO(os.devnull)
    except OSError:
        return None
