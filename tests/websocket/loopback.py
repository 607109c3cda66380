"""What the tests of the transport share: a listener on a loopback port, peers that speak raw bytes, authorities.

Everything waits with a bound: a peer that hears nothing fails its test after `PATIENCE` seconds.
"""

from __future__ import annotations

import datetime
import gc
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import gevent
import pytest
import trustme
from gevent import subprocess
from gevent.event import Event
from gevent.socket import AF_INET, AF_INET6, AF_UNIX, SHUT_WR, SO_LINGER, SOL_SOCKET, socket

from webmesh.observer import Observer
from webmesh.options import Limits, Timeouts
from webmesh.protocol.handshake import HttpRequest, Refusal, UpgradeRequest
from webmesh.websocket.http import HttpAnswer, pages
from webmesh.websocket.listener import Listener
from webmesh.websocket.tls import ServerTLS
from webmesh.websocket.upgraded import Acceptance, TcpAddress, Upgraded

PATIENCE = 10.0
"""Seconds after which a test gives up: far more than anything here takes."""

ROOT = Path(__file__).parent.parent.parent


class Witness(Observer):
    """Keeps what the transport refused, and lets a test wait until it has refused so much."""

    def __init__(self) -> None:
        self.handshakes: list[tuple[str, int, str]] = []
        self.others: list[tuple[str, str]] = []
        self._changed = Event()

    def handshake_refused(self, address: str, status: int, reason: str) -> None:
        self.handshakes.append((address, status, reason))
        self._changed.set()

    def refused(self, kind: str, reason: str) -> None:
        self.others.append((kind, reason))
        self._changed.set()

    @property
    def reasons(self) -> list[tuple[int, str]]:
        """Status and reason of each handshake that was refused."""
        return [(status, reason) for _, status, reason in self.handshakes]

    def wait_for(self, count: int) -> list[tuple[int, str]]:
        """`reasons`, once there are *count*."""
        with gevent.Timeout(PATIENCE):
            while len(self.handshakes) < count:
                self._changed.clear()
                self._changed.wait()
        return self.reasons


def echo(upgraded: Upgraded) -> None:
    """Serve a connection by sending back its bytes, those behind the handshake first."""
    if upgraded.trailing:
        upgraded.sock.sendall(upgraded.trailing)
    try:
        while data := upgraded.sock.recv(4096):
            upgraded.sock.sendall(data)
    except OSError:
        pass


def accept_all(request: UpgradeRequest, address: str, certificate: dict[str, Any] | None) -> Acceptance:
    """Accept any upgrade, without a subprotocol."""
    return Acceptance(None)


@contextmanager
def listening(
    address: Any = TcpAddress("127.0.0.1", 0),
    *,
    limits: Limits = Limits(),
    timeouts: Timeouts = Timeouts(),
    observer: Observer | None = None,
    tls: ServerTLS | None = None,
    decide: Callable[[UpgradeRequest, str, dict[str, Any] | None], Acceptance | Refusal] = accept_all,
    serve: Callable[[Upgraded], None] = echo,
    http: Callable[[HttpRequest], HttpAnswer] = pages(ready=lambda: True),
    shared: bool = False,
) -> Iterator[Listener]:
    """A listener that has started, on a port of 127.0.0.1 unless the test says otherwise."""
    listener = Listener(
        address,
        limits=limits,
        timeouts=timeouts,
        observer=observer or Witness(),
        tls=tls,
        decide=decide,
        serve=serve,
        http=http,
        shared=shared,
    )
    listener.start()
    try:
        yield listener
    finally:
        listener.close(0.0)


def peer(listener: Listener) -> socket:
    """A connected socket that has said nothing yet."""
    return peer_at(listener.address)


def peer_at(address: str) -> socket:
    """A socket that is connected to an address as a listener tells it."""
    host, _, port = address.rpartition(":")
    unix = address.startswith("unix:")
    sock = socket(AF_UNIX if unix else AF_INET6 if "[" in host else AF_INET)
    sock.settimeout(PATIENCE)
    try:
        sock.connect(address.removeprefix("unix:") if unix else (host.strip("[]"), int(port)))
    except OSError:
        sock.close()
        raise
    return sock


