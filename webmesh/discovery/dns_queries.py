"""`NameServers`: questions to name servers, over gevent's sockets in patched and plain processes alike.

dnspython makes and reads the messages; its own sockets block the hub of a plain process.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gevent
from gevent import socket

from webmesh.exceptions import ConfigurationError, RegistryUnavailable
from webmesh.protocol.networks import parse_ip

try:
    import dns.exception
    import dns.flags
    import dns.message
    import dns.name
    import dns.rcode
    import dns.rdatatype
except ImportError as error:
    raise ConfigurationError('SRV records need dnspython: pip install "webmesh-gevent[dns]"') from error

RESOLV_CONF = Path("/etc/resolv.conf")
MOST_SERVERS = 3
"""Name servers that are asked in turn, as the system's resolver does."""

UDP_SIZE = 1232
"""Bytes of an answer by UDP that cross every network in one piece (DNS Flag Day 2020); longer ones come by TCP."""

MOST_TARGETS = 256
"""SRV records of a name that are looked at."""


class NameServers:
    """See above.

    Args:
        server: `address` or `address:port` of the only one to ask; `None`: those of this machine.
        timeout: Seconds for all of them together, for each question.

    Raises:
        ConfigurationError: It is no address.
    """

    def __init__(self, server: str | None = None, *, timeout: float = 5.0) -> None:
        self._servers = [_address(server)] if server is not None else None
        self._timeout = timeout

    def addresses(self, name: str) -> list[str]:
        """The IPv4 and IPv6 addresses of *name*, sorted.

        Raises:
            RegistryUnavailable: There are none, or nobody tells.
        """
        found = {
            record.address
            for kind in (dns.rdatatype.A, dns.rdatatype.AAAA)
            for record in self._records(name, kind)
        }  # fmt: skip
        if not found:
            raise RegistryUnavailable(f"{name} has no addresses")
        return sorted(found)

    def services(self, name: str) -> list[tuple[str, int]]:
        """Name and port of the targets of *name*'s SRV records, the best first.

        Raises:
            RegistryUnavailable: There are none, or nobody tells.
        """
        records = [
            (record.priority, -record.weight, record.target.to_text(omit_final_dot=True), record.port)
            for record in self._records(name, dns.rdatatype.SRV)
            if record.target != dns.name.root and record.port
        ]
        if not records:
            raise RegistryUnavailable(f"{name} has no SRV records")
        return [(target, port) for _, _, target, port in sorted(records)[:MOST_TARGETS]]

    def _records(self, name: str, kind: dns.rdatatype.RdataType) -> Iterator[Any]:
        for rrset in self._ask(name, kind).answer:
            if rrset.rdtype == kind:
                yield from rrset

    def _ask(self, name: str, kind: dns.rdatatype.RdataType) -> dns.message.Message:
        faults = []
        servers = self._servers or _system_servers()
        for server in servers[:MOST_SERVERS]:
            try:
                return self._ask_one(server, name, kind, self._timeout / len(servers[:MOST_SERVERS]))
            except RegistryUnavailable as error:
                faults.append(f"{server[0]}: {error}")
        raise RegistryUnavailable(f"no answer for {name}: {'; '.join(faults) or 'there is no name server'}")

    def _ask_one(
        self, server: tuple[str, int], name: str, kind: dns.rdatatype.RdataType, seconds: float
    ) -> dns.message.Message:
        timer = gevent.Timeout(seconds)
        try:
            with timer:
                query = dns.message.make_query(name, kind, use_edns=0, payload=UDP_SIZE)
                answer = _by_udp(server, query)
                if answer.flags & dns.flags.TC:
                    answer = _by_tcp(server, query)
        except gevent.Timeout as expired:
            if expired is not timer:
                raise
            raise RegistryUnavailable(f"no answer within {seconds:g} s") from None
        except (OSError, EOFError, dns.exception.DNSException) as error:
            raise RegistryUnavailable(str(error) or type(error).__name__) from error
        if answer.rcode() != dns.rcode.NOERROR:
            raise RegistryUnavailable(dns.rcode.to_text(answer.rcode()))
        return answer


def _by_udp(server: tuple[str, int], query: dns.message.Message) -> dns.message.Message:
    with socket.socket(_family(server), socket.SOCK_DGRAM) as sock:
        sock.connect(server)  # the system then drops what others send
        sock.send(query.to_wire())
        while True:
            try:
                answer = dns.message.from_wire(sock.recv(65535), ignore_trailing=True)
            except dns.exception.DNSException:
                continue  # not the answer; the true one may still come
            if query.is_response(answer):
                return answer


def _by_tcp(server: tuple[str, int], query: dns.message.Message) -> dns.message.Message:
    with socket.create_connection(server) as sock:
        wire = query.to_wire()
        sock.sendall(struct.pack("!H", len(wire)) + wire)
        with sock.makefile("rb") as stream:
            (size,) = struct.unpack("!H", _exactly(stream.read(2), 2))
            answer = dns.message.from_wire(_exactly(stream.read(size), size))
    if not query.is_response(answer):
        raise EOFError("an answer to something else")
    return answer


def _exactly(data: bytes, size: int) -> bytes:
    if len(data) != size:
        raise EOFError("the connection ended within an answer")
    return data


def _family(server: tuple[str, int]) -> int:
    return socket.AF_INET6 if ":" in server[0] else socket.AF_INET


def _system_servers() -> list[tuple[str, int]]:
    try:
        lines = RESOLV_CONF.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return [("127.0.0.1", 53)]  # resolv.conf(5)
    words = [line.split() for line in lines]
    return [(word[1], 53) for word in words if word[:1] == ["nameserver"] and len(word) > 1 and parse_ip(word[1])]


def _address(text: str) -> tuple[str, int]:
    host, port = text, "53"
    if text.startswith("[") or text.count(":") == 1:
        host, _, port = text.rpartition(":") if not text.endswith("]") else (text, "", "53")
    host = host.strip("[]")
    if parse_ip(host) is None or not (port.isascii() and port.isdigit() and 0 < int(port) < 65536):
        raise ConfigurationError(f"a name server is written address or address:port, not {text!r}")
    return host, int(port)
