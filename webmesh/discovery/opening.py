"""Which discovery a URL names. A source is imported when a URL asks for it."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from importlib import import_module
from typing import Any, cast

from webmesh.discovery.base import Discovery
from webmesh.exceptions import ConfigurationError

Opener = Callable[..., Discovery]

OPENERS: dict[str, str | Opener] = {
    **dict.fromkeys(("ws", "wss", "ws+unix", "static"), "webmesh.discovery.static:open_static"),
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
    scheme = url.partition(":")[0].lower() if isinstance(url, str) and ":" in url else ""
    place = OPENERS.get(scheme)
    if place is None:
        known = ", ".join(f"{name}://" for name in sorted(OPENERS))
        # Not the URL itself: a password may stand in it.
        raise ConfigurationError(f"no discovery has URLs that begin with {scheme!r}; there are {known}")
    opener = _imported(place) if isinstance(place, str) else place
    try:
        inspect.signature(opener).bind(url, **options)
    except TypeError as error:
        raise ConfigurationError(f"the discovery of {scheme}:// does not take these options: {error}") from error
    return opener(url, **options)


def _imported(place: str) -> Opener:
    module, _, name = place.partition(":")
    return cast(Opener, getattr(import_module(module), name))
