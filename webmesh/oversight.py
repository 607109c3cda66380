"""What one server lets its operators see: the watchdog, counters, and the pages that show them.

Decides who may see the pages and ask for the counts: they name routes and tell how busy a server is, and the pages ask
for no login.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Collection, Mapping
from hmac import compare_digest
from typing import TYPE_CHECKING, Any

from webmesh.exceptions import ConfigurationError, InvalidArgument, PermissionDenied
from webmesh.fellow_workers import METRICS, Fellows, in_thread
from webmesh.log_limit import limit_logs
from webmesh.observability.event_counts import EventCounts
from webmesh.observability.metrics import Metrics
from webmesh.observability.worker_status import merged_status
from webmesh.observer import Observer, guarded, paired
from webmesh.protocol.forwarded import parse_node
from webmesh.protocol.networks import Networks
from webmesh.protocol.origins import is_address_host, is_loopback_host
from webmesh.status_page import POLICY, status_page
from webmesh.watchdog import Watch
from webmesh.websocket.http import HttpAnswer, Page, text_answer

if TYPE_CHECKING:
    from webmesh.protocol.handshake import HttpRequest
    from webmesh.pubsub import Topics
    from webmesh.routing import Router
    from webmesh.server_parts import ServerParts
    from webmesh.websocket.websocket_connection import WebSocketConnection

OPERATOR = "operator"
"""Who has this role may ask for the counts, from anywhere."""

OPERATORS = ("127.0.0.0/8", "::1", "unix")
"""Who may see the pages unless `metrics_allow` says otherwise: programs on the same machine."""

_PROXIED = frozenset({"forwarded", "x-real-ip", "via", "cf-connecting-ip", "true-client-ip", "x-client-ip"})
"""Headers by which a proxy on the same machine tells that it asks for somebody else; and all `X-Forwarded-…`."""


class Oversight:
    """The observation of one server.

    Args:
        metrics: `True` makes counters, `Metrics` are used as they are; `False` shows no pages, and counts only what
            costs calls nothing.
        allow: Networks whose peers may see the pages; `None` for `OPERATORS`.
        token: Whoever shows it may see them, wherever he is.
        watchdog: Whether holds of the hub are told.

    Attributes:
        counts: What counts events; the metrics where there are any.
        trusts: Tells of a connection whether it may see everything, as a link of the mesh does; `None` for none.
        fellows: The other workers of the service, of which the pages tell too; `None` where this is all of it.

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
        self.counts: EventCounts = EventCounts()
        self.trusts: Callable[[WebSocketConnection], bool] | None = None
        self.fellows: Fellows | None = None
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
        self.counts = self.metrics or EventCounts()
        if self.metrics is not None:
            from webmesh.observability.exposition import Exposition

            self._exposition = Exposition(self.metrics)

    def observing(self, observer: Observer) -> Observer:
        """*observer* of the program's, with the counters."""
        return paired(self.counts, guarded(observer))

    def watch(self, parts: ServerParts) -> Watch | None:
        """Let the counters ask the server for its gauges; the watchdog's watch, unless that is switched off."""
        self._attend(parts)
        return Watch(parts.observer, parts.timeouts.hub_hold) if self._watchdog else None

    def leave(self) -> None:
        """The server has ended: counters that live on ask it no longer. Safe to call twice."""
        self.counts.forget(self._gauges)
        self._gauges.clear()

    def check(self, connection: WebSocketConnection) -> None:
        """Return if its peer may ask for counts: it could see the pages, or has the role of an operator.

        Raises:
            PermissionDenied: It may not.
        """
        identity, request = connection.identity, connection.request
        if identity is not None and OPERATOR in identity.roles and not identity.expired:
            return
        if self.trusts is not None and self.trusts(connection):
            return
        if request is None or not self._may_see(request.headers, connection.address):
            raise PermissionDenied(f"this is for operators: the role {OPERATOR!r}, or see metrics_allow")

    def events(self) -> dict[str, Any]:
        """Counters and gauges now."""
        return self.counts.events()

    def _attend(self, parts: ServerParts) -> None:
        counts, limits = self.counts, parts.limits

        def gauge(name: str, text: str, read: Callable[[], float]) -> None:
            self._gauges.append(read)
            counts.gauge(name, text, read)

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
            if self._may_see(request.headers, request.address):
                return page(request)
            return text_answer(403, "This page is for operators: see metrics_allow.")

        return checked

    def _may_see(self, headers: Mapping[str, str], address: str) -> bool:
        if self._token is not None and _shows(headers, self._token):
            return True
        host = headers.get("host", "")
        if address.startswith("unix:"):
            return self._networks.unix and _for_itself(headers, host)
        peer = parse_node(_ZONE.sub("", address))
        if peer is None or peer.address not in self._networks:
            return False
        return _for_itself(headers, host) if peer.address.is_loopback else is_address_host(host)

    def _metrics_page(self, request: HttpRequest) -> HttpAnswer:
        accept = request.headers.get("accept", "")
        if self.fellows is None:
            content_type, body = self._exposition.text(accept)
        else:
            content_type, body = self._text_of_all(self.fellows, accept)
        return HttpAnswer(200, (("content-type", content_type), *_UNKEPT), body)

    def _status_page(self, request: HttpRequest) -> HttpAnswer:
        assert self.metrics is not None
        snapshot = self.metrics.snapshot() if self.fellows is None else self._status_of_all(self.fellows)
        if "text/html" not in request.headers.get("accept", ""):
            body = json.dumps(snapshot).encode()
            return HttpAnswer(200, (("content-type", "application/json"), *_UNKEPT), body)
        headers = (("content-type", "text/html; charset=utf-8"), ("content-security-policy", POLICY), *_UNKEPT)
        return HttpAnswer(200, headers, status_page("WebMesh status", snapshot))

    # ------------------------------------------------------------- several workers

    def register(self, router: Router) -> None:
        """Put the path into the router on which workers ask each other; none without counters."""
        if self.metrics is not None and router.match(METRICS) is None:
            router.add(METRICS, self.tell, reserved=True, blocking=False)

    def tell(self, payload: Any, path: str, client: WebSocketConnection) -> dict[str, Any]:
        """What this worker adds to a page."""
        self.check(client)
        asked = {} if payload is None else payload
        if not isinstance(asked, dict) or type(asked.get("status", False)) is not bool:
            raise InvalidArgument("the data of $metrics must be a map; status must be a boolean")
        return self._told(asked.get("status", False))

    def _told(self, status: bool) -> dict[str, Any]:
        assert self.metrics is not None, "without counters there is no such path and no page"
        if status:
            return {"pid": os.getpid(), "status": self.metrics.snapshot()}
        from webmesh.observability.worker_families import families_to_wire

        return {"pid": os.getpid(), "families": in_thread(families_to_wire, self._exposition.families())}

    def _of_all(self, fellows: Fellows, status: bool) -> dict[str, Any]:
        """What all workers tell, this one first."""
        return {fellows.label: self._told(status), **fellows.ask({"status": True} if status else {})}

    def _text_of_all(self, fellows: Fellows, accept: str) -> tuple[str, bytes]:
        content_type, encode = self._exposition.encoder(accept)

        def write() -> bytes:
            families: Any = fellows.shared("families", lambda: self._families_of_all(fellows))
            body: bytes = in_thread(encode, families)
            return body

        return content_type, fellows.shared((content_type,), write)

    def _families_of_all(self, fellows: Fellows) -> Any:
        from webmesh.observability.worker_families import WorkerFamilies

        assert self.metrics is not None
        answers = self._of_all(fellows, status=False)
        told = {label: one.get("families") if isinstance(one, dict) else None for label, one in answers.items()}
        return in_thread(WorkerFamilies, self.metrics.prefix, told)

    def _status_of_all(self, fellows: Fellows) -> dict[str, Any]:
        return fellows.shared("status", lambda: merged_status(self._of_all(fellows, status=True)))


def _for_itself(headers: Mapping[str, str], host: str) -> bool:
    """Whether a peer on this machine may ask for itself, as far as can be seen.

    A proxy here that was not made known would show the pages to the world, and so would a browser that a web page
    has led here by a name of its own.
    """
    proxied = any(name in _PROXIED or name.startswith("x-forwarded-") for name in headers)
    return is_loopback_host(host) and not proxied


def _shows(headers: Mapping[str, str], token: bytes) -> bool:
    scheme, _, shown = headers.get("authorization", "").partition(" ")
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
