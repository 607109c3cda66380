"""Tickets: short-lived logins that a server of your own issues, signed by itsdangerous
(`pip install "webmesh-gevent[tickets]"`).

For browsers above all: the page's server knows who is logged in there and hands out a ticket, with which the page
says `$hello`. Decides what a ticket holds and for how long it counts.
"""

from __future__ import annotations

import hashlib
import secrets
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from datetime import datetime
from typing import Any

try:
    from itsdangerous import BadData, SignatureExpired, URLSafeTimedSerializer
except ImportError as error:
    raise ImportError('TicketAuthenticator needs itsdangerous: pip install "webmesh-gevent[tickets]"') from error

from webmesh.auth import SHORTEST_SECRET, Credentials, Identity
from webmesh.exceptions import ConfigurationError, Overloaded, Unauthenticated

TICKET_SIZE = 4 * 1024
"""Characters of a ticket; `$hello` has no room for more."""

USED_TICKETS = 100_000
"""Tickets for single use that are remembered until they expire, about 20 MiB; beyond it none is taken."""


class TicketAuthenticator:
    """Issues tickets, and knows peers by them.

    A ticket is a text that is signed (HMAC with SHA-256), not encrypted: its bearer can read it.

    Args:
        secret: At least `SHORTEST_SECRET` bytes, the same wherever tickets are issued and taken; or several, the newest
            last, which signs, while those before it still count.
        max_age: Seconds that a ticket counts for, and so does the login.
        audience: Tickets for one do not count for another, although the secret be the same.
        single_use: Take each ticket once. Only this process remembers, so it is for one server alone.

    Raises:
        ConfigurationError: A secret is too short, or *max_age* is not above 0.
    """

    def __init__(
        self,
        secret: str | bytes | Sequence[str | bytes],
        *,
        max_age: float = 300.0,
        audience: str = "webmesh",
        single_use: bool = False,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        given = [secret] if isinstance(secret, str | bytes) else list(secret)
        several = [one.encode() if isinstance(one, str) else one for one in given]
        if not several or min(map(len, several)) < SHORTEST_SECRET:
            raise ConfigurationError(f"a ticket's secret must have {SHORTEST_SECRET} bytes: take secrets.token_bytes()")
        if not max_age > 0:
            raise ConfigurationError(f"max_age must be above 0 seconds, not {max_age!r}")
        self._signer = URLSafeTimedSerializer(
            several, salt=f"webmesh ticket for {audience}",
            signer_kwargs={"digest_method": hashlib.sha256, "key_derivation": "hmac"},
        )  # fmt: skip
        self._max_age = max_age
        self._single_use = single_use
        self._clock = clock
        self._used: OrderedDict[str, float] = OrderedDict()
        self._lock = threading.Lock()

    def issue(self, subject: str, roles: Iterable[str] = (), claims: dict[str, Any] | None = None) -> str:
        """A ticket for *subject*, that is good from now on.

        Args:
            claims: Anything that JSON has a form for; comes back as `Identity.claims`.
        """
        identity = Identity(subject, roles)  # type: ignore[arg-type]  # makes a set of them, or refuses
        held: dict[str, Any] = {"s": subject, "r": sorted(identity.roles), "n": secrets.token_urlsafe(12)}
        if claims:
            held["c"] = claims
        text = self._signer.dumps(held)
        return text if isinstance(text, str) else text.decode("ascii")

    def __call__(self, credentials: Credentials) -> Identity | None:
        """The identity that a peer's ticket was issued for; `None` for what is no ticket of ours.

        Raises:
            Unauthenticated: It has expired, or was used before.
            Overloaded: Too many tickets for single use are remembered.
        """
        token = credentials.token
        if token is None or len(token) > TICKET_SIZE:
            return None
        try:
            held, issued = self._signer.loads(token, self._max_age, return_timestamp=True)  # type: ignore[arg-type]
        except SignatureExpired:
            raise Unauthenticated("the ticket has expired") from None
        except (BadData, ValueError, OverflowError):
            return None
        if self._single_use:
            self._use(held["n"])
        return _identity(held, issued, self._max_age)

    def _use(self, nonce: str) -> None:
        """Note that this one was used; tickets are checked in several threads."""
        with self._lock:
            now = self._clock()
            while self._used and next(iter(self._used.values())) <= now:
                self._used.popitem(last=False)
            if nonce in self._used:
                raise Unauthenticated("the ticket was used before")
            if len(self._used) >= USED_TICKETS:
                raise Overloaded("too many tickets were used lately")
            self._used[nonce] = now + self._max_age


def _identity(held: dict[str, Any], issued: datetime, max_age: float) -> Identity:
    return Identity(held["s"], frozenset(held["r"]), issued.timestamp() + max_age, held.get("c", {}))
