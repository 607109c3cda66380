"""Dialling: from a URL to a socket on which the WebSocket handshake is done.

Decides the order in which addresses are tried and how one deadline is shared among them. What a URL
means is `target`, what the answer means is `protocol.client_handshake`. When and whether to try again
is decided by whoever dials.
"""

from __future__ import annotations

import functools
import ipaddress
import ssl
from collections.abc import Iterable, Sequence
from typing import Any

import gevent
from gevent import Timeout
from gevent.socket import AF_INET, AF_INET6, AF_UNIX, SOCK_STREAM, gaierror, getaddrinfo, socket

from webmesh.deadline import Deadline
from webmesh.exceptions import ConfigurationError, ConnectFailed, HandshakeRejected
from webmesh.options import Limits
from webmesh.protocol.client_handshake import Accepted, ClientHandshake
from webmesh.protocol.comeback import may_answer_elsewhere
from webmesh.protocol.deflate import BoundedDeflate
from webmesh.websocket.target import Target, parse_url
from webmesh.websocket.tls import check_client_context, client_context, tls_failure, verified_certificate, wrap_client
from webmesh.websocket.upgraded import Upgraded, address_text, tune

__all__ = ["dial", "parse_url"]

READ_SIZE = 16 * 1024
"""Bytes asked for in one read of an answer: most are whole after one."""

LEAST_SHARE = 2.0
"""Seconds that an address gets at least, if so much is left, although more addresses follow (as in Go's
dialer): a share that is too short for TCP's first retransmission, 1 s, would fail them all."""

UNIX_RETRY = 0.01
"""Seconds between two tries at a Unix socket whose queue is full: there is no event to wait for."""

_Where = tuple[int, Any]
"""Family, and the socket address in that family's form."""


class _Failed(Exception):
    """One address did not lead to an answer; the text says why. Never leaves this file."""


def dial(
    url: str,
    *,
    timeout: float,
    limits: Limits,
    subprotocols: Sequence[str] = (),
    headers: Iterable[tuple[str, str]] = (),
    tls: ssl.SSLContext | None = None,
    extensions: Sequence[BoundedDeflate] = (),
    first: str = "",
    last: str = "",
) -> Upgraded:
    """Connect to *url* and do the WebSocket handshake.

    The addresses of a name are tried in turn. A server that answers no for itself, as with 503, is as good as none
    while more addresses follow; 401 and 403 are final.

    Args:
        url: As `webmesh.websocket.target` says.
        timeout: Seconds for everything: name, TCP, TLS and upgrade, at all addresses together.
        headers: Further headers of the request.
        tls: For wss; `None` verifies the certificate by the system's authorities, and the name.
        extensions: To offer; those that were accepted are in the result.
        first, last: Addresses, as `Upgraded.address` writes them, to be tried before and after all others.

    Raises:
        ConfigurationError: The URL, a header or the context cannot be used. Nothing has been sent.
        ConnectFailed: No address led to an answer in time; `attempts` names the reason for each.
        HandshakeRejected: A server answered, and it was no.
    """
    target = parse_url(url)
    context = _context_for(target, tls)
    request_headers = list(headers)

    def new_handshake() -> ClientHandshake:
        return ClientHandshake(
            host=target.authority, target=target.resource, subprotocols=subprotocols, headers=request_headers,
            extensions=extensions, limits=limits,
        )  # fmt: skip

    new_handshake()  # refuses what cannot be sent before anything is
    deadline = Deadline(timeout)
    addresses = _in_order(_resolve(target, deadline), first, last)
    failures = []
    refused = bool(addresses)
    rejected: HandshakeRejected | None = None
    for index, where in enumerate(addresses):
        if deadline.expired:
            failures.append(f"no time left for {len(addresses) - index} more")
            refused = False
            break
        attempt = _Attempt(target, where, context, new_handshake())
        try:
            accepted = attempt.run(_share(deadline, len(addresses) - index))
        except _Failed as failed:
            failures.append(f"{attempt.address}: {failed}")
            refused = refused and isinstance(failed.__cause__, ConnectionRefusedError | FileNotFoundError)
            continue
        except HandshakeRejected as error:
            if not may_answer_elsewhere(error):
                raise
            rejected = rejected or error
            continue
        return attempt.upgraded(accepted, [one for one in extensions if one in accepted.extensions])
    raise rejected or ConnectFailed(target.address, failures, refused=refused)


def _in_order(addresses: list[_Where], first: str, last: str) -> list[_Where]:
    def rank(where: _Where) -> int:
        text = address_text(*where)
        return -1 if text == first else 1 if text == last else 0

    return sorted(addresses, key=rank)  # stable: otherwise the system's order of preference stays


def _context_for(target: Target, tls: ssl.SSLContext | None) -> ssl.SSLContext | None:
    if target.secure:
        return _default_context() if tls is None else check_client_context(tls)
    if tls is not None:
        raise ConfigurationError(f"tls is given, but the URL of {target.address} does not ask for it: write wss://")
    return None


