"""Where a node says that it can be dialled."""

from __future__ import annotations

import ipaddress

import pytest

from webmesh.advertising import at_port, checked_urls, own_urls
from webmesh.exceptions import ConfigurationError
from webmesh.websocket.target import parse_url


@pytest.mark.parametrize(
    "address, path, secure, url",
    [
        ("127.0.0.1:4269", "/", False, "ws://127.0.0.1:4269"),
        ("10.1.2.3:443", "/mesh", True, "wss://10.1.2.3:443/mesh"),
        ("[::1]:80", "/", False, "ws://[::1]:80"),
        ("unix:/run/shop.sock", "/", False, "ws+unix://%2Frun%2Fshop.sock"),
    ],
)
def test_a_server_is_dialled_where_it_listens(address: str, path: str, secure: bool, url: str) -> None:
    """With its scheme and the path of its endpoint."""
    assert (url,) == own_urls(address, path, secure=secure)


@pytest.mark.parametrize("address", ["0.0.0.0:4269", "[::]:4269"])
def test_one_that_listens_everywhere_is_dialled_at_this_machine_s_own_address(address: str) -> None:
    """A wildcard is nothing that others could dial."""
    (url,) = own_urls(address, "/", secure=False)
    target = parse_url(url)
    assert 4269 == target.port and not ipaddress.ip_address(target.host).is_unspecified


def test_wrong_urls_are_told_with_what_they_are_for() -> None:
    """Before anything is dialled; each good one is taken once."""
    assert ("ws://a:1", "wss://b") == checked_urls("peers", ["ws://a:1", "wss://b", "ws://a:1"])
    assert ("ws://a:1",) == checked_urls("peers", "ws://a:1")
    with pytest.raises(ConfigurationError, match="peers: .*http"):
        checked_urls("peers", ["http://a"])


@pytest.mark.parametrize(
    "url, moved",
    [
        ("ws://stock.internal:4269", "ws://stock.internal:5000"), ("wss://stock/mesh?a=1", "wss://stock:5000/mesh?a=1"),
        ("ws://[fd00::1]:4269/x", "ws://[fd00::1]:5000/x"),
    ],
)  # fmt: skip
def test_a_node_with_a_port_of_its_own_keeps_the_rest_of_its_url(url: str, moved: str) -> None:
    """As a worker, beside the port that it shares."""
    assert moved == at_port(url, 5000)