def upgrade(path: str = "/", *headers: str, host: str = "localhost") -> bytes:
    """A valid upgrade request, with more header lines."""
    lines = [
        f"GET {path} HTTP/1.1",
        f"Host: {host}",
        "Upgrade: websocket",
        "Connection: Upgrade",
        "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
        "Sec-WebSocket-Version: 13",
        *headers,
    ]
    return "\r\n".join([*lines, "", ""]).encode("latin-1")


def read_head(sock: socket) -> bytes:
    """An HTTP head, byte by byte, so that what follows stays in the socket."""
    head = b""
    while not head.endswith(b"\r\n\r\n"):
        byte = sock.recv(1)
        if not byte:
            raise AssertionError(f"the connection ended inside a head: {head!r}")
        head += byte
    return head


def read_to_end(sock: socket) -> bytes:
    """Everything until the other side has closed; a reset counts as the end."""
    received = b""
    try:
        while data := sock.recv(65536):
            received += data
    except ConnectionResetError:
        pass
    return received


def exchange(listener: Listener, data: bytes) -> bytes:
    """What a peer gets that sends *data* and says no more, until the end of the connection."""
    with peer(listener) as sock:
        sock.sendall(data)
        sock.shutdown(SHUT_WR)
        return read_to_end(sock)


def status_of(answer: bytes) -> int:
    """Status of an HTTP answer."""
    version, status, _ = answer.split(b" ", 2)
    assert b"HTTP/1.1" == version
    return int(status)


def reset(sock: socket) -> None:
    """Close so that the other side gets a reset."""
    sock.setsockopt(SOL_SOCKET, SO_LINGER, b"\x01\0\0\0\0\0\0\0")
    sock.close()


def descriptors() -> set[str]:
    """The descriptors that this process has open."""
    return set(os.listdir("/proc/self/fd"))


def no_more_than(before: set[str]) -> bool:
    """Whether no descriptor is open that was not open *before*; for `until`, as gevent may defer a close."""
    gc.collect()
    return descriptors() <= before


def until(condition: Callable[[], bool]) -> None:
    """Let the hub turn until *condition* holds."""
    with gevent.Timeout(PATIENCE):
        while not condition():
            gevent.sleep(0.005)


class Authority:
    """A certificate authority and the files that it has written."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._ca = trustme.CA()
        self._issued = 0
        self.file = str(folder / "authority.pem")
        self._ca.cert_pem.write_to_path(self.file)

    def issue(self, *names: str, **options: Any) -> str:
        """A PEM file with key and certificate for *names*."""
        self._issued += 1
        path = str(self._folder / f"{self._issued}.pem")
        self._ca.issue_cert(*names, **options).private_key_and_cert_chain_pem.write_to_path(path)
        return path

    def issue_for_clients_only(self, name: str) -> tuple[str, str]:
        """A PEM file with a certificate that is not for servers, and the file of the authority that it is from."""
        from cryptography import x509
        from cryptography.hazmat.primitives import hashes, serialization
        from cryptography.hazmat.primitives.asymmetric import ec

        key = ec.generate_private_key(ec.SECP256R1())
        whose = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
        now = datetime.datetime.now(datetime.timezone.utc)
        certificate = (
            x509.CertificateBuilder()
            .subject_name(whose).issuer_name(whose).public_key(key.public_key()).serial_number(1)
            .not_valid_before(now - datetime.timedelta(days=1)).not_valid_after(now + datetime.timedelta(days=1))
            .add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), False)
            .add_extension(x509.BasicConstraints(True, None), True)
            .add_extension(x509.ExtendedKeyUsage([x509.ExtendedKeyUsageOID.CLIENT_AUTH]), True)
            .sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)
        )  # fmt: skip
        secret = key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        site, trusted = self._folder / "clients_only.pem", self._folder / "clients_only_ca.pem"
        site.write_bytes(secret + certificate)
        trusted.write_bytes(certificate)
        return str(site), str(trusted)


def run_program(source: str, *arguments: str, patched: bool) -> subprocess.Popen[str]:
    """Start *source* in a Python of its own, monkey-patched or not, with pipes at all three ends.

    Waiting for it leaves the hub free: this process may be what it talks to.
    """
    prelude = "from gevent import monkey; monkey.patch_all()\n" if patched else ""
    return subprocess.Popen(
        [sys.executable, "-c", prelude + source, *arguments],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip


each_mode = pytest.mark.parametrize("patched", [False, True], ids=["plain", "patched"])
"""Runs a test's program in both kinds of process."""
