"""An answer to an upgrade that is not 101: what it says, and how much of its body is read.

Decides the `HandshakeRejected` that the caller gets. Redirects are not followed: a server that could send a client to
another host or scheme could have it show its credentials there.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import datetime, timezone

import h11

from webmesh.exceptions import HandshakeRejected
from webmesh.options import Limits
from webmesh.protocol.header_fields import joined_fields, phrase

EXCERPT = 200
"""Printable characters of a body, or of a Location, that the exception's text shows."""

# Nine digits are 31 years; more is no delay that anybody meant.
_SECONDS = re.compile(r"[0-9]{1,9}")
_HTTP_DATE = re.compile(r"[A-Z][a-z]{2}, ([0-9]{2}) ([A-Z][a-z]{2}) ([0-9]{4}) ([0-9]{2}):([0-9]{2}):([0-9]{2}) GMT")
_MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")


class Rejection:
    """A final answer whose body is being read.

    Args:
        http: The connection that parsed the head of *response*; it holds no byte after that head.
    """

    def __init__(self, response: h11.Response, http: h11.Connection, limits: Limits) -> None:
        self._status = response.status_code
        self._headers = joined_fields(response.headers)
        self._http = http
        self._room = limits.rejected_body
        self._body = bytearray()

    def receive(self, data: bytes) -> None:
        """Read on in the body; *data* may be empty.

        Raises:
            HandshakeRejected: The body is whole, malformed, or as long as is read, chunk sizes counted.
        """
        # h11 takes an empty piece for the end of the stream.
        if data:
            self._http.receive_data(data[: self._room])
            self._room -= len(data)
        if self._body_ended() or self._room <= 0:
            raise self.error()

    def error(self) -> HandshakeRejected:
        """What is known so far, as the exception to raise."""
        parts = [phrase(self._status) or "unknown status"]
        if 300 <= self._status < 400:
            parts.append(f"redirects are not followed, Location: {self._headers.get('location', 'none')[:EXCERPT]}")
        elif self._status < 300:
            parts.append("there is no WebSocket at this path")
        excerpt = _excerpt(self._body)
        if excerpt:
            parts.append(excerpt)
        return HandshakeRejected(self._status, "; ".join(parts), retry_after=retry_after(self._headers))

    def _body_ended(self) -> bool:
        try:
            while isinstance(event := self._http.next_event(), h11.Data):
                self._body += event.data
        except h11.RemoteProtocolError:
            return True
        return event is not h11.NEED_DATA


def retry_after(headers: Mapping[str, str]) -> float | None:
    """Seconds that an answer asks to wait; `None` when it does not, or not in a form that is understood.

    A date is measured from the answer's own Date, so the two machines' clocks need not agree.
    """
    value = headers.get("retry-after", "")
    if _SECONDS.fullmatch(value):
        return float(value)
    until, sent = _http_date(value), _http_date(headers.get("date", ""))
    if until is None or sent is None:
        return None
    return max(0.0, (until - sent).total_seconds())


def _http_date(text: str) -> datetime | None:
    """A date in the one form that is still sent (RFC 9110 section 5.6.7)."""
    parts = _HTTP_DATE.fullmatch(text)
    if not parts or parts[2] not in _MONTHS:
        return None
    day, year, hour, minute, second = map(int, parts.group(1, 3, 4, 5, 6))
    try:
        return datetime(year, _MONTHS.index(parts[2]) + 1, day, hour, minute, second, tzinfo=timezone.utc)
    except ValueError:
        return None


def _excerpt(body: bytearray) -> str:
    text = body.decode("utf-8", "replace")
    printable = "".join(character if character.isprintable() else " " for character in text)
    return " ".join(printable.split())[:EXCERPT]
