"""One accepted socket, until it is a WebSocket connection or is turned away.

Decides the order of the steps and their deadlines: TLS, the request's head, a place, the decision, the
answer. What a head means is `protocol.handshake`; how many may be under way is `admission`; messages
are none of its business. Nothing that a stranger sends makes it raise.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from gevent import Timeout, getcurrent
from gevent.socket import SHUT_WR, socket

from webmesh.deadline import Deadline
from webmesh.options import Limits, Timeouts
from webmesh.protocol.handshake import HttpRequest, Refusal, ServerHandshake, UpgradeRequest
from webmesh.websocket.http import HttpAnswer, answer_bytes
from webmesh.websocket.tls import ServerTLS, tls_failure, verified_certificate
from webmesh.websocket.upgraded import Acceptance, Upgraded, tune

if TYPE_CHECKING:
    from webmesh.websocket.admission import Admission
    from webmesh.websocket.refusals import Refusals

READ_SIZE = 16 * 1024
"""Bytes asked for in one read of a head: most heads are whole after one."""

RETRY_AFTER = 5
"""Seconds after which a client that found the server full may come back."""

FULL = Refusal(503, "the server is full", (("Retry-After", str(RETRY_AFTER)),))
_UNDECIDED = Refusal(503, "no decision in time", (("Retry-After", str(RETRY_AFTER)),))
_FAILED = Refusal(500, "the server failed")

Decide = Callable[[UpgradeRequest, str, dict[str, Any] | None], Acceptance | Refusal]
Serve = Callable[[Upgraded], None]

logger = logging.getLogger("webmesh.server")


@dataclass(slots=True)
class Reception:
    """What all arrivals of one listener share."""

    limits: Limits
    timeouts: Timeouts
    tls: ServerTLS | None
    admission: Admission[Arrival]
    refusals: Refusals
    decide: Decide
    serve: Serve
    http: Callable[[HttpRequest], HttpAnswer]


class Arrival:
    """One accepted socket.

    Args:
        sock: gevent's; closed when `run` returns.
        address: The peer, as text.
    """

    __slots__ = ("_address", "_admitted", "_answered", "_greenlet", "_reception", "_reported", "_sock")

    def __init__(self, reception: Reception, sock: socket, address: str) -> None:
        self._reception = reception
        self._sock = sock
        self._address = address
        self._greenlet: Any = None
        self._admitted = False
        self._answered = False
        self._reported = False

    def run(self) -> None:
        """Meet the peer; where it becomes a connection, serve it; return when all is over."""
        self._greenlet = getcurrent()
        admission = self._reception.admission
        _evict(admission.arrive(self))
        try:
            upgraded = self._upgrade() if self._secure() else None
            if upgraded is not None:
                self._reception.serve(upgraded)
        except (Exception, Timeout):
            # The supervisor's edge: `decide`, `http` and `serve` lead to code of users. Nobody waits
            # for this greenlet, so the log is where a failure must be told.
            logger.exception("connection failed", extra={"address": self._address})
            if not self._answered:
                self._turn_away(_FAILED, ServerHandshake(self._reception.limits))
        finally:
            if self._admitted:
                admission.end()
            else:
                admission.leave(self)
            self._sock.close()

    def evict(self, reason: str = "dropped for a newer one") -> None:
        """End it from outside, soon: its place is needed."""
        self._report(0, reason)
        self._greenlet.kill(block=False)

    def _secure(self) -> bool:
        """Do the TLS handshake, where there is TLS; False when it failed."""
        tune(self._sock)
        tls = self._reception.tls
        if tls is None:
            return True
        try:
            with _within(Deadline(self._reception.timeouts.tls)):
                self._sock = secured = tls.wrap(self._sock)
                secured.do_handshake()
                return True
        except OSError as error:
            self._report(0, "TLS failed", tls_failure(error))
            self._linger()  # else a reset could overtake the alert that tells the peer why
        else:
            self._report(0, "TLS not done in time")
        return False

    def _upgrade(self) -> Upgraded | None:
        """Read the request and answer it; `None` when that was the end."""
        # One deadline for head, decision and answer: no progress of the peer moves it.
        deadline = Deadline(self._reception.timeouts.upgrade)
        handshake = ServerHandshake(self._reception.limits)
        request: UpgradeRequest | HttpRequest | Refusal | None = None
        with _within(deadline):
            request = self._read_request(handshake)
        if request is None:
            self._report(0, "no whole request in time")
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
        if isinstance(request, HttpRequest):
            return answer_bytes(self._reception.http(request), head=request.method == "HEAD")
        self._admitted = self._reception.admission.admit(self)
        if not self._admitted:
            return FULL
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
            request=request,
            subprotocol=decision.subprotocol,
            extensions=decision.extensions,
            trailing=handshake.trailing,
            address=self._address,
            peer_certificate=certificate,
            decision=decision.tag,
        )

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
            _evict(self._reception.admission.dismiss(self))
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
