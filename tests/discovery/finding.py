"""What tests of discovery share: who is told, and a name server."""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Any

import gevent
from gevent.event import Event
from gevent.server import DatagramServer, StreamServer

from webmesh.discovery.base import Discovery, Found

PATIENCE = 15.0


class Told:
    """Keeps what is found."""

    def __init__(self) -> None:
        self.times = 0
        self.found: list[Found] = []
        self._news = Event()

    def __call__(self, found: list[Found]) -> None:
        self.times += 1
        self.found = found
        self._news.set()

    @property
    def urls(self) -> list[str]:
        return [url for entry in self.found for url in entry.urls]

    def wait(self, reached: Callable[[Told], bool]) -> None:
        """Wait until it is so."""
        with gevent.Timeout(PATIENCE):
            while not reached(self):
                self._news.wait()
                self._news.clear()


class Running:
    """A discovery that runs within a `with`."""

    def __init__(self, discovery: Discovery) -> None:
        self.discovery = discovery
        self.told = Told()

    def __enter__(self) -> Told:
        self.discovery.start(self.told)
        return self.told

    def __exit__(self, *error: object) -> None:
        self.discovery.stop()


class NameServer:
    """Answers by UDP and TCP on one port of the loopback.

    Attributes:
        records: (name, type) → the records' texts; what is not there does not exist.
        truncated: Answer by UDP with nothing but the sign to ask by TCP.
        silent: Answer nothing.
        asked: Questions that came, as (name, type, "udp" or "tcp").
    """

    def __init__(self) -> None:
        self.records: dict[tuple[str, str], list[str]] = {}
        self.truncated = self.silent = False
        self.noise = b""
        self.asked: list[tuple[str, str, str]] = []
        self._tcp = StreamServer(("127.0.0.1", 0), self._serve)

    def __enter__(self) -> NameServer:
        self._tcp.start()
        self._udp = DatagramServer(("127.0.0.1", self._tcp.server_port), self._datagram)
        self._udp.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._tcp.stop(timeout=1)
        self._udp.stop(timeout=1)

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self._tcp.server_port}"

    def _answer(self, wire: bytes, by: str) -> bytes:
        import dns.flags
        import dns.message
        import dns.rcode
        import dns.rdatatype
        import dns.rrset

        query = dns.message.from_wire(wire)
        question = query.question[0]
        name, kind = question.name.to_text(omit_final_dot=True), dns.rdatatype.to_text(question.rdtype)
        self.asked.append((name, kind, by))
        answer = dns.message.make_response(query)
        if self.truncated and by == "udp":
            answer.flags |= dns.flags.TC
        elif (name, kind) in self.records:
            answer.answer.append(dns.rrset.from_text(question.name, 5, "IN", kind, *self.records[name, kind]))
        elif not any(known == name for known, _ in self.records):
            answer.set_rcode(dns.rcode.NXDOMAIN)
        return answer.to_wire()

    def _datagram(self, data: bytes, address: Any) -> None:
        if not self.silent:
            if self.noise:
                self._udp.sendto(self.noise, address)
            self._udp.sendto(self._answer(data, "udp"), address)

    def _serve(self, sock: Any, address: object) -> None:
        with sock, sock.makefile("rb") as stream:
            (size,) = struct.unpack("!H", stream.read(2))
            wire = self._answer(stream.read(size), "tcp")
            sock.sendall(struct.pack("!H", len(wire)) + wire)
