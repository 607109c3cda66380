"""Which engine a URL names, and how options are written in URLs.

The one place that knows them all, by name only: an engine is imported when a URL asks for it, so none costs anything
unless it is used, and one whose packages are not installed says so.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any
from urllib.parse import SplitResult, parse_qsl, urlsplit

from webmesh.brokers.base import Broker, Opener
from webmesh.exceptions import ConfigurationError
from webmesh.url_openers import open_url

OPENERS: dict[str, str | Opener] = {
    "memory": "webmesh.brokers.memory:open_memory",
    "sqlite": "webmesh.brokers.sqlite:open_sqlite",
    **dict.fromkeys(
        ("redis", "rediss", "unix", "redis+sentinel", "rediss+sentinel", "redis+cluster", "rediss+cluster"),
        "webmesh.brokers.redis:RedisBroker",
    ),
    **dict.fromkeys(("nats", "tls"), "webmesh.brokers.nats:open_nats"),
}
"""URL scheme → what makes its engine: a function of the URL and of keyword options, or its place, `module:function`.

An engine of your own enters itself here before its URL is used."""


def open_broker(url: str, **options: Any) -> Broker:
    """The engine that *url* names, not started.

    Args:
        options: As the engine takes them. What stands in the URL's query counts more.

    Raises:
        ConfigurationError: There is no such engine, it is not installed, or an option makes no sense.
    """
    opened: Broker = open_url("engine of topics", OPENERS, url, options)
    return opened


def split_url(url: str) -> SplitResult:
    """As `urlsplit`, whose errors quote what may be a password.

    Raises:
        ConfigurationError: It is no URL.
    """
    try:
        return urlsplit(url)
    except ValueError:
        raise ConfigurationError("the engine's URL is malformed; write %XX for special characters in it") from None


def query_options(query: str, known: Mapping[str, Callable[[str], Any]]) -> dict[str, Any]:
    """The options in a URL's query.

    Args:
        known: Name → what makes its value of the text; a `ValueError` of it is told as one of the configuration.

    Raises:
        ConfigurationError: One is not known, stands twice or has a value that makes no sense.
    """
    found: dict[str, Any] = {}
    for name, text in parse_qsl(query, keep_blank_values=True):
        if "@" in name or ("@" in text and known.get(name) is not str):
            # A password with an unescaped `?` ends up here: it is not quoted.
            raise ConfigurationError("an @ stands in the options of the URL; is a ? of the password not written %3F?")
        if name not in known or name in found:
            fault = "stands twice in the URL" if name in found else f"is not known; there are {', '.join(known)}"
            raise ConfigurationError(f"the option {name!r} {fault}")
        try:
            found[name] = known[name](text)
        except ValueError as error:
            raise ConfigurationError(f"the option {name}={text!r} makes no sense: {error}") from error
    return found
