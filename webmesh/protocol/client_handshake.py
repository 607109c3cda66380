"""The client's side of the opening handshake: the request, and what counts as an answer to it.

Decides which answers open a WebSocket (RFC 6455 section 4.1, rows 14 and 15 of the threat list); what a final answer
other than 101 means is `rejection`'s. Everything that a caller gives is checked before a byte is written, so that no
header, path or subprotocol can smuggle in a line of its own.
"""

from __future__ import annotations

import os
import re
from base64 import b64encode
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NoReturn

import h11
from wsproto.utilities import generate_accept_token

from webmesh.exceptions import ConfigurationError, HandshakeRejected, RemoteProtocolError
from webmesh.options import Limits
from webmesh.protocol.header_fields import checked_fields, is_token, joined_fields, words
from webmesh.protocol.http_head import AnswerHead, RefusedHead
from webmesh.protocol.origins import HOST
from webmesh.protocol.rejection import Rejection

if TYPE_CHECKING:
    from webmesh.protocol.deflate import BoundedDeflate

_HOST = re.compile(HOST)
_TARGET = re.compile(r"/[!-~]*")


@dataclass(frozen=True, slots=True)
class Accepted:
    """What an answer 101 agreed to."""

    subprotocol: str | None
    """One of those offered; `None` when the server chose none."""
    extensions: list[BoundedDeflate]
    """Those of the offered that it accepted, in the answer's order; they know their parameters."""
    headers: Mapping[str, str] = field(repr=False)
    """By lower-case name; the values of a repeated one are joined by a comma and a space."""


