"""What a URL means, and which ones mean nothing."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from webmesh.exceptions import ConfigurationError
from webmesh.options import Limits
from webmesh.protocol.client_handshake import ClientHandshake
from webmesh.websocket.target import parse_url


@pytest.mark.parametrize(
    ("url", "host", "port", "authority", "resource"),
    [
        ("ws://shop.test", "shop.test", 4269, "shop.test:4269", "/"),
        ("ws://shop.test/", "shop.test", 4269, "shop.test:4269", "/"),
        ("ws://SHOP.test:80/a?b=c", "shop.test", 80, "shop.test", "/a?b=c"),
        ("wss://shop.test:443", "shop.test", 443, "shop.test", "/"),
        ("wss://shop.test:80", "shop.test", 80, "shop.test:80", "/"),
        ("ws://shop.test:443", "shop.test", 443, "shop.test:443", "/"),
        ("ws://10.0.0.2:1", "10.0.0.2", 1, "10.0.0.2:1", "/"),
        ("ws://[::1]:80/x", "::1", 80, "[::1]", "/x"),
        ("ws://[fe80::1%eth0]:1", "fe80::1%eth0", 1, "[fe80::1]:1", "/"),
        ("ws://[fe80::1%25eth0]:1", "fe80::1%eth0", 1, "[fe80::1]:1", "/"),
        ("ws://shop.test?token=1", "shop.test", 4269, "shop.test:4269", "/?token=1"),
        ("ws://shop.test./", "shop.test.", 4269, "shop.test.:4269", "/"),
        ("ws://b\xfccher.test/caf\xe9?q=\xfc", "xn--bcher-kva.test", 4269, "xn--bcher-kva.test:4269",
         "/caf%C3%A9?q=%C3%BC"),
        ("ws://shop.test/a%20b/%2e?c=%26", "shop.test", 4269, "shop.test:4269", "/a%20b/%2e?c=%26"),
        ("ws://my_host:1/", "my_host", 1, "my_host:1", "/"),
    ],
)  # fmt: skip
def test_tcp_urls(url, host, port, authority, resource):
    """Host, port, the Host header, and what is asked for; without a port it is WebMesh's own, 4269."""
    target = parse_url(url)

    assert (host, port, "") == (target.host, target.port, target.unix_path)
    assert (authority, resource) == (target.authority, target.resource)
    assert url.startswith("wss") == target.secure


@pytest.mark.parametrize(
    ("url", "path", "resource"),
    [
        ("ws+unix://%2Frun%2Fshop.sock", "/run/shop.sock", "/"),
        ("ws+unix://%2Frun%2Fshop.sock/echo?x=1", "/run/shop.sock", "/echo?x=1"),
        ("ws+unix:///run/shop.sock", "/run/shop.sock", "/"),
        ("ws+unix:///run/my%20shop.sock?x=1", "/run/my shop.sock", "/?x=1"),
        ("ws+unix://shop.sock/echo", "shop.sock", "/echo"),
    ],
)
def test_unix_urls(url, path, resource):
    """The escaped path as host leaves room for the request's own path; the whole path does not."""
    target = parse_url(url)

    assert (path, resource, False) == (target.unix_path, target.resource, target.secure)
    assert ("", 0, "localhost") == (target.host, target.port, target.authority)


@pytest.mark.parametrize(
    "url",
    [
        "", "shop.test", "shop.test:4269", "http://shop.test", "//shop.test", "ws:shop.test", "ws://", "ws:///path",
        "ws://:4269", "ws://shop.test:0", "ws://shop.test:70000", "ws://shop.test:x", "ws://[::1", "ws://[zz]",
        "ws://-shop.test", "ws://shop..test", "ws://" + "x" * 64, "ws://" + "x." * 130 + "x", "ws://a\u2024.test/",
        "ws://shop.test/#part", "ws://user@shop.test", "ws://user:secret@shop.test", "ws://sh\xadop..test",
        "ws+unix://", "ws+unix:///", "ws+unix://%2F", "ws+unix://a%00b", "ws://1.2.3.4%20", "ws://[v1.x]/", None,
        b"ws://x",
    ],
)  # fmt: skip
def test_what_is_no_websocket_url_is_refused(url):
    """Before anything is dialled, with one class that is a ValueError."""
    with pytest.raises(ConfigurationError):
        parse_url(url)


@pytest.mark.row(15)
@pytest.mark.parametrize("url", ["ws://shop.test/\udce1", "ws://shop.test/?\ud800", "ws+unix:///run/\udfff.sock"])
def test_lone_surrogates_are_refused(url):
    """They have no UTF-8 form, so a path or query with one could not be escaped."""
    with pytest.raises(ConfigurationError):
        parse_url(url)


@pytest.mark.parametrize("evil", ["\r\n", "\n", "\r", "\t", "\0", " ", "\x7f"])
@pytest.mark.parametrize("url", ["ws://sh{}op.test/", "ws://shop.test/a{}b", "ws://shop.test/?a{}b"])
def test_line_ends_and_the_like_are_refused_not_dropped(url, evil):
    """Python's own parser drops some of them in silence, so that the URL would mean another one."""
    with pytest.raises(ConfigurationError, match="control character"):
        parse_url(url.format(evil))


@pytest.mark.parametrize(
    "url", ["http://shop.test/?token=secret", "ws://shop.test:0/?token=secret", "ws://u:secret@shop.test"]
)
def test_no_secret_of_a_url_is_told(url):
    """Tokens travel in queries, passwords in front of hosts: an exception ends up in a log."""
    with pytest.raises(ConfigurationError) as caught:
        parse_url(url)

    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    ("url", "address"),
    [
        ("ws://shop.test/private?token=secret", "shop.test:4269"),
        ("wss://[::1]:1/private", "[::1]:1"),
        ("ws+unix:///run/shop.sock?token=secret", "unix:/run/shop.sock"),
    ],
)
def test_the_address_for_logs_has_neither_path_nor_query(url, address):
    """What is dialled, and no more."""
    assert address == parse_url(url).address


@pytest.mark.row(15)
@given(
    st.sampled_from(["ws://shop.test/", "ws://shop.test/?", "wss://", "ws+unix://%2Fa/", "ws+unix:///"]),
    st.text(max_size=40),
)
def test_whatever_is_accepted_can_be_asked_for(start, rest):
    """No URL that is accepted makes a request that cannot be written, or one with a line of its own."""
    try:
        target = parse_url(start + rest)
    except ConfigurationError:
        return

    request = ClientHandshake(host=target.authority, target=target.resource, limits=Limits()).request()

    assert 6 == request.count(b"\r\n") - 1 == len(request.split(b"\r\n")) - 2
    assert request.isascii()
