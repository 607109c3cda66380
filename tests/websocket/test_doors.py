"""What a server is told about its surroundings, and what makes no sense there."""

from __future__ import annotations

from typing import Any

import pytest

from webmesh.exceptions import ConfigurationError
from webmesh.protocol.networks import parse_ip
from webmesh.websocket.doors import Doors


@pytest.mark.row(59)
def test_nobody_is_trusted_unless_listed() -> None:
    """By default not even this machine, nor a Unix socket's peers."""
    assert not any(Doors().trusts(host) for host in ("127.0.0.1", "::1", "10.0.0.1", None, "", "proxy"))


def test_a_listed_proxy_is_trusted_however_its_address_is_written() -> None:
    """As a socket tells it: mapped into IPv6, or with the zone of a link-local address."""
    doors = Doors(["10.0.0.0/8", "fe80::/10", "unix"])

    assert all(doors.trusts(host) for host in ("10.0.0.1", "::ffff:10.0.0.1", "fe80::1%eth0", None))
    assert not any(doors.trusts(host) for host in ("11.0.0.1", "::1"))


def test_the_loopback_is_exempt_unless_the_program_says_otherwise() -> None:
    """Behind a proxy on the same machine everybody would have that address."""
    loopback = parse_ip("127.0.0.9"), parse_ip("::1")
    assert all(address in Doors().exempt for address in loopback)
    assert not any(address in Doors(exempt_addresses=[]).exempt for address in loopback)


@pytest.mark.parametrize(
    ("options", "name"),
    [
        ({"trusted_proxies": "10.0.0.1"}, "trusted_proxies"),
        ({"trusted_proxies": ["proxy.example"]}, "trusted_proxies"),
        ({"forwarded_hops": 0}, "forwarded_hops"),
        ({"forwarded_header": "via"}, "forwarded_header"),
        ({"proxy_protocol": True}, "trusted_proxies"),
        ({"exempt_addresses": ["localhost"]}, "exempt_addresses"),
    ],
)
def test_what_makes_no_sense_is_refused(options: dict[str, Any], name: str) -> None:
    """At the start, and the text names what to mend."""
    with pytest.raises(ConfigurationError, match=name):
        Doors(**options)
