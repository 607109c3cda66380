"""Which Host and which Origin may upgrade.

Pure comparisons: no names are resolved and nothing is matched by its end, so a look-alike
(`https://example.com.evil.net`) is a stranger. Who decides with them is the server.
"""

from __future__ import annotations

import re
from collections.abc import Collection

from webmesh.exceptions import ConfigurationError
from webmesh.protocol.networks import IPAddress, parse_ip

HOST = r"(?:[A-Za-z0-9._~-]+|\[[0-9A-Fa-f:.]+\])(?::[0-9]{1,5})?"
"""Pattern of a Host header that is accepted: a name, an IPv4 or a bracketed IPv6 address, and perhaps a port."""

_ORIGIN = re.compile(rf"([A-Za-z][A-Za-z0-9+.-]*)://({HOST})")
_HOST = re.compile(HOST)
_DEFAULT_PORTS = {"http": "80", "https": "443"}


def checked_hosts(entries: tuple[str, ...] | None) -> tuple[str, ...] | None:
    """*entries* for `host_allowed`, once each of them can be equal to a Host header.

    Raises:
        ConfigurationError: One cannot, as an address of a page or a name in another script than browsers send it in.
    """
    for entry in entries or ():
        if entry != "*" and not _HOST.fullmatch(entry):
            raise ConfigurationError(
                "allowed_hosts must list names as 'shop.example', 'shop.example:8443' or '[2001:db8::1]',"
                f" not {entry!r}"
            )
    return entries


def checked_origins(entries: tuple[str, ...] | None) -> tuple[str, ...] | None:
    """*entries* for `origin_allowed`, once each of them can be equal to an Origin header.

    Raises:
        ConfigurationError: One cannot, as a name without its scheme, or with a path behind it.
    """
    for entry in entries or ():
        if entry not in ("*", "null") and _parse_origin(entry) is None:
            raise ConfigurationError(
                f"allowed_origins must list scheme and host as browsers write them, 'https://shop.example' or"
                f" 'http://localhost:8000', not {entry!r}"
            )
    return entries


def host_allowed(host: str, allowed: Collection[str] | None) -> bool:
    """Whether a Host header names this server.

    Without a list any web page can reach a server on the loopback or an internal address by pointing a
    name of its own at it (DNS rebinding), and then its Origin equals the Host.

    Args:
        allowed: Names or addresses, each with any port unless it names one; `"*"` and `None` allow all.
    """
    if allowed is None or "*" in allowed:
        return True
    name, port = _split_port(host.lower())
    for entry in allowed:
        allowed_name, allowed_port = _split_port(entry.lower())
        if name == allowed_name and allowed_port in ("", port):
            return True
    return False


def is_address_host(host: str) -> bool:
    """Whether a Host header is an address: no page of another's can come by one (DNS rebinding needs a name)."""
    return _host_address(host) is not None


def is_loopback_host(host: str) -> bool:
    """Whether a Host header names the machine itself: by a name that no DNS answers, or a loopback address."""
    name, _ = _split_port(host.lower())
    if name in ("localhost", "127.0.0.1") or name.endswith(".localhost"):  # RFC 6761 section 6.3
        return True
    address = _host_address(name)
    return address is not None and address.is_loopback


def _host_address(host: str) -> IPAddress | None:
    return parse_ip(_split_port(host)[0].removeprefix("[").removesuffix("]"))


def origin_allowed(
    origin: str | None, host: str, allowed: Collection[str] | None, *, secure: bool = False
) -> bool:
    """Whether a page of *origin* may open a WebSocket here; browsers alone leave that to the server.

    A missing Origin is allowed, as it is no browser's; so is the origin that the Host header names.

    Args:
        allowed: Origins as browsers write them, `https://app.example.com:8443`: scheme, host and port must all be
            equal. `"null"` allows that word, `"*"` everything; `None` adds nothing.
        secure: The server speaks TLS itself: a page that came without it, and so from anybody on the way, is not its
            own though it has the same host.
    """
    if origin is None:
        return True
    listed = allowed or ()
    if "*" in listed:
        return True
    if origin == "null":
        return "null" in listed
    parsed = _parse_origin(origin)
    if parsed is None:
        return False
    scheme, name, port = parsed
    host_name, host_port = _split_port(host.lower())
    own = ("https",) if secure else _DEFAULT_PORTS
    if scheme in own and name == host_name and port == (host_port or _DEFAULT_PORTS[scheme]):
        return True
    return any(parsed == _parse_origin(entry) for entry in listed)


def _parse_origin(origin: str) -> tuple[str, str, str] | None:
    """Scheme, host and port, in lower case and with the scheme's own port filled in; `None` if malformed."""
    parts = _ORIGIN.fullmatch(origin)
    if not parts:
        return None
    scheme = parts[1].lower()
    name, port = _split_port(parts[2].lower())
    return scheme, name, port or _DEFAULT_PORTS.get(scheme, "")


def _split_port(host: str) -> tuple[str, str]:
    """Name and port of `name[:port]`; the port is empty when there is none."""
    name, colon, port = host.rpartition(":")
    if not colon or port.endswith("]"):
        name, port = host, ""
    # 'example.com.' is the same name in the DNS.
    return name.removesuffix("."), port.lstrip("0") or port
