"""Where a node says that it can be dialled.

Decides it from where its server listens, unless its program says it.
"""

from __future__ import annotations

from collections.abc import Sequence
from urllib.parse import urlsplit

from gevent.socket import AF_INET, AF_INET6, SOCK_DGRAM, socket

from webmesh.exceptions import ConfigurationError
from webmesh.websocket.target import local_url, parse_url

_WILDCARDS = {"0.0.0.0": (AF_INET, "192.0.2.1", "127.0.0.1"), "[::]": (AF_INET6, "2001:db8::1", "::1")}
"""Listening address → family, an address of nobody's (RFC 5737, RFC 3849), and what to fall back on."""


def checked_urls(what: str, urls: Sequence[str] | str) -> tuple[str, ...]:
    """URLs that can be dialled, each once.

    Raises:
        ConfigurationError: One cannot.
    """
    several = (urls,) if isinstance(urls, str) else tuple(urls)
    for url in several:
        try:
            parse_url(url)
        except ConfigurationError as error:
            raise ConfigurationError(f"{what}: {error}") from None
    return tuple(dict.fromkeys(several))


def own_urls(address: str, path: str, *, secure: bool) -> tuple[str, ...]:
    """URLs for a server that listens at *address*, as `upgraded` writes it, with its endpoint at *path*.

    One that listens everywhere is dialled at the address by which this machine reaches others.
    """
    host, separator, port = address.rpartition(":")
    if host in _WILDCARDS and separator:
        family, nobody, fallback = _WILDCARDS[host]
        found = _outward(family, nobody) or fallback
        address = f"[{found}]:{port}" if ":" in found else f"{found}:{port}"
    return (local_url(address, path, secure=secure),)


def at_port(url: str, port: int) -> str:
    """*url* with another port: that of a node's own, where several share a host."""
    parts = urlsplit(url)
    host = f"[{parts.hostname}]" if ":" in (parts.hostname or "") else parts.hostname
    return parts._replace(netloc=f"{host}:{port}").geturl()


def _outward(family: int, nobody: str) -> str | None:
    """The address that packets to elsewhere would leave from; none is sent."""
    with socket(family, SOCK_DGRAM) as probe:
        try:
            probe.connect((nobody, 9))
        except OSError:
            return None
        return str(probe.getsockname()[0]).partition("%")[0]