class ClientHandshake:
    """Writes one upgrade request and reads the answer.

    Args:
        host: The Host header: a name or address, an IPv6 one in brackets, and the port unless it is the scheme's own.
        target: Path and query, escaped.
        subprotocols: In order of preference.
        headers: Further headers of the request.
        key_bytes: Source of the key's 16 random bytes.

    Raises:
        ConfigurationError: An argument cannot be written as HTTP, or names a header that the handshake writes.
    """

    def __init__(
        self,
        *,
        host: str,
        target: str,
        subprotocols: Sequence[str] = (),
        headers: Iterable[tuple[str, str]] = (),
        extensions: Sequence[BoundedDeflate] = (),
        limits: Limits,
        key_bytes: Callable[[int], bytes] = os.urandom,
    ) -> None:
        _check_address(host, target)
        _check_subprotocols(subprotocols)
        self._limits = limits
        self._subprotocols = tuple(subprotocols)
        self._extensions = {extension.name: extension for extension in extensions}
        self._key = b64encode(key_bytes(16))
        # The readers before h11 bound every size, and what they let through must never be too much for it.
        self._http = h11.Connection(h11.CLIENT, max_incomplete_event_size=limits.head_size + limits.rejected_body)
        self._request = self._write_request(host, target, checked_fields(headers))
        self._head = AnswerHead(limits)
        self._informational = 0
        self._rejection: Rejection | None = None
        self._accepted: Accepted | None = None
        self.trailing = b""
        """What arrived after the answer 101: the server's first frames."""

    def request(self) -> bytes:
        """The whole request, the same each time."""
        return self._request

    def receive(self, data: bytes) -> Accepted | None:
        """What was agreed, once the answer is there; until then `None`.

        Args:
            data: What was read; empty for the end of the stream, or for no more time. After the outcome it is added
                to `trailing`.

        Raises:
            HandshakeRejected: The answer is another than 101, or is not what the request asked for, or is not HTTP/1.1.
                The handshake is of no further use.
        """
        if self._accepted is not None:
            self.trailing += data
            return self._accepted
        if not data:
            self._give_up()
        while data and self._accepted is None:
            if self._rejection is not None:
                self._rejection.receive(data)
                return None
            head = self._read_head(data)
            if head is None:
                return None
            data = self._head.rest
            self._head = AnswerHead(self._limits)
            self._judge(head)
        self.trailing = data
        return self._accepted

    def _write_request(self, host: str, target: str, headers: list[tuple[str, str]]) -> bytes:
        fields = [
            ("Host", host),
            ("Upgrade", "websocket"),
            ("Connection", "Upgrade"),
            ("Sec-WebSocket-Key", self._key.decode("ascii")),
            ("Sec-WebSocket-Version", "13"),
        ]
        if self._subprotocols:
            fields.append(("Sec-WebSocket-Protocol", ", ".join(self._subprotocols)))
        if self._extensions:
            offers = ", ".join(extension.offer() for extension in self._extensions.values())
            fields.append(("Sec-WebSocket-Extensions", offers))
        request = h11.Request(method="GET", target=target, headers=fields + headers)
        return self._http.send(request) + self._http.send(h11.EndOfMessage())

    def _read_head(self, data: bytes) -> bytes | None:
        try:
            return self._head.receive(data)
        except RefusedHead as refused:
            raise HandshakeRejected(0, refused.refusal.reason) from None

    def _judge(self, head: bytes) -> None:
        """Take one head: of an informational answer, of a 101, or of a rejection."""
        self._http.receive_data(head)
        try:
            answer = self._http.next_event()
        except h11.RemoteProtocolError:
            raise HandshakeRejected(0, "bad Content-Length or Transfer-Encoding in the answer") from None
        if isinstance(answer, h11.Response):
            self._rejection = Rejection(answer, self._http, self._limits)
            # An answer may have no body to wait for.
            self._rejection.receive(b"")
            return
        assert isinstance(answer, h11.InformationalResponse), "a whole head yields an answer"
        if answer.status_code == 101:
            self._accepted = self._agree(joined_fields(answer.headers))
            return
        self._informational += 1
        if self._informational > self._limits.informational_responses:
            most = self._limits.informational_responses
            raise HandshakeRejected(answer.status_code, f"more than {most} informational answers")

    def _agree(self, headers: Mapping[str, str]) -> Accepted:
        # A repeated header has a comma, and so fails here and below.
        if words(headers.get("upgrade", "")) != ["websocket"] or "upgrade" not in words(headers.get("connection", "")):
            raise HandshakeRejected(101, "the answer does not switch to WebSocket")
        if headers.get("sec-websocket-accept") != generate_accept_token(self._key).decode("ascii"):
            raise HandshakeRejected(101, "the answer is not to our key: Sec-WebSocket-Accept is wrong")
        subprotocol = headers.get("sec-websocket-protocol")
        if subprotocol is not None and subprotocol not in self._subprotocols:
            raise HandshakeRejected(101, "the answer names a subprotocol that was not offered")
        return Accepted(subprotocol, self._agreed_extensions(headers.get("sec-websocket-extensions")), headers)

    def _agreed_extensions(self, answer: str | None) -> list[BoundedDeflate]:
        agreed: list[BoundedDeflate] = []
        # No comma can stand inside an element: a quoted parameter must be a token too (RFC 6455 section 9.1).
        for element in answer.split(",") if answer is not None else ():
            name, _, params = element.partition(";")
            extension = self._extensions.get(name.strip(" \t"))
            if extension is None:
                raise HandshakeRejected(101, "the answer accepts an extension that was not offered")
            if extension in agreed:
                raise HandshakeRejected(101, f"the answer accepts {extension.name} twice")
            try:
                extension.accept(params.strip(" \t"))
            except RemoteProtocolError as error:
                raise HandshakeRejected(101, f"the answer accepts {extension.name} badly: {error}") from error
            agreed.append(extension)
        return agreed

    def _give_up(self) -> NoReturn:
        if self._rejection is not None:
            raise self._rejection.error()
        raise HandshakeRejected(0, "the connection ended before the answer was whole")


def _check_address(host: str, target: str) -> None:
    if not isinstance(host, str) or not _HOST.fullmatch(host):
        raise ConfigurationError(f"host {host!r} is not a name or address with an optional port, in ASCII")
    if not isinstance(target, str) or not _TARGET.fullmatch(target) or "#" in target:
        raise ConfigurationError(f"target {target!r} is not an absolute path of escaped ASCII without a fragment")


def _check_subprotocols(subprotocols: Sequence[str]) -> None:
    for subprotocol in subprotocols:
        if not isinstance(subprotocol, str) or not is_token(subprotocol):
            raise ConfigurationError(f"subprotocol {subprotocol!r} is not a token of ASCII characters")
    if isinstance(subprotocols, str) or len(set(subprotocols)) != len(subprotocols):
        raise ConfigurationError(f"subprotocols {subprotocols!r} are not a sequence of different names")
