"""`StaticDiscovery`: a list of addresses that does not change: `ws://…`, `static://host:port,host:port`."""

from __future__ import annotations

from collections.abc import Iterable
from urllib.parse import quote

from webmesh.brokers.opening import query_options, split_url
from webmesh.discovery.allowed import AllowedAddresses
from webmesh.discovery.base import Discovery, Found, Told
from webmesh.discovery.urls import networks_text, node_url, yes_or_no
from webmesh.exceptions import ConfigurationError
from webmesh.websocket.target import parse_url


class StaticDiscovery(Discovery):
    """Addresses that the program itself has listed: each is dialled, unless an `allow` list leaves it out.

    Raises:
        ConfigurationError: One is no URL, or there is none.
    """

    def __init__(self, urls: Iterable[str], *, allow: Iterable[str] = ()) -> None:
        listed = list(dict.fromkeys(urls))
        allow = list(allow)
        allowed = AllowedAddresses(allow)
        for url in listed:
            parse_url(url)
        if not listed:
            raise ConfigurationError("the list of nodes is empty")
        self._found = [Found((url,)) for url in listed if not allow or allowed.admits(url)]
        self.dropped = len(listed) - len(self._found)

    def start(self, found: Told) -> None:
        """See `Discovery.start`; told at once."""
        found(list(self._found))

    def stop(self) -> None:
        """See `Discovery.stop`."""


def open_static(url: str, *, allow: Iterable[str] = ()) -> StaticDiscovery:
    """What a URL of a node, or `static://host:port,host:port?tls=&path=&allow=`, means.

    Raises:
        ConfigurationError: It is malformed.
    """
    if not url.lower().startswith("static:"):
        return StaticDiscovery([url], allow=allow)
    parts = split_url(url)
    options = query_options(parts.query, {"tls": yes_or_no, "path": str, "allow": networks_text})
    if parts.path.strip("/") or not parts.netloc:
        raise ConfigurationError("a list of nodes is written static://host:port,host:port")
    tls, path = options.get("tls", False), quote(options.get("path", ""))
    urls = [node_url(host, path=path, tls=tls) for host in parts.netloc.split(",")]
    return StaticDiscovery(urls, allow=options.get("allow", allow))
