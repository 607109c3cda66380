"""One exposition of several workers."""

from __future__ import annotations

import copy
import math
from typing import Any

import pytest

from webmesh.observability.metrics import Metrics

pytest.importorskip("prometheus_client", reason="the extra metrics is not installed")

from prometheus_client import CollectorRegistry, Histogram, Info, Summary  # noqa: E402
from prometheus_client.openmetrics.exposition import generate_latest as openmetrics  # noqa: E402
from prometheus_client.openmetrics.parser import text_string_to_metric_families  # noqa: E402

from webmesh.observability.worker_families import WorkerFamilies, families_to_wire  # noqa: E402


def told() -> list[dict[str, Any]]:
    metrics = Metrics(buckets=(0.1, 1.0))
    metrics.request_finished("/a", "ok", 0.05)
    metrics.request_finished("/b", "ok", 5.0)
    metrics.refused("message", 'a "quoted"\nreason')
    return families_to_wire(metrics.collect())


def samples(families: WorkerFamilies) -> list[tuple[str, dict[str, str], float]]:
    """What a scrape finds in the format that is the stricter one."""
    read = list(text_string_to_metric_families(openmetrics(families).decode()))
    return [(one.name, one.labels, one.value) for family in read for one in family.samples]


def test_families_come_through_the_wire_as_they_were() -> None:
    """Each once, with the samples of all workers."""
    found = samples(WorkerFamilies("webmesh", {"1": told(), "2": told()}))
    for worker in "12":
        mine = [(name, {k: v for k, v in labels.items() if k != "worker"}, value)
                for name, labels, value in found if labels["worker"] == worker]  # fmt: skip
        assert ("webmesh_worker_up", {}, 1) in mine
        assert ("webmesh_request_seconds_bucket", {"route": "/a", "le": "0.1"}, 1) in mine
        assert ("webmesh_request_seconds_sum", {"route": "/b"}, 5) in mine
        assert ("webmesh_refused_total", {"kind": "message", "reason": 'a "quoted"\nreason'}, 1) in mine


def test_a_programs_own_families_come_through() -> None:
    """Of the other types too, with the times at which they were created."""
    registry = CollectorRegistry()
    Histogram("took", "Seconds.", ["of"], registry=registry).labels("x").observe(1)
    Summary("size", "Bytes.", registry=registry).observe(3)
    Info("built", "Of what.", registry=registry).info({"of": "wood"})
    wire = families_to_wire(registry.collect())
    found = {(name, labels["worker"]) for name, labels, _ in samples(WorkerFamilies("x", {"1": wire, "2": wire}))}
    names = ["took_bucket", "took_created", "size_sum", "size_created", "built_info"]
    assert {(name, worker) for name in names for worker in "12"} <= found


def gauge(**changes: Any) -> list[Any]:
    return [{"name": "g", "type": "gauge", "help": "", "shapes": [["", "a"]], "samples": [[0, "x", 1.0]]} | changes]


def histogram(*samples: list[Any]) -> list[Any]:
    shapes = [["_bucket", "le"], ["_count"], ["_sum"]]
    return [{"name": "h", "type": "histogram", "help": "", "shapes": shapes, "samples": list(samples)}]


MALFORMED: dict[str, Any] = {
    "nothing": None, "an error": TimeoutError(), "a map": {}, "no families": [1], "an empty map": [{}],
    "a bad name": gauge(name="a b"), "a name that is a number": gauge(name=1), "a bad type": gauge(type="stateset"),
    "no help": gauge(help=None), "half a character": gauge(help="\ud800"), "shapes that are none": gauge(shapes=1),
    "an empty shape": gauge(shapes=[[]]), "a suffix of another type": gauge(shapes=[["_total", "a"]]),
    "a label's bad name": gauge(shapes=[["", "a-b"]]), "a label twice": gauge(shapes=[["", "a", "a"]]),
    "our label": gauge(shapes=[["", "worker"]]), "a shape twice": gauge(shapes=[["", "a"], ["", "a"]]),
    "samples that are none": gauge(samples={}), "an empty sample": gauge(samples=[[]]),
    "a shape that is not there": gauge(samples=[[1, "x", 1.0]]),
    "a shape by its truth": gauge(samples=[[False, "x", 1.0]]),
    "a label too many": gauge(samples=[[0, "x", "y", 1.0]]), "a label too few": gauge(samples=[[0, 1.0]]),
    "a label that is a number": gauge(samples=[[0, 1, 1.0]]), "no number": gauge(samples=[[0, "x", "1"]]),
    "a huge number": gauge(samples=[[0, "x", 10**400]]),
    "a sample twice": gauge(samples=[[0, "x", 1.0], [0, "x", 2.0]]),
    "a family twice": gauge() + gauge(), "our family": gauge(name="webmesh_worker_up"),
    "another type than before": gauge(name="webmesh_requests"),
    "a name that another has": gauge(name="webmesh_requests_total"),
    "a counter below zero": gauge(type="counter", shapes=[["_total", "a"]], samples=[[0, "x", -1.0]]),
    "a counter without value": gauge(type="counter", shapes=[["_total", "a"]], samples=[[0, "x", math.nan]]),
    "no last bucket": histogram([0, "1.0", 1.0]), "no bucket": histogram([1, 1.0]),
    "buckets that fall": histogram([0, "1.0", 2.0], [0, "+Inf", 1.0]),
    "no bound": histogram([0, "nan", 2.0], [0, "+Inf", 2.0]),
    "bounds that fall": histogram([0, "2.0", 1.0], [0, "1.0", 1.0], [0, "+Inf", 1.0]),
}  # fmt: skip


@pytest.mark.parametrize("answer", MALFORMED.values(), ids=MALFORMED)
def test_a_malformed_answer_counts_as_none(answer: Any) -> None:
    """As a whole, and the next one is read all the same."""
    if isinstance(answer, list):
        answer = copy.deepcopy(answer) + gauge(name="whole")
    found = samples(WorkerFamilies("webmesh", {"1": told(), "2": answer, "3": told()}))
    up = {labels["worker"]: value for name, labels, value in found if name == "webmesh_worker_up"}
    assert {"1": 1, "2": 0, "3": 1} == up
    assert ["webmesh_worker_up"] == [name for name, labels, _ in found if labels["worker"] == "2"]


def test_samples_that_are_not_together_are_refused() -> None:
    """As OpenMetrics has it for a histogram of several routes."""
    shapes = [["_bucket", "a", "le"]]
    values = [[0, "x", "+Inf", 1.0], [0, "y", "+Inf", 1.0], [0, "x", "1.0", 1.0]]
    answer = [{"name": "h", "type": "histogram", "help": "", "shapes": shapes, "samples": values}]
    found = samples(WorkerFamilies("webmesh", {"1": answer}))
    assert [("webmesh_worker_up", {"worker": "1"}, 0)] == found
