"""The server's side of the opening handshake: is this request an upgrade, and what is it answered?

Decides which requests are upgrades, which are plain HTTP, and which are refused with what status; RFC 6455
section 4.2 and rows 3 to 16 of the threat list. Whether a caller may connect (host, origin, path) is decided
above, with the functions of `origins`. h11 parses and writes HTTP; the accept key is wsproto's. wsproto's whole
handshake is not used: it lets most of those rows through, raises foreign exceptions, and takes 100 us for an answer to
a request that was parsed before, where h11 takes 15.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import h11
from typing import TYPE_CHECKING
from wsproto.utilities import generate_accept_token

from webmesh.exceptions import ConfigurationError, LocalProtocolError
from webmesh.options import Limits
from webmesh.protocol.header_fields import checked_fields, is_token, joined_fields, phrase, words
from webmesh.protocol.http_head import RefusedHead, Refusal, RequestHead
from webmesh.protocol.origins import HOST
from webmesh.protocol.request_target import parse_target

if TYPE_CHECKING:
    from webmesh.protocol.deflate import BoundedDeflate

__all__ = ["HttpRequest", "Refusal", "ServerHandshake", "UpgradeRequest", "choose_subprotocol"]

OFFERED_SUBPROTOCOLS = 64
"""Subprotocols that one request may offer: each is compared with what is known. Beyond: 400."""

_HOST = re.compile(HOST)
# Base64 of 16 bytes. The last digit's spare bits may be set: they are in RFC 6455's own example.
_KEY = re.compile(r"[A-Za-z0-9+/]{22}==")
_VERSION = "13"
_FRAMING = frozenset({"connection", "content-length", "content-type", "transfer-encoding"})


@dataclass(frozen=True, slots=True)
class HttpRequest:
    """A GET or HEAD that is no upgrade. A query and headers may hold secrets, so a repr shows neither."""

    method: str
    path: str
    """Decoded once, in NFC, without dot segments."""
    query: str = field(repr=False)
    """As it was sent; empty when there was none."""
    headers: Mapping[str, str] = field(repr=False)
    """By lower-case name; the values of a repeated one are joined by a comma and a space."""
    address: str = ""
    """The peer's, as it is logged; set by who has the socket."""


@dataclass(frozen=True, slots=True)
class UpgradeRequest:
    """A valid request to speak WebSocket. A query and headers may hold secrets, so a repr shows neither."""

    path: str
    """Decoded once, in NFC, without dot segments."""
    query: str = field(repr=False)
    """As it was sent; empty when there was none."""
    headers: Mapping[str, str] = field(repr=False)
    """By lower-case name; the values of a repeated one are joined by a comma and a space."""
    host: str
    """The Host header."""
    origin: str | None
    """The Origin header; `None` when there was none, as from programs that are no browsers."""
    subprotocols: tuple[str, ...]
    """In the client's order of preference."""
    extensions: str
    """The offers, as they were sent; empty when there were none."""
    target: str = field(repr=False)
    """Path and query as they were sent."""


