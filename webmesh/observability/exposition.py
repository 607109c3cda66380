"""Counters in the form that Prometheus reads, by the package `prometheus_client` (the extra `metrics`)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from webmesh.exceptions import ConfigurationError
from webmesh.version import VERSION

if TYPE_CHECKING:
    from webmesh.observability.metrics import Metrics

try:
    import prometheus_client
    from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
except ImportError:  # pragma: no cover - it is there where the tests run; they hide it
    prometheus_client = None  # type: ignore[assignment]

COUNTERS: dict[str, tuple[tuple[str, ...], str]] = {
    "connections_opened": ((), "WebSocket connections that were made."),
    "connections_closed": (("code",), "Connections that have ended, by close code."),
    "handshakes_refused": (("status", "reason"), "Peers turned away before they were connections."),
    "handler_failures": ((), "Handlers that raised something that is no answer."),
    "refused": (("kind", "reason"), "What peers sent and was turned away or dropped."),
    "link_changes": (("state",), "States that clients' links came to."),
    "session_changes": (("state",), "States that sessions came to."),
    "logins": (("outcome",), "Peers that said who they are."),
    "peer_stalls": ((), "Peers that stopped to answer while their machines still acknowledged."),
    "calls_retried": (("reason",), "Calls that were sent again."),
    "calls_hedged": ((), "Calls that were sent to a second instance as well."),
    "instances_ejected": (("reason",), "Instances of services that were left out for a while."),
    "breaker_changes": (("state",), "States that circuit breakers came to."),
    "publications": ((), "Publications that were accepted."),
    "deliveries": ((), "Subscriptions that they reached."),
    "wills_fired": (("reason",), "Last wills that were published."),
    "hub_holds": (("route",), "Code that did not give back the hub in time."),
    "hub_held_seconds": (("route",), "Seconds for which it held the hub."),
}
"""Counter → its labels, and what it counts."""


def check_installed() -> Any:
    """The package.

    Raises:
        ConfigurationError: It is not installed.
    """
    if prometheus_client is None:
        raise ConfigurationError("metrics need prometheus_client: pip install 'webmesh-gevent[metrics]'")
    return prometheus_client


def families(metrics: Metrics) -> Iterator[Any]:
    """Everything that *metrics* knows, one family after another."""
    check_installed()
    prefix = metrics.prefix
    info = GaugeMetricFamily(f"{prefix}_info", "Always 1; the label tells the version of WebMesh.", labels=["version"])
    info.add_metric([VERSION], 1)
    yield info
    yield GaugeMetricFamily(f"{prefix}_connections_open", "WebSocket connections that are open.", metrics.open)
    yield GaugeMetricFamily(f"{prefix}_peers_stalled", "Peers that are stalled.", metrics.stalled)
    for name, gauge in tuple(metrics.gauges.items()):
        yield GaugeMetricFamily(f"{prefix}_{name}", gauge.text, gauge.read())
    for name, (labels, text) in COUNTERS.items():
        family = CounterMetricFamily(f"{prefix}_{name}", text, labels=labels)
        for values, count in tuple(metrics.tables.get(name, {}).items()):
            family.add_metric(values, count)
        if not labels and name not in metrics.tables:
            family.add_metric((), 0)
        yield family
    yield from _request_families(metrics)


def _request_families(metrics: Metrics) -> Iterator[Any]:
    requests = CounterMetricFamily(
        f"{metrics.prefix}_requests", "Requests that were answered, by route and wire code.", labels=["route", "code"]
    )
    for key, count in metrics.requests().items():
        requests.add_metric(key, count)
    yield requests
    seconds = HistogramMetricFamily(
        f"{metrics.prefix}_request_seconds", "Seconds from a request to its answer.", labels=["route"]
    )
    bounds = [*map(str, metrics.buckets), "+Inf"]
    for route, (counts, total) in metrics.latencies().items():
        cumulative = [sum(counts[: number + 1]) for number in range(len(counts))]
        seconds.add_metric([route], list(zip(bounds, cumulative)), total)
    yield seconds


class Exposition:
    """The text that Prometheus scrapes: a server's metrics and those of its process.

    Raises:
        ConfigurationError: The package is not installed.
    """

    def __init__(self, metrics: Metrics) -> None:
        client = check_installed()
        self._registry = client.CollectorRegistry()
        self._registry.register(metrics)
        for collector in (client.ProcessCollector, client.PlatformCollector, client.GCCollector):
            collector(registry=self._registry)

    def families(self) -> list[Any]:
        """Everything, as objects of the package."""
        return list(self._registry.collect())

    def text(self, accept: str) -> tuple[str, bytes]:
        """Content type and body, in the format that the header `Accept` asks for."""
        content_type, encode = self.encoder(accept)
        return content_type, encode(self._registry)

    def encoder(self, accept: str) -> tuple[str, Callable[[Any], bytes]]:
        """Content type, and what writes down a collector, in the format that the header `Accept` asks for."""
        encode, content_type = prometheus_client.exposition.choose_encoder(accept)
        return content_type, encode
