"""Options in URLs, and URLs of nodes."""

from __future__ import annotations

import pytest

from webmesh.discovery.urls import networks_text, node_url, yes_or_no


def test_yes_and_no() -> None:
    """Any of the usual words."""
    assert [True] * 3 + [False] * 3 == list(map(yes_or_no, ["1", "true", "yes", "0", "false", "no"]))
    with pytest.raises(ValueError, match="1 or 0"):
        yes_or_no("perhaps")


def test_a_list_of_networks() -> None:
    """With commas."""
    assert ["10.0.0.0/8", "unix"] == networks_text("10.0.0.0/8, unix,")


@pytest.mark.parametrize(("expected", "host", "options"), [
    ("ws://a:1", "a:1", {}), ("ws://a:1", "a", {"port": 1}),
    ("wss://[::1]:1/m", "::1", {"port": 1, "tls": True, "path": "m"}),
    ("ws://a/m", "a", {"path": "/m"}),
])  # fmt: skip
def test_a_node_s_url(expected: str, host: str, options: dict[str, object]) -> None:
    """An IPv6 address gets its brackets, a path its slash."""
    assert expected == node_url(host, **options)  # type: ignore[arg-type]
