"""The counters of several workers as one exposition: what one tells the others, and how that is put together.

What comes is read as from a stranger: it makes whole families, or none. Its size is bounded by that of a message.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from prometheus_client.core import GaugeMetricFamily, Metric

LABEL = "worker"
"""The label that tells the worker; no sample has one of that name before."""

SUFFIXES: dict[str, tuple[str, ...]] = {
    "counter": ("_total", "_created"),
    "gauge": ("",),
    "histogram": ("_bucket", "_sum", "_count", "_created"),
    "summary": ("", "_sum", "_count", "_created"),
    "info": ("_info",),
    "unknown": ("",),
}
"""Type of a family → what the names of its samples end with."""

_NAME = re.compile(r"[A-Za-z_:][A-Za-z0-9_:]*")
_DECIMAL = re.compile(r"[0-9.eE+-]+")
_LABEL_NAME = re.compile(r"(?!__)[A-Za-z_][A-Za-z0-9_]*")


def families_to_wire(families: Iterable[Any]) -> list[dict[str, Any]]:
    """*families* as plain data; names of labels stand there once for all samples that have the same."""
    return [_to_wire(family) for family in families]


def _to_wire(family: Any) -> dict[str, Any]:
    shapes: dict[tuple[str, ...], int] = {}
    samples: list[list[Any]] = []
    for one in family.samples:
        shape = (one.name.removeprefix(family.name), *one.labels)
        samples.append([shapes.setdefault(shape, len(shapes)), *map(str, one.labels.values()), float(one.value)])
    return {
        "name": family.name, "type": family.type, "help": family.documentation,
        "shapes": [list(shape) for shape in shapes], "samples": samples,
    }  # fmt: skip


class WorkerFamilies:
    """Families of all workers, each once; a collector, as encoders of `prometheus_client` take them.

    Args:
        prefix: What the names of the metrics begin with.
        answers: By worker: what `families_to_wire` made there; `None` where nothing came.
    """

    def __init__(self, prefix: str, answers: Mapping[str, object]) -> None:
        self._up = GaugeMetricFamily(
            f"{prefix}_worker_up", "Whether the worker told its metrics in time.", labels=[LABEL]
        )
        self._families: dict[str, Any] = {self._up.name: self._up}
        self._owners: dict[str, str] = {self._up.name: ""}  # name of a sample → its family; that one is ours alone
        for worker, answer in answers.items():
            self._up.add_metric([worker], float(self._add(worker, answer)))

    def collect(self) -> Iterable[Any]:
        """All of them."""
        return list(self._families.values())

    def _add(self, worker: str, answer: object) -> bool:
        """Whether these were families; otherwise none of them is there."""
        try:
            families = [_read(entry, worker) for entry in _list(answer)]
            self._own(families)
        except ValueError:
            return False
        for family in families:
            self._families.setdefault(family.name, _empty(family)).samples.extend(family.samples)
        return True

    def _own(self, families: Iterable[Any]) -> None:
        """Check that no two families have samples of one name; and remember whose they are."""
        owners = dict(self._owners)
        for family in families:
            known = self._families.get(family.name)
            _expect(known is None or known.type == family.type)
            _expect(family.name not in {one.name for one in families if one is not family})
            for suffix in SUFFIXES[family.type]:
                _expect(owners.setdefault(family.name + suffix, family.name) == family.name)
        self._owners = owners


def _empty(family: Any) -> Any:
    return Metric(family.name, family.documentation, family.type)


def _read(entry: object, worker: str) -> Any:
    """A family whose samples have the label.

    Raises:
        ValueError: It is none.
    """
    _expect(isinstance(entry, dict))
    assert isinstance(entry, dict)
    name, kind = _text(entry.get("name")), _text(entry.get("type"))
    _expect(_NAME.fullmatch(name) is not None and kind in SUFFIXES)
    family = Metric(name, _text(entry.get("help")), kind)
    shapes = [_shape(shape, kind) for shape in _list(entry.get("shapes"))]
    _expect(len({(suffix, frozenset(labels)) for suffix, labels in shapes}) == len(shapes))
    seen: set[tuple[Any, ...]] = set()
    for sample in map(_list, _list(entry.get("samples"))):
        _expect(len(sample) > 1 and type(sample[0]) is int and 0 <= sample[0] < len(shapes))
        suffix, labels = shapes[sample[0]]
        _expect(len(sample) == len(labels) + 2 and tuple(sample[:-1]) not in seen)
        values = [_text(value) for value in sample[1:-1]]
        seen.add((sample[0], *values))
        family.add_sample(name + suffix, {**dict(zip(labels, values)), LABEL: worker}, _number(sample[-1], kind))
    _check_order(family)
    return family


def _shape(shape: object, kind: str) -> tuple[str, tuple[str, ...]]:
    suffix, *labels = map(_text, _list(shape) or [None])
    _expect(suffix in SUFFIXES[kind] and len(set(labels)) == len(labels))
    _expect(LABEL not in labels and all(map(_LABEL_NAME.fullmatch, labels)))
    _expect(kind != "histogram" or ("le" in labels) == (suffix == "_bucket"))
    return suffix, tuple(labels)


def _check_order(family: Any) -> None:
    """Samples that differ in no label stand together, as OpenMetrics has it; buckets ascend and end with all."""
    groups: dict[tuple[tuple[str, str], ...], list[Any]] = {}
    last = None
    for one in family.samples:
        key = tuple(sorted(pair for pair in one.labels.items() if pair[0] not in _WITHIN.get(family.type, ())))
        _expect(key == last or key not in groups)
        groups.setdefault(key, []).append(one)
        last = key
    if family.type == "histogram":
        for samples in groups.values():
            _check_buckets([(_bound(one.labels["le"]), one.value) for one in _buckets(samples)])


def _buckets(samples: Iterable[Any]) -> Iterator[Any]:
    return (one for one in samples if "le" in one.labels)


def _bound(text: str) -> float:
    _expect(text == "+Inf" or _DECIMAL.fullmatch(text) is not None)  # `float` takes more than Prometheus does
    return float(text)


def _check_buckets(buckets: list[tuple[float, float]]) -> None:
    bounds, counts = [bound for bound, _ in buckets], [count for _, count in buckets]
    _expect(bool(buckets) and bounds == sorted(set(bounds)) and bounds[-1] == math.inf and counts == sorted(counts))


_WITHIN = {"histogram": ("le",), "summary": ("quantile",)}
"""Labels that tell samples of one measurement apart."""


def _number(value: object, kind: str) -> float:
    _expect(type(value) in (int, float))
    assert isinstance(value, int | float)
    _expect(kind in ("gauge", "unknown") or (math.isfinite(value) and value >= 0))
    try:
        return float(value)
    except OverflowError:
        raise ValueError("an integer that no float can hold") from None


def _text(value: object) -> str:
    _expect(isinstance(value, str))
    assert isinstance(value, str)
    value.encode()  # half a surrogate pair cannot be written down: UnicodeEncodeError, which is a ValueError
    return value


def _list(value: object) -> list[Any]:
    _expect(isinstance(value, list))
    assert isinstance(value, list)
    return value


def _expect(holds: bool) -> None:
    if not holds:
        raise ValueError("these are no families")
