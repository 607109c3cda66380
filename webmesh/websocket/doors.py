"""What a server is told about who stands in front of it: proxies that are believed, and addresses that are not counted.

Values and their checks. What is believed of a proxy is `protocol.forwarded`; counting is `addresses`.
"""

from __future__ import annotations

from collections.abc import Iterable

from webmesh.exceptions import ConfigurationError
from webmesh.protocol.forwarded import HEADERS, TrustedProxies
from webmesh.protocol.networks import Networks, parse_ip

EXEMPT = ("127.0.0.0/8", "::1")
"""Networks whose addresses are not counted unless the program says otherwise: behind a proxy on the same machine, and
in a tunnel that ends there, all clients share one of these."""


class Doors:
    """The surroundings of one server.

    Args:
        trusted_proxies: Networks of proxies that are believed, `"unix"` for those that come by a Unix socket.
        forwarded_hops: How many of them a connection may pass.
        forwarded_header: The one header in which they tell: `x-forwarded-for` or `forwarded`.
        proxy_protocol: They begin each connection with a PROXY header instead.
        exempt_addresses: Networks for which no limit per address holds, nor `Limits.accept_rate`.

    Raises:
        ConfigurationError: One of these is malformed, or would never have an effect.
    """

    def __init__(
        self,
        trusted_proxies: Iterable[str] = (),
        *,
        forwarded_hops: int = 1,
        forwarded_header: str = HEADERS[0],
        proxy_protocol: bool = False,
        exempt_addresses: Iterable[str] = EXEMPT,
    ) -> None:
        listed = Networks("trusted_proxies", trusted_proxies)
        self.proxies = TrustedProxies(listed, hops=forwarded_hops, header=forwarded_header)
        self.exempt = Networks("exempt_addresses", exempt_addresses)
        self.proxy_protocol = proxy_protocol
        self._any_proxy = bool(listed)
        if proxy_protocol and not listed:
            raise ConfigurationError("proxy_protocol needs trusted_proxies: it is believed of nobody else")

    def trusts(self, host: str | None) -> bool:
        """Whether *host*, as a socket tells a peer's address, is a listed proxy; `None` is a Unix socket's."""
        return self._any_proxy and self.proxies.trusts(None if host is None else parse_ip(bare(host)))


def bare(host: str) -> str:
    """An address as a socket tells it, without the zone that a link-local one has."""
    return host.partition("%")[0]
