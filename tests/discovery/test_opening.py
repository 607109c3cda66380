"""Which discovery a URL names."""

from __future__ import annotations

import pytest

from webmesh.discovery import opening
from webmesh.discovery.opening import OPENERS, open_discovery
from webmesh.discovery.static import StaticDiscovery
from webmesh.exceptions import ConfigurationError


@pytest.mark.parametrize(("url", "expected"), [
    ("ws://a:1", "StaticDiscovery"), ("static://a:1,b:2", "StaticDiscovery"), ("dns://shop:4269", "DnsDiscovery"),
    ("DNS://shop", "DnsDiscovery"),
])  # fmt: skip
def test_a_url_names_a_discovery(url: str, expected: str) -> None:
    """By its scheme."""
    assert open_discovery(url).__class__.__name__ == expected


@pytest.mark.parametrize(("url", "expected"), [
    ("dns+srv://_webmesh._tcp.example.com", "DnsDiscovery"), ("redis://localhost?prefix=shop", "RedisDiscovery"),
])  # fmt: skip
def test_some_need_a_package(url: str, expected: str) -> None:
    """Which is imported when they are asked for."""
    pytest.importorskip("dns" if url.startswith("dns") else "redis")
    assert open_discovery(url).__class__.__name__ == expected


@pytest.mark.parametrize("url", ["consul://x", "shop", "", "://", None])
def test_an_unknown_scheme_is_refused_by_name(url: str) -> None:
    """With those that there are, and without the URL, which may hold a password."""
    with pytest.raises(ConfigurationError, match="dns\\+srv://.*redis://.*static://"):
        open_discovery(url)


def test_an_unknown_option_is_refused() -> None:
    """Before anything is opened."""
    with pytest.raises(ConfigurationError, match="static"):
        open_discovery("static://a", colour="blue")


def test_a_source_of_one_s_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """It enters itself into the table."""
    monkeypatch.setitem(opening.OPENERS, "mine", lambda url: StaticDiscovery([url.replace("mine", "ws")]))

    assert isinstance(open_discovery("mine://a"), StaticDiscovery)


def test_every_scheme_is_documented() -> None:
    """docs/DISCOVERY.md names all."""
    from pathlib import Path

    page = (Path(__file__).parents[2] / "docs" / "DISCOVERY.md").read_text(encoding="utf-8")
    assert [] == [scheme for scheme in OPENERS if f"{scheme}://" not in page]
