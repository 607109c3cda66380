"""`DnsDiscovery`: nodes by the addresses of a name (`dns://`), or by SRV records (`dns+srv://`), asked for anew.

The addresses of a name come from the system, as for every dial, unless a name server is given; the rest is
`dns_queries`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from urllib.parse import quote

from gevent.socket import SOCK_STREAM, gaierror, getaddrinfo

from webmesh.brokers.opening import query_options, split_url
from webmesh.discovery.base import Found
from webmesh.discovery.polling import PolledDiscovery
from webmesh.discovery.urls import networks_text, node_url, yes_or_no
from webmesh.exceptions import ConfigurationError, RegistryUnavailable
from webmesh.options import DEFAULT_PORT, Backoff

Addresses = Callable[[str], list[str]]
"""The addresses of a name, in a stable order; `RegistryUnavailable` if there are none."""

Services = Callable[[str], list[tuple[str, int]]]
"""The targets of a name's SRV records: name and port, the best first."""


class DnsDiscovery(PolledDiscovery):
    """See above.

    Args:
        name: What is asked for.
        port: Of all nodes; `None` for SRV records, which tell.
        tls: Dial `wss://`; for SRV by the target's name, which its certificate is checked for.
        path: The mount of the nodes.
        interval: Seconds between two questions; Kubernetes' own answers are 5 to 30 s old.
        addresses, services: Who answers the questions.
    """

    def __init__(
        self, name: str, port: int | None, *, tls: bool = False, path: str = "", interval: float = 30.0,
        timeout: float = 10.0, allow: Iterable[str] = (), backoff: Backoff | None = None,
        addresses: Addresses | None = None, services: Services | None = None,
    ) -> None:  # fmt: skip
        super().__init__(f"DNS for {name}", interval=interval, timeout=timeout, allow=allow, backoff=backoff)
        self._name, self._port = name, port
        self._tls, self._path = tls, path
        self._addresses = addresses or system_addresses
        self._services = services

    def look(self) -> list[Found]:
        """See `PolledDiscovery.look`."""
        if self._services is None:
            return [self._at(address, self._port) for address in self._addresses(self._name)]
        found = []
        for target, port in self._services(self._name):
            try:
                entries = [self._at(address, port) for address in self._addresses(target)]
            except RegistryUnavailable:
                continue  # a pod that has just gone; the others are there
            if self._tls:
                # Checked here by its addresses, dialled by its name.
                entries = [self._at(target, port)] * any(self._allowed.admits(e.urls[0]) for e in entries)
            found += entries
        return found

    def _at(self, host: str, port: int | None) -> Found:
        return Found((node_url(host, port=port, path=self._path, tls=self._tls),))


def system_addresses(name: str) -> list[str]:
    """What this machine's resolver says.

    Raises:
        RegistryUnavailable: Nothing.
    """
    try:
        found = getaddrinfo(name, None, 0, SOCK_STREAM)
    except (gaierror, UnicodeError) as error:
        raise RegistryUnavailable(f"{name}: {error}") from error
    return sorted({str(entry[4][0]) for entry in found})


def open_dns(url: str, *, allow: Iterable[str] = ()) -> DnsDiscovery:
    """What `dns://name:port` or `dns+srv://name` means; options: interval, timeout, tls, path, server, allow.

    Raises:
        ConfigurationError: It is malformed, or needs dnspython, which is not installed.
    """
    parts = split_url(url)
    options = query_options(parts.query, {
        "interval": float, "timeout": float, "tls": yes_or_no, "path": str, "server": str, "allow": networks_text,
    })  # fmt: skip
    srv = parts.scheme.lower() == "dns+srv"
    name, colon, port = parts.netloc.rpartition(":")
    if not colon or srv:
        name, port = parts.netloc, str(DEFAULT_PORT)
    if not name or ":" in name or "@" in name or "," in name or parts.path.strip("/"):
        raise ConfigurationError("DNS names are written dns://name:port or dns+srv://_service._tcp.name")
    if not (port.isascii() and port.isdigit() and 0 < int(port) < 65536):
        raise ConfigurationError("the port of dns:// is a number from 1 to 65535")
    server = options.pop("server", None)
    options["path"] = quote(options.pop("path", ""))
    options.setdefault("allow", allow)
    if server is None and not srv:
        return DnsDiscovery(name, int(port), **options)
    from webmesh.discovery.dns_queries import NameServers

    asked = NameServers(server, timeout=options.get("timeout", 10.0) / 2)
    services = asked.services if srv else None
    return DnsDiscovery(name, None if srv else int(port), addresses=asked.addresses, services=services, **options)
