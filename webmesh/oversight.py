"""What one server lets its operators see: the watchdog, counters, and the pages that show them.

Decides who may see the pages: they name routes and tell how busy a server is, and ask for no login.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Collection
from hmac import compare_digest
from typing import TYPE_CHECKING, Any

from webmesh.exceptions import ConfigurationError
from webmesh.log_limit import limit_logs
from webmesh.observability.metrics import Metrics
from webmesh.observer import NO_OBSERVER, Observer, guarded, paired
from webmesh.protocol.forwarded import parse_node
from webmesh.protocol.networks import Networks
from webmesh.protocol.origins import is_address_host, is_loopback_host
from webmesh.routing import Router
from webmesh.status_page import POLICY, status_page
from webmesh.watchdog import Watch
from webmesh.websocket.http import HttpAnswer, Page, text_answer

if TYPE_CHECKING:
    from webmesh.protocol.handshake import HttpRequest
    from webmesh.pubsub import Topics
    from webmesh.server_parts import ServerParts

OPERATORS = ("127.0.0.0/8", "::1", "unix")
"""Who may see the pages unless `metrics_allow` says otherwise: programs on the same machine."""

_PROXIED = frozenset({"forwarded", "x-real-ip", "via", "cf-connecting-ip", "true-client-ip", "x-client-ip"})
"""Headers by which a proxy on the same machine tells that it asks for somebody else; and all `X-Forwarded-…`."""


class Oversight:
    """The observation of one server.

    Args:
        metrics: `True` makes counters, `Metrics` are used as they are, `False` counts nothing.
        allow: Networks whose peers may see the pages; `None` for `OPERATORS`.
        token: Whoever shows it may see them, wherever he is.
        watchdog: Whether holds of the hub are told.

    Raises:
        ConfigurationError: There is no `prometheus_client`, a network is none, or no header can carry the token.
    """

    def __init__(
        self,
        metrics: bool | Metrics = False,
        *,
        allow: Collection[str] | None = None,
        token: str | None = None,
        watchdog: bool = True,
    ) -> None:
        limit_logs()
        self.metrics: Metrics | None = None
        self._networks = Networks("metrics_allow", OPERATORS if allow is None else allow)
        self._token = _checked_token(token)
        self._watchdog = watchdog
        self._exposition: Any = None
        self._gauges: list[Callable[[], float]] = []
        self.count(metrics)

    def count(self, metrics: bool | Metrics) -> None:
        """Set what counts; before the server listens.

        Raises:
            ConfigurationError: As for `Oversight`.
        """
        if not isinstance(metrics, bool | Metrics):
            raise ConfigurationError(f"metrics must be True, False or Metrics(), not {metrics!r}")
        self.metrics = Metrics() if metrics is True else metrics or None
        if self.metrics is not None:
            from webmesh.observability.exposition import Exposition

            self._exposition = Exposition(self.metrics)

    def observing(self, observer: Observer) -> Observer:
        """*observer* of the program's, with the counters where there are any."""
        return paired(NO_OBSERVER if self.metrics is None else self.metrics, guarded(observer))

    def watch(self, parts: ServerParts) -> Watch | None:
        """Let the counters ask the server for its gauges; the watchdog's watch, unless that is switched off."""
        self._attend(parts)
        return Watch(parts.observer, parts.timeouts.hub_hold) if self._watchdog else None

    def leave(self) -> None:
        """The server has ended: counters that live on ask it no longer. Safe to call twice."""
        if self.metrics is not None:
            self.metrics.forget(self._gauges)
        self._gauges.clear()

    def register(self, router: Router) -> None:
        """The protocol's own path `$stats`, where there are counters."""
        if self.metrics is not None and router.match("$stats") is None:
            router.add("$stats", self._stats, reserved=True, blocking=False)

    def _stats(self, payload: Any, path: str, client: Any) -> dict[str, Any]:
        """What this node has counted since it began."""
        return {} if self.metrics is None else self.metrics.snapshot()

    def _attend(self, parts: ServerParts) -> None:
        if self.metrics is None:
            return
        metrics, limits = self.metrics, parts.limits

        def gauge(name: str, text: str, read: Callable[[], float]) -> None:
            self._gauges.append(read)
            metrics.gauge(name, text, read)

        gauge("calls_in_progress", "Handlers that run and have waited.", lambda: parts.dispatcher.in_progress)
        gauge("threads_busy", "Native threads that run a handler.", lambda: min(parts.executor.taken, limits.threads))
        gauge(
            "thread_queue", "Calls that wait for a native thread.",
            lambda: max(0, parts.executor.taken - limits.threads),
        )  # fmt: skip
        self._attend_topics(parts.topics, gauge)

    def _attend_topics(self, topics: Topics, gauge: Callable[[str, str, Callable[[], float]], None]) -> None:
        gauge("topic_patterns", "Patterns that are subscribed to.", lambda: len(topics.subscribers))
        gauge("engine_up", "Whether the engine of the topics can be reached.", lambda: float(topics.up))

    def pages(self) -> dict[str, Page]:
        """The pages, by path; none without counters."""
        if self.metrics is None:
            return {}
        return {"/metrics": self._allowed(self._metrics_page), "/status": self._allowed(self._status_page)}

    def _allowed(self, page: Page) -> Page:
        def checked(request: HttpRequest) -> HttpAnswer:
            if self._may_see(request):
                return page(request)
            return text_answer(403, "This page is for operators: see metrics_allow.")

        return checked

    def _may_see(self, request: HttpRequest) -> bool:
        if self._token is not None and _shows(request, self._token):
            return True
        host = request.headers.get("host", "")
        if request.address.startswith("unix:"):
            return self._networks.unix and _for_itself(request, host)
        peer = parse_node(_ZONE.sub("", request.address))
        if peer is None or peer.address not in self._networks:
            return False
        return _for_itself(request, host) if peer.address.is_loopback else is_address_host(host)

    def _metrics_page(self, request: HttpRequest) -> HttpAnswer:
        content_type, body = self._exposition.text(request.headers.get("accept", ""))
        return HttpAnswer(200, (("content-type", content_type), *_UNKEPT), body)

    def _status_page(self, request: HttpRequest) -> HttpAnswer:
        assert self.metrics is not None
        snapshot = self.metrics.snapshot()
        if "text/html" not in request.headers.get("accept", ""):
            body = json.dumps(snapshot).encode()
            return HttpAnswer(200, (("content-type", "application/json"), *_UNKEPT), body)
        headers = (("content-type", "text/html; charset=utf-8"), ("content-security-policy", POLICY), *_UNKEPT)
        return HttpAnswer(200, headers, status_page("WebMesh status", snapshot))


def _for_itself(request: HttpRequest, host: str) -> bool:
    """Whether a peer on this machine may ask for itself, as far as can be seen.

    A proxy here that was not made known would show the pages to the world, and so would a browser that a web page
    has led here by a name of its own.
    """
    proxied = any(name in _PROXIED or name.startswith("x-forwarded-") for name in request.headers)
    return is_loopback_host(host) and not proxied


def _shows(request: HttpRequest, token: bytes) -> bool:
    scheme, _, shown = request.headers.get("authorization", "").partition(" ")
    return scheme.lower() == "bearer" and compare_digest(shown.strip().encode("utf-8", "replace"), token)


def _checked_token(token: str | None) -> bytes | None:
    if token is None:
        return None
    if not isinstance(token, str) or not _TOKEN.fullmatch(token):
        raise ConfigurationError("metrics_token must be at least 16 characters of ASCII without spaces")
    return token.encode()


_ZONE = re.compile(r"%[^\]]*")
_TOKEN = re.compile(r"[!-~]{16,}")
_UNKEPT = (("cache-control", "no-store"), ("x-content-type-options", "nosniff"))
