"""Answers other than 101: what the exception tells, and how much is read."""

from __future__ import annotations

import h11
import pytest

from tests.protocol.heads import head
from webmesh.exceptions import HandshakeRejected
from webmesh.options import Limits
from webmesh.protocol.rejection import EXCERPT, Rejection, retry_after

SMALL = Limits(rejected_body=100)


def rejection(*lines: str, status: str = "503 x", limits: Limits = Limits()) -> Rejection:
    http = h11.Connection(h11.CLIENT)
    http.send(h11.Request(method="GET", target="/", headers=[("Host", "a")]))
    http.send(h11.EndOfMessage())
    http.receive_data(head(f"HTTP/1.1 {status}", *lines))
    response = http.next_event()
    assert isinstance(response, h11.Response)
    return Rejection(response, http, limits)


def raised(reading: Rejection, data: bytes) -> HandshakeRejected:
    with pytest.raises(HandshakeRejected) as caught:
        reading.receive(data)
    return caught.value


@pytest.mark.row(14)
def test_a_whole_body_ends_the_reading() -> None:
    """The exception comes with the last byte of the body, and carries status and text."""
    reading = rejection("Content-Length: 12")
    reading.receive(b"no more")

    error = raised(reading, b" room")

    assert 503 == error.status
    assert "upgrade rejected with status 503: Service Unavailable; no more room" == str(error)
    assert error.retry_after is None


@pytest.mark.row(14)
def test_a_chunked_body_is_read_without_its_framing() -> None:
    """Chunk sizes are no part of the text."""
    reading = rejection("Transfer-Encoding: chunked")
    reading.receive(b"3\r\nno \r\n4;x=y\r\nroom\r\n")

    assert str(raised(reading, b"0\r\n\r\n")).endswith("; no room")


@pytest.mark.row(14)
@pytest.mark.parametrize("line", ["Content-Length: 0", "Content-Length: 00"])
def test_an_answer_without_a_body_is_not_waited_for(line: str) -> None:
    """Nothing more comes, so the exception does."""
    assert "upgrade rejected with status 404: Not Found" == str(raised(rejection(line, status="404 x"), b""))


@pytest.mark.row(14)
@pytest.mark.parametrize("status", ["204 x", "304 x"])
def test_statuses_that_have_no_body(status: str) -> None:
    """204 and 304 end with their head."""
    assert int(status[:3]) == raised(rejection(status=status), b"").status


@pytest.mark.row(14)
@pytest.mark.parametrize("data", [b"x\r\n", b"2\r\nnope", b"-1\r\n", b"99999999999999999999999\r\n"])
def test_a_malformed_body_ends_the_reading(data: bytes) -> None:
    """What was understood before is enough."""
    error = raised(rejection("Transfer-Encoding: chunked", "Retry-After: 3"), data)

    assert (503, 3.0) == (error.status, error.retry_after)


@pytest.mark.row(14)
@pytest.mark.parametrize("lines", [[], ["Content-Length: 1000000"], ["Connection: close"]])
def test_an_endless_body_is_left(lines: list[str]) -> None:
    """`Limits.rejected_body` bytes are read; then the answer is as good as whole."""
    reading = rejection(*lines, limits=SMALL)
    reading.receive(b"a" * 60)
    reading.receive(b"b" * 39)

    assert str(raised(reading, b"c" * 1000)).endswith("; " + "a" * 60 + "b" * 39 + "c")


@pytest.mark.row(14)
def test_endless_framing_is_left_too() -> None:
    """Sizes of chunks and their extensions count like the body: a body of framing alone has an end."""
    reading = rejection("Transfer-Encoding: chunked", limits=SMALL)
    reading.receive(b"1;" + b"x" * 97)

    assert str(raised(reading, b"x")).endswith(": Service Unavailable")


@pytest.mark.row(14)
def test_the_default_bound_is_64_kibibytes() -> None:
    """The catalogue's number, to the byte."""
    reading = rejection()
    reading.receive(b"a" * (64 * 1024 - 1))

    assert 503 == raised(reading, b"a").status


@pytest.mark.row(14)
def test_the_excerpt_is_short_and_printable() -> None:
    """200 characters at most; control characters, line ends and broken UTF-8 cannot reach a log as such."""
    body = "\x1b[2J<h1>Zu\r\n\r\n  voll</h1>\0 \u2028 schön ".encode() + b"\xff " + b"a" * 300

    text = str(raised(rejection(f"Content-Length: {len(body)}"), body))

    excerpt = text.partition("; ")[2]
    assert excerpt.startswith("[2J<h1>Zu voll</h1> schön \ufffd aaa")
    assert EXCERPT == 200 == len(excerpt)
    assert text.isprintable()


