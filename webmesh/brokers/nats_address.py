"""The URL of NATS servers: where they are, who we are to them, and what stands in its query.

Pure. A password leaves this module in `Address.credentials` only, which no `repr` shows.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from urllib.parse import unquote, urlsplit

from webmesh.exceptions import ConfigurationError

PORT = 4222
SCHEMES = ("nats", "tls")


@dataclass(frozen=True)
class Address:
    """Servers of one cluster.

    Attributes:
        servers: URLs without credentials; never none.
        credentials: What `nats.connect` calls them: `user` and `password`, or `token`, or nothing.
        tls: Whether a server that offers no TLS is refused.
        query: What came after `?`.
    """

    servers: tuple[str, ...]
    credentials: Mapping[str, str] = field(repr=False)
    tls: bool
    query: str

    def __str__(self) -> str:
        return ",".join(self.servers)


def read_address(url: str) -> Address:
    """`nats://user:password@host:4222,host2:4222?option=value`; `tls://` demands TLS.

    One part before an `@` without a colon is a token. What stands for itself in a URL is percent-encoded.

    Raises:
        ConfigurationError: It is no such URL. The text shows none of what may be a password.
    """
    places, _, query = url.partition("?")
    scheme = places.partition("://")[0].lower()
    if scheme not in SCHEMES:
        raise ConfigurationError("the URL of NATS servers begins with nats:// or tls://")
    servers, found = [], []
    for number, place in enumerate(places.split(",")):
        named, divider, rest = place.partition("://")
        if divider and named.lower() != scheme:
            raise ConfigurationError(f"all servers of one URL are reached by {scheme}://")
        who, at, where = (rest if divider else place).rpartition("@")
        servers.append(_server(scheme, where.rstrip("/"), number))
        if at:
            found.append(_credentials(who))
    if any(credentials != found[0] for credentials in found):
        raise ConfigurationError("all NATS servers of one URL take the same user and password")
    return Address(tuple(servers), found[0] if found else {}, scheme == "tls", query)


def _server(scheme: str, where: str, number: int) -> str:
    try:
        parts = urlsplit(f"{scheme}://{where}")
        host, port = parts.hostname, parts.port or PORT
    except ValueError:
        host, port, parts = None, PORT, urlsplit("")
    if not host or parts.path or parts.fragment:
        raise ConfigurationError(f"NATS server {number + 1} of the URL is no host:port")
    return f"{scheme}://[{host}]:{port}" if ":" in host else f"{scheme}://{host}:{port}"


def _credentials(who: str) -> dict[str, str]:
    user, colon, password = who.partition(":")
    if colon:
        return {"user": unquote(user), "password": unquote(password)}
    return {"token": unquote(user)}
