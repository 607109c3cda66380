"""What is written and counted about peers that are turned away."""

from __future__ import annotations

import logging
from typing import Any

import pytest

from tests.websocket.loopback import Witness
from webmesh.exceptions import ConnectionClosed
from webmesh.websocket.refusals import FIELD_SIZE, Refusals, printable, tell_end


class Clock:
    """Seconds that a test moves."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def refusals(witness: Witness, clock: Clock, caplog: pytest.LogCaptureFixture) -> Refusals:
    caplog.set_level(logging.WARNING, "webmesh.server")
    return Refusals(witness, clock=clock)


def fields(record: logging.LogRecord, *names: str) -> list[object]:
    return [getattr(record, name, None) for name in names]


@pytest.mark.row(1)
def test_a_refused_handshake_is_counted_and_logged_once(refusals, witness, caplog):
    """The counter gets address, status and reason; the line has them as fields, at WARNING."""
    refusals.handshake("10.0.0.2:99", 431, "head too large", "97 headers")

    assert [("10.0.0.2:99", 431, "head too large")] == witness.handshakes
    (record,) = caplog.records
    assert logging.WARNING == record.levelno
    assert ["10.0.0.2:99", 431, "head too large", "97 headers"] == fields(
        record, "address", "status", "reason", "detail"
    )


def test_other_refusals_have_a_kind(refusals, witness, caplog):
    """What is no handshake is counted by kind and reason."""
    refusals.refused("message", "too big", "10.0.0.2:99")

    assert [("message", "too big")] == witness.others
    assert [["10.0.0.2:99", "message", "too big"]] == [
        fields(record, "address", "kind", "reason") for record in caplog.records
    ]


def test_no_offence_is_counted_but_not_logged_by_default(refusals, witness, caplog):
    """A load balancer's check, which connects and leaves, writes no line at the usual levels."""
    refusals.handshake("10.0.0.2:99", 0, "closed without a request", quiet=True)

    assert 1 == len(witness.handshakes)
    assert [] == caplog.records


@pytest.mark.row(84)
def test_a_shortage_is_one_line_a_second_and_all_are_counted(refusals, witness, clock, caplog):
    """Running out of something is one fault of ours, however many peers meet it."""
    for _ in range(50):
        refusals.shortage("out of descriptors", "10.0.0.2:99", status=503)
    clock.now += 1.0
    refusals.shortage("out of descriptors", "10.0.0.2:99", status=503)
    refusals.shortage("out of memory")

    assert 51 == len(witness.handshakes)
    assert [("accept", "out of memory")] == witness.others
    assert ["out of descriptors", "out of descriptors", "out of memory"] == [r.reason for r in caplog.records]
    assert {logging.ERROR} == {record.levelno for record in caplog.records}


@pytest.mark.row(46)
@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("/orders", "/orders"),
        ("a\nERROR forged", "a\\nERROR forged"),
        ("\x1b[31mred", "\\x1b[31mred"),
        ("caf\xe9", "caf\\xe9"),
        ("\u202eevil", "\\u202eevil"),
        ("100%s {0.__class__}", "100%s {0.__class__}"),
        (OSError("gone"), "gone"),
    ],
)
def test_values_are_printable_ascii(text, expected):
    """No peer ends a line, colours a terminal, or turns the text around."""
    assert expected == printable(text)


@pytest.mark.row(46)
@pytest.mark.parametrize("text", ["x" * 8192, "\n" * 8192, "\U0001f600" * 8192])
def test_values_are_cut(text):
    """One value takes at most 200 characters, escapes counted."""
    assert len(printable(text)) == FIELD_SIZE


@pytest.mark.row(46)
def test_fields_of_a_line_are_made_printable(refusals, caplog):
    """Reason and detail may quote a peer: both are escaped in the record already."""
    refusals.handshake("unix:/tmp/a\nb", 400, "bad\x00", "x" * 8192)

    (record,) = caplog.records
    assert ["unix:/tmp/a\\nb", "bad\\x00", "x" * FIELD_SIZE] == fields(record, "address", "reason", "detail")


@pytest.mark.parametrize(("code", "dropped", "invalid", "lines"), [
    (1000, 0, 0, 0), (1006, 0, 0, 0), (4008, 0, 0, 1), (1002, 0, 0, 1), (1000, 3, 0, 1), (1000, 0, 2, 1),
])  # fmt: skip
def test_a_bad_end_is_one_line(code: int, dropped: int, invalid: int, lines: int, caplog: Any) -> None:
    """A rule was broken, or something was lost; what the peer says cannot forge a line."""
    with caplog.at_level(logging.WARNING, "webmesh.server"):
        tell_end("a1", "127.0.0.1:5", ConnectionClosed(code, "why\n"), dropped, invalid)
    assert lines == len(caplog.records)
    for record in caplog.records:
        assert ("a1", "127.0.0.1:5", code, "why\\n") == (
            record.connection, record.address, record.code, record.reason
        )
        assert (dropped, invalid) == (getattr(record, "dropped", 0), getattr(record, "invalid", 0))
