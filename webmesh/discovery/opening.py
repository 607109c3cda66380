"""Which discovery a URL names. A source is imported when a URL asks for it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from webmesh.discovery.base import Discovery
from webmesh.url_openers import open_url

Opener = Callable[..., Discovery]

OPENERS: dict[str, str | Opener] = {
    **dict.fromkeys(("ws", "wss", "ws+unix", "static"), "webmesh.discovery.static:open_static"),
    "file": "webmesh.discovery.folder:open_folder",
    **dict.fromkeys(("dns", "dns+srv"), "webmesh.discovery.dns:open_dns"),
    **dict.fromkeys(
        ("redis", "rediss", "unix", "redis+sentinel", "rediss+sentinel", "redis+cluster", "rediss+cluster"),
        "webmesh.discovery.redis:RedisDiscovery",
    ),
}
"""URL scheme → what makes its discovery: a function of the URL and of keyword options, or its place, `module:function`.

A source of your own enters itself here before its URL is used."""


def open_discovery(url: str, **options: Any) -> Discovery:
    """The source of addresses that *url* names, not started.

    Args:
        options: As the source takes them, as `allow`. What stands in the URL's query counts more.

    Raises:
        ConfigurationError: There is no such source, it is not installed, or an option makes no sense.
    """
    opened: Discovery = open_url("discovery", OPENERS, url, options)
    return opened
