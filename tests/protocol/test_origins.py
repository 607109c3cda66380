"""Hosts and origins: who is let in, and which look-alikes are not."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from webmesh.exceptions import ConfigurationError
from webmesh.protocol.origins import checked_hosts, checked_origins, host_allowed, is_loopback_host, origin_allowed

LISTED = ["https://app.example.com", "http://dev.example.com:8080", "app://desktop", "https://[2001:db8::1]"]


@pytest.mark.row(9)
@pytest.mark.parametrize(
    ("host", "allowed"),
    [
        ("evil.example", None),
        ("evil.example", ["*"]),
        ("shop.example", ["shop.example"]),
        ("SHOP.example.", ["Shop.Example"]),
        ("shop.example:4269", ["shop.example"]),
        ("shop.example:4269", ["a.example", "shop.example:4269"]),
        ("127.0.0.1:80", ["127.0.0.1"]),
        ("[::1]:4269", ["[::1]"]),
        ("[::1]", ["[::1]"]),
        ("[::1]:4269", ["[::1]:4269"]),
    ],
)
def test_a_named_host_is_allowed(host: str, allowed: list[str] | None) -> None:
    """An entry without a port allows every port; letters' case and the DNS's final dot do not matter."""
    assert host_allowed(host, allowed)


@pytest.mark.row(9)
@pytest.mark.parametrize(
    ("host", "allowed"),
    [
        ("shop.example", []),
        ("evil.example", ["shop.example"]),
        ("shop.example.evil.net", ["shop.example"]),
        ("evilshop.example", ["shop.example"]),
        ("a.shop.example", ["shop.example"]),
        ("shop.example:81", ["shop.example:80"]),
        ("shop.example", ["shop.example:80"]),
        ("127.0.0.1", ["localhost"]),
        ("[::1]", ["[::2]", "::1"]),
    ],
)
def test_another_host_is_not_allowed(host: str, allowed: list[str]) -> None:
    """Neither the start nor the end of a name is enough, and names are not resolved."""
    assert not host_allowed(host, allowed)


@pytest.mark.row(10)
@pytest.mark.parametrize(
    ("origin", "host"),
    [
        (None, "shop.example"),
        ("http://shop.example", "shop.example"),
        ("https://shop.example", "shop.example"),
        ("http://shop.example:4269", "shop.example:4269"),
        ("http://shop.example", "shop.example:80"),
        ("https://shop.example", "shop.example:443"),
        ("https://Shop.Example", "shop.EXAMPLE"),
        ("http://127.0.0.1:4269", "127.0.0.1:4269"),
        ("http://[::1]:4269", "[::1]:4269"),
        ("https://shop.example:0443", "shop.example"),
    ],
)
@pytest.mark.parametrize("allowed", [None, [], LISTED])
def test_no_browser_and_the_same_origin_are_allowed(origin: str | None, host: str, allowed: list[str] | None) -> None:
    """Programs send no Origin, and a page that this host served names the Host in it."""
    assert origin_allowed(origin, host, allowed)


@pytest.mark.row(10)
@pytest.mark.parametrize(
    "origin",
    [
        "https://app.example.com",
        "HTTPS://App.Example.com",
        "https://app.example.com:443",
        "http://dev.example.com:8080",
        "app://desktop",
        "https://[2001:DB8::1]",
    ],
)
def test_a_listed_origin_is_allowed(origin: str) -> None:
    """A listed origin is allowed at any host; its scheme's own port may be written or not."""
    assert origin_allowed(origin, "shop.example", LISTED)


@pytest.mark.row(10)
@pytest.mark.parametrize(
    "origin",
    [
        "",
        "null",
        "https://evil.example",
        "http://app.example.com",
        "https://app.example.com:8443",
        "https://app.example.com.evil.net",
        "https://evilapp.example.com",
        "https://x.app.example.com",
        "https://app.example.com@evil.net",
        "https://evil.net/https://app.example.com",
        "https://app.example.com/",
        "https://app.example.com, https://app.example.com",
        "https://аpp.example.com",
        "http://dev.example.com",
        "http://127.0.0.1",
        "http://localhost",
        "http://[::1]",
        "app.example.com",
        "//app.example.com",
        "https://",
        "https://shop.example:81",
        "http://shop.example:80:80",
        "app://shop.example",
        "file://",
        "*",
    ],
)
@pytest.mark.parametrize("allowed", [None, [], LISTED])
def test_other_origins_are_not_allowed(origin: str, allowed: list[str] | None) -> None:
    """Foreign, `null`, malformed, look-alike and address origins are strangers unless they are listed."""
    assert not origin_allowed(origin, "shop.example", allowed)


@pytest.mark.row(10)
def test_another_port_of_the_same_host_is_another_origin() -> None:
    """A page of port 8000 is not one of port 4269, and the default port is that of the page's scheme."""
    assert not origin_allowed("http://shop.example:8000", "shop.example:4269", None)
    assert not origin_allowed("http://shop.example", "shop.example:443", None)
    assert not origin_allowed("https://shop.example", "shop.example:80", None)


