"""What becomes of encoded deliveries while their peer is away."""

from __future__ import annotations

import pytest

from tests.topic_fakes import CountingSerializer
from webmesh.kept_messages import with_time_left, without
from webmesh.protocol.kept_deliveries import shared
from webmesh.protocol.publication import TTL


@pytest.fixture
def serializer() -> CountingSerializer:
    return CountingSerializer()


def test_only_what_is_for_an_ended_and_another_subscription_is_read_again(serializer: CountingSerializer):
    """So an end costs little, however much is kept: for the rest it is known whom it is for."""
    whole, other = shared(b"not json", 1, None, [1, 2]), shared(b"not json", 1, None, [3])
    mixed = shared(serializer.serialize({"data": 1, "subs": [1, 3]}), 1, None, [1, 3])
    assert without(serializer, {1, 2}, whole) is None
    assert without(serializer, {1, 2}, other) is other
    assert (serializer.serialize({"data": 1, "subs": [3]}), mixed[1], None, [3]) == without(serializer, {1, 2}, mixed)


def test_the_time_to_live_goes_on(serializer: CountingSerializer):
    """A delivery says what is left of it when it is sent; what cannot be read goes as it is."""
    kept = serializer.serialize({"data": 1, "subs": [1], "headers": {"a": "b", TTL: "5000"}})
    sent = serializer.deserialize(with_time_left(serializer, kept, 1.5))
    assert {"data": 1, "subs": [1], "headers": {"a": "b", TTL: "1500"}} == sent
    assert "1" == serializer.deserialize(with_time_left(serializer, kept, 0.0001))["headers"][TTL]
    assert b"no json" == with_time_left(serializer, b"no json", 1.5)
