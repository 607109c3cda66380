"""One HTTP/1.1 head as raw bytes: is it written strictly, and where does it end?

Decides what is refused before any parser sees it: bare line ends, folded headers, bytes that are not
printable ASCII, space before a colon, and every size. h11 takes most of these, and two readers of one
head that disagree are how requests get smuggled. Knows nothing of WebSockets (`handshake`), and what a
header means is not asked here. Grammar: RFC 9112 sections 2 to 5.
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from dataclasses import dataclass, field

from webmesh.exceptions import RemoteProtocolError
from webmesh.options import Limits
from webmesh.protocol.header_fields import TOKEN, TOKEN_CHARACTER

METHODS = ("GET", "HEAD")
"""What the port answers. Everything else gets 405: what is no upgrade is only ever read (protocol.md 7)."""

_LONGEST_METHOD = 24
_METHOD_BEGUN = re.compile(rf"{TOKEN_CHARACTER}{{1,{_LONGEST_METHOD}}}(?: .*)?|".encode(), re.DOTALL)
_REQUEST_LINE = re.compile(rf"({TOKEN}) [!-~]+ HTTP/([0-9]\.[0-9])".encode())
_STATUS_LINE_BEGIN = b"HTTP/1.1 "
_STATUS_LINE = re.compile(rb"HTTP/1\.1 [1-9][0-9][0-9](?: [\t -~]*)?")
_HEADER_LINE = re.compile(rf"{TOKEN}:[\t -~]*".encode())
_SPACE_BEFORE_COLON = re.compile(rf"{TOKEN}[\t ]+:".encode())
# A CR at the end of what has arrived may still become a CRLF.
_FORBIDDEN = re.compile(rb"[^\t\r\n -~]|\r(?!\n|\Z)")
_CR = 0x0D
# First bytes of a TLS alert and of a TLS handshake.
_TLS_RECORDS = (b"\x15", b"\x16")
_TLS_INSTEAD = "TLS where plain HTTP is spoken"  # any link to https:// makes a browser do that
STUN = b"\0"
"""First byte of the requests of STUN and TURN, which a page can make browsers send to any port."""
_STUN_INSTEAD = "STUN where HTTP is spoken"
_PAGES_DOING = (_TLS_INSTEAD, _STUN_INSTEAD)


@dataclass(frozen=True, slots=True)
class Refusal:
    """An HTTP answer that turns a request down.

    Attributes:
        status: HTTP status, 400 to 599.
        reason: A short sentence, for the peer and for the log; holds no byte that the peer sent.
        headers: Further headers of the answer.
        offence: Nobody who means well sends this, nor can a web page make its visitors' browsers send it.
    """

    status: int
    reason: str
    headers: tuple[tuple[str, str], ...] = ()
    offence: bool = field(default=False, compare=False)  # the answer is the same


class RefusedHead(RemoteProtocolError):
    """A head that breaks a rule.

    Attributes:
        refusal: The answer that a server gives; a client uses its reason alone.
    """

    def __init__(
        self, status: int, reason: str, headers: tuple[tuple[str, str], ...] = (), *, offence: bool = False
    ) -> None:
        super().__init__(reason)
        self.refusal = Refusal(status, reason, headers, offence)


class HeadReader(ABC):
    """Gathers the bytes of one head, and refuses at the first byte that breaks a rule.

    Every rule belongs to one byte of the input, so the verdict does not depend on how reads cut it.
    After a refusal the reader is of no further use.
    """

    first_line_too_long = 431
    """Status for a first line over `Limits.header_line`."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._buffer = bytearray()
        self._line_start = 0
        self._scanned = 0
        self._lines = 0
        self.rest = b""
        """What arrived after the head."""

    @property
    def begun(self) -> bool:
        """Whether anything has arrived of a head that is not whole."""
        return bool(self._buffer)

    def receive(self, data: bytes) -> bytes | None:
        """The whole head, its empty line included, once it is there; until then `None`.

        Raises:
            RefusedHead: It is no head, or one that is written badly or too large.
        """
        self._buffer += data
        while True:
            line = self._next_line()
            if line is None:
                return None
            if not line and self._lines:
                return self._finish()
            self._check_line(line)
            self._lines += 1

    def _finish(self) -> bytes:
        head = bytes(self._buffer[: self._line_start])
        self.rest = bytes(self._buffer[self._line_start :])
        self._buffer.clear()
        return head

    def _next_line(self) -> bytes | None:
        """The next line without its CRLF; `None` while it is not whole."""
        start = self._line_start
        window = min(start + self._limits.header_line + 2, self._limits.head_size)
        newline = self._buffer.find(b"\n", self._scanned, window)
        end = newline + 1 if newline >= 0 else min(len(self._buffer), window)
        self._check_bytes(end)
        if newline >= 0:
            if newline == start or self._buffer[newline - 1] != _CR:
                raise RefusedHead(400, "line that ends with LF alone", offence=True)
            self._line_start = self._scanned = end
            return bytes(self._buffer[start : newline - 1])
        if len(self._buffer) > window:
            raise self._too_large(window - start)
        # Look at a final CR again, together with what follows it.
        self._scanned = end - 1 if end > start and self._buffer[end - 1] == _CR else end
        return None

    def _check_bytes(self, end: int) -> None:
        """Refuse what is wrong in the buffer between what was looked at before and *end*."""
        forbidden = _FORBIDDEN.search(self._buffer, self._scanned, end)
        if self._lines == 0:
            # Another protocol's greeting need not have line ends, and its client may wait for ours. A bare
            # CR is wrong only at the byte after it, so it still counts here.
            good = forbidden.start() + (forbidden[0] == b"\r") if forbidden else end
            self._check_beginning(bytes(self._buffer[: min(good, _LONGEST_METHOD + 1)]))
        if forbidden:
            reason = _forbidden_reason(forbidden[0], at_start=forbidden.start() == 0)
            raise RefusedHead(400, reason, offence=reason not in _PAGES_DOING)

    def _check_line(self, line: bytes) -> None:
        if self._lines == 0:
            self._check_first_line(line)
        elif self._lines > self._limits.header_count:
            raise RefusedHead(431, f"more than {self._limits.header_count} headers")
        elif not _HEADER_LINE.fullmatch(line):
            raise RefusedHead(400, _bad_header_reason(line), offence=True)

    def _too_large(self, line_size: int) -> RefusedHead:
        if line_size < self._limits.header_line + 2:
            return RefusedHead(431, f"head over {self._limits.head_size} bytes")
        status = 431 if self._lines else self.first_line_too_long
        return RefusedHead(status, f"line over {self._limits.header_line} bytes")

    @abstractmethod
    def _check_beginning(self, beginning: bytes) -> None:
        """Refuse when no first line can begin with *beginning*: its first 25 bytes, or fewer so far."""

    @abstractmethod
    def _check_first_line(self, line: bytes) -> None:
        """Refuse a first line that is not as it must be."""


