"""What goes with a request besides its payload: the time that is left for it, and headers.

Decides what a handler that asks others hands on to them: no more time than it has, and the way that the call took.
"""

from __future__ import annotations

import os
from collections.abc import Mapping

from webmesh.call import CALL_CHAIN, CURRENT, IDEMPOTENCY_KEY, Call, service_chain
from webmesh.deadline import LONGEST, finite
from webmesh.exceptions import ConfigurationError, FailedPrecondition, RequestTimeout


def seconds_for(path: str, timeout: float | None, default: float | None) -> float | None:
    """Seconds for a request made now: the caller's or the default, within what the handler that asks has left.

    Raises:
        RequestTimeout: None are left.
    """
    seconds = default if timeout is None else timeout if timeout < LONGEST else finite(timeout)
    call: Call | None = CURRENT.get()
    if call is not None:
        left = call.deadline.remaining()
        if left is not None and (seconds is None or left < seconds):
            seconds = left
    if seconds is not None and seconds <= 0:
        raise RequestTimeout(path, seconds)
    return seconds


def headers_for(headers: Mapping[str, str] | None, service: str | None, longest_chain: int) -> dict[str, str] | None:
    """The caller's headers, and the services that the call has passed through.

    Raises:
        FailedPrecondition: These are more than *longest_chain*: it seems to go round in circles.
    """
    call = CURRENT.get()
    if headers is None and (call is None or not call.headers):  # most calls, so by the shortest way
        return {CALL_CHAIN: service} if service else None
    merged = dict(headers or {})
    try:
        chain = service_chain(service, longest_chain)
    except RecursionError as error:
        raise FailedPrecondition(str(error)) from None
    if chain is not None:
        merged[CALL_CHAIN] = chain
    return merged or None


def keyed(headers: Mapping[str, str] | None, key: str | bool | None) -> Mapping[str, str] | None:
    """*headers* with an idempotency key: the caller's own, or with True a random one. `None` adds none.

    Raises:
        ConfigurationError: It is none of these.
    """
    if key is None:
        return headers
    text = os.urandom(16).hex() if key is True else key
    if not isinstance(text, str) or not 0 < len(text.encode("utf-8", "surrogatepass")) <= 64:
        raise ConfigurationError("an idempotency key is a text of 1 to 64 bytes, or True for a random one")
    return {**(headers or {}), IDEMPOTENCY_KEY: text}
