"""What is stored of publications, and what of what is read is taken."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.brokers.contract import message
from webmesh.brokers.redis_messages import (
    BadMessage,
    Keys,
    body_limits,
    glob,
    read_body,
    read_message,
    read_pattern,
    write_body,
)
from webmesh.exceptions import BrokerError, ConfigurationError
from webmesh.options import Limits

LIMITS = body_limits(Limits(), 1000)
BODY = write_body(message(payload={"x": [1, b"\x00"]}, mine="y", dedupe_id="d"), LIMITS)


def test_a_publication_is_read_as_it_was_written() -> None:
    """With its options, publisher and numbers."""
    read = read_message("a/b", b"7 0af3 1732000000123 a.1\n" + BODY, LIMITS)
    assert (7, "0af3", 1732000000.123) == (read.offset, read.epoch, read.at)
    assert ({"x": [1, b"\x00"]}, "me", "d") == (read.payload, read.publisher, read.dedupe_id)
    assert {"mine": "y", "dedupe-id": "d"} == read.headers
    assert (None, None) == (read_message("a", b"- - 5 a.1\n" + BODY, LIMITS).offset, read.ttl)


@pytest.mark.row(98)
@pytest.mark.parametrize(
    ("topic", "data"),
    [
        (b"a", None), (b"a", b""), (b"a", "text"), (b"a", b"\n" + BODY), (b"a", b"0 ab 5 x\n" + BODY),
        (b"a", b"1 - 5 a.1\n" + BODY), (b"a", b"- - 5 a.1\n"), (b"a", b"- - 5 a.1\n\xc1"), (b"a", b"- - 5 a.1\n\x05"),
        (b"a", b"- - 5 a.1\n" + BODY + b"\x00"), (b"a//b", b"- - 5 a.1\n" + BODY), (b"a/*", b"- - 5 a.1\n" + BODY),
        (b"$a", b"- - 5 a.1\n" + BODY), (b"\xff", b"- - 5 a.1\n" + BODY), (b"", b"- - 5 a.1\n" + BODY),
        ("u\u0308".encode(), b"- - 5 a.1\n" + BODY), (b"a", b"- - 99999999999999999 a.1\n" + BODY),
        (b"a", b"- - 5 a.1\n" + b"\x82\xa1p\xc0\xa1x\xc0"), (b"a", b"- - 5 a.1\n" + b"\x81\xa1h\x80"),
        (b"a", b"- - 5 a.1\n" + b"\x82\xa1p\xc0\xa1h\xc0"), (b"a", b"- - 5 a.1\n" + b"\x82\xa1p\xc0\xa1h\x81\xa1k\x01"),
        (b"a", b"- - 5 a.1\n" + b"\x82\xa1p\xc0\xa1b\x01"), (b"a", b"- - 5 a.1\n" + b"\xc7\x00\x01"),
        (b"a", b"- - 5 a.1\n" + b"\x82\xa1p\xc0\xa1h\x81\xa6ttl-ms\xa1x"), (b"a", b"- - 5 a.1\n" + BODY * 99),
        (b"a", b"- - 5 a.1\n" + b"\x81\xa1p\xc4\x00" + b"\x90" * 2000), (b"a", b"- - 5 a.1\n" + b"\x91" * 200),
    ],
)  # fmt: skip
def test_what_is_none_of_ours(topic: object, data: object) -> None:
    """Is told as one kind of error, whatever is wrong: line, topic, size, msgpack, headers or options."""
    with pytest.raises(BadMessage):
        read_message(topic, data, LIMITS)


@pytest.mark.row(98)
@given(st.binary(max_size=60))
def test_any_bytes_are_read_or_refused(data: bytes) -> None:
    """Nothing else is raised."""
    for read in (lambda: read_message(b"a", b"1 a 5 x\n" + data, LIMITS), lambda: read_body(data, BODY, 5, LIMITS)):
        try:
            read()
        except BadMessage:
            pass


def test_what_cannot_be_carried_is_told_to_its_publisher() -> None:
    """An object of the program, or too many bytes."""
    for payload in (object(), b"x" * 2000):
        with pytest.raises(BrokerError, match="a/b"):
            write_body(message(payload=payload), LIMITS)


def test_all_keys_lie_in_one_slot() -> None:
    """They share a hash tag, and so what one script needs is on one server of a Cluster."""
    keys = Keys("shop")
    made = [keys.topics, keys.live, keys.retained, keys.log("a/{b}"), keys.work("a"), keys.records("t"), keys.nodes]
    assert {"{shop}:"} == {key[:7] for key in made}


@pytest.mark.parametrize("prefix", ["", "a*", "{a}", "a b", "x" * 65, "ü"])
def test_a_prefix_is_plain(prefix: str) -> None:
    """Nothing in it means anything to Redis."""
    with pytest.raises(ConfigurationError):
        Keys(prefix)


def test_patterns_are_written_as_redis_reads_them() -> None:
    """What means something to Redis and nothing to us is escaped."""
    assert "a/*/c" == glob(("a", "*", "c"))
    assert "a/*" == glob(("a", "**"))
    assert r"a\[b\]/\?\\" == glob(("a[b]", "?\\"))


@pytest.mark.parametrize("text", ["a//b", "a*", "", "$x"])
def test_a_pattern_from_redis_is_checked(text: str) -> None:
    """Like one from a peer."""
    with pytest.raises(BadMessage):
        read_pattern(text)