@functools.cache
def _default_context() -> ssl.SSLContext:
    return client_context()  # reads all authorities of the system: some 10 ms and 1 MB, so once


def _resolve(target: Target, deadline: Deadline) -> list[_Where]:
    """The addresses of *target*, each once, in the system's order of preference."""
    if target.unix_path:
        return [(AF_UNIX, target.unix_path)]
    if literal := _literal(target):
        return [literal]
    timer = Timeout(deadline.remaining())
    try:
        with timer:  # gevent asks in a thread of its own, so a slow name server holds up only this caller
            found = getaddrinfo(target.host, target.port, 0, SOCK_STREAM)
    except Timeout as expired:
        if expired is not timer:
            raise
        raise ConnectFailed(target.address, ["name not resolved in time"]) from None
    except (gaierror, UnicodeError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise ConnectFailed(target.address, [f"name not resolved: {reason}"]) from error
    return list(dict.fromkeys((entry[0], entry[4]) for entry in found if entry[0] in (AF_INET, AF_INET6)))


def _literal(target: Target) -> _Where | None:
    """The address that the host is, if it is one: dialled even while name servers keep all resolver threads busy."""
    try:
        address = ipaddress.ip_address(target.host)
    except ValueError:
        return None
    if address.version == 4:
        return AF_INET, (target.host, target.port)
    # Only the resolver knows the number of the interface that a zone names.
    return None if "%" in target.host else (AF_INET6, (target.host, target.port, 0, 0))


def _share(deadline: Deadline, addresses: int) -> float:
    """Seconds for the next of so many *addresses*: an equal part of what is left, but no useless one."""
    left = deadline.remaining()
    assert left is not None, "dialling always has a deadline"
    return max(left / addresses, min(left, LEAST_SHARE))


class _Attempt:
    """One address, from TCP to the server's answer. Its socket is closed unless the answer is yes."""

    def __init__(
        self, target: Target, where: _Where, context: ssl.SSLContext | None, handshake: ClientHandshake
    ) -> None:
        self.address = address_text(*where)
        self._target = target
        self._family, self._where = where
        self._context = context
        self._handshake = handshake
        self._step = "TCP"
        self._sock: socket | None = None

    def run(self, seconds: float) -> Accepted:
        """Do it all within *seconds*.

        Raises:
            _Failed: There was no answer; another address may have one.
            HandshakeRejected: The answer is no.
        """
        timer = Timeout(seconds)
        try:
            with timer:
                self._sock = self._connect()
                return self._upgrade(self._sock)
        except BaseException as error:
            if self._sock is not None:
                self._sock.close()
            if error is timer:
                raise self._out_of_time(seconds) from None
            if isinstance(error, OSError):
                raise _Failed(f"{self._step}: {tls_failure(error)}") from error
            raise

    def upgraded(self, accepted: Accepted, extensions: list[BoundedDeflate]) -> Upgraded:
        """What `run` has led to."""
        assert self._sock is not None, "run() has returned"
        return Upgraded(
            sock=self._sock,
            request=None,
            subprotocol=accepted.subprotocol,
            extensions=extensions,
            trailing=self._handshake.trailing,
            address=self.address,
            peer_certificate=verified_certificate(self._sock),
        )

    def _connect(self) -> socket:
        self._sock = sock = socket(self._family, SOCK_STREAM)
        tune(sock)
        if self._family == AF_UNIX:
            _connect_unix(sock, self._where)
        else:
            sock.connect(self._where)
        if self._context is None:
            return sock
        self._step = "TLS"
        # Certificates are made out to the name without the root's dot, and to addresses without a zone.
        name = self._target.host.partition("%")[0].removesuffix(".")
        self._sock = secured = wrap_client(sock, self._context, name)
        secured.do_handshake()
        return secured

    def _upgrade(self, sock: socket) -> Accepted:
        self._step = "upgrade"
        sock.sendall(self._handshake.request())
        while True:
            data = sock.recv(READ_SIZE)
            if not data:
                raise self._cut_short("closed before it was answered")
            accepted = self._handshake.receive(data)
            if accepted is not None:
                return accepted

    def _out_of_time(self, seconds: float) -> Exception:
        return self._cut_short(f"nothing within {seconds:.2g} s")

    def _cut_short(self, why: str) -> Exception:
        """The exception for an answer that will not become whole: its status counts, if that has come."""
        try:
            self._handshake.receive(b"")
        except HandshakeRejected as rejected:
            if rejected.status:
                return rejected
        return _Failed(f"{self._step}: {why}")


def _connect_unix(sock: socket, path: str) -> None:
    # Linux says EAGAIN while the queue of a Unix socket is full, and the socket counts as writable all the
    # time, so that gevent's own connect() would spin.
    sock.setblocking(False)
    while True:
        try:
            sock.connect(path)
        except BlockingIOError:
            gevent.sleep(UNIX_RETRY)
        else:
            break
    sock.settimeout(None)
