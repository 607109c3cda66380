"""Whom a proxy says that it speaks for: `X-Forwarded-For`, and `Forwarded` of RFC 7239.

Anybody can send these headers, so a hop is believed only when it was written by a peer that is listed. Each proxy
appends what it saw, so they are read from the right; what stands further left than the hops that are believed may be
the client's own invention and is not even parsed. Of the two headers one is read, never both: a proxy that writes
one lets the other through as the client sent it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from webmesh.exceptions import ConfigurationError
from webmesh.protocol.header_fields import TOKEN
from webmesh.protocol.networks import IPAddress, Networks, parse_ip

HEADERS = ("x-forwarded-for", "forwarded")
"""Headers that can be told to be the one that proxies write."""

HOPS = 16
"""Most proxies in a row."""

_PORT = re.compile(r"[0-9]{1,5}")
_PAIR = re.compile(rf"[ \t]*({TOKEN})=({TOKEN}|\"[ !#-\[\]-~]*\")[ \t]*")


@dataclass(frozen=True, slots=True)
class Hop:
    """One end of a connection, as a proxy tells it."""

    address: IPAddress
    port: int | None = None
    """`None` where the proxy does not tell; many do not."""

    def __str__(self) -> str:
        text = f"[{self.address}]" if self.address.version == 6 else str(self.address)
        return text if self.port is None else f"{text}:{self.port}"


class TrustedProxies:
    """The proxies that are believed.

    Args:
        proxies: Where they are.
        hops: How many of them a connection may pass; what is said by others beyond them is not believed.
        header: The one header that they write.

    Raises:
        ConfigurationError: *hops* or *header* is none of those that there are.
    """

    def __init__(self, proxies: Networks, *, hops: int = 1, header: str = HEADERS[0]) -> None:
        if type(hops) is not int or not 1 <= hops <= HOPS:
            raise ConfigurationError(f"forwarded_hops must be a whole number from 1 to {HOPS}, not {hops!r}")
        if not isinstance(header, str) or header.lower() not in HEADERS:
            raise ConfigurationError(f"forwarded_header must be one of {', '.join(HEADERS)}, not {header!r}")
        self._proxies = proxies
        self._hops = hops
        self._header = header.lower()

    def trusts(self, address: IPAddress | None) -> bool:
        """Whether the peer at *address* is a listed proxy; `None` is a Unix socket's."""
        return self._proxies.unix if address is None else address in self._proxies

    def client(self, peer: IPAddress | None, headers: Mapping[str, str]) -> Hop | None:
        """Who the request of *peer* comes from; `None` when that is *peer* itself, as far as anybody can tell.

        Args:
            headers: By lower-case name; a repeated one's values are joined by commas.
        """
        said = headers.get(self._header)
        if said is None:
            return None
        current, client = peer, None
        # Cut at every comma, though one may stand in a quoted text: no honest proxy writes such a one, and a quote
        # that a client leaves open must not swallow what the proxy appends.
        for element in reversed(said.rsplit(",", self._hops)[-self._hops :]):
            hop = self._parse(element) if self.trusts(current) else None
            if hop is None:
                break
            current, client = hop.address, hop
        return client

    def _parse(self, element: str) -> Hop | None:
        if self._header == "forwarded":
            return _parse_forwarded(element)
        return parse_node(element.strip(" \t"))


def parse_node(text: str) -> Hop | None:
    """`192.0.2.7`, `192.0.2.7:4269`, `2001:db8::7`, `[2001:db8::7]` or `[2001:db8::7]:4269`; `None` for all else."""
    host, port = text, ""
    if text.startswith("["):
        host, bracket, rest = text[1:].partition("]")
        if not bracket or ":" not in host or (rest and not rest.startswith(":")):
            return None
        port = rest
    elif text.count(":") == 1:
        host, _, port = text.partition(":")
        port = f":{port}"
    address = parse_ip(host)
    if address is None or (port and not _PORT.fullmatch(port[1:])):
        return None
    number = int(port[1:]) if port else None
    return None if number is not None and number > 0xFFFF else Hop(address, number)


def _parse_forwarded(element: str) -> Hop | None:
    """The `for` of one element of RFC 7239; `None` when it has none, or is malformed, unknown or hidden."""
    node: str | None = None
    for pair in element.split(";"):
        parts = _PAIR.fullmatch(pair)
        if parts is None:
            return None
        if parts[1].lower() == "for":
            if node is not None:
                return None
            node = parts[2].strip('"')
    if node is None or (":" in node and not node.startswith("[") and node.count(":") > 1):
        return None  # an IPv6 address stands in brackets there
    return parse_node(node)