class RequestHead(HeadReader):
    """The head of a request to a server that speaks HTTP/1.1 and is asked with GET or HEAD."""

    first_line_too_long = 414

    def _check_beginning(self, beginning: bytes) -> None:
        if not _METHOD_BEGUN.fullmatch(beginning):
            raise RefusedHead(400, "not an HTTP request", offence=True)

    def _check_first_line(self, line: bytes) -> None:
        parts = _REQUEST_LINE.fullmatch(line)
        if not parts:
            raise RefusedHead(400, "not an HTTP/1.1 request line", offence=True)
        method, version = parts.groups()
        if version != b"1.1":
            raise RefusedHead(505, "only HTTP/1.1 is spoken here")
        if method.decode() not in METHODS:
            raise RefusedHead(405, "only GET and HEAD are answered here", (("Allow", ", ".join(METHODS)),))


class AnswerHead(HeadReader):
    """The head of an answer, final or not; read by a client."""

    def _check_beginning(self, beginning: bytes) -> None:
        if not (_STATUS_LINE_BEGIN.startswith(beginning) or beginning.startswith(_STATUS_LINE_BEGIN)):
            raise RefusedHead(400, "the answer is not HTTP/1.1")

    def _check_first_line(self, line: bytes) -> None:
        if not _STATUS_LINE.fullmatch(line):
            raise RefusedHead(400, "the answer has no valid status line")


def _forbidden_reason(byte: bytes, *, at_start: bool) -> str:
    if at_start and byte in _TLS_RECORDS:
        return _TLS_INSTEAD
    if at_start and byte == STUN:
        return _STUN_INSTEAD
    if byte == b"\r":
        return "CR without LF"
    return "byte outside ASCII" if byte > b"\x7f" else "control character"


def _bad_header_reason(line: bytes) -> str:
    if line[:1] in (b" ", b"\t"):
        return "folded header"
    if _SPACE_BEFORE_COLON.match(line):
        return "space before the colon of a header"
    return "header without a valid name"