class ServerHandshake:
    """Reads one request head and writes the answer to it.

    Nothing that arrives makes it raise: what is wrong becomes a `Refusal`.
    """

    def __init__(self, limits: Limits) -> None:
        self._head = RequestHead(limits)
        # The reader before h11 bounds every size.
        self._http = h11.Connection(h11.SERVER, max_incomplete_event_size=limits.head_size + 1)
        self._outcome: UpgradeRequest | HttpRequest | Refusal | None = None
        self._bodiless = False
        self.trailing = b""
        """What arrived after the head: the first frames, when it is an upgrade."""

    @property
    def begun(self) -> bool:
        """Whether a part of the head has arrived and the rest has not."""
        return self._outcome is None and self._head.begun

    def receive(self, data: bytes) -> UpgradeRequest | HttpRequest | Refusal | None:
        """What the request turns out to be; `None` while its head is not whole.

        Args:
            data: What was read; empty for the end of the stream. After a valid request it is added to `trailing`,
                after a refusal it is dropped.
        """
        if isinstance(self._outcome, Refusal):
            return self._outcome
        if self._outcome is not None:
            self.trailing += data
        elif not data:
            self._outcome = Refusal(400, "the connection ended inside the head")
        else:
            try:
                head = self._head.receive(data)
                if head is not None:
                    self._outcome = self._judge(head)
                    self.trailing = self._head.rest
            except RefusedHead as refused:
                self._outcome = refused.refusal
        return self._outcome

    def accept(
        self,
        *,
        subprotocol: str | None,
        extensions: Sequence[BoundedDeflate] = (),
        headers: Iterable[tuple[str, str]] = (),
    ) -> bytes:
        """The answer 101, after which both sides speak WebSocket.

        Raises:
            LocalProtocolError: There is no upgrade request to accept, or it did not offer *subprotocol*.
            ConfigurationError: One of *headers* is malformed or the handshake's own.
        """
        request = self._outcome
        if not isinstance(request, UpgradeRequest):
            raise LocalProtocolError("there is no upgrade request to accept")
        if subprotocol is not None and subprotocol not in request.subprotocols:
            raise LocalProtocolError(f"subprotocol {subprotocol!r} was not offered; offered: {request.subprotocols}")
        answer = [
            ("Upgrade", "websocket"),
            ("Connection", "Upgrade"),
            ("Sec-WebSocket-Accept", generate_accept_token(request.headers["sec-websocket-key"].encode()).decode()),
        ]
        if subprotocol is not None:
            answer.append(("Sec-WebSocket-Protocol", subprotocol))
        if extensions:
            answer.append(("Sec-WebSocket-Extensions", ", ".join(extension.response() for extension in extensions)))
        answer += checked_fields(headers)
        return self._http.send(h11.InformationalResponse(status_code=101, headers=answer, reason=phrase(101)))

    def refuse(self, refusal: Refusal) -> bytes:
        """A whole HTTP answer, after which the connection is closed; possible at any time, head or no head.

        Raises:
            ConfigurationError: The status is not one of 400 to 599, or a header is malformed or would frame the answer.
        """
        if refusal.status not in range(400, 600):
            raise ConfigurationError(f"a refusal has a status from 400 to 599, not {refusal.status!r}")
        body = f"{refusal.reason}\n".encode()
        headers = [
            *checked_fields(refusal.headers, refused=_FRAMING),
            ("Content-Type", "text/plain; charset=utf-8"),
            ("Content-Length", str(len(body))),
            ("X-Content-Type-Options", "nosniff"),
            ("Connection", "close"),
        ]
        # Of its own, because the request's may be in no state to answer.
        http = h11.Connection(h11.SERVER)
        head = http.send(h11.Response(status_code=refusal.status, headers=headers, reason=phrase(refusal.status)))
        return head + (b"" if self._bodiless else http.send(h11.Data(data=body)))

    def _judge(self, head: bytes) -> UpgradeRequest | HttpRequest:
        """What a head that is written well asks for."""
        self._bodiless = head.startswith(b"HEAD ")
        self._http.receive_data(head)
        try:
            request = self._http.next_event()
        except h11.RemoteProtocolError:
            # h11's own text quotes what the peer sent.
            hosts = head.lower().count(b"\r\nhost:")
            reason = "bad Content-Length or Transfer-Encoding" if hosts == 1 else "there must be exactly one Host"
            raise RefusedHead(400, reason) from None
        assert isinstance(request, h11.Request), "a whole head yields a request"
        headers = joined_fields(request.headers)
        if not _HOST.fullmatch(headers["host"]):
            raise RefusedHead(400, "malformed Host")
        target = request.target.decode("ascii")
        path, query = parse_target(target)
        if "websocket" not in words(headers.get("upgrade", "")):
            return _plain_request(request.method.decode("ascii"), path, query, headers)
        _check_upgrade(request.method, headers)
        return UpgradeRequest(
            path=path,
            query=query,
            headers=headers,
            host=headers["host"],
            origin=headers.get("origin"),
            subprotocols=_subprotocols(headers.get("sec-websocket-protocol")),
            extensions=headers.get("sec-websocket-extensions", ""),
            target=target,
        )


def choose_subprotocol(offered: Sequence[str], known: Iterable[str]) -> str | None:
    """The first of *offered* that is known, as its order is the client's preference; `None` if none is."""
    ours = frozenset(known)
    return next((subprotocol for subprotocol in offered if subprotocol in ours), None)


def _plain_request(method: str, path: str, query: str, headers: Mapping[str, str]) -> HttpRequest:
    if "sec-websocket-key" in headers:
        # The commonest cause by far; an answer as to plain HTTP would hide it.
        raise RefusedHead(426, "no Upgrade: websocket; a proxy in between must pass it on", (("Upgrade", "websocket"),))
    if "transfer-encoding" in headers or headers.get("content-length", "0").strip("0"):
        raise RefusedHead(400, "request with a body")
    return HttpRequest(method, path, query, headers)


def _check_upgrade(method: bytes, headers: Mapping[str, str]) -> None:
    """Refuse what RFC 6455 section 4.2.1 does, and a body, whose bytes could pass for frames."""
    if method != b"GET":
        raise RefusedHead(405, "an upgrade needs GET", (("Allow", "GET"),))
    if "upgrade" not in words(headers.get("connection", "")):
        raise RefusedHead(400, "no 'Connection: Upgrade'")
    if "content-length" in headers or "transfer-encoding" in headers:
        raise RefusedHead(400, "upgrade with a body")
    # A repeated header has a comma, and so fails here and below.
    if headers.get("sec-websocket-version") != _VERSION:
        raise RefusedHead(426, f"Sec-WebSocket-Version must be {_VERSION}", (("Sec-WebSocket-Version", _VERSION),))
    if not _KEY.fullmatch(headers.get("sec-websocket-key", "")):
        raise RefusedHead(400, "Sec-WebSocket-Key must be base64 of 16 bytes, once")


def _subprotocols(offers: str | None) -> tuple[str, ...]:
    if offers is None:
        return ()
    offered = tuple(offer.strip(" \t") for offer in offers.split(","))
    if len(offered) > OFFERED_SUBPROTOCOLS:
        raise RefusedHead(400, f"more than {OFFERED_SUBPROTOCOLS} subprotocols")
    if not all(map(is_token, offered)):
        raise RefusedHead(400, "malformed Sec-WebSocket-Protocol")
    if len(set(offered)) != len(offered):
        raise RefusedHead(400, "a subprotocol is offered twice")
    return offered
