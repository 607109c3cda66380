"""URLs of WebSocket servers: what they may be, and what has to be dialled for them.

Pure. Three schemes:

- `ws://host[:port][/path][?query]`, and `wss://…` with TLS. Without a port: 4269.
- `ws+unix://%2Frun%2Fshop.sock[/path][?query]`: the host is the escaped path of a Unix socket.
- `ws+unix:///run/shop.sock[?query]`: the whole path is the socket's, the request's path is `/`.

Dialling is `dialer`.
"""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass
from urllib.parse import SplitResult, quote, unquote, urlsplit

from webmesh.exceptions import ConfigurationError
from webmesh.options import DEFAULT_PORT

_STANDARD_PORTS = {"ws": 80, "wss": 443}  # RFC 6455 section 3: what a Host header leaves out
_UNIX = "ws+unix"
_NOT_ESCAPED = "/?:@!$&'()*+,;=-._~%"  # what RFC 3986 lets stand in a path or query
_LABEL = re.compile(r"(?!-)[a-z0-9_-]{1,63}(?<!-)")


@dataclass(frozen=True, slots=True)
class Target:
    """What a URL means."""

    host: str
    """Name (ASCII, lower case) or IP address without brackets; empty for a Unix socket."""
    port: int
    """0 for a Unix socket."""
    unix_path: str
    """Empty for TCP."""
    secure: bool
    """Whether TLS is spoken."""
    authority: str
    """For the Host header."""
    resource: str
    """Path and query as they are sent."""

    @property
    def address(self) -> str:
        """What is dialled, for people and logs: no path and no query, which may hold secrets."""
        if self.unix_path:
            return f"unix:{self.unix_path}"
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def parse_url(url: str) -> Target:
    """What *url* means.

    Raises:
        ConfigurationError: It is no URL of the three schemes. The text does not repeat its query.
    """
    shown = url.split("?", 1)[0] if isinstance(url, str) else url
    if not isinstance(url, str) or not url or not all("!" <= character != "\x7f" for character in url):
        # urlsplit would drop line ends in silence, and the rest would mean something else.
        raise ConfigurationError(f"URL {shown!r} has a space or a control character in it")
    if any("\ud800" <= character <= "\udfff" for character in url):
        raise ConfigurationError(f"URL {shown!r} has a lone surrogate, which cannot be sent")
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as error:
        raise ConfigurationError(f"URL {shown!r} is malformed: {error}") from error
    if parts.scheme not in (*_STANDARD_PORTS, _UNIX):
        raise ConfigurationError(f"URL {shown!r} must begin with ws://, wss:// or ws+unix://")
    if "#" in url:
        raise ConfigurationError(f"URL {shown!r} has a fragment, which WebSocket URLs cannot have")
    if "@" in parts.netloc:
        raise ConfigurationError("the URL has a user or password in it: give credentials in headers")
    return _unix_target(parts, shown) if parts.scheme == _UNIX else _tcp_target(parts, port, shown)


def _tcp_target(parts: SplitResult, port: int | None, shown: str) -> Target:
    host = parts.hostname or ""
    host = _checked_ipv6(host, shown) if "[" in parts.netloc else _checked_name(host, shown)
    if port == 0:
        raise ConfigurationError(f"URL {shown!r} has port 0, which cannot be dialled")
    port = DEFAULT_PORT if port is None else port
    authority = f"[{host.partition('%')[0]}]" if ":" in host else host  # a zone means nothing to the peer
    if port != _STANDARD_PORTS[parts.scheme]:
        authority = f"{authority}:{port}"
    return Target(host, port, "", parts.scheme == "wss", authority, _resource(parts.path, parts.query))


def _unix_target(parts: SplitResult, shown: str) -> Target:
    path, resource = (unquote(parts.netloc), parts.path) if parts.netloc else (unquote(parts.path), "/")
    if not path.strip("/") or "\0" in path:
        raise ConfigurationError(
            f"URL {shown!r} names no Unix socket: write ws+unix:///run/x.sock or ws+unix://%2Frun%2Fx.sock/path"
        )
    return Target("", 0, path, False, "localhost", _resource(resource, parts.query))


def _checked_ipv6(host: str, shown: str) -> str:
    host = host.replace("%25", "%")  # RFC 6874: a zone's % is escaped in a URL; people write it either way
    try:
        ipaddress.IPv6Address(host)
    except ValueError as error:
        raise ConfigurationError(f"URL {shown!r} has no valid IPv6 address: {error}") from error
    return host


def _checked_name(host: str, shown: str) -> str:
    try:
        name = host.lower() if host.isascii() else host.encode("idna").decode("ascii").lower()
    except UnicodeError as error:
        raise ConfigurationError(f"URL {shown!r} has no valid host name: {error}") from error
    labels = name.removesuffix(".").split(".")
    if len(name) > 253 or not all(map(_LABEL.fullmatch, labels)):
        raise ConfigurationError(f"URL {shown!r} has no valid host name")
    return name


def _resource(path: str, query: str) -> str:
    resource = quote(path or "/", safe=_NOT_ESCAPED)
    return f"{resource}?{quote(query, safe=_NOT_ESCAPED)}" if query else resource


def local_url(address: str, path: str, *, secure: bool) -> str:
    """What a client on the same machine dials for a server that listens at *address*, as `upgraded` writes it."""
    path = "" if path == "/" else quote(path)
    if address.startswith("unix:"):
        return f"{_UNIX}://{quote(address.removeprefix('unix:'), safe='')}{path}"
    host, _, port = address.rpartition(":")
    host = {"0.0.0.0": "127.0.0.1", "[::]": "[::1]"}.get(host, host)
    return f"{'wss' if secure else 'ws'}://{host}:{port}{path}"
