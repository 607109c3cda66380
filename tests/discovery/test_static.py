"""Lists of nodes."""

from __future__ import annotations

import pytest

from tests.discovery.finding import Running
from webmesh.discovery.static import StaticDiscovery, open_static
from webmesh.exceptions import ConfigurationError


@pytest.mark.parametrize(("url", "expected"), [
    ("ws://10.0.0.1:4269", ["ws://10.0.0.1:4269"]),
    ("wss://shop.example/mesh", ["wss://shop.example/mesh"]),
    ("ws+unix:///run/shop.sock", ["ws+unix:///run/shop.sock"]),
    ("static://a:1,b:2,a:1", ["ws://a:1", "ws://b:2"]),
    ("static://[::1]:1,127.0.0.1?tls=1&path=/mesh", ["wss://[::1]:1/mesh", "wss://127.0.0.1/mesh"]),
    ("static://10.0.0.1,192.0.2.1?allow=10.0.0.0/8", ["ws://10.0.0.1"]),
])  # fmt: skip
def test_what_is_listed_is_told_at_once(url: str, expected: list[str]) -> None:
    """The program's own list is believed, loopback included, unless it says `allow`."""
    with Running(open_static(url)) as told:
        assert (1, expected) == (told.times, told.urls)


def test_what_is_not_allowed_is_counted() -> None:
    """As in every source."""
    assert 1 == StaticDiscovery(["ws://10.0.0.1", "ws://192.0.2.1"], allow=["10.0.0.0/8"]).dropped


@pytest.mark.parametrize("url", [
    "static://", "static:a", "static://a/b", "static://a,,b", "static://a?tls=perhaps", "static://a?colour=1", "ws://",
    "static://a:x",
])  # fmt: skip
def test_a_malformed_list_is_refused(url: str) -> None:
    """At once."""
    with pytest.raises(ConfigurationError):
        open_static(url)


def test_an_empty_list_is_refused() -> None:
    """It would find nobody, ever."""
    with pytest.raises(ConfigurationError):
        StaticDiscovery([])
