"""One accepted socket, until it is a WebSocket connection or is turned away.

Decides the order of the steps and their deadlines: who it is, TLS, the request's head, a place, the
decision, the answer. What a head means is `protocol.handshake`; how many may be under way is `admission`,
how many of one address `addresses`; messages are none of its business. Nothing that a stranger sends
makes it raise.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from gevent import Timeout, getcurrent, sleep
from gevent.socket import MSG_PEEK, SHUT_WR, socket

from webmesh.deadline import Deadline
from webmesh.exceptions import RemoteProtocolError
from webmesh.options import Limits, Timeouts
from webmesh.protocol.handshake import HttpRequest, Refusal, ServerHandshake, UpgradeRequest
from webmesh.protocol.http_head import STUN
from webmesh.protocol.networks import parse_ip
from webmesh.protocol.proxy_protocol import MOST, ProxyHeader
from webmesh.websocket.addresses import is_failure
from webmesh.websocket.doors import Doors, bare
from webmesh.websocket.http import HttpAnswer, answer_bytes
from webmesh.websocket.tls import ServerTLS, is_tls_offence, tls_failure, verified_certificate
from webmesh.websocket.upgraded import Acceptance, Upgraded, tune

if TYPE_CHECKING:
    from webmesh.websocket.addresses import Addresses, Visitor
    from webmesh.websocket.admission import Admission
    from webmesh.websocket.refusals import Refusals

READ_SIZE = 16 * 1024
"""Bytes asked for in one read of a head: most heads are whole after one."""

TURNS = 50
"""Turns of the hub in which a connection that was aborted gives its place back; it needs a few."""

RETRY_AFTER = 5
"""Seconds after which a client that found the server full may come back."""


def _later(status: int, reason: str, seconds: int = RETRY_AFTER) -> Refusal:
    return Refusal(status, reason, (("Retry-After", str(seconds)),))


FULL = _later(503, "the server is full")
BANNED = "address banned"
_TOO_FAST = "address connects too often"
_CROWDED = _later(429, "address has too many connections")
_UNDECIDED = _later(503, "no decision in time")
_FAILED = Refusal(500, "the server failed")

Decide = Callable[[UpgradeRequest, str, dict[str, Any] | None], Acceptance | Refusal]
Serve = Callable[[Upgraded], object]

logger = logging.getLogger("webmesh.server")


@dataclass(slots=True)
class Reception:
    """What all arrivals of one listener share."""

    limits: Limits
    timeouts: Timeouts
    tls: ServerTLS | None
    admission: Admission[Arrival]
    addresses: Addresses
    doors: Doors
    refusals: Refusals
    decide: Decide
    serve: Serve
    http: Callable[[HttpRequest], HttpAnswer]
    make_place: Callable[[], bool]


class Arrival:
    """One accepted socket.

    Args:
        sock: gevent's; closed when `run` returns.
        address: The peer, as text.
        host: Its address alone, as the socket tells it; `None` for a Unix socket's peer.
    """

    __slots__ = (
        "_address", "_admitted", "_answered", "_early", "_greenlet", "_host", "_proxied", "_reception", "_reported",
        "_sock", "_visitor",
    )  # fmt: skip

    def __init__(self, reception: Reception, sock: socket, address: str, host: str | None = None) -> None:
        self._reception = reception
        self._sock = sock
        self._address = address
        self._host = host
        self._proxied = reception.doors.trusts(host)
        self._visitor: Visitor | None = None  # none for those that are not counted
        self._early = 0
        self._greenlet: Any = None
        self._admitted = False
        self._answered = False
        self._reported = False

    def run(self) -> None:
        """Meet the peer; where it becomes a connection, serve it; return when all is over."""
        self._greenlet = getcurrent()
        admission = self._reception.admission
        if not self._proxied:
            self._count()
        _evict(admission.arrive(self, self._visitor))
        try:
            upgraded = self._receive()
            if upgraded is not None:
                self._serve(upgraded)
        except (Exception, Timeout):
            # The supervisor's edge: `decide`, `http` and `serve` lead to code of users. Nobody waits
            # for this greenlet, so the log is where a failure must be told.
            logger.exception("connection failed", extra={"address": self._address})
            if not self._answered:
                self._turn_away(_FAILED, ServerHandshake(self._reception.limits))
        finally:
            if self._admitted:
                admission.end()
                self._disconnect()
            else:
                admission.leave(self)
            if self._visitor is not None:
                self._reception.addresses.leave(self._visitor)
            self._sock.close()

    def evict(self, reason: str = "dropped for a newer one") -> None:
        """End it from outside, soon: its place is needed. One that only reads its answer is not refused thereby."""
        if not self._answered:
            self._report(0, reason)
        self._greenlet.kill(block=False)

    def _receive(self) -> Upgraded | None:
        """From the first byte to the answer; `None` when that was the end."""
        timeouts = self._reception.timeouts
        secure = self._reception.tls is not None
        # One deadline for all steps but TLS: no progress of the peer moves it.
        deadline = Deadline(timeouts.tls if secure else timeouts.upgrade)
        tune(self._sock)
        if not (self._introduced(deadline) and self._heard() and self._secure(deadline)):
            return None
        return self._upgrade(Deadline(timeouts.upgrade) if secure else deadline)

    def _serve(self, upgraded: Upgraded) -> None:
        visitor = self._visitor
        if visitor is None:
            self._reception.serve(upgraded)
            return
        begun = time.monotonic()
        code = self._reception.serve(upgraded)
        if isinstance(code, int) and is_failure(code, time.monotonic() - begun):
            self._fail()

    # ------------------------------------------------------------------ who it is

    def _introduced(self, deadline: Deadline) -> bool:
        """Let a proxy say for whom it speaks, where it does so before all else; False when it did not."""
        if not (self._proxied and self._reception.doors.proxy_protocol):
            return True
        header = ProxyHeader()
        silent = True
        try:
            with _within(deadline):
                while not header.done:
                    # Only looked at: what follows is TLS's, and must still be there for it.
                    data = self._sock.recv(MOST, MSG_PEEK)
                    silent = silent and not data
                    self._sock.recv(header.feed(data))
        except (OSError, RemoteProtocolError) as error:
            self._report(0, "no PROXY header", error, quiet=silent)  # a check may only connect
            return False
        if not header.done:
            self._report(0, "no PROXY header in time")
            return False
        # A proxy of this kind passes on what the client sends: only one that stands before it is believed further.
        self._proxied = False
        if header.client is not None:
            self._speak_for(str(header.client.address), str(header.client))
            _evict(self._reception.admission.arrive(self, self._visitor))
        return True

    def _believe(self, headers: Mapping[str, str]) -> None:
        """Let a proxy say in the request for whom it speaks."""
        if self._proxied:
            peer = None if self._host is None else parse_ip(bare(self._host))
            client = self._reception.doors.proxies.client(peer, headers)
            if client is not None:
                self._speak_for(str(client.address), str(client))

    def _speak_for(self, host: str, address: str) -> None:
        """What comes from here is from *host*, says one who is believed."""
        self._host, self._address = host, address
        self._proxied = self._reception.doors.trusts(host)
        if not self._proxied:
            self._count()

    def _count(self) -> None:
        """Count it for its address."""
        if self._host is not None:
            self._visitor = visitor = self._reception.addresses.arrive(self._host)
            if visitor is not None:
                self._early = self._reception.addresses.wait(visitor)

    def _heard(self) -> bool:
        """Whether its request is read; who comes much too often is not worth the work."""
        visitor = self._visitor
        if visitor is None or not self._early:
            return True
        why = self._why_early()
        if why == BANNED or not self._reception.addresses.worth_an_answer(visitor):
            self._report(0, why, quiet=True)
            return False
        return True

    def _why_early(self) -> str:
        assert self._visitor is not None, "only who is counted comes early"
        return BANNED if self._reception.addresses.is_banned(self._visitor) else _TOO_FAST

    def _fail(self) -> None:
        """It did what nobody does who means well."""
        if self._visitor is not None and self._reception.addresses.fail(self._visitor):
            self._reception.refusals.refused("address", BANNED, self._address)

    # ---------------------------------------------------------------- TLS and HTTP

    def _secure(self, deadline: Deadline) -> bool:
        """Do the TLS handshake, where there is TLS; False when it failed."""
        tls = self._reception.tls
        if tls is None:
            return True
        first = b""
        try:
            with _within(deadline):
                first = self._sock.recv(1, MSG_PEEK)
                self._sock = secured = tls.wrap(self._sock)
                secured.do_handshake()
                return True
        except OSError as error:
            self._report(0, "TLS failed", tls_failure(error))
            if first != STUN and is_tls_offence(error):
                self._fail()
            self._linger()  # else a reset could overtake the alert that tells the peer why
        else:
            self._report(0, "TLS not done in time")
        return False

    def _upgrade(self, deadline: Deadline) -> Upgraded | None:
        """Read the request and answer it; `None` when that was the end."""
        handshake = ServerHandshake(self._reception.limits)
        request: UpgradeRequest | HttpRequest | Refusal | None = None
        with _within(deadline):
            request = self._read_request(handshake)
        if request is None:
            self._report(0, "no whole request in time")
            if handshake.begun:
                self._fail()
            return None
        outcome: Upgraded | Refusal | bytes | None = _UNDECIDED
        with _within(deadline):
            outcome = self._respond(handshake, request)
        if isinstance(outcome, Upgraded):
            return outcome
        if isinstance(outcome, Refusal):
            self._turn_away(outcome, handshake)
        elif outcome is not None:
            self._answer(outcome)
        return None

    def _respond(
        self, handshake: ServerHandshake, request: UpgradeRequest | HttpRequest | Refusal
    ) -> Upgraded | Refusal | bytes | None:
        """What the request leads to; bytes are an HTTP answer, `None` means that the peer has gone."""
        if isinstance(request, Refusal):
            return request
        self._believe(request.headers)
        if self._early:
            return _later(429, self._why_early(), self._early)
        if isinstance(request, HttpRequest):
            page = self._reception.http(replace(request, address=self._address))
            return answer_bytes(page, head=request.method == "HEAD")
        refusal = self._admit()
        if refusal is not None:
            return refusal
        certificate = verified_certificate(self._sock)
        decision = self._reception.decide(request, self._address, certificate)
        if isinstance(decision, Refusal):
            return decision
        answer = handshake.accept(
            subprotocol=decision.subprotocol, extensions=decision.extensions, headers=decision.headers
        )
        self._answered = True
        try:
            self._sock.sendall(answer)
        except OSError as error:
            self._report(0, "lost in the handshake", error, quiet=True)
            return None
        return Upgraded(
            sock=self._sock,
            request=decision.request or request,
            subprotocol=decision.subprotocol,
            extensions=decision.extensions,
            trailing=handshake.trailing,
            address=self._address,
            peer_certificate=certificate,
            decision=decision.tag,
            identity=decision.identity,
        )

    def _admit(self) -> Refusal | None:
        """Give it a place among the connections; or say why there is none."""
        addresses, visitor = self._reception.addresses, self._visitor
        if visitor is not None:
            seconds = addresses.appointment()
            if seconds:
                return _later(503, "too many connect at once", seconds)
            if not addresses.connect(visitor):
                return _CROWDED
        self._admitted = self._reception.admission.admit(self) or self._replace()
        if not self._admitted:
            self._disconnect()
            return FULL
        return None

    def _replace(self) -> bool:
        """Take the place of a connection that is worth less, if there is one; it needs some turns of the hub to end."""
        if not self._reception.make_place():
            return False
        for _ in range(TURNS):
            sleep(0)
            if self._reception.admission.admit(self):
                return True
        return False

    def _disconnect(self) -> None:
        if self._visitor is not None:
            self._reception.addresses.disconnect(self._visitor)

    def _read_request(self, handshake: ServerHandshake) -> UpgradeRequest | HttpRequest | Refusal | None:
        """The request once its head is whole; `None` when the peer has gone without a word."""
        silent = True
        while True:
            try:
                data = self._sock.recv(READ_SIZE)
            except OSError as error:
                self._report(0, "lost in the handshake", error, quiet=silent)
                return None
            if silent and not data:
                # What a load balancer's check does every second.
                self._report(0, "closed without a request", quiet=True)
                return None
            silent = False
            request = handshake.receive(data)
            if request is not None:
                return request

    def _turn_away(self, refusal: Refusal, handshake: ServerHandshake) -> None:
        self._report(refusal.status, refusal.reason)
        if self._admitted:
            self._admitted = False
            self._disconnect()
            _evict(self._reception.admission.dismiss(self, self._visitor))
        if refusal.offence or refusal.status == 401:
            self._fail()
        if not self._answered:
            self._answer(handshake.refuse(refusal))

    def _answer(self, answer: bytes) -> None:
        """Send a last answer, and give the peer time to read it."""
        self._answered = True
        with _within(Deadline(self._reception.timeouts.close)):
            try:
                self._sock.sendall(answer)
            except OSError:
                return
            self._linger()

    def _linger(self) -> None:
        """Wait, not for long, until the peer has closed: closing on unread bytes resets the connection,
        and the reset may reach the peer before it has read what we sent."""
        unread = self._reception.limits.head_size
        with _within(Deadline(self._reception.timeouts.close)):
            try:
                self._sock.shutdown(SHUT_WR)
                while unread > 0 and (data := self._sock.recv(READ_SIZE)):
                    unread -= len(data)
            except OSError:
                pass  # it has gone: nothing left to wait for

    def _report(self, status: int, reason: str, detail: object = "", *, quiet: bool = False) -> None:
        """Tell of this peer once, whatever else goes wrong with it."""
        if not self._reported:
            self._reported = True
            self._reception.refusals.handshake(self._address, status, reason, detail, quiet=quiet)


def _within(deadline: Deadline) -> Timeout:
    """A block that is left, silently, when the time is up."""
    return Timeout(deadline.remaining(), False)  # type: ignore[arg-type]  # gevent's way to say "raise nothing"


def _evict(arrival: Arrival | None) -> None:
    if arrival is not None:
        arrival.evict()
