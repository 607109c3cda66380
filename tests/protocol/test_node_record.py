"""What a node says of itself: what is kept, what is refused, which of two is the later."""

from __future__ import annotations

from typing import Any

import pytest

from webmesh.exceptions import ConfigurationError, InvalidArgument
from webmesh.protocol.node_record import HIGHEST, NodeRecord, newer, read_record

FULL = NodeRecord(
    id="n1", epoch=1_700_000_000_000, version=7, name="shop", services=("shop", "prices"),
    addresses=("ws://10.0.0.2:4269", "ws+unix:///run/shop.sock"), zone="a", release="1.2",
    metadata={"cpu": 2, "gpu": False, "rack": None, "note": "héllo", "weight": 0.5}, state="draining", load=3,
)  # fmt: skip


def record(**parts: Any) -> NodeRecord:
    return NodeRecord(**{"id": "n1", "epoch": 5, **parts})


def test_a_record_survives_the_wire() -> None:
    """What one node writes, another reads as the same."""
    assert FULL == read_record(FULL.to_wire())


def test_what_is_empty_is_not_sent() -> None:
    """A node with nothing to say costs an id, an epoch and a version."""
    assert {"id": "n1", "epoch": 5, "version": 1} == record().to_wire()


@pytest.mark.row(101)
def test_unknown_keys_are_ignored() -> None:
    """A later version may say more."""
    assert FULL == read_record({**FULL.to_wire(), "colour": "blue", "shape": {"x": [1]}})


def test_the_name_is_a_service() -> None:
    """Who has a name serves it."""
    assert ("shop", "prices") == record(name="shop", services=("prices",)).services


def test_the_metadata_cannot_be_changed_afterwards() -> None:
    """Neither by whoever gave it nor by whoever reads it."""
    given = {"cpu": 2}
    made = record(metadata=given)
    given["cpu"] = 3

    with pytest.raises(TypeError):
        made.metadata["cpu"] = 4  # type: ignore[index]
    assert {"cpu": 2} == dict(made.metadata)


@pytest.mark.row(100)
@pytest.mark.parametrize("parts", [
    {"id": ""}, {"id": "x" * 65}, {"id": "ü"}, {"id": "a\nb"}, {"id": 7}, {"id": None},
    {"epoch": -1}, {"epoch": True}, {"epoch": 1.5}, {"epoch": HIGHEST + 1}, {"epoch": "5"}, {"version": HIGHEST + 1},
    {"name": "é" * 40}, {"name": []}, {"zone": "a\x00b"}, {"release": {}}, {"state": "dead"}, {"state": ["ok"]},
    {"services": "shop"}, {"services": [1]}, {"services": ["s"] * 65}, {"services": [""]},
    {"addresses": ["http://x"]}, {"addresses": ["ws://a b"]}, {"addresses": ["ws://" + "x" * 600]}, {"addresses": {}},
    {"addresses": ["ws://a"] * 17}, {"addresses": [["ws://a"]]},
    {"metadata": []}, {"metadata": {"a": {}}}, {"metadata": {"a": [1]}}, {"metadata": {"a": float("nan")}},
    {"metadata": {"": 1}}, {"metadata": {1: 1}}, {"metadata": {"a": "\ud800"}}, {"metadata": {"a": "x" * 5000}},
    {"metadata": {"a": 10**40}}, {"metadata": {str(n): n for n in range(65)}},
    {"load": -1}, {"load": float("inf")}, {"load": True}, {"load": "much"},
])  # fmt: skip
def test_a_malformed_record_is_refused(parts: dict[str, Any]) -> None:
    """Nothing of another node is believed unless all of it makes sense."""
    with pytest.raises(InvalidArgument):
        read_record({"id": "n1", "epoch": 5, "version": 1, **parts})


@pytest.mark.parametrize("wire", [None, [], "n1", 7, {}, {"id": "n1"}, {"epoch": 5}])
def test_what_is_no_record_is_refused(wire: object) -> None:
    """A record is a map with an id and an epoch."""
    with pytest.raises(InvalidArgument):
        read_record(wire)


def test_a_record_of_too_many_bytes_is_refused() -> None:
    """All of it is bounded, though each part is within its own bound."""
    addresses = tuple(f"ws://{'x' * 480}:{port}" for port in range(16))

    with pytest.raises(ConfigurationError, match="over 8192 bytes"):
        record(addresses=addresses, metadata={"a": "x" * 2000})


def test_the_metadata_of_a_long_integer_is_bounded_too() -> None:
    """Both serializers carry integers up to 2^53 exactly."""
    assert {"a": 2**53} == dict(record(metadata={"a": 2**53}).metadata)


def test_a_change_has_the_next_version() -> None:
    """Others take it for the later word."""
    changed = FULL.changed(state="ok", load=0.0)

    assert newer(changed, FULL) and not newer(FULL, changed)
    assert (8, "ok", 0.0, FULL.services) == (changed.version, changed.state, changed.load, changed.services)


@pytest.mark.parametrize("changes", [{"id": "n2"}, {"epoch": 6}, {"version": 9}, {"colour": "blue"}])
def test_who_a_node_is_cannot_change(changes: dict[str, Any]) -> None:
    """An identity holds for the life of the process."""
    with pytest.raises(ConfigurationError):
        FULL.changed(**changes)


@pytest.mark.parametrize(("one", "other", "expected"), [
    ((5, 1), (5, 1), False), ((5, 2), (5, 1), True), ((6, 1), (5, 9), True), ((5, 9), (6, 1), False),
])  # fmt: skip
def test_the_epoch_counts_before_the_version(one: tuple[int, int], other: tuple[int, int], expected: bool) -> None:
    """A restarted node begins to count anew and wins all the same."""
    assert expected is newer(record(epoch=one[0], version=one[1]), record(epoch=other[0], version=other[1]))


@pytest.mark.parametrize(("claim", "expected"), [
    ((5, 3), (5, 8)), ((5, 9), (5, 10)), ((4, 99), (5, 8)), ((6, 2), (7, 1)), ((5, HIGHEST), (6, 1)),
    ((HIGHEST - 1, 1), (HIGHEST, 1)),
])  # fmt: skip
def test_whatever_is_claimed_of_a_node_it_can_outbid(claim: tuple[int, int], expected: tuple[int, int]) -> None:
    """So that it can refute, also after its clock has gone back between two runs."""
    outbid = record(version=7).outbidding(*claim)

    assert expected == (outbid.epoch, outbid.version)
