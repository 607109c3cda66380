"""What is counted, and that no peer can make it grow."""

from __future__ import annotations

import json
from typing import Any

import pytest

from webmesh.exceptions import ConfigurationError
from webmesh.observability.metrics import OTHER, SERIES, Metrics


def test_requests_are_counted_by_route_and_code_and_time() -> None:
    """A bucket holds what took no longer than its bound."""
    metrics = Metrics(buckets=(0.1, 1.0))
    for code, seconds in (("ok", 0.1), ("ok", 0.5), ("internal", 2.0)):
        metrics.request_finished("/a", code, seconds)
    metrics.request_finished("/b", "ok", 0.0)

    assert {("/a", "ok"): 2, ("/a", "internal"): 1, ("/b", "ok"): 1} == metrics.requests()
    assert {"/a": ([1, 1, 1], 2.6), "/b": ([1, 0, 0], 0.0)} == metrics.latencies()


def test_every_hook_is_counted() -> None:
    """With fixed words as labels."""
    metrics = Metrics()
    metrics.connection_opened(None)
    metrics.connection_opened(None)
    metrics.connection_closed(None, 1000, "said the peer")
    metrics.handshake_refused("10.0.0.1:1", 403, "origin not allowed")
    metrics.handler_failed("/a", "f00", ValueError())
    metrics.refused("message", "late reply")
    metrics.link_changed("ws://a", "lost", "why")
    metrics.session_changed("resumed", "why")
    metrics.login_finished("10.0.0.1:1", "ok")
    metrics.peer_stalled(None, True)
    metrics.peer_stalled(None, True)
    metrics.peer_stalled(None, False)
    metrics.call_retried("/users/7", "unavailable")
    metrics.hub_held("/a", 0.25, "the stack")
    metrics.hub_held("/a", 0.25, "the stack")

    assert {
        "connections_opened": {(): 2},
        "connections_closed": {("1000",): 1},
        "handshakes_refused": {("403", "origin not allowed"): 1},
        "handler_failures": {(): 1},
        "refused": {("message", "late reply"): 1},
        "link_changes": {("lost",): 1},
        "session_changes": {("resumed",): 1},
        "logins": {("ok",): 1},
        "peer_stalls": {(): 2},
        "calls_retried": {("unavailable",): 1},
        "hub_holds": {("/a",): 2},
        "hub_held_seconds": {("/a",): 0.5},
    } == metrics.tables
    assert (1, 1) == (metrics.open, metrics.stalled)


@pytest.mark.row(58)
def test_labels_hold_nothing_that_a_peer_says() -> None:
    """Addresses, reasons of closes, URLs, paths of calls and incidents stay out."""
    metrics = Metrics()
    metrics.connection_closed(None, 4000, "MARK")
    metrics.handshake_refused("MARK", 403, "origin not allowed")
    metrics.handler_failed("MARK", "MARK", ValueError("MARK"))
    metrics.link_changed("MARK", "lost", "MARK")
    metrics.session_changed("lost", "MARK")
    metrics.login_finished("MARK", "ok")
    metrics.call_retried("MARK", "unavailable")
    metrics.call_hedged("MARK")
    metrics.instance_ejected("MARK", "MARK", "failed again", 5.0)
    metrics.breaker_changed("MARK", "MARK", "open")
    metrics.hub_held("/a", 0.2, "MARK")
    assert "MARK" not in json.dumps(metrics.snapshot())


def test_the_number_of_series_is_bounded() -> None:
    """What comes beyond it is counted together, and nothing is lost."""
    metrics = Metrics()
    for number in range(SERIES + 50):
        metrics.refused("message", str(number))
        metrics.request_finished(f"/{number}", "ok", 0.0)
    assert SERIES + 1 == len(metrics.tables["refused"])
    assert 50 == metrics.tables["refused"][OTHER, OTHER]
    assert SERIES + 1 == len(metrics.requests())
    assert 50 == metrics.requests()[OTHER, "ok"]


def test_codes_of_a_programs_own_are_one_label() -> None:
    """Handlers may raise errors with as many codes as they like."""
    metrics = Metrics()
    for number in range(10):
        metrics.request_finished("/a", f"mine-{number}", 0.0)
    assert {("/a", OTHER): 10} == metrics.requests()


def test_gauges_of_one_name_are_added_up() -> None:
    """As when one observer serves several servers."""
    metrics = Metrics()
    metrics.gauge("threads_busy", "Threads.", lambda: 2)
    metrics.gauge("threads_busy", "Threads.", lambda: 3)
    assert 5 == metrics.snapshot()["gauges"]["threads_busy"]


def test_a_snapshot_is_json() -> None:
    """So it can be a page, and an answer."""
    metrics = Metrics()
    metrics.request_finished("/a", "ok", 0.25)
    metrics.request_finished("/a", "not_found", 0.25)
    metrics.refused("message", "late reply")
    shown = json.loads(json.dumps(metrics.snapshot()))
    assert {"codes": {"ok": 1, "not_found": 1}, "count": 2, "seconds": 0.5} == shown["routes"]["/a"]
    assert 1 == shown["counters"]["refused"]["message late reply"]


@pytest.mark.parametrize("buckets", [(), (1.0, 0.5), (1.0, 1.0)])
def test_bounds_that_do_not_ascend_are_refused(buckets: tuple[float, ...]) -> None:
    """Counts in them would mean nothing."""
    with pytest.raises(ConfigurationError, match="ascend"):
        Metrics(buckets=buckets)


@pytest.mark.row(58)
def test_peers_cannot_use_up_the_labels_for_close_codes() -> None:
    """They may send any of 2,000 codes; those that have a meaning stay apart from the others."""
    metrics = Metrics()
    for code in (*range(3000, 5000), 1006):
        metrics.connection_closed(None, code, "")
    table = metrics.tables["connections_closed"]
    assert 1 == table["1006",] == table["4008",]
    assert 1990 == table[OTHER,]


def test_who_has_ended_is_asked_no_longer() -> None:
    """Counters may outlive the servers that they count for."""
    metrics = Metrics()
    reads = [lambda: 2, lambda: 3]
    for read in reads:
        metrics.gauge("threads_busy", "Threads.", read)
    metrics.forget(reads[:1])
    assert 3 == metrics.snapshot()["gauges"]["threads_busy"]


@pytest.mark.parametrize("options", [
    {"buckets": ["a"]}, {"buckets": 5}, {"buckets": [1, float("nan")]}, {"buckets": [float("inf")]},
    {"prefix": "my-shop"}, {"prefix": ""}, {"prefix": 5},
])  # fmt: skip
def test_names_and_bounds_that_no_metric_can_have_are_refused(options: dict[str, Any]) -> None:
    """When they are given, not when the first request is counted."""
    with pytest.raises(ConfigurationError):
        Metrics(**options)
