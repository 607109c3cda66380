"""What one server lets its operators see: the watchdog, counters, and the pages that show them.

Decides who may see the pages: they name routes and tell how busy a server is, and ask for no login.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection
from typing import TYPE_CHECKING, Any

from webmesh.exceptions import ConfigurationError
from webmesh.log_limit import limit_logs
from webmesh.observability.metrics import Metrics
from webmesh.observer import NO_OBSERVER, Observer, guarded, paired
from webmesh.protocol.networks import Networks, parse_ip
from webmesh.routing import Router
from webmesh.status_page import POLICY, status_page
from webmesh.watchdog import Watch
from webmesh.websocket.doors import bare
from webmesh.websocket.http import HttpAnswer, Page, text_answer

if TYPE_CHECKING:
    from webmesh.protocol.handshake import HttpRequest
    from webmesh.server_parts import ServerParts

OPERATORS = ("127.0.0.0/8", "::1", "unix")
"""Who may see the pages unless `metrics_allow` says otherwise: programs on the same machine."""

_PROXIED = ("forwarded", "x-forwarded-for", "x-real-ip", "via")
"""Headers by which a proxy on the same machine tells that it asks for somebody else."""


class Oversight:
    """The observation of one server.

    Args:
        metrics: `True` makes counters, `Metrics` are used as they are, `False` counts nothing.
        allow: Networks whose peers may see the pages; `None` for `OPERATORS`.
        watchdog: Whether holds of the hub are told.

    Raises:
        ConfigurationError: There is no `prometheus_client`, or a network is none.
    """

    def __init__(
        self, metrics: bool | Metrics = False, *, allow: Collection[str] | None = None, watchdog: bool = True
    ) -> None:
        limit_logs()
        self.metrics: Metrics | None = None
        self._networks = Networks("metrics_allow", OPERATORS if allow is None else allow)
        self._by_default = allow is None
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
        # A proxy on this machine that was not made known would show the pages to the world.
        if self._by_default and any(name in request.headers for name in _PROXIED):
            return False
        if request.address.startswith("unix:"):
            return self._networks.unix
        address = parse_ip(bare(request.address.rpartition(":")[0].strip("[]")))
        return address is not None and address in self._networks

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


_UNKEPT = (("cache-control", "no-store"), ("x-content-type-options", "nosniff"))
