"""Addresses as text, and lists of networks."""

from __future__ import annotations

from ipaddress import IPv6Address, ip_address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from webmesh.exceptions import ConfigurationError
from webmesh.protocol.networks import Networks, parse_ip, subscriber


@pytest.mark.parametrize("text", ["192.0.2.7", "2001:db8::7", "::1", "0.0.0.0"])
def test_an_address_is_one(text: str) -> None:
    """In both families, and any of their usual spellings."""
    assert ip_address(text) == parse_ip(text)


def test_a_mapped_address_is_the_ipv4_one() -> None:
    """A socket for both families sees IPv4 peers so: they must not have two identities."""
    assert ip_address("10.0.0.2") == parse_ip("::ffff:10.0.0.2") == parse_ip("::FFFF:a00:2")


@pytest.mark.parametrize(
    "text",
    [
        "", "localhost", "unknown", "192.0.2", "192.0.2.256", "192.0.2.07", "0x7f.0.0.1", "2130706433", "192.0.2.7:80",
        "[::1]", "fe80::1%eth0", "::1 ", " ::1", "10.0.0.0/8", "١٩٢.0.2.7", "1" * 10_000, "::1\n", "1:2:3:4:5:6:7:8:9",
    ],
)  # fmt: skip
def test_what_is_no_plain_address_is_none(text: str) -> None:
    """Old spellings that others read differently, zones, ports and digits of other scripts included."""
    assert parse_ip(text) is None


@given(st.text())
def test_no_text_makes_it_raise(text: str) -> None:
    """What a peer says is an address or none."""
    parsed = parse_ip(text)
    assert parsed is None or text.isascii()


def test_a_list_holds_what_its_networks_hold() -> None:
    """Single addresses are networks of one; the families do not mix."""
    networks = Networks("x", ["10.0.0.0/8", "192.0.2.7", "2001:db8::/32"])

    inside = [parse_ip(text) in networks for text in ("10.255.0.1", "192.0.2.7", "2001:db8::1")]
    outside = [parse_ip(text) in networks for text in ("11.0.0.1", "192.0.2.8", "2001:db9::", "::a00:1")]

    assert ([True] * 3, [False] * 4, False) == (inside, outside, networks.unix)
    assert Networks("x", ["unix"]).unix and not Networks("x", [])
    assert "10.0.0.0/8" in repr(networks)


@pytest.mark.parametrize("entries", ["10.0.0.0/8", ["10.0.0.1/8"], ["proxy.example"], [b"10.0.0.1"], [7], ["UNIX"]])
def test_a_list_that_is_none_is_refused(entries: object) -> None:
    """A typing error must not open or close the door for somebody else; the text names the option."""
    with pytest.raises(ConfigurationError, match="trusted_proxies"):
        Networks("trusted_proxies", entries)  # type: ignore[arg-type]


def test_a_subscriber_has_one_ipv4_address_or_a_64() -> None:
    """Within his /64 he can be anybody."""
    first, second, other = map(ip_address, ("2001:db8::1", "2001:db8::ffff:1:2:3", "2001:db8:0:1::1"))

    assert IPv6Address("2001:db8::") == subscriber(first) == subscriber(second) != subscriber(other)
    assert ip_address("192.0.2.7") == subscriber(ip_address("192.0.2.7"))
