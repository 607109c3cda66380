"""`AllowedAddresses`: which addresses of a register are dialled at all.

Whoever can write to a register can name any address. Without an `allow` list a node dials no loopback, link-local or
otherwise special address that a register names, unless it listens at one of that kind itself; cloud machines answer
questions for their own credentials at such addresses.
"""

from __future__ import annotations

from collections.abc import Iterable
from ipaddress import IPv4Network, IPv6Network, ip_network
from typing import Final

from webmesh.exceptions import ConfigurationError
from webmesh.protocol.networks import IPAddress, Networks, parse_ip
from webmesh.websocket.target import Target, parse_url

METADATA: Final = (parse_ip("169.254.169.254"), parse_ip("fd00:ec2::254"), parse_ip("100.100.100.200"))
"""Where cloud machines ask for their own credentials: only an `allow` list leads there."""

_Network = IPv4Network | IPv6Network
_LOOPBACK: Final[tuple[_Network, ...]] = tuple(map(ip_network, ("127.0.0.0/8", "::1/128")))
_LINK_LOCAL: Final[tuple[_Network, ...]] = tuple(map(ip_network, ("169.254.0.0/16", "fe80::/10")))

LOOPBACK, LINK_LOCAL, UNIX, SPECIAL, ORDINARY = "loopback", "link-local", "unix", "special", "ordinary"


class AllowedAddresses:
    """See above.

    Args:
        allow: Networks, and perhaps `"unix"`: nothing else is dialled then, names not either.

    Raises:
        ConfigurationError: An entry of it is none.
    """

    def __init__(self, allow: Iterable[str] = ()) -> None:
        self._networks = Networks("allow", allow)
        self._own: set[str] = set()

    def listens_at(self, urls: Iterable[str]) -> None:
        """This node itself can be dialled there: others at addresses of that kind may be near."""
        self._own = {kind for kind in map(_kind_of_url, urls) if kind is not None}

    def admits(self, url: str) -> bool:
        """Whether what a register calls a node's URL may be dialled."""
        target = _target(url)
        if target is None:
            return False
        if self._networks:
            if target.unix_path:
                return self._networks.unix
            address = _ip(target)
            return address is not None and address in self._networks
        return _kind(target) in {ORDINARY, *self._own}


def _target(url: str) -> Target | None:
    try:
        return parse_url(url)
    except ConfigurationError:
        return None


def _ip(target: Target) -> IPAddress | None:
    return parse_ip(target.host.partition("%")[0])


def _kind_of_url(url: str) -> str | None:
    target = _target(url)
    return None if target is None else _kind(target)


def _kind(target: Target) -> str:
    if target.unix_path:
        return UNIX
    address = _ip(target)
    if address is None:
        return _kind_of_name(target.host)
    if address in METADATA or address.is_unspecified or address.is_multicast or str(address) == "255.255.255.255":
        return SPECIAL
    if any(address in network for network in _LOOPBACK):
        return LOOPBACK
    return LINK_LOCAL if any(address in network for network in _LINK_LOCAL) else ORDINARY


def _kind_of_name(name: str) -> str:
    last = name.removesuffix(".").rpartition(".")[2]
    if last == "localhost":
        return LOOPBACK
    # Resolvers take numbers such as 2130706433 and 0x7f.1 for addresses.
    return SPECIAL if last.isdigit() or last.startswith("0x") else ORDINARY