@pytest.mark.row(14)
@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_redirect_is_told_and_not_followed(status: int) -> None:
    """The place that the server names stands in the text, cut like everything that a peer says."""
    place = "https://evil.example/" + "a" * 300

    error = raised(rejection("Content-Length: 0", f"Location: {place}", status=f"{status} x"), b"")

    assert status == error.status
    assert str(error).endswith("; redirects are not followed, Location: " + place[:200])


@pytest.mark.row(14)
@pytest.mark.parametrize(
    ("status", "text"),
    [
        (200, "OK; there is no WebSocket at this path"),
        (299, "unknown status; there is no WebSocket at this path"),
        (300, "Multiple Choices; redirects are not followed, Location: none"),
        (399, "unknown status; redirects are not followed, Location: none"),
        (400, "Bad Request"),
        (503, "Service Unavailable"),
    ],
)
def test_the_text_hints_at_the_cause(status: int, text: str) -> None:
    """200 is an answer by somebody who did not see an upgrade, 3xx one that points elsewhere."""
    error = rejection(status=f"{status} x").error()

    assert status == error.status
    assert f"upgrade rejected with status {status}: {text}" == str(error)


@pytest.mark.row(14)
def test_the_servers_own_status_words_are_not_repeated() -> None:
    """The text has the standard's words for a status, or says that it has none."""
    assert "upgrade rejected with status 401: Unauthorized" == str(rejection(status="401 Evil words").error())
    assert "upgrade rejected with status 799: unknown status" == str(rejection(status="799 Evil").error())


DATE = "Sun, 06 Nov 1994 08:49:37 GMT"


@pytest.mark.row(14)
@pytest.mark.parametrize(
    ("value", "date", "seconds"),
    [
        ("0", "", 0.0),
        ("120", "", 120.0),
        ("120", DATE, 120.0),
        ("999999999", "", 999999999.0),
        ("Sun, 06 Nov 1994 08:49:50 GMT", DATE, 13.0),
        ("Sun, 06 Nov 1994 10:51:38 GMT", DATE, 7321.0),
        ("Fri, 01 Dec 1995 08:49:37 GMT", DATE, 390 * 86400.0),
        (DATE, DATE, 0.0),
        ("Sun, 06 Nov 1994 08:49:30 GMT", DATE, 0.0),
    ],
)
def test_retry_after_is_seconds_or_a_date(value: str, date: str, seconds: float) -> None:
    """A date is measured from the answer's own Date, and one that has passed means now."""
    assert seconds == retry_after({"retry-after": value, "date": date})


@pytest.mark.row(14)
def test_every_month_is_known() -> None:
    """The first of each month of 1994, in days from the year's beginning."""
    months = "Jan Feb Mar Apr May Jun Jul Aug Sep Oct Nov Dec".split()
    new_year = "Sat, 01 Jan 1994 00:00:00 GMT"

    waits = [retry_after({"retry-after": f"Sat, 01 {month} 1994 00:00:00 GMT", "date": new_year}) for month in months]

    days = [0, 31, 59, 90, 120, 151, 181, 212, 243, 273, 304, 334]
    assert [day * 86400.0 for day in days] == waits


@pytest.mark.row(14)
@pytest.mark.parametrize(
    ("value", "date"),
    [
        ("", DATE), ("-1", DATE), ("1.5", DATE), ("1e3", DATE), ("1000000000", DATE), ("9" * 5000, DATE),
        ("soon", DATE), ("1, 2", DATE), (DATE, ""), (DATE, "soon"), ("06 Nov 1994 08:49:37 GMT", DATE),
        ("Sun, 31 Feb 1994 08:49:37 GMT", DATE), ("Sun, 06 Abc 1994 08:49:37 GMT", DATE),
        ("Sun, 06 Nov 1994 24:49:37 GMT", DATE), ("Sun, 06 Nov 1994 08:49:60 GMT", DATE), (DATE + "+1", DATE),
        ("Sun, 06 Nov 0000 08:49:37 GMT", DATE), ("Sunday, 06-Nov-94 08:49:37 GMT", DATE),
    ],
)  # fmt: skip
def test_what_is_no_retry_after(value: str, date: str) -> None:
    """What is not understood is as if it were not there."""
    assert retry_after({"retry-after": value, "date": date}) is None


@pytest.mark.row(14)
def test_no_retry_after() -> None:
    """Most answers have none."""
    assert retry_after({}) is None
    assert retry_after({"date": DATE}) is None
