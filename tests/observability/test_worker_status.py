"""One status of several workers."""

from __future__ import annotations

import math
from typing import Any

import pytest

from webmesh.observability.metrics import Metrics
from webmesh.observability.worker_status import merged_status


def told(pid: int, **changes: Any) -> dict[str, Any]:
    """What a worker says that has answered two calls."""
    metrics = Metrics()
    metrics.connection_opened(None)
    metrics.request_finished("/a", "ok", 0.25)
    metrics.request_finished("/a", "internal", 0.5)
    metrics.gauge("engine_up", "Up.", lambda: float(pid % 2))
    return {"pid": pid, "status": metrics.snapshot() | {"seconds": pid} | changes}


def test_counts_are_added_up() -> None:
    """The age is that of the oldest; where one has lost the engine, it is lost."""
    found = merged_status({"1": told(1), "2": told(2)})
    assert {"/a": {"codes": {"ok": 2, "internal": 2}, "count": 4, "seconds": 1.5}} == found["routes"]
    assert {"connections_opened": {"": 2}} == found["counters"]
    assert (2, {"connections_open": 2, "peers_stalled": 0, "engine_up": 0}) == (found["seconds"], found["gauges"])
    assert {"up": True, "pid": 2, "seconds": 2, "connections": 1, "calls": 2} == found["workers"]["2"]


def test_one_alone_tells_what_it_tells_alone() -> None:
    """Its own snapshot, and a line for it."""
    alone = told(1)
    found = merged_status({"1": alone})
    del found["workers"]
    assert alone["status"] == found


@pytest.mark.parametrize("answer", [
    None, TimeoutError(), {}, {"pid": 1}, told(0), told(True), told(1, seconds=-1), told(1, seconds=math.nan),
    told(1, routes=[]), told(1, routes={"/a": {"count": 1, "seconds": 1}}), told(1, routes={"/a": 1}),
    told(1, counters={"a": 1}), told(1, counters={"a": {"\ud800": 1}}), told(1, counters={1: {}}),
    told(1, gauges={"a": True}), told(1, gauges={"a": math.inf}), told(1, gauges={"a": 10**400}),
])  # fmt: skip
def test_a_malformed_answer_counts_as_none(answer: Any) -> None:
    """As a whole: nothing of it is added."""
    found = merged_status({"1": told(1), "2": answer})
    assert {"up": False} == found["workers"].pop("2")
    assert merged_status({"1": told(1)}) == found
