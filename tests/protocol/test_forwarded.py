"""Whom proxies speak for, and who is not believed."""

from __future__ import annotations

from ipaddress import ip_address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from webmesh.exceptions import ConfigurationError
from webmesh.protocol.forwarded import TrustedProxies, parse_node
from webmesh.protocol.networks import Networks, parse_ip

PROXY = "10.0.0.1"


def client(said: str | None, *, peer: str | None = PROXY, hops: int = 1, header: str = "x-forwarded-for") -> str | None:
    proxies = TrustedProxies(Networks("x", ["10.0.0.0/8", "fd00::/8", "unix"]), hops=hops, header=header)
    hop = proxies.client(None if peer is None else parse_ip(peer), {} if said is None else {header: said})
    return None if hop is None else str(hop)


@pytest.mark.row(59)
@pytest.mark.parametrize(
    ("said", "expected"),
    [
        ("192.0.2.7", "192.0.2.7"),
        ("192.0.2.7:81", "192.0.2.7:81"),
        ("2001:db8::7", "[2001:db8::7]"),
        ("[2001:db8::7]", "[2001:db8::7]"),
        ("[2001:db8::7]:81", "[2001:db8::7]:81"),
        ("::ffff:192.0.2.7", "192.0.2.7"),
        ("203.0.113.9, 192.0.2.7", "192.0.2.7"),
        ('", <script>,,unknown ,\t192.0.2.7 ', "192.0.2.7"),
    ],
)
def test_a_proxy_is_believed_about_its_own_client(said: str, expected: str) -> None:
    """The last entry is what the proxy saw; those before it are what the client says of itself."""
    assert expected == client(said)


@pytest.mark.row(59)
@pytest.mark.parametrize("peer", ["192.0.2.1", "11.0.0.1", "2001:db8::1"])
def test_a_stranger_is_not_believed(peer: str) -> None:
    """Whoever connects directly is who it is, whatever it says."""
    assert client("203.0.113.9", peer=peer) is None


def test_a_proxy_that_comes_by_a_unix_socket_is_believed_where_that_is_listed() -> None:
    """It has no address; who may use the socket decides who it is."""
    assert "192.0.2.7" == client("192.0.2.7", peer=None)
    assert TrustedProxies(Networks("x", [PROXY])).client(None, {"x-forwarded-for": "192.0.2.7"}) is None


@pytest.mark.row(59)
@pytest.mark.parametrize(
    "said",
    [
        None, "", ",", "unknown", "_hidden", "localhost", "192.0.2.7,", "192.0.2.7:", "192.0.2.7:65536", "192.0.2.7:x",
        "[192.0.2.7]", "[2001:db8::7", "2001:db8::7]", "[2001:db8::7]81", "[]:81", "192.0.2.7 203.0.113.9",
        "192.0.2.07", "fe80::1%eth0", '"192.0.2.7"', "for=192.0.2.7",
    ],
)  # fmt: skip
def test_what_is_no_address_is_nobody(said: str | None) -> None:
    """Then the proxy itself is the last that can be trusted."""
    assert client(said) is None


@pytest.mark.row(59)
def test_as_many_hops_are_believed_as_there_are() -> None:
    """Further ones are believed only when the one before was written by a listed proxy."""
    said = "203.0.113.9, 192.0.2.7, 10.0.0.3, 10.0.0.2"

    assert ["10.0.0.2", "10.0.0.3", "192.0.2.7", "192.0.2.7", "192.0.2.7"] == [
        client(said, hops=hops) for hops in (1, 2, 3, 4, 16)
    ]
    assert "10.0.0.2" == client("garbage, 10.0.0.2", hops=2)
    assert "10.0.0.2" == client("10.0.0.2", hops=3)


@pytest.mark.row(59)
@pytest.mark.parametrize(
    ("said", "expected"),
    [
        ("for=192.0.2.7", "192.0.2.7"),
        ("For=192.0.2.7;proto=https;by=10.0.0.1", "192.0.2.7"),
        ('proto=https ; for="192.0.2.7:81"', "192.0.2.7:81"),
        ('for="[2001:db8::7]:81"', "[2001:db8::7]:81"),
        ('for="[2001:db8::7]"', "[2001:db8::7]"),
        ("for=203.0.113.9, for=192.0.2.7", "192.0.2.7"),
        ('for="203.0.113.9, for=192.0.2.7', "192.0.2.7"),
        ('for=192.0.2.7;host="a;b"', None),
        ("for=unknown", None),
        ("for=_secret", None),
        ('for="_gazonk"', None),
        ("proto=https", None),
        ("for=192.0.2.7;for=192.0.2.8", None),
        ("for=192.0.2.7;;", None),
        ("for = 192.0.2.7", None),
        ('for="2001:db8::7"', None),
        ("192.0.2.7", None),
        ('for="192.0.2.7', None),
        ("for=", None),
    ],
)
def test_the_header_of_rfc_7239(said: str, expected: str | None) -> None:
    """Strictly written; and a quote that a client leaves open does not swallow what the proxy appends."""
    assert expected == client(said, header="forwarded")


@pytest.mark.row(59)
def test_the_other_header_is_not_read() -> None:
    """A proxy that writes one of them lets the other through as the client sent it."""
    proxies = TrustedProxies(Networks("x", [PROXY]), header="Forwarded")
    assert proxies.client(parse_ip(PROXY), {"x-forwarded-for": "192.0.2.7"}) is None


@pytest.mark.parametrize(
    "wrong", [{"hops": 0}, {"hops": 17}, {"hops": True}, {"hops": 1.0}, {"header": "via"}, {"header": None}]
)
def test_what_makes_no_sense_is_refused(wrong: dict[str, object]) -> None:
    """At the start, with the option's name."""
    with pytest.raises(ConfigurationError, match="forwarded_"):
        TrustedProxies(Networks("x", [PROXY]), **wrong)  # type: ignore[arg-type]


@given(st.text(), st.sampled_from(["x-forwarded-for", "forwarded"]), st.integers(1, 16))
def test_no_header_makes_it_raise(said: str, header: str, hops: int) -> None:
    """Whatever a proxy passes on, there is a client or none."""
    client(said, header=header, hops=hops)


@pytest.mark.row(59)
@given(st.text(), st.sampled_from(["x-forwarded-for", "forwarded"]))
def test_nothing_that_the_client_sends_changes_what_the_proxy_appends(said: str, header: str) -> None:
    """The proxy's own entry is the last, after a comma."""
    appended = "192.0.2.7" if header == "x-forwarded-for" else "for=192.0.2.7"
    assert "192.0.2.7" == client(f"{said}, {appended}", header=header)


@given(st.ip_addresses(), st.none() | st.integers(0, 65535))
def test_what_is_written_is_read(address: object, port: int | None) -> None:
    """Any address, with a port or without, in brackets where it has colons."""
    text = f"[{address}]" if ":" in str(address) else str(address)
    hop = parse_node(text if port is None else f"{text}:{port}")

    assert hop is not None
    assert (parse_ip(str(address)), port) == (hop.address, hop.port)
    assert hop == parse_node(str(hop))
    assert ip_address(str(hop.address)) == hop.address
