"""Records: what is kept of them, and what of what is read is believed."""

from __future__ import annotations

from typing import Any

import pytest

from webmesh.brokers.redis_messages import Keys, body_limits
from webmesh.brokers.redis_records import RedisRecords
from webmesh.exceptions import BrokerError
from webmesh.options import Limits


@pytest.fixture
def refused() -> list[Exception]:
    return []


@pytest.fixture
def records(refused: list[Exception]):
    """With a Redis that keeps one table."""
    kept: dict[str, bytes] = {}

    def run(script: str, keys: list[str], *arguments: Any) -> Any:
        if script == "put":
            kept[arguments[0]] = arguments[2]
        elif script == "claim":
            return kept.pop(arguments[0], None)
        return [part for key, value in kept.items() for part in (key.encode(), value)]

    made = RedisRecords(run, Keys("x"), body_limits(Limits(), 100), lambda where, bad: refused.append(bad))
    made.kept = kept  # type: ignore[attr-defined]
    return made


@pytest.mark.parametrize("value", [None, False, 0, "x", b"\x00", {"a": [1]}])
def test_a_value_comes_back(records: RedisRecords, value: object) -> None:
    """Whatever it is, also one that counts as nothing."""
    records.put("t", "k", value, 1.0)
    assert {"k": value} == records.records("t")
    assert value == records.claim("t", "k")
    assert records.claim("t", "k") is None


@pytest.mark.row(98)
@pytest.mark.parametrize(
    "packed", [b"", b"\xc1", b"\x05", b"\x80", b"\x82\xa1v\x01\xa1w\x01", b"\x81\xa1v\xc4\x64" + b"x" * 100],
)  # fmt: skip
def test_what_strangers_wrote_is_left_out(records: Any, refused: list[Exception], packed: bytes) -> None:
    """And counted; claimed, it is gone."""
    records.kept["k"] = packed
    assert {} == records.records("t")
    assert records.claim("t", "k") is None
    assert 2 == len(refused)


def test_what_cannot_be_kept_is_told(records: RedisRecords) -> None:
    """To whoever wants it kept."""
    with pytest.raises(BrokerError, match="cannot be kept"):
        records.put("t", "k", object(), 1.0)