@pytest.mark.row(10)
def test_null_is_allowed_where_it_is_listed() -> None:
    """`null` is sent by sandboxed pages and by files: only who lists the word wants them."""
    assert origin_allowed("null", "shop.example", ["null"])
    assert not origin_allowed("null", "null", ["https://null"])


@pytest.mark.row(10)
@given(st.one_of(st.text(max_size=30), st.just("null")))
def test_a_star_allows_every_origin(origin: str) -> None:
    """`*` is the way to say that origins do not matter here."""
    assert origin_allowed(origin, "shop.example", ["*"])


@pytest.mark.row(10)
@given(st.text(st.characters(min_codepoint=0x20, max_codepoint=0x7E), max_size=40))
def test_only_the_listed_text_passes(origin: str) -> None:
    """An arbitrary origin passes only as one of those listed."""
    passes = origin_allowed(origin, "[::1]:1", ["https://a.example"])

    assert passes == (origin.lower() in ("https://a.example", "https://a.example:443"))


@pytest.mark.row(9)
@pytest.mark.parametrize(
    "host",
    [
        "localhost", "LOCALHOST:4269", "localhost.", "shop.localhost:80", "127.0.0.1", "127.255.0.1:4269", "[::1]",
        "[::1]:4269", "[0:0:0:0:0:0:0:1]",
    ],
)  # fmt: skip
def test_the_loopback_goes_by_many_names(host: str) -> None:
    """No DNS answers for them, so no web page can make one of them its own."""
    assert is_loopback_host(host)


@pytest.mark.row(9)
@pytest.mark.parametrize(
    "host",
    [
        "evil.example", "localhost.evil.example", "evillocalhost", "127.0.0.1.evil.example", "127.0.0.1.nip.io:4269",
        "0.0.0.0", "[::]", "10.0.0.1", "127.1", "0x7f.0.0.1", "2130706433", "017700000001", "[::2]", "[fe80::1]",
        "xn--lcalhost-5bb", "",
    ],
)  # fmt: skip
def test_look_alikes_of_the_loopback_are_strangers(host: str) -> None:
    """A name that begins or ends like it, other spellings of its address, and the address of all interfaces."""
    assert not is_loopback_host(host)


@pytest.mark.row(10)
def test_a_page_without_tls_is_not_of_a_server_with_it() -> None:
    """Whoever is on the way can write such a page, and would have its users' cookies; it can be listed all the same."""
    page = "http://shop.example"

    assert not origin_allowed(page, "shop.example", None, secure=True)
    assert origin_allowed("https://shop.example", "shop.example", None, secure=True)
    assert origin_allowed(page, "shop.example", [page], secure=True)


@pytest.mark.row(10)
@pytest.mark.parametrize(
    ("origin", "allowed"),
    [
        ("https://xn--caf-dma.example", True), ("https://caf\u00e9.example", False), ("https://cafe.example", False),
        ("HTTPS://XN--CAF-DMA.EXAMPLE", True), ("https://xn--caf-dma.example.", True),
        ("https://xn--caf-dma.example:443", True), ("https://xn--caf-dma.example:444", False),
        ("https://[2001:DB8::1]", True), ("https://[2001:db8::1]:8443", False), ("https://2001:db8::1", False),
        ("https://192.0.2.7", False), ("null", False), ("", False), ("https://", False),
    ],
)  # fmt: skip
def test_names_in_other_scripts_ports_and_addresses(origin: str, allowed: bool) -> None:
    """Compared as browsers write them; letters that look alike are other letters."""
    assert allowed == origin_allowed(origin, "other.example", ["https://xn--caf-dma.example", "https://[2001:db8::1]"])


@pytest.mark.parametrize("entries", [None, (), ("*",), ("shop.example", "a.b:80", "[::1]:1", "192.0.2.7", "SHOP.a.")])
def test_a_list_of_hosts_that_can_match_is_taken(entries: tuple[str, ...] | None) -> None:
    """As it was given."""
    assert entries is checked_hosts(entries)


@pytest.mark.parametrize("entry", ["https://a.example", "a.example/", "caf\u00e9.example", "::1", "*.a.example", ""])
def test_a_host_that_matches_nothing_is_refused(entry: str) -> None:
    """Else it would be found out by the users that it locks out."""
    with pytest.raises(ConfigurationError, match="allowed_hosts"):
        checked_hosts(("shop.example", entry))


@pytest.mark.parametrize("entries", [None, (), ("*", "null"), ("https://a.example", "app://x", "http://[::1]:80")])
def test_a_list_of_origins_that_can_match_is_taken(entries: tuple[str, ...] | None) -> None:
    """As it was given."""
    assert entries is checked_origins(entries)


@pytest.mark.parametrize(
    "entry", ["a.example", "https://a.example/", "https://*.a.example", "https://caf\u00e9.example", "file://", ""]
)
def test_an_origin_that_matches_nothing_is_refused(entry: str) -> None:
    """A scheme is missing, or there is a path; browsers send neither."""
    with pytest.raises(ConfigurationError, match="allowed_origins"):
        checked_origins(("https://a.example", entry))
