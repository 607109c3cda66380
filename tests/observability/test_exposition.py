"""The text that Prometheus reads, by its own parser."""

from __future__ import annotations

from typing import Any

import pytest

from tests.running import running
from webmesh.exceptions import ConfigurationError
from webmesh.observability import exposition
from webmesh.observability.exposition import COUNTERS, Exposition
from webmesh.observability.metrics import Metrics
from webmesh.webmesh_server import WebMeshServer

prometheus_client = pytest.importorskip("prometheus_client", reason="the extra metrics is not installed")


def samples(metrics: Metrics) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    """Every sample that a scrape of these finds."""
    from prometheus_client.parser import text_string_to_metric_families

    _, body = Exposition(metrics).text("")
    families = text_string_to_metric_families(body.decode())
    return {(one.name, tuple(sorted(one.labels.items()))): one.value for family in families for one in family.samples}


def test_what_was_counted_is_what_a_scrape_finds() -> None:
    """Names, labels, values; histograms are cumulative."""
    metrics = Metrics(buckets=(0.1, 1.0))
    metrics.request_finished("/a/<int:id>", "ok", 0.05)
    metrics.request_finished("/a/<int:id>", "internal", 5.0)
    metrics.refused("message", 'a "quoted"\nreason')
    metrics.connection_opened(None)
    metrics.gauge("threads_busy", "Threads.", lambda: 7)

    found = samples(metrics)

    assert 1 == found["webmesh_requests_total", (("code", "ok"), ("route", "/a/<int:id>"))]
    route = ("route", "/a/<int:id>")
    counts = [found["webmesh_request_seconds_bucket", (("le", le), route)] for le in ("0.1", "1.0", "+Inf")]
    assert ([1, 1, 2], 5.05) == (counts, found["webmesh_request_seconds_sum", (route,)])
    assert 1 == found["webmesh_refused_total", (("kind", "message"), ("reason", 'a "quoted"\nreason'))]
    assert (1, 7) == (found["webmesh_connections_open", ()], found["webmesh_threads_busy", ()])
    assert found["process_resident_memory_bytes", ()] > 0


def test_every_counter_has_its_family() -> None:
    """A counter that nobody shows would be counted for nothing."""
    metrics = Metrics()
    metrics.handler_failed("/a", "", ValueError())
    for hook, arguments in {
        "connection_opened": (None,), "connection_closed": (None, 1000, ""), "handshake_refused": ("", 403, "a"),
        "refused": ("a", "b"), "link_changed": ("", "lost", ""), "session_changed": ("lost", ""),
        "login_finished": ("", "ok"), "peer_stalled": (None, True), "call_retried": ("", "a"), "hub_held": ("a", 1, ""),
        "published": (1,), "will_fired": ("", "lost"),
        "call_hedged": ("",), "instance_ejected": ("", "", "a", 1.0), "breaker_changed": ("", "", "open"),
    }.items():  # fmt: skip
        getattr(metrics, hook)(*arguments)
    assert set(COUNTERS) == set(metrics.tables)
    names = {name for name, _ in samples(metrics)}
    assert {f"webmesh_{name}_total" for name in COUNTERS} <= names


def test_they_can_be_added_to_a_programs_own_registry() -> None:
    """`Metrics` is a collector."""
    registry = prometheus_client.CollectorRegistry()
    metrics = Metrics(prefix="shop")
    registry.register(metrics)
    metrics.connection_opened(None)
    assert 1 == registry.get_sample_value("shop_connections_opened_total")


def test_the_format_is_the_one_that_is_asked_for() -> None:
    """OpenMetrics for those who accept it."""
    content_type, body = Exposition(Metrics()).text("application/openmetrics-text; version=1.0.0")
    assert content_type.startswith("application/openmetrics-text")
    assert body.endswith(b"# EOF\n")


def test_without_the_package_the_error_says_what_to_install(monkeypatch: Any) -> None:
    """At once, and not at the first scrape."""
    monkeypatch.setattr(exposition, "prometheus_client", None)
    with pytest.raises(ConfigurationError, match=r"pip install 'webmesh-gevent\[metrics\]'"):
        Exposition(Metrics())
    with pytest.raises(ConfigurationError):
        list(Metrics().collect())


def test_topics_are_counted():
    """How many publications, and how many subscriptions they reached; what engine and subscriptions there are now."""
    server = WebMeshServer(metrics=True)
    server.subscribe("a/*")(lambda payload, topic, message: None)
    with running(server):
        server.publish("a/b")
        server.publish("nobody")
        snapshot = server._oversight.metrics.snapshot()
        text = server._oversight._exposition.text("")[1].decode()
    assert (1, 1) == (snapshot["gauges"]["topic_patterns"], snapshot["gauges"]["engine_up"])
    assert "webmesh_publications_total 2.0" in text
    assert "webmesh_deliveries_total 1.0" in text
