"""Publications as bytes, and what is taken of what strangers send."""

import math
from typing import Any

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.brokers.contract import message
from webmesh.brokers.nats_bodies import LARGEST, Bodies
from webmesh.exceptions import BrokerError
from webmesh.options import Limits

NOW = 1000.0
bodies = Bodies(lambda: NOW, Limits())


def packed(**changes: Any) -> bytes:
    """A good body, but for *changes*; `...` leaves a key out."""
    body = {"p": 1, "h": {"a": "b"}, "at": 5.0, "u": "me", "i": "x-1"} | changes
    return msgpack.packb({key: value for key, value in body.items() if value is not ...})


def test_a_publication_is_read_as_it_was_written():
    """With its options, its publisher and its number."""
    sent = message("a/b.c", {"x": [1, None, b"\x00", "ü"]}, ttl_ms="5000", mine="y")
    sent.at = 7.0
    arrived = bodies.read("a.b%dc", bodies.write(sent, "n-1", sent.at), "3 e1 5 - n.")
    assert ("n-1", 3, "e1") == (arrived.id, arrived.publication.offset, arrived.publication.epoch)
    arrived.publication.offset = arrived.publication.epoch = None
    assert sent == arrived.publication


def test_a_large_body_is_compressed():
    """It comes out as it went in."""
    sent = message(payload="x" * 500_000)
    body = bodies.write(sent, "n-1", sent.at)
    assert len(body) < 50_000
    assert sent.payload == bodies.read("a.b", body, None).publication.payload


@pytest.mark.row(98)
@pytest.mark.parametrize(
    "data",
    [
        b"", b"\xc1", b"no msgpack", msgpack.packb([1]), packed(p=...), packed(more=1), packed(h=1), packed(h={"a": 1}),
        packed(h={str(n): "" for n in range(65)}), packed(h={"ttl-ms": "soon"}), packed(h={"dedupe-id": "x" * 300}),
        packed(at="now"), packed(at=math.nan), packed(at=math.inf), packed(at=True), packed(u=1), packed(u="x" * 2000),
        packed(i=1), packed(i=""), packed(i="x" * 65), packed(p=msgpack.ExtType(1, b"")),
        packed(p=msgpack.Timestamp(1)), packed() + b"x", b"\x78\x9c" + b"\x00" * 20,
    ],
)  # fmt: skip
def test_what_is_no_publication_is_refused(data: bytes):
    """Whoever can reach the server may send anything."""
    with pytest.raises(ValueError, match=r"."):
        bodies.read("a.b", data, None)


@pytest.mark.row(98)
@given(st.binary(max_size=200), st.text("0123456789 -nrae.", max_size=20) | st.none())
def test_arbitrary_bytes_are_refused(data: bytes, mark: str | None):
    """With one kind of error."""
    with pytest.raises(ValueError, match=r"."):
        bodies.read("a.b", data, mark)


@pytest.mark.row(98)
def test_a_bomb_is_not_inflated():
    """The limit is that of the body as it would be, not as it came."""
    import zlib

    bomb = zlib.compress(b"\x00" * (LARGEST + 1))
    with pytest.raises(ValueError, match=str(LARGEST)):
        bodies.read("a.b", bomb, None)


def test_nothing_is_from_the_future():
    """A stranger's time to live begins now at the latest."""
    assert NOW == bodies.read("a.b", packed(at=1e12), None).publication.at


def test_what_cannot_be_sent_says_so():
    """Before anything is sent."""
    with pytest.raises(BrokerError, match="cannot be sent"):
        bodies.write(message(payload=object()), "n-1", NOW)
    with pytest.raises(BrokerError, match="cannot be kept"):
        bodies.write_value({1: 2}, 0.0)


def test_records_are_read_as_they_were_written():
    """And nothing else is one."""
    assert ({"a": [1]}, 7.5) == bodies.read_value(bodies.write_value({"a": [1]}, 7.5))
    for body in (b"", msgpack.packb({"v": 1}), msgpack.packb({"v": 1, "until": "x"}), packed()):
        with pytest.raises(ValueError, match=r"."):
            bodies.read_value(body)
