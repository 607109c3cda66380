"""IP addresses as text, and lists of networks.

Pure and strict: what is no plain address is none, and nothing is resolved. An IPv4 address that is written as IPv6
(`::ffff:10.0.0.2`) is the IPv4 one: a peer is the same peer however a socket sees it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network

from webmesh.exceptions import ConfigurationError

IPAddress = IPv4Address | IPv6Address

UNIX = "unix"
"""Stands for the peers of Unix sockets in a list of networks: they have no address."""

LONGEST = 45
"""Characters of the longest text that is an address; longer ones are not even looked at."""

SUBSCRIBER = 64
"""Bits of an IPv6 address that make one subscriber: the rest is his own to choose from (RFC 6177)."""

# int() and ipaddress take digits of every script.
_PLAIN = re.compile(r"[0-9A-Fa-f.:]+")


def parse_ip(text: str) -> IPAddress | None:
    """The address that *text* is; `None` for everything else, names, ports, brackets and zones included."""
    if len(text) > LONGEST or not _PLAIN.fullmatch(text):
        return None
    try:
        return _unmapped(ip_address(text))
    except ValueError:
        return None


def subscriber(address: IPAddress) -> IPAddress:
    """What is counted as one peer: an IPv4 address, or the first of an IPv6 /64."""
    if isinstance(address, IPv4Address):
        return address
    spare = address.max_prefixlen - SUBSCRIBER
    return IPv6Address(int(address) >> spare << spare)


class Networks:
    """A list of networks, and perhaps of Unix sockets.

    Args:
        what: The option that they were given for, for the text of errors.
        entries: `"10.0.0.0/8"`, `"2001:db8::/32"`, `"192.0.2.7"`, and `"unix"`.

    Raises:
        ConfigurationError: An entry is none of these.
    """

    def __init__(self, what: str, entries: Iterable[str] = ()) -> None:
        if isinstance(entries, str | bytes):
            raise ConfigurationError(f"{what} must be a list of networks, not one text: write [{entries!r}]")
        listed = list(entries)
        self.unix = UNIX in listed
        """Whether Unix sockets are in the list."""
        self._networks = [_network(what, entry) for entry in listed if entry != UNIX]

    def __contains__(self, address: object) -> bool:
        return any(address in network for network in self._networks)

    def __bool__(self) -> bool:
        return self.unix or bool(self._networks)

    def __repr__(self) -> str:
        return f"Networks({[*map(str, self._networks), *([UNIX] if self.unix else [])]})"


def _network(what: str, entry: str) -> IPv4Network | IPv6Network:
    try:
        if not isinstance(entry, str):
            raise ValueError("it is no text")
        return ip_network(entry)
    except ValueError as error:
        raise ConfigurationError(
            f"{what} must list networks such as '10.0.0.0/8', addresses, or 'unix', not {entry!r}: {error}"
        ) from None


def _unmapped(address: IPAddress) -> IPAddress:
    if isinstance(address, IPv6Address) and address.ipv4_mapped is not None:
        return address.ipv4_mapped
    return address
