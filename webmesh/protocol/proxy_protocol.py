"""The PROXY protocol, versions 1 and 2: what a proxy that does not speak HTTP says before anything else.

Pure: fed with bytes that are only looked at, and tells how many of them are its own, so what follows, perhaps TLS,
stays where it is. Who is asked for it is decided above. Specification: HAProxy's proxy-protocol.txt.
"""

from __future__ import annotations

import re
from ipaddress import IPv4Address, IPv6Address, ip_address

from webmesh.exceptions import RemoteProtocolError
from webmesh.protocol.forwarded import Hop
from webmesh.protocol.networks import parse_ip

MOST = 536
"""Bytes of a header: what every TCP segment can carry, and the whole header must come in one."""

LINE = 107
"""Bytes of the longest line of version 1."""

_SIGNATURE = b"\r\n\r\n\0\r\nQUIT\n"
_FIXED = 16  # bytes of version 2 before the addresses
_WORD = b"PROXY "
_PORT = re.compile(r"0|[1-9][0-9]{0,4}")
_LOCAL, _PROXY = 0x20, 0x21
_STREAM = {0x11: 4, 0x21: 16}  # TCP over IPv4 and IPv6: bytes of an address
_UNTOLD = frozenset({0x00, 0x31})  # no address, or a Unix socket's


class ProxyHeader:
    """Reads one header.

    Attributes:
        done: Whether it is whole.
        client: Where the proxied connection comes from; `None` until it is whole, and where the proxy speaks for
            itself (`LOCAL`) or does not say (`UNKNOWN`).
    """

    def __init__(self) -> None:
        self.done = False
        self.client: Hop | None = None
        self._buffer = bytearray()

    def feed(self, data: bytes) -> int:
        """Look at what came next; returns how many bytes of it belong to the header.

        Args:
            data: What has arrived and was not counted yet; empty for the end of the stream.

        Raises:
            RemoteProtocolError: It is no header; the text holds nothing that was sent.
        """
        if self.done:
            return 0
        if not data:
            raise RemoteProtocolError("the connection ended inside the PROXY header")
        before = len(self._buffer)
        self._buffer += data[: MOST - before]
        self._check_beginning()
        size = self._size()
        if size is None or size > len(self._buffer):
            return len(self._buffer) - before
        del self._buffer[size:]
        self.client = self._version_2() if self._buffer[:1] == b"\r" else _version_1(bytes(self._buffer))
        self.done = True
        return size - before

    def _check_beginning(self) -> None:
        begun = bytes(self._buffer)
        if not (begun.startswith(_WORD[: len(begun)]) or begun.startswith(_SIGNATURE[: len(begun)])):
            raise RemoteProtocolError("no PROXY header")

    def _size(self) -> int | None:
        """Bytes of the whole header; `None` while that cannot be told."""
        if self._buffer.startswith(b"P"):
            end = self._buffer.find(b"\n", 0, LINE)
            if end < 0 and len(self._buffer) >= LINE:
                raise RemoteProtocolError(f"PROXY line over {LINE} bytes")
            return None if end < 0 else end + 1
        if len(self._buffer) < _FIXED:
            return None
        size = _FIXED + int.from_bytes(self._buffer[14:_FIXED], "big")
        if size > MOST:
            raise RemoteProtocolError(f"PROXY header over {MOST} bytes")
        return size

    def _version_2(self) -> Hop | None:
        command, family, rest = self._buffer[12], self._buffer[13], bytes(self._buffer[_FIXED:])
        if command == _LOCAL:
            return None
        if command != _PROXY:
            raise RemoteProtocolError("PROXY header of an unknown version or command")
        if family in _UNTOLD:
            return None
        if family not in _STREAM:
            raise RemoteProtocolError("PROXY header for something other than TCP")
        size = _STREAM[family]
        if len(rest) < 2 * size + 4:
            raise RemoteProtocolError("PROXY header without its addresses")
        # Further fields (TLVs) follow, a checksum among them: TCP has one, and nothing here needs them.
        return _hop(rest[:size], int.from_bytes(rest[2 * size : 2 * size + 2], "big"))


def _version_1(line: bytes) -> Hop | None:
    if not line.endswith(b"\r\n") or not line.isascii():
        raise RemoteProtocolError("malformed PROXY line")
    words = line[:-2].decode("ascii").split(" ")
    if words[1] == "UNKNOWN":
        return None  # what follows is to be ignored, says the specification
    if len(words) != 6 or words[1] not in ("TCP4", "TCP6") or not all(map(_port_number, words[4:])):
        raise RemoteProtocolError("malformed PROXY line")
    kind = IPv4Address if words[1] == "TCP4" else IPv6Address
    if not all(_is_written_as(kind, text) for text in words[2:4]):
        raise RemoteProtocolError("malformed PROXY line")
    address = parse_ip(words[2])
    assert address is not None, "it was parsed before"
    return Hop(address, int(words[4]))


def _port_number(text: str) -> bool:
    return _PORT.fullmatch(text) is not None and int(text) <= 0xFFFF


def _is_written_as(kind: type[IPv4Address] | type[IPv6Address], text: str) -> bool:
    return parse_ip(text) is not None and isinstance(ip_address(text), kind)


def _hop(packed: bytes, port: int) -> Hop:
    address = parse_ip(str(ip_address(packed)))
    assert address is not None, "its text was just written"
    return Hop(address, port)
