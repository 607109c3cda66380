"""From counts to figures: pure, with made-up nodes."""

from __future__ import annotations

from typing import Any

import pytest

from webmesh.cli.figures import node_rows, read_snapshot, route_rows, service_rows, since_start, sort_rows

BUCKETS = [0.001, 0.01, 0.1]


def route(count: int, *, errors: int = 0, in_flight: int = 0, latency: list[int] | None = None) -> dict[str, Any]:
    codes = {"ok": count - errors, "internal": errors}
    return {"count": count, "codes": codes, "in_flight": in_flight, "latency": latency or [count, 0, 0, 0]}


def node(
    number: int = 1, seconds: float = 10.0, *, epoch: int = 1, services: Any = ("shop",), holds: Any = None,
    **routes: dict[str, Any],
) -> dict[str, Any]:  # fmt: skip
    record = {"id": f"n{number}", "epoch": epoch, "name": "shop", "services": list(services)}
    stats = {
        "node": {"version": "1.2"}, "seconds": seconds, "buckets": BUCKETS,
        "routes": {f"/{path}": counts for path, counts in routes.items()} | {"$peers": route(99)},
        "counters": {"hub_holds": holds or {}}, "gauges": {"connections_open": 4},
    }  # fmt: skip
    return {"node": record, "state": "ok", "address": f"ws://10.0.0.{number}", "stats": stats}


def one(answer: list[dict[str, Any]], before: list[dict[str, Any]], rows: Any = node_rows) -> dict[str, Any]:
    """The only row of two answers."""
    (row,) = rows(read_snapshot(answer), read_snapshot(before))
    return row


def test_rates_are_the_difference_of_two_snapshots():
    """Over the time between them by the node's clock; the protocol's own routes do not count."""
    row = one([node(seconds=12.0, a=route(120, errors=10), b=route(30))], [node(seconds=10.0, a=route(100, errors=4))])
    assert (25.0, 3.0) == (row["calls/s"], row["errors/s"])
    assert ("shop", "n1", "ok", "ws://10.0.0.1", "shop", "1.2", 12.0, 4) == tuple(
        row[column] for column in ("name", "id", "state", "address", "services", "version", "uptime", "connections")
    )


def test_quantiles_are_of_the_calls_in_between():
    """What was slow before does not count any more."""
    before = node(seconds=10.0, a=route(100, latency=[0, 0, 0, 100]))
    after = node(seconds=11.0, a=route(200, latency=[99, 1, 0, 100]))
    row = one([after], [before])
    assert row["p50 ms"] < 1 and 1 <= row["p99 ms"] <= 10


def test_one_snapshot_has_no_rates():
    """But what is now: what is in flight, and how often the hub was held."""
    row = one([node(a=route(5, in_flight=2), holds={"/a": 3, "hub": 1})], [])
    assert (None, None, None) == (row["calls/s"], row["errors/s"], row["p50 ms"])
    assert (2, 4) == (row["in flight"], row["stalls"])


def test_a_node_without_calls_has_rates_of_nothing():
    """Which is known, and not unknown."""
    row = one([node(seconds=12.0)], [node(seconds=10.0)])
    assert (0.0, None) == (row["calls/s"], row["p50 ms"])


def test_a_node_that_began_anew_has_no_negative_rates():
    """Its counts begin at nothing; so its rates wait for the next snapshot."""
    before = node(seconds=500.0, epoch=1, a=route(1000))
    row = one([node(seconds=2.0, epoch=2, a=route(10))], [before])
    assert row["calls/s"] is None
    lying = one([node(seconds=2.0, epoch=1, a=route(10))], [before])
    assert lying["calls/s"] is None
    fewer = one([node(seconds=501.0, epoch=1, a=route(10))], [before])
    assert 0.0 == fewer["calls/s"]


def test_averages_are_since_the_start():
    """Where no second snapshot is waited for."""
    now = read_snapshot([node(seconds=10.0, a=route(50))])
    assert 5.0 == node_rows(now, since_start(now))[0]["calls/s"]


def test_services_sum_up_their_nodes():
    """A node of two services counts for both; one without counts is still one of its nodes."""
    before = [node(1, 10.0, a=route(0)), node(2, 20.0, services=["shop", "cart"], a=route(0))]
    silent = {"node": {"id": "n3", "services": ["shop"]}, "state": "lost", "error": {"code": "unavailable"}}
    after = [node(1, 11.0, a=route(10)), node(2, 21.0, services=["shop", "cart"], a=route(5)), silent]
    rows = {row["service"]: row for row in service_rows(read_snapshot(after), read_snapshot(before))}
    assert {"shop": (3, 15.0), "cart": (1, 5.0)} == {name: (row["nodes"], row["calls/s"]) for name, row in rows.items()}


def test_routes_sum_up_over_nodes():
    """With the holds of each."""
    before = [node(1, 10.0, a=route(0)), node(2, 20.0, a=route(0), b=route(0))]
    after = [node(1, 11.0, a=route(10), holds={"/a": 2}), node(2, 21.0, a=route(5), b=route(1), holds={"hub": 7})]
    rows = {row["route"]: row for row in route_rows(read_snapshot(after), read_snapshot(before))}
    assert {"/a": (2, 15.0, 2), "/b": (1, 1.0, 0)} == {
        name: (row["nodes"], row["calls/s"], row["stalls"]) for name, row in rows.items()
    }


def test_buckets_of_another_make_are_not_added():
    """They would mean something else."""
    other = node(2, 21.0, a=route(5, latency=[0, 5]))
    other["stats"]["buckets"] = [7.0]
    after = [node(1, 11.0, a=route(10)), other]
    before = [node(1, 10.0, a=route(0)), node(2, 20.0, a=route(0))]
    row = one(after, before, route_rows)
    assert 15.0 == row["calls/s"]
    assert row["p99 ms"] <= 1


def test_a_node_that_told_nothing_is_shown_without_figures():
    """As one that is lost."""
    row = one([{"node": {"id": "n9", "epoch": 1, "services": []}, "state": "lost", "error": {}}], [])
    assert ("n9", "lost", None, None, None) == (
        row["id"], row["state"], row["calls/s"], row["in flight"], row["uptime"]
    )  # fmt: skip


@pytest.mark.parametrize("answer", [
    None, 7, "nodes", {}, [None, 7, {}, {"node": 7}, {"node": {}}],
    [{"node": {"id": 7, "services": 7, "name": ["x"]}, "state": 9, "stats": {
        "seconds": "x", "routes": {"/a": 7, "/b": {"count": "x", "codes": [], "latency": "x"}}, "buckets": [None],
        "counters": [], "gauges": 7,
    }}],
    [{"node": {"id": "a"}, "stats": {"seconds": float("nan"), "routes": [], "counters": {"hub_holds": {"/a": -3}}}}],
])  # fmt: skip
def test_nonsense_from_a_node_is_no_failure_here(answer: Any):
    """It may be of another make."""
    now = read_snapshot(answer)
    for rows in (node_rows, service_rows, route_rows):
        rows(now, since_start(now))


def test_rows_are_sorted_by_a_column():
    """Numbers from the highest down, texts in order, and last what is not known."""
    rows = [{"n": 1, "t": "b"}, {"n": None, "t": "c"}, {"n": 3, "t": "a"}]
    assert [3, 1, None] == [row["n"] for row in sort_rows(rows, "n")]
    assert ["a", "b", "c"] == [row["t"] for row in sort_rows(rows, "t")]
