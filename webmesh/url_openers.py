"""What a URL names, where each scheme has an opener of its own: engines of topics, sources of nodes' addresses.

An opener is imported when a URL asks for it, so that none costs anything unless it is used.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any

from webmesh.exceptions import ConfigurationError


def open_url(what: str, openers: Mapping[str, str | Callable[..., Any]], url: str, options: Mapping[str, Any]) -> Any:
    """What *url* names.

    Args:
        what: For errors: "engine of topics".
        openers: URL scheme → a function of the URL and of keyword options, or its place, `module:function`.

    Raises:
        ConfigurationError: There is no such opener, it is not installed, or an option makes no sense.
    """
    scheme = url.partition(":")[0].lower() if isinstance(url, str) and ":" in url else ""
    place = openers.get(scheme)
    if place is None:
        known = ", ".join(f"{name}://" for name in sorted(openers))
        # Not the URL itself: a password may stand in it.
        raise ConfigurationError(f"no {what} has URLs that begin with {scheme!r}; there are {known}")
    opener = _imported(place) if isinstance(place, str) else place
    try:
        inspect.signature(opener).bind(url, **options)
    except TypeError as error:
        raise ConfigurationError(f"the {what} of {scheme}:// does not take these options: {error}") from error
    return opener(url, **options)


def _imported(place: str) -> Callable[..., Any]:
    module, _, name = place.partition(":")
    opener: Callable[..., Any] = getattr(import_module(module), name)
    return opener
